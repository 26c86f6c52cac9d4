# SPDX-License-Identifier: Apache-2.0
"""Replacing the CAs of a project while it works: prepare, activate, finish; or roll back.

    steady --prepare--> prepared --activate--> activated --finish--> steady (new CAs)
                 ^          |  ^                   |
                 +-rollback-+  +-----rollback------+

Prepared: new CAs exist and everybody is to believe them beside the old ones, which still issue. Activated:
the new ones issue, so certificates move over; the old ones are still believed. Finished: the old ones are
believed no more. Each step is one step back as long as it is not finished.

A step is a new folder `ca/` that takes the place of the old one in one rename, with a trust bundle of the
next version in it: killed at any point, a run leaves the one or the other. No private key is ever deleted:
what a rotation leaves behind goes to `ca/retired/`. Whether the network is ready for a step is for whoever
calls this to find out (see readiness.py); nothing here dials.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from flprov._base import canonical_json, replace_tree, sync_folder, sync_tree, write_tree
from flprov.errors import Conflict, NotFound
from flprov.kits.authorities import (
    FOLDER,
    NAMES,
    OTHERS,
    RECORD,
    RETIRED,
    ROOT,
    TRUST,
    UNITS,
    Authorities,
    AuthorityRecord,
    certificate_file,
    key_file,
    make_signer,
    open_authorities,
)
from flprov.kits.departures import keep_lists
from flprov.kits.publishing import Publication, make_publication
from flprov.kits.record import BACKUP, ProjectRecord
from flprov.kits.trust import Phase, TrustDocument, sign_trust
from flprov.kits.workspace import Workspace, look_at_workspace, open_workspace, read_state
from flprov.pki import Kind, authority_key_id, create_issuing, create_root, fingerprint
from flprov.project import Project

_Files = dict[str, bytes]  # of ca/, by relative name
FINISHED, ROLLED_BACK = "finished", "rolled back"


@dataclass(frozen=True, kw_only=True)
class RotationReport:
    """The workspace after a step."""

    phase: Phase
    changed: bool  # false: it was so already
    with_root: bool  # the rotation in hand replaces the root, too
    root_fingerprint: str  # of the root that signs new kits
    other_root: str  # of the one that waits or leaves; empty without one
    ended: str  # how the last rotation ended: finished | rolled back; empty: there was none
    outworn: tuple[str, ...]  # whose kits in the workspace have a certificate of a CA that issues no more
    publication: Publication


@dataclass(frozen=True, kw_only=True)
class _Hand:
    """What a step works with."""

    project: Project
    authorities: Authorities
    known: ProjectRecord | None
    passphrase: bytes | None = field(repr=False)
    now: datetime

    @property
    def phase(self) -> Phase:
        return self.authorities.record.phase


def look_at_rotation(project: Project, workspace: Path) -> tuple[RotationReport, Authorities]:
    """How far a rotation has come in this workspace, and the CAs. Nothing is written, no key is opened.

    Raises:
        NotFound: there is no CA yet.
    """
    with look_at_workspace(workspace.absolute()) as opened:
        known, authorities = read_state(opened, project, None)
        if authorities is None:
            raise _no_ca(project, workspace)
        return _report(authorities, known, changed=False), authorities


def prepare_rotation(
    project: Project, workspace: Path, *, now: datetime, passphrase: bytes | None = None, root: bool = False
) -> RotationReport:
    """Make new CAs beside the old ones. Done already: nothing.

    Args:
        root: replace the root, too.

    Raises:
        NotFound: there is no CA yet.
        Conflict: a rotation is activated, or was prepared with or without the root, unlike this.
        Misuse: the CA's keys are encrypted, and the passphrase is missing or wrong.
    """
    with _hand(project, workspace, now, passphrase) as (opened, hand):
        if hand.phase is Phase.PREPARED:
            _verify_same_extent(hand.authorities.record, root=root)
            return _report(hand.authorities, hand.known, changed=False)
        if hand.phase is Phase.ACTIVATED:
            raise Conflict(
                "a rotation is activated and not finished: another cannot be prepared",
                hint="flprov ca rotate finish, or flprov ca rotate rollback",
            )
        return _replace(opened, hand, _with_new_cas(hand, root=root), Phase.PREPARED)


def activate_rotation(
    project: Project, workspace: Path, *, now: datetime, passphrase: bytes | None = None
) -> RotationReport:
    """Let the new CAs issue. Done already: nothing.

    Raises:
        NotFound, Misuse: as for `prepare_rotation`.
        Conflict: none is prepared.
    """
    with _hand(project, workspace, now, passphrase) as (opened, hand):
        if hand.phase is Phase.ACTIVATED:
            return _report(hand.authorities, hand.known, changed=False)
        if hand.phase is Phase.STEADY:
            raise Conflict("no rotation is prepared", hint="flprov ca rotate prepare")
        return _replace(opened, hand, _swap(hand, Phase.PREPARED, Phase.ACTIVATED), Phase.ACTIVATED)


def finish_rotation(
    project: Project, workspace: Path, *, now: datetime, passphrase: bytes | None = None
) -> RotationReport:
    """Stop believing the old CAs; there is no way back. Done already: nothing.

    Raises:
        NotFound, Misuse: as for `prepare_rotation`.
        Conflict: none is activated; or project.yml pins the root that is to go.
    """
    with _hand(project, workspace, now, passphrase) as (opened, hand):
        if hand.phase is Phase.STEADY and hand.authorities.record.ended == FINISHED:
            return _report(hand.authorities, hand.known, changed=False)
        if hand.phase is not Phase.ACTIVATED:
            raise Conflict(
                "no rotation is activated, so there is none to finish",
                hint="flprov ca rotate status says how far it is",
            )
        _verify_pin(hand)
        return _replace(opened, hand, _retire(hand), Phase.STEADY, ended=FINISHED)


def roll_back_rotation(
    project: Project, workspace: Path, *, now: datetime, passphrase: bytes | None = None
) -> RotationReport:
    """One step back: from activated the old CAs issue again; from prepared the new ones are given up.

    Raises:
        NotFound, Misuse: as for `prepare_rotation`.
        Conflict: there is nothing to roll back; what is finished stays.
    """
    with _hand(project, workspace, now, passphrase) as (opened, hand):
        if hand.phase is Phase.ACTIVATED:
            return _replace(opened, hand, _swap(hand, Phase.ACTIVATED, Phase.PREPARED), Phase.PREPARED)
        if hand.phase is Phase.PREPARED:
            return _replace(opened, hand, _retire(hand), Phase.STEADY, ended=ROLLED_BACK)
        if hand.authorities.record.ended == ROLLED_BACK:
            return _report(hand.authorities, hand.known, changed=False)
        if hand.authorities.record.ended == FINISHED:
            raise Conflict(
                "the last rotation is finished, and the old CAs are believed no more: there is no way back",
                hint="another rotation makes newer ones: flprov ca rotate prepare",
            )
        raise Conflict("no rotation is in hand, so there is none to roll back")


# ---- the files of a step -----------------------------------------------------------------------


def _with_new_cas(hand: _Hand, *, root: bool) -> _Files:
    """`next/` beside what is there."""
    old, days = hand.authorities, hand.project.validity
    passphrase = hand.passphrase if old.any_encrypted else None
    record = old.record
    signer = old.authority(ROOT)
    made = {}
    if root:
        signer = create_root(
            project=record.project, trust_domain=record.trust_domain, days=days.root_days, now=hand.now
        )
        made[ROOT] = signer
    for kind, unit in UNITS.items():
        made[unit] = create_issuing(signer, kind=kind, days=days.issuing_days, now=hand.now)
    files = _read_files(old.folder)
    for name, ca in made.items():
        place = f"{OTHERS[Phase.PREPARED]}/{name}"
        files[certificate_file(place)] = ca.certificate_pem
        files[key_file(place)] = ca.private_pem(passphrase)
    return files


def _swap(hand: _Hand, before: Phase, after: Phase) -> _Files:
    """The CAs that issue change places with the others."""
    files = _read_files(hand.authorities.folder)
    for name in hand.authorities.record.other:
        for file in (certificate_file, key_file):
            coming = files.pop(file(f"{OTHERS[before]}/{name}"))
            files[file(f"{OTHERS[after]}/{name}")] = files[file(name)]
            files[file(name)] = coming
    return files


def _retire(hand: _Hand) -> _Files:
    """The others go where nothing looks for them."""
    files = _read_files(hand.authorities.folder)
    place = f"{RETIRED}/{hand.authorities.says.version + 1:04d}"
    for name in hand.authorities.record.other:
        for file in (certificate_file, key_file):
            files[file(f"{place}/{name}")] = files.pop(file(f"{OTHERS[hand.phase]}/{name}"))
    return files


def _read_files(folder: Path) -> _Files:
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items()}


# ---- putting it in place -----------------------------------------------------------------------


def _replace(
    opened: Workspace, hand: _Hand, files: _Files, phase: Phase, *, ended: str = ""
) -> RotationReport:
    """Write the whole folder anew beside the old one, and let the two change places."""
    record = _next_record(hand, files, phase, ended)
    document = _next_document(hand, files, record)
    for name in (RECORD, TRUST):
        files[name + BACKUP] = files[name]
    files[RECORD] = canonical_json(record) + b"\n"
    files[TRUST] = _sign(hand, files, document)
    staged = opened.staging / FOLDER
    write_tree(
        staged, {name: (data, 0o600 if name.endswith(".key.pem") else 0o644) for name, data in files.items()}
    )
    staged.chmod(0o700)
    made = open_authorities(staged, passphrase=hand.passphrase)
    made.read_trust(hand.now)  # what takes the old one's place is whole
    sync_tree(opened.staging)
    replace_tree(staged, opened.ca)
    sync_folder(opened.folder)
    return _report(open_authorities(opened.ca, passphrase=hand.passphrase), hand.known, changed=True)


def _next_record(hand: _Hand, files: Mapping[str, bytes], phase: Phase, ended: str) -> AuthorityRecord:
    before = hand.authorities.record
    prints = {name: fingerprint(files[certificate_file(name)]) for name in NAMES}
    other = {}
    if phase is not Phase.STEADY:
        places = {name: certificate_file(f"{OTHERS[phase]}/{name}") for name in NAMES}
        other = {name: fingerprint(files[place]) for name, place in places.items() if place in files}
    roots = (*hand.authorities.believed_roots, *before.retired_roots)
    gone = tuple(root for root in roots if root not in (prints[ROOT], other.get(ROOT)))
    return replace(
        before, fingerprints=prints, phase=phase, other=other, retired_roots=gone, ended=ended or before.ended
    )


def _next_document(hand: _Hand, files: Mapping[str, bytes], record: AuthorityRecord) -> TrustDocument:
    says = hand.authorities.says

    def texts(name: str) -> tuple[str, ...]:
        places = [name]
        if name in record.other:
            places.append(f"{OTHERS[record.phase]}/{name}")
        return tuple(files[certificate_file(place)].decode() for place in places)

    people = texts(UNITS[Kind.PERSON])
    return replace(
        says,
        version=says.version + 1,
        made_at=hand.now,
        phase=record.phase.value,
        roots=texts(ROOT),
        servers=texts(UNITS[Kind.SERVER]),
        sites=texts(UNITS[Kind.SITE]),
        people=people,
        people_crl=keep_lists(says.people_crl, people),
    )


def _sign(hand: _Hand, files: Mapping[str, bytes], document: TrustDocument) -> bytes:
    """Under the root that everybody holds: the old one until the rotation is finished."""
    previous = certificate_file(f"{OTHERS[Phase.ACTIVATED]}/{ROOT}")
    certificate = files.get(previous, files[certificate_file(ROOT)])
    authorities = hand.authorities
    name = next(name for name in authorities.names if authorities.certificate(name) == certificate)
    signer = make_signer(authorities.authority(name), authorities.record.project, now=hand.now)
    return sign_trust(document, signer).encode()


# ---- around a step -----------------------------------------------------------------------------


@contextmanager
def _hand(
    project: Project, workspace: Path, now: datetime, passphrase: bytes | None
) -> Iterator[tuple[Workspace, _Hand]]:
    folder = workspace.absolute()
    if not folder.exists():
        raise _no_ca(project, workspace)
    with open_workspace(folder) as opened:
        known, authorities = read_state(opened, project, passphrase)
        if authorities is None:
            raise _no_ca(project, workspace)
        yield (
            opened,
            _Hand(project=project, authorities=authorities, known=known, passphrase=passphrase, now=now),
        )


def _no_ca(project: Project, workspace: Path) -> NotFound:
    return NotFound(f"{workspace} has no CA yet", hint=f"flprov provision {project.source} -o {workspace}")


def _verify_same_extent(record: AuthorityRecord, *, root: bool) -> None:
    if root and ROOT not in record.other:
        raise Conflict(
            "the rotation that is prepared keeps the root, and --root asks for a new one",
            hint="flprov ca rotate rollback, then prepare again with --root",
        )


def _verify_pin(hand: _Hand) -> None:
    pinned, leaving = hand.project.root_fingerprint, hand.authorities.record.other.get(ROOT)
    if pinned is not None and pinned == leaving:
        raise Conflict(
            f"{hand.project.source} pins the root that is to go, {pinned}",
            hint=f"write root_fingerprint: {hand.authorities.root_fingerprint} into {hand.project.source}",
        )


def _report(authorities: Authorities, known: ProjectRecord | None, *, changed: bool) -> RotationReport:
    record = authorities.record
    active = {kind: authority_key_id(authorities.anchor(kind)) for kind in UNITS}
    return RotationReport(
        phase=record.phase,
        changed=changed,
        with_root=ROOT in record.other,
        root_fingerprint=authorities.root_fingerprint,
        other_root=record.other.get(ROOT, ""),
        ended=record.ended,
        outworn=tuple(
            name
            for name, kit in (known.kits.items() if known else ())
            if kit.certificates[-1].issuer not in ("", active[kit.kind])
        ),
        publication=make_publication(authorities),
    )
