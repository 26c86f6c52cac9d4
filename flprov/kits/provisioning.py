# SPDX-License-Identifier: Apache-2.0
"""`provision`: carry out the plan. From a project to its CA and one kit per party.

The plan (planning.py) is computed while the workspace is held, so nothing comes between it and what is
done. New and changed kits are built in a staging folder, synced in one call, and only then renamed into
place; the kits of those who have left are moved aside; project.json comes last. A run that dies at any
point leaves whole kits, and the next run's plan says what is still to do.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from flprov._base import replace_tree, sync_folder, sync_tree
from flprov.errors import Misuse
from flprov.kits.authorities import TRUST, Authorities, create_authorities
from flprov.kits.builder import Builder, BuiltKit
from flprov.kits.composition import Composer
from flprov.kits.departures import sign_lists
from flprov.kits.party import list_parties
from flprov.kits.planning import Planner, Progress
from flprov.kits.plans import AuthorityChange, Change, Plan, RemovalPlan
from flprov.kits.record import (
    FORMAT,
    ProjectRecord,
    RemovedRecord,
    encode_record,
    replace_keeping_backup,
)
from flprov.kits.report import KitOutcome, Outcome, ProvisionReport, RemovedParty
from flprov.kits.strength import verify_strong
from flprov.kits.workspace import Workspace, look_at_workspace, open_workspace, read_state
from flprov.pki import Kind
from flprov.project import Project
from flprov.wire.documents import WithdrawnPerson

_OUTCOMES: Mapping[Change, Outcome] = {
    Change.NEW: Outcome.CREATED,
    Change.CHANGED: Outcome.UPDATED,
    Change.REISSUED: Outcome.REISSUED,
    Change.REPAIRED: Outcome.REPAIRED,
    Change.UNCHANGED: Outcome.UNCHANGED,
}


def provision(
    project: Project,
    workspace: Path,
    *,
    now: datetime,
    passphrase: bytes | None = None,
    people_passphrase: bytes | None = None,
    reissue: Collection[str] = (),
    withdrawn: Sequence[WithdrawnPerson] = (),
    progress: Progress | None = None,
) -> ProvisionReport:
    """Make, or bring up to date, the CA and the kits of a project.

    Running it again changes nothing that need not change: a kit is rebuilt when a file in it would
    differ, and a party keeps certificate and key as long as its identity and the validity that project.yml
    gives it stay the same; a person until two thirds of the certificate's life are over. Sites and the
    server renew theirs by themselves, where they run.

    Args:
        workspace: the folder that holds `project.json`, `ca/` and `kits/`; made if need be.
        passphrase: encrypts the CA's private keys at rest, also those of an earlier run; opens them.
        people_passphrase: encrypts the private keys in people's kits, also those of an earlier run.
        reissue: names of parties that get a new certificate and key although nothing has changed.
        withdrawn: people whom the live network has removed; their certificates come onto the list.
        progress: called after each party that was looked at.

    Raises:
        StateDamaged: an earlier run made a CA and it is missing or damaged; a second is never made.
        Conflict: another run is at work there, or the workspace is another project's.
        Misuse: a passphrase is wrong or missing; the folder holds other things.
        NotFound: project.yml does not name one of those in `reissue`.
        LocalError: this machine does not let us write.
    """
    folder = workspace.absolute()
    if not folder.exists():
        with look_at_workspace(folder) as absent:  # what is refused leaves no empty workspace behind
            read_state(absent, project, None)
    with open_workspace(folder) as opened:
        record, authorities = read_state(opened, project, passphrase)
        planner = Planner(
            project,
            opened,
            authorities,
            record,
            now=now,
            people_passphrase=people_passphrase,
            reissue=reissue,
            withdrawn=withdrawn,
        )
        plan = planner.plan(encrypt=bool(passphrase), progress=progress)
        run = _Run(plan, opened, now=now, passphrase=passphrase, people_passphrase=people_passphrase)
        return run.apply()


class _Run:
    """Carries out one plan in the workspace that it was made for."""

    def __init__(
        self,
        plan: Plan,
        workspace: Workspace,
        *,
        now: datetime,
        passphrase: bytes | None,
        people_passphrase: bytes | None,
    ) -> None:
        if people_passphrase is None and any(kit.needs_people_passphrase for kit in plan.kits):
            names = ", ".join(kit.party.name for kit in plan.kits if kit.needs_people_passphrase)
            raise Misuse(
                f"new keys are due for {names}, people's keys are encrypted, and no passphrase was given",
                hint="give --people-passphrase-file FILE, or --people-passphrase to be asked,"
                " or set FLPROV_PEOPLE_PASSPHRASE",
            )
        if plan.authority in (AuthorityChange.NEW, AuthorityChange.ENCRYPTED):
            verify_strong(passphrase, "the CA's keys")
        if any(kit.party.kind is Kind.PERSON and (kit.held is None or kit.encrypt_key) for kit in plan.kits):
            verify_strong(people_passphrase, "people's keys")
        self._plan = plan
        self._workspace = workspace
        self._now = now
        self._passphrase = passphrase
        self._people_passphrase = people_passphrase

    def apply(self) -> ProvisionReport:
        authorities = self._renew_trust(self._prepare_authorities())
        if self._plan.is_empty:
            built = self._build(authorities)
            return self._report(authorities, built, self._plan.record.removed if self._plan.record else {})
        built = self._build(authorities)
        self._install(built, authorities)
        removed = self._list_removed()
        self._write_record(authorities, built, removed)
        return self._report(authorities, built, removed)

    def _prepare_authorities(self) -> Authorities:
        """The CA; a new one is still in the staging folder, and is renamed once everything is synced."""
        found = self._plan.authorities
        if found is None:
            return create_authorities(
                self._workspace.staging / "ca",
                project=self._plan.project.name,
                project_id=str(uuid.uuid4()),
                trust_domain=self._plan.project.trust_domain,
                validity=self._plan.project.validity,
                passphrase=self._passphrase,
                now=self._now,
            )
        if self._plan.authority is AuthorityChange.ENCRYPTED and self._passphrase:
            return found.encrypt(self._passphrase)
        return found

    def _renew_trust(self, authorities: Authorities) -> Authorities:
        """With the trust bundle that the plan wants; it is not on the disk yet."""
        planned = self._plan.trust
        if planned is None:
            return authorities
        crl = sign_lists(self._plan.revoked, authorities, number=planned.version, now=self._now)
        document = replace(authorities.says, version=planned.version, made_at=self._now, people_crl=crl)
        return authorities.with_trust(authorities.sign_trust(document, now=self._now))

    def _build(self, authorities: Authorities) -> list[BuiltKit]:
        parties = list(list_parties(self._plan.project))
        builder = Builder(
            Composer(self._plan.project, parties, authorities),
            authorities,
            self._workspace.staging,
            now=self._now,
            people_passphrase=self._people_passphrase,
        )
        return builder.build_all(self._plan.kits)

    def _install(self, built: list[BuiltKit], authorities: Authorities) -> None:
        """Bring what was staged to disk, then to its final names; move aside who has left."""
        staged = [(kit.staged, kit.plan.folder) for kit in built if kit.staged is not None]
        is_new = self._plan.authority is AuthorityChange.NEW
        if staged or is_new:
            sync_tree(self._workspace.staging)
        if is_new:
            (self._workspace.staging / "ca").rename(self._workspace.ca)
            sync_folder(self._workspace.folder)
        if self._plan.trust is not None:  # before the kit that carries it: what dies here is taken up again
            replace_keeping_backup(self._workspace.ca / TRUST, authorities.signed_trust.encode())
        for source, target in staged:
            replace_tree(source, target)
        for party in self._plan.removals:
            self._move_aside(party)
        if staged or self._plan.removals:
            sync_folder(self._workspace.kits)

    def _move_aside(self, party: RemovalPlan) -> None:
        if party.folder is None:
            return
        self._workspace.removed.mkdir(mode=0o700, exist_ok=True)
        target, number = party.target, 1
        while target.exists():  # somebody copied it back instead of moving it
            number += 1
            target = party.target.with_name(f"{party.target.name}-{number}")
        party.folder.rename(target)
        sync_folder(self._workspace.removed)

    def _list_removed(self) -> dict[str, RemovedRecord]:
        """Who has left and could still use a certificate."""
        removed = dict(self._plan.record.removed) if self._plan.record else {}
        for party in self._plan.removals:
            removed[party.target.name] = RemovedRecord(
                name=party.name, kit=party.record, removed_at=self._now
            )
        return {folder: one for folder, one in removed.items() if _end(one) > self._now}

    def _write_record(
        self, authorities: Authorities, built: list[BuiltKit], removed: Mapping[str, RemovedRecord]
    ) -> None:
        record = ProjectRecord(
            format=FORMAT,
            id=authorities.record.project_id,
            name=self._plan.project.name,
            trust_domain=self._plan.project.trust_domain,
            root_fingerprint=authorities.root_fingerprint,
            kits={kit.plan.party.name: kit.record for kit in built},
            removed=removed,
            revoked={serial: one for serial, one in self._plan.revoked.items() if one.not_after > self._now},
        )
        if record != self._plan.record:
            replace_keeping_backup(self._workspace.record, encode_record(record))

    def _report(
        self, authorities: Authorities, built: list[BuiltKit], removed: Mapping[str, RemovedRecord]
    ) -> ProvisionReport:
        has_record = self._plan.record is not None
        return ProvisionReport(
            project=self._plan.project.name,
            project_id=authorities.record.project_id,
            workspace=self._workspace.folder,
            root_fingerprint=authorities.root_fingerprint,
            ca_created=self._plan.authority is AuthorityChange.NEW,
            ca_adopted=not has_record and self._plan.authority is not AuthorityChange.NEW,
            ca_encrypted=authorities.encrypted,
            ca_not_after=authorities.not_after,
            endpoints=self._plan.project.server.endpoints,
            trust_version=authorities.says.version,
            revoked=self._plan.trust.revoked if self._plan.trust else (),
            kits=tuple(map(_outcome_of, built)),
            removed=tuple(
                self._removal_of(folder, one) for folder, one in removed.items() if _end(one) > self._now
            ),
        )

    def _removal_of(self, name: str, party: RemovedRecord) -> RemovedParty:
        folder = self._workspace.removed / name
        return RemovedParty(
            name=party.name,
            kind=party.kit.kind,
            folder=folder if folder.exists() else None,
            not_after=_end(party),
        )


def _end(party: RemovedRecord) -> datetime:
    return max(certificate.not_after for certificate in party.kit.certificates)


def _outcome_of(kit: BuiltKit) -> KitOutcome:
    return KitOutcome(
        name=kit.plan.party.name,
        kind=kit.plan.party.kind,
        org=kit.plan.party.org,
        outcome=_OUTCOMES[kit.plan.change],
        reason=kit.plan.reason,
        folder=kit.plan.folder,
        not_after=kit.record.certificates[-1].not_after,
    )
