# SPDX-License-Identifier: Apache-2.0
"""Building one kit: what lies there, which credential to keep, what it should hold, what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from flprov._base import canonical_json, write_tree
from flprov.errors import Conflict, FlprovError, KitRefused, NotFound
from flprov.kits.authorities import UNITS, Authorities
from flprov.kits.kit import PersonEntry, Registry, RegistryEntry
from flprov.kits.manifest import (
    ANCHORS,
    CERTIFICATE,
    KEY,
    MANIFEST,
    REGISTRY,
    ROOT,
    SIGNATURE,
    SIGNER,
    Contents,
    Files,
    build_manifest,
    digest_of,
    read_contents,
)
from flprov.kits.party import Party, contact_of
from flprov.kits.reading import Unreadable, read_stored
from flprov.kits.record import IssuedCertificate, KitRecord
from flprov.kits.rendering import Renderer, template_dir
from flprov.kits.report import Outcome
from flprov.kits.workspace import Workspace
from flprov.pki import (
    Credential,
    Kind,
    fingerprint,
    issue_identity,
    load_anchors,
    not_after,
    not_before,
    sign,
    verify_key_matches,
    verify_peer,
)
from flprov.project import Project

_BELIEVES: Mapping[Kind, tuple[Kind, ...]] = {
    Kind.SERVER: (Kind.SITE, Kind.PERSON, Kind.SERVER),
    Kind.SITE: (Kind.SERVER, Kind.PERSON),
    Kind.PERSON: (Kind.SERVER,),
}
_LARGEST_PEM = 64 << 10


@dataclass(frozen=True, kw_only=True)
class BuiltKit:
    """One kit as it should be, and where to take it from if it is not there yet."""

    party: Party
    folder: Path  # its final place
    staged: Path | None  # None: what lies there is right
    outcome: Outcome
    reason: str
    record: KitRecord


@dataclass(frozen=True, kw_only=True)
class _Held:
    """A party's certificate and key, kept or new."""

    chain_pem: bytes
    private_pem: bytes = field(repr=False)
    certificate: IssuedCertificate
    reason: str = ""  # why it is new, where that needs saying


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What lies at a kit's place."""

    contents: Contents | None = None  # None: nothing, or not what was made
    problem: str = ""  # what is wrong with it
    recorded: bool = False  # it is exactly the kit that the record names


