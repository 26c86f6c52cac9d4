# SPDX-License-Identifier: Apache-2.0
"""`provision`: from a project to its CA and one kit per party; what is right already is left alone.

For each party the files that its kit should have are rendered and compared with what lies there, so
nothing can be forgotten in a list of inputs. New and changed kits are built in a staging folder, synced
in one call, and only then renamed into place; project.json comes last. A run that dies at any point
leaves whole kits, and the next run finds out what is still to do by the same comparison.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flprov._base import replace_tree, sync_folder, sync_tree, write_atomic
from flprov.kits.authorities import Authorities, create_authorities
from flprov.kits.builder import Builder, BuiltKit
from flprov.kits.party import list_parties
from flprov.kits.record import (
    FORMAT,
    KitRecord,
    ProjectRecord,
    encode_record,
)
from flprov.kits.report import KitOutcome, ProvisionReport, RemovedParty
from flprov.kits.workspace import Workspace, open_workspace, read_state
from flprov.project import Project

Progress = Callable[[int, int], None]  # parties done, parties in all


def provision(
    project: Project,
    workspace: Path,
    *,
    now: datetime,
    passphrase: bytes | None = None,
    progress: Progress | None = None,
) -> ProvisionReport:
    """Make, or bring up to date, the CA and the kits of a project.

    Running it again changes nothing that need not change: a kit is rebuilt when a file in it would
    differ or its certificate is past two thirds of its life, and a party keeps certificate and key as
    long as its identity stays the same.

    Args:
        workspace: the folder that holds `project.json`, `ca/` and `kits/`; made if need be.
        passphrase: encrypts the CA's private keys at rest, also those of an earlier run; opens them.
        progress: called after each party.

    Raises:
        StateDamaged: an earlier run made a CA and it is missing or damaged; a second is never made.
        Conflict: another run is at work there, or the workspace is another project's.
        Misuse: the passphrase is wrong or missing; the folder holds other things.
        LocalError: this machine does not let us write.
    """
    with open_workspace(workspace.absolute()) as opened:
        return _Run(project, opened, now=now, passphrase=passphrase).run(progress)


@dataclass(frozen=True, kw_only=True)
class _Removed:
    """A party that project.yml no longer names, and what the record says of it."""

    name: str
    record: KitRecord


class _Run:
    """One run in an opened workspace."""

    def __init__(
        self, project: Project, workspace: Workspace, *, now: datetime, passphrase: bytes | None
    ) -> None:
        self._project = project
        self._workspace = workspace
        self._now = now
        self._record, authorities = read_state(workspace, project, passphrase)
        self._ca_is_new = authorities is None
        self._authorities = authorities or self._create_authorities(passphrase)
        if passphrase and not self._authorities.encrypted:
            self._authorities = self._authorities.encrypt(passphrase)

    def _create_authorities(self, passphrase: bytes | None) -> Authorities:
        return create_authorities(
            self._workspace.staging / "ca",
            project=self._project.name,
            project_id=str(uuid.uuid4()),
            trust_domain=self._project.trust_domain,
            validity=self._project.validity,
            passphrase=passphrase,
            now=self._now,
        )

    def run(self, progress: Progress | None) -> ProvisionReport:
        known = dict(self._record.kits) if self._record else {}
        parties = list(list_parties(self._project))
        builder = Builder(self._project, parties, self._authorities, self._workspace, now=self._now)
        built = []
        for count, party in enumerate(parties, 1):
            built.append(builder.build(party, known.get(party.name)))
            if progress is not None:
                progress(count, len(parties))
        removed = self._find_removed(known, {party.name for party in parties})
        self._install(built)
        self._write_record(built, removed)
        return self._report(built, removed)

    def _find_removed(self, known: dict[str, KitRecord], present: set[str]) -> list[_Removed]:
        """Who has left. Forgotten once the kit is gone and its certificates have expired."""
        gone = [_Removed(name=name, record=known[name]) for name in sorted(known) if name not in present]
        return [
            party
            for party in gone
            if (self._workspace.kits / party.name).exists()
            or any(certificate.not_after > self._now for certificate in party.record.certificates)
        ]

    def _install(self, built: list[BuiltKit]) -> None:
        """Bring what was staged to disk, then to its final names."""
        staged = [kit for kit in built if kit.staged is not None]
        if staged or self._ca_is_new:
            sync_tree(self._workspace.staging)
        if self._ca_is_new:
            (self._workspace.staging / "ca").rename(self._workspace.ca)
            sync_folder(self._workspace.folder)
        for kit in staged:
            assert kit.staged is not None
            replace_tree(kit.staged, kit.folder)
        if staged:
            sync_folder(self._workspace.kits)

    def _write_record(self, built: list[BuiltKit], removed: list[_Removed]) -> None:
        kits = {kit.party.name: kit.record for kit in built} | {one.name: one.record for one in removed}
        record = ProjectRecord(
            format=FORMAT,
            id=self._authorities.record.project_id,
            name=self._project.name,
            trust_domain=self._project.trust_domain,
            root_fingerprint=self._authorities.root_fingerprint,
            kits=kits,
        )
        if record != self._record:
            write_atomic(self._workspace.record, encode_record(record))

    def _report(self, built: list[BuiltKit], removed: list[_Removed]) -> ProvisionReport:
        return ProvisionReport(
            project=self._project.name,
            project_id=self._authorities.record.project_id,
            workspace=self._workspace.folder,
            root_fingerprint=self._authorities.root_fingerprint,
            ca_created=self._ca_is_new,
            ca_adopted=self._record is None and not self._ca_is_new,
            ca_encrypted=self._authorities.encrypted,
            ca_not_after=self._authorities.not_after,
            endpoints=self._project.server.endpoints,
            kits=tuple(map(_outcome_of, built)),
            removed=tuple(map(self._removal_of, removed)),
        )

    def _removal_of(self, party: _Removed) -> RemovedParty:
        folder = self._workspace.kits / party.name
        return RemovedParty(
            name=party.name,
            kind=party.record.kind,
            folder=folder if folder.exists() else None,
            not_after=max(certificate.not_after for certificate in party.record.certificates),
        )


def _outcome_of(kit: BuiltKit) -> KitOutcome:
    return KitOutcome(
        name=kit.party.name,
        kind=kit.party.kind,
        org=kit.party.org,
        outcome=kit.outcome,
        reason=kit.reason,
        folder=kit.folder,
        not_after=kit.record.certificates[-1].not_after,
    )
