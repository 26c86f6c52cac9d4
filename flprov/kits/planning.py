# SPDX-License-Identifier: Apache-2.0
"""The plan: what provisioning would do, as a value computed from project.yml and the workspace alone.

Nothing here writes. `flprov plan` prints the value, and `provision` computes the same one while it
holds the workspace and carries it out; there is no second opinion on what is to be done.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from flprov.errors import Conflict, FlprovError, KitRefused, NotFound
from flprov.kits.authorities import Authorities
from flprov.kits.composition import Composer
from flprov.kits.departures import list_listed, list_missing, revoke_all, revoke_withdrawn
from flprov.kits.differences import changed_files, describe_changes
from flprov.kits.holding import Held, describe_certificate, rescue
from flprov.kits.manifest import AUTHORITY, CERTIFICATE, KEY, MANIFEST, TRUST, Contents, Files, read_contents
from flprov.kits.party import Party, list_parties
from flprov.kits.plans import AuthorityChange, Change, KitPlan, Plan, RemovalPlan, TrustPlan
from flprov.kits.record import IssuedCertificate, KitRecord, ProjectRecord, RevokedPerson
from flprov.kits.workspace import Workspace, look_at_workspace, read_state
from flprov.pki import (
    Anchors,
    Kind,
    Reason,
    authority_key_id,
    is_encrypted,
    not_after,
    parse_identity,
    verify_peer,
)
from flprov.project import Project
from flprov.wire.documents import WithdrawnPerson

Progress = Callable[[int, int], None]  # parties done, parties in all

_MOST_NAMES = 5  # in one line
_WHOLE_SECONDS = timedelta(seconds=2)  # and X.509 knows no fractions


def plan(
    project: Project,
    workspace: Path,
    *,
    now: datetime,
    encrypt: bool = False,
    people_passphrase: bytes | None = None,
    reissue: Collection[str] = (),
    progress: Progress | None = None,
) -> Plan:
    """What `provision` would do now. Writes nothing, needs no CA key.

    Args:
        workspace: may not exist yet.
        encrypt: whether the CA's keys are to be encrypted if they are not.
        people_passphrase: as for `provision`.
        reissue: as for `provision`.
        progress: called after each party.

    Raises:
        StateDamaged, Conflict, Misuse: whatever `provision` would refuse for.
        LocalError: this machine does not let us read.
    """
    with look_at_workspace(workspace.absolute()) as opened:
        record, authorities = read_state(opened, project, None)
        planner = Planner(
            project,
            opened,
            authorities,
            record,
            now=now,
            people_passphrase=people_passphrase,
            reissue=reissue,
        )
        return planner.plan(encrypt=encrypt, progress=progress)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What lies at a kit's place."""

    contents: Contents | None = None  # None: nothing, or not what was made
    problem: str = ""  # what is wrong with it
    is_recorded: bool = False  # it is exactly the kit that the record names