class Builder:
    """Builds the kits of one run."""

    def __init__(
        self,
        project: Project,
        parties: Sequence[Party],
        authorities: Authorities,
        workspace: Workspace,
        *,
        now: datetime,
    ) -> None:
        self._project = project
        self._authorities = authorities
        self._workspace = workspace
        self._now = now
        self._renderer = Renderer(template_dir())
        self._registry = _encode_registry(parties)
        self._shared = {
            "project": {
                "name": project.name,
                "id": authorities.record.project_id,
                "trust_domain": project.trust_domain,
                "contact": contact_of(project),
            },
            "server": {
                "name": project.server.name,
                "listen": project.server.listen,
                "endpoints": project.server.endpoints,
            },
        }

    def build(self, party: Party, known: KitRecord | None) -> BuiltKit:
        """Compare what lies there with what should, and stage the kit if they differ."""
        folder = self._workspace.kits / party.name
        found = self._examine(folder, known)
        held = self._keep(folder, party, known, found) or self._issue(party, known)
        files = self._render(party, held)
        changed = _differences(found.contents, files)
        if not changed and found.contents is not None and not found.problem:
            record = _record_of(party, held, found.contents.digest, known, self._now)
            outcome = Outcome.UNCHANGED if known else Outcome.CREATED
            return BuiltKit(
                party=party, folder=folder, staged=None, outcome=outcome, reason="", record=record
            )
        staged = self._workspace.staging / party.name
        digest = self._stage(party, files, staged)
        outcome, reason = _explain(known, found, held, changed)
        record = _record_of(party, held, digest, known, self._now)
        return BuiltKit(
            party=party, folder=folder, staged=staged, outcome=outcome, reason=reason, record=record
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
        return _Found(contents=contents, problem=problem, recorded=recorded)

    def _keep(self, folder: Path, party: Party, known: KitRecord | None, found: _Found) -> _Held | None:
        """The certificate and key that lie there, if they will do; None if a new one is due."""
        if known is not None and (known.identity, known.names) != (party.identity.uri, party.names):
            return None
        if found.contents is not None and found.recorded:
            assert known is not None
            chain, key = (found.contents.files[name].data for name in (CERTIFICATE, KEY))
            held = _Held(chain_pem=chain, private_pem=key, certificate=known.certificates[-1])
        else:
            rescued = self._rescue(folder, party, known)
            if rescued is None:
                return None
            held = rescued
        return None if held.certificate.is_due(self._now) else held

    def _rescue(self, folder: Path, party: Party, known: KitRecord | None) -> _Held | None:
        """Certificate and key from a kit that is damaged, or that a run made which then died."""
        try:
            chain, key = (read_stored(folder / name, limit=_LARGEST_PEM).data for name in (CERTIFICATE, KEY))
            anchors = load_anchors(self._authorities.anchor(party.kind))
            identity = verify_peer(chain, anchors, now=self._now)
            verify_key_matches(chain, key)
        except (Unreadable, FlprovError):
            return None
        certificate = _describe(chain)
        # Host names are not read back from a certificate; only the record says for which it was made.
        names_are_known = not party.names or (known is not None and certificate in known.certificates)
        if identity != party.identity or not names_are_known:
            return None
        return _Held(chain_pem=chain, private_pem=key, certificate=certificate)

    def _issue(self, party: Party, known: KitRecord | None) -> _Held:
        credential = issue_identity(
            self._authorities.issuing(party.kind),
            party.identity,
            names=party.names,
            days=party.days,
            now=self._now,
        )
        return _Held(
            chain_pem=credential.chain_pem,
            private_pem=credential.private_pem,
            certificate=_describe(credential.certificate_pem),
            reason=_why_issued(party, known, self._now),
        )

    def _render(self, party: Party, held: _Held) -> Files:
        context = {
            **self._shared,
            "kind": party.kind.value,
            "name": party.name,
            "org": party.org,
            "role": party.identity.role.value if party.identity.role else "",
            "identity": party.identity.uri,
            "certificate_not_after": f"{held.certificate.not_after:%Y-%m-%d %H:%M} UTC",
        }
        files = {
            **self._renderer.render(party.kind, context),
            CERTIFICATE: (held.chain_pem, 0o644),
            KEY: (held.private_pem, 0o600),
            ROOT: (self._authorities.anchor(None), 0o644),
        }
        for kind in _BELIEVES[party.kind]:
            files[f"{ANCHORS}/{UNITS[kind]}.pem"] = (self._authorities.anchor(kind), 0o644)
        if party.kind is Kind.SERVER:
            files[REGISTRY] = (self._registry, 0o644)
        return files

    def _stage(self, party: Party, files: Files, folder: Path) -> str:
        """Write a whole signed kit into the staging folder; the digest of its manifest."""
        signer = self._signer
        files = {**files, SIGNER: (signer.certificate_pem, 0o644)}
        manifest = build_manifest(
            files,
            kind=party.kind,
            name=party.name,
            project=self._project.name,
            project_id=self._authorities.record.project_id,
            now=self._now,
        )
        signature = sign(signer.private_pem, manifest)
        whole = {**files, MANIFEST: (manifest, 0o644), SIGNATURE: (signature, 0o644)}
        write_tree(folder, whole)
        return digest_of(manifest)

    @cached_property
    def _signer(self) -> Credential:
        return self._authorities.create_signer(now=self._now)


def _encode_registry(parties: Sequence[Party]) -> bytes:
    """`registry.json`: the sites and people that a server knows."""
    registry = Registry(
        sites=tuple(
            RegistryEntry(name=party.name, org=party.org) for party in parties if party.kind is Kind.SITE
        ),
        people=tuple(
            PersonEntry(name=party.name, org=party.org, role=party.identity.role)
            for party in parties
            if party.identity.role is not None
        ),
    )
    return canonical_json(registry) + b"\n"


def _describe(chain_pem: bytes) -> IssuedCertificate:
    return IssuedCertificate(
        fingerprint=fingerprint(chain_pem), not_before=not_before(chain_pem), not_after=not_after(chain_pem)
    )


def _differences(contents: Contents | None, files: Files) -> list[str]:
    """Names of the files that are not as they should be. Who signed is no difference: it is always us."""
    stored = {} if contents is None else {name: file.data for name, file in contents.files.items()}
    stored.pop(SIGNER, None)
    wanted = {name: data for name, (data, _) in files.items()}
    return sorted(name for name in stored.keys() | wanted if stored.get(name) != wanted.get(name))


def _record_of(party: Party, held: _Held, digest: str, known: KitRecord | None, now: datetime) -> KitRecord:
    earlier = known.certificates if known else ()
    still_valid = [one for one in earlier if one.not_after > now and one != held.certificate]
    return KitRecord(
        kind=party.kind,
        identity=party.identity.uri,
        names=party.names,
        manifest=digest,
        certificates=(*still_valid, held.certificate),
    )


def _why_issued(party: Party, known: KitRecord | None, now: datetime) -> str:
    if known is None:
        return ""
    if known.identity != party.identity.uri:
        end = known.certificates[-1].not_after
        return f"it was {known.identity}; that certificate is valid until {end:%Y-%m-%d %H:%M} UTC"
    if known.names != party.names:
        return "new certificate: the server's host names changed"
    if known.certificates[-1].is_due(now):
        return "new certificate: two thirds of the old one's life are over"
    return "new certificate and key: the old ones were gone"


def _explain(
    known: KitRecord | None, found: _Found, held: _Held, changed: Sequence[str]
) -> tuple[Outcome, str]:
    """What to tell about a kit that was built."""
    if known is None and found.contents is None and not found.problem:
        return Outcome.CREATED, ""
    if found.problem or found.contents is None:
        reasons = [found.problem or "its folder was gone", held.reason]
        return Outcome.REPAIRED, "; ".join(filter(None, reasons))
    return Outcome.UPDATED, held.reason or f"{', '.join(changed)} changed"