class Planner:
    """Plans for one project in one workspace."""

    def __init__(
        self,
        project: Project,
        workspace: Workspace,
        authorities: Authorities | None,
        record: ProjectRecord | None,
        *,
        now: datetime,
        people_passphrase: bytes | None,
        reissue: Collection[str] = (),
        withdrawn: Sequence[WithdrawnPerson] = (),
    ) -> None:
        self._project = project
        self._workspace = workspace
        self._authorities = authorities
        self._record = record
        self._now = now
        self._passphrase = people_passphrase
        self._withdrawn = withdrawn
        self._revoked: dict[str, RevokedPerson] = dict(record.revoked) if record else {}
        self._parties = list(list_parties(project))
        self._reissue = _verify_named(reissue, self._parties)
        self._composer = Composer(project, self._parties, authorities) if authorities else None
        self._anchors = cache(self._read_anchors)
        self._ca_of = cache(lambda kind: authority_key_id(self._certificate_of(kind)))
        self._end = cache(lambda kind: not_after(self._certificate_of(kind)))

    def plan(self, *, encrypt: bool, progress: Progress | None = None) -> Plan:
        """The whole plan."""
        known = dict(self._record.kits) if self._record else {}
        kits = self._plan_kits(known, progress)
        removals = tuple(self._plan_removals(known))
        self._revoke(removals)
        trust = self._plan_trust()
        if trust is not None:
            kits = [_with_trust(kit, trust) if kit.party.kind is Kind.SERVER else kit for kit in kits]
        authority = self._plan_authority(encrypt=encrypt)
        if authority is AuthorityChange.ENCRYPTED:
            kits = [_with_encrypted(kit) if kit.party.kind is Kind.SERVER else kit for kit in kits]
        return Plan(
            project=self._project,
            workspace=self._workspace.folder,
            authority=authority,
            authorities=self._authorities,
            kits=tuple(kits),
            removals=removals,
            record=self._record,
            revoked=self._revoked,
            trust=trust,
            notes=(*self._list_notes(), *_note_expired(kits, self._now)),
            unfinished=self._is_unfinished(kits),
        )

    def _is_unfinished(self, kits: Sequence[KitPlan]) -> bool:
        """Whether a run, or a rotation of the CA, is not in project.json yet."""
        record, authorities = self._record, self._authorities
        if record and authorities and record.root_fingerprint != authorities.root_fingerprint:
            return True
        return any(kit.change is Change.UNCHANGED and not kit.is_recorded for kit in kits)

    def _plan_kits(self, known: Mapping[str, KitRecord], progress: Progress | None) -> list[KitPlan]:
        """People first: the server's registry names their certificates."""
        found: dict[str, KitPlan] = {}
        locked = any(record.key_encrypted for record in known.values())
        people = [party for party in self._parties if party.kind is Kind.PERSON]
        others = [party for party in self._parties if party.kind is not Kind.PERSON]
        for count, party in enumerate((*people, *others), 1):
            if count == len(people) + 1:
                self._register(found)
            kit = self._plan_kit(party, known.get(party.name))
            if party.kind is Kind.PERSON:
                kit = replace(kit, must_lock=locked)
                self._revoke_former(party, known.get(party.name))
            found[party.name] = kit
            if progress is not None:
                progress(count, len(self._parties))
        return [found[party.name] for party in self._parties]

    def _register(self, people: Mapping[str, KitPlan]) -> None:
        if self._composer is not None:
            self._composer.register(
                {name: kit.held.certificate for name, kit in people.items() if kit.held is not None}
            )

    # ---- people whose certificates count no more ----

    def _revoke_former(self, party: Party, known: KitRecord | None) -> None:
        """What this person held before, if it is not simply replaced in time."""
        if known is None:
            return
        if known.identity != party.identity.uri:
            self._note_revoked(revoke_all(known, Reason.AFFILIATION_CHANGED, self._now))
            return
        if party.name in self._reissue:
            self._note_revoked(revoke_all(known, Reason.SUPERSEDED, self._now))

    def _revoke(self, removals: Sequence[RemovalPlan]) -> None:
        for party in removals:
            self._note_revoked(revoke_all(party.record, Reason.CESSATION_OF_OPERATION, self._now))
        if self._record is not None and self._authorities is not None:
            self._note_revoked(revoke_withdrawn(self._record, self._withdrawn))
            self._note_revoked(list_listed(self._record, self._authorities, self._now))

    def _note_revoked(self, found: Iterable[tuple[str, RevokedPerson]]) -> None:
        for serial, entry in found:
            if entry.not_after > self._now:
                self._revoked.setdefault(serial, entry)

    def _plan_trust(self) -> TrustPlan | None:
        if self._authorities is None:
            return None
        missing = list_missing(self._revoked, self._authorities, self._now)
        return TrustPlan(version=self._authorities.says.version + 1, revoked=missing) if missing else None

    def _plan_authority(self, *, encrypt: bool) -> AuthorityChange:
        if self._authorities is None:
            return AuthorityChange.NEW
        if encrypt and not self._authorities.encrypted:
            return AuthorityChange.ENCRYPTED
        return AuthorityChange.UNCHANGED if self._record else AuthorityChange.ADOPTED

    def _list_notes(self) -> Iterator[str]:
        """Validities that came too late: the authorities were made with others."""
        if self._authorities is None:
            return
        validity, root = self._project.validity, self._authorities.lifetime(None)
        issuing = self._authorities.lifetime(Kind.SITE)
        for key, wanted, found in (
            ("root_days", timedelta(days=validity.root_days), root),
            ("issuing_days", timedelta(days=min(validity.issuing_days, root.days)), issuing),
        ):
            if abs(wanted - found) > timedelta(hours=1):
                yield (
                    f"validity.{key} is {wanted.days}, and the authority was made for {found.days} days:"
                    " it stays as it is"
                )

    def _read_anchors(self, kind: Kind) -> Anchors:
        assert self._authorities is not None
        return self._authorities.anchors(kind)

    def _certificate_of(self, kind: Kind) -> bytes:
        assert self._authorities is not None
        return self._authorities.anchor(kind)

    # ---- one party ----

    def _plan_kit(self, party: Party, known: KitRecord | None) -> KitPlan:
        folder = self._workspace.kits / party.name
        if self._composer is None:
            return KitPlan(party=party, folder=folder, change=Change.NEW)
        found = self._examine(folder, known)
        held = self._find_held(folder, party, known, found)
        due = self._why_due(party, known, held)
        if due or held is None:
            return self._plan_issue(party, folder, known, found, held, due)
        texts = self._kept_texts(self._composer, party, known, found, held)
        files = self._composer.compose(party, held, texts=texts)
        changed = changed_files(found.contents, files)
        encrypt = self._must_encrypt(party, held)
        if found.contents is not None and not (changed or found.problem or encrypt):
            change = Change.UNCHANGED if known else Change.NEW
            reason = "" if known else "an earlier run made it and died before it said so"
            return KitPlan(
                party=party,
                folder=folder,
                change=change,
                reason=reason,
                known=known,
                held=held,
                manifest=found.contents.digest,
                is_recorded=found.is_recorded,
            )
        details = describe_changes(found.contents, files, changed) if found.contents else ()
        details += ("private key: encrypted with the passphrase of people's keys",) if encrypt else ()
        problem = found.problem or ("" if found.contents else "its folder was gone")
        return KitPlan(
            party=party,
            folder=folder,
            change=Change.REPAIRED if problem else Change.CHANGED,
            reason=problem or "; ".join(details),
            details=details,
            known=known,
            held=held,
            files=changed or ((KEY,) if encrypt else ()),
            encrypt_key=encrypt,
        )

    def _kept_texts(
        self, composer: Composer, party: Party, known: KitRecord | None, found: _Found, held: Held
    ) -> Files | None:
        """The texts that lie there, if they are those that would be rendered now; None: not known."""
        if known is None or found.contents is None or not found.is_recorded:
            return None
        if known.recipe != composer.recipe(party, held):
            return None
        stored = found.contents.files
        return {name: (stored[name].data, 0) for name in composer.text_names(party.kind) if name in stored}

    def _plan_issue(
        self,
        party: Party,
        folder: Path,
        known: KitRecord | None,
        found: _Found,
        held: Held | None,
        due: str,
    ) -> KitPlan:
        """A party that needs a new certificate; what else changes is compared as if it kept the old one."""
        if known is None and found.contents is None and not found.problem:
            return KitPlan(party=party, folder=folder, change=Change.NEW, known=known)
        details: tuple[str, ...] = ()
        files: tuple[str, ...] = ()
        if found.contents is not None and self._composer is not None:
            kept = held or _held_in(found.contents)
            composed = self._composer.compose(party, kept)
            files = changed_files(found.contents, composed)
            details = describe_changes(found.contents, composed, files)
            files = tuple(sorted({*files, CERTIFICATE, KEY}))
        problem = found.problem or ("" if found.contents else "its folder was gone")
        why = due or "new certificate and key: the old ones were gone"
        return KitPlan(
            party=party,
            folder=folder,
            known=known,
            change=Change.REPAIRED if problem else Change.REISSUED,
            reason="; ".join(filter(None, [problem, why])),
            details=details,
            files=files,
        )

    def _examine(self, folder: Path, known: KitRecord | None) -> _Found:
        if folder.is_symlink() or folder.is_file():
            raise Conflict(
                f"{folder} is not a folder, and a kit is one",
                hint="put the kit's own folder back in its place, or delete what is there for a new one",
            )
        try:
            contents = read_contents(folder, now=self._now, trusted=known.manifest if known else None)
        except NotFound:
            return _Found()
        except KitRefused as error:
            return _Found(problem=str(error).removeprefix(f"{folder}: "))
        key = contents.files.get(KEY)
        problem = f"{KEY} could be read by others" if key and key.mode & 0o077 else ""
        recorded = known is not None and known.manifest == contents.digest
        return _Found(contents=contents, problem=problem, is_recorded=recorded)

    def _find_held(self, folder: Path, party: Party, known: KitRecord | None, found: _Found) -> Held | None:
        """The certificate and key that lie there, if they are this party's."""
        if known is not None and (known.identity, known.names) != (party.identity.uri, party.names):
            return None
        if found.contents is not None and found.is_recorded and known is not None:
            return _held_in(found.contents, known)
        certificates = known.certificates if known else ()
        anchors = self._anchors(party.kind)
        return rescue(
            folder, party, certificates, anchors=anchors, passphrase=self._passphrase, now=self._now
        )

    def _why_due(self, party: Party, known: KitRecord | None, held: Held | None) -> str:
        """Why the certificate that the party has will not do any more; empty if it will."""
        if known is not None and known.identity != party.identity.uri:
            end = known.certificates[-1].not_after
            return f"it was {known.identity}; that certificate is valid until {end:%Y-%m-%d %H:%M} UTC"
        if known is not None and known.names != party.names:
            return "new certificate: the server's host names changed"
        certificate = held.certificate if held else (known.certificates[-1] if known else None)
        if certificate is None:
            return ""
        if party.name in self._reissue:
            return "new certificate: asked for"
        if known is None and certificate.serial in self._revoked:
            return "new certificate: the old one was revoked when its holder left"
        return self._why_outworn(party, certificate)

    def _why_outworn(self, party: Party, certificate: IssuedCertificate) -> str:
        """Why a certificate is to be replaced in the course of things; empty if it is not."""
        if party.kind is Kind.PERSON and certificate.is_due(self._now):  # the others renew themselves
            return "new certificate: two thirds of the old one's life are over"
        if certificate.issuer and certificate.issuer != self._ca_of(party.kind):
            return "new certificate: another CA issues them now"
        issued = certificate.issued_at
        wanted = min(issued + timedelta(days=party.days), self._end(party.kind)) if issued else None
        if issued and wanted and abs(wanted - certificate.not_after) > _WHOLE_SECONDS:
            lasts = (certificate.not_after - issued) / timedelta(days=1)
            return f"new certificate: validity {lasts:.4g} -> {party.days:.4g} days"
        return ""

    def _must_encrypt(self, party: Party, held: Held) -> bool:
        wanted = self._passphrase is not None and party.kind is Kind.PERSON
        return wanted and not is_encrypted(held.private_pem)

    # ---- who has left ----

    def _plan_removals(self, known: dict[str, KitRecord]) -> list[RemovalPlan]:
        present = {party.name for party in self._parties}
        gone = {name: record for name, record in known.items() if name not in present}
        if self._authorities is not None:
            gone |= self._find_unrecorded(present | known.keys())
        return [self._plan_removal(name, gone[name]) for name in sorted(gone)]

    def _plan_removal(self, name: str, record: KitRecord) -> RemovalPlan:
        folder = self._workspace.kits / name
        return RemovalPlan(
            name=name,
            identity=parse_identity(record.identity),
            folder=folder if folder.exists() else None,
            target=self._workspace.removed / f"{name}-{record.manifest[:12]}",
            record=record,
        )

    def _find_unrecorded(self, names: set[str]) -> dict[str, KitRecord]:
        """Whole kits of ours that a run made and died, and that project.yml no longer names."""
        found = {}
        for folder in self._workspace.list_kits():
            if folder.name in names or folder.is_symlink() or not (folder / MANIFEST).is_file():
                continue
            record = self._read_unrecorded(folder)
            if record is not None:
                found[folder.name] = record
        return found

    def _read_unrecorded(self, folder: Path) -> KitRecord | None:
        try:
            contents = read_contents(folder, now=self._now)
            anchors = self._anchors(contents.manifest.kind)
            held = _held_in(contents)
            identity = verify_peer(held.chain_pem, anchors, now=self._now)
        except FlprovError:
            return None
        return KitRecord(
            kind=contents.manifest.kind,
            identity=identity.uri,
            manifest=contents.digest,
            certificates=(held.certificate,),
            key_encrypted=is_encrypted(held.private_pem),
        )


def _with_encrypted(kit: KitPlan) -> KitPlan:
    """The server's kit when the CA's keys, of which it has two, are encrypted in this run."""
    why = "the CA keys in it: encrypted with the passphrase, which the server needs to start from now on"
    files = tuple(f"{AUTHORITY}/{unit}.key.pem" for unit in ("servers", "sites"))
    if kit.change is Change.NEW:
        return kit
    return replace(
        kit,
        change=Change.CHANGED if kit.change is Change.UNCHANGED else kit.change,
        reason="; ".join(filter(None, [kit.reason, why])),
        details=(*kit.details, why),
        files=tuple(sorted({*kit.files, *files})),
        manifest="",
    )


def _with_trust(server: KitPlan, trust: TrustPlan) -> KitPlan:
    """The server's kit carries the trust bundle, so it is written again with a newer one."""
    words = f"trust bundle: {trust.version - 1} -> {trust.version}"
    return replace(
        server,
        change=Change.CHANGED if server.change is Change.UNCHANGED else server.change,
        manifest="",
        reason="; ".join(filter(None, [server.reason, words])),
        details=(*server.details, words),
        files=tuple(sorted({*server.files, TRUST})),
    )


def _held_in(contents: Contents, known: KitRecord | None = None) -> Held:
    """Certificate and key of a kit that agrees with its manifest."""
    try:
        chain, key = (contents.files[name].data for name in (CERTIFICATE, KEY))
    except KeyError as error:
        raise KitRefused(f"{MANIFEST} lists no {error.args[0]}, and every kit has one") from None
    certificate = known.certificates[-1] if known else None
    if certificate is None or not certificate.serial:  # an older record says less
        certificate = describe_certificate(chain)
    return Held(chain_pem=chain, private_pem=key, certificate=certificate)


def _verify_named(names: Collection[str], parties: Sequence[Party]) -> frozenset[str]:
    """The names, if project.yml has each of them."""
    missing = set(names) - {party.name for party in parties}
    if missing:
        raise NotFound(
            f"project.yml names nobody called {', '.join(sorted(missing))}",
            hint="--reissue takes the names of sites, people and the server as project.yml spells them",
        )
    return frozenset(names)


def _note_expired(kits: Sequence[KitPlan], now: datetime) -> Iterator[str]:
    """Whose kit cannot be started for the first time any more."""
    over = [
        kit.party.name
        for kit in kits
        if kit.party.kind is Kind.SITE
        and kit.held is not None
        and kit.change in (Change.UNCHANGED, Change.CHANGED)
        and kit.held.certificate.not_after < now
    ]
    if over:
        names = ", ".join(over[:_MOST_NAMES]) + (
            f" and {len(over) - _MOST_NAMES} more" if over[_MOST_NAMES:] else ""
        )
        yield (
            f"the certificate in the kit of {names} has expired. A site that was started has renewed it, and"
            " nothing is to be done; one that never was: flprov provision --reissue NAME"
        )
