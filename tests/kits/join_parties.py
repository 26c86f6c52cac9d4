# SPDX-License-Identifier: Apache-2.0
"""What a server would issue to a site that joins, made from a workspace's own CA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from kit_parties import NOW

from flprov._base import parse_json, write_tree
from flprov.kits import Answer, Attempt, Invitation, Trust
from flprov.kits.authorities import Authorities, open_authorities
from flprov.kits.joining import compose_joined
from flprov.kits.manifest import MANIFEST, SIGNATURE, build_manifest
from flprov.pki import (
    Identity,
    Kind,
    create_key,
    fingerprint,
    issue_identity,
    join_certificates,
    public_key_pem,
    sign,
    split_certificates,
)

DOMAIN = "heart.example"
CONTACT = "alice <alice@heart.example>"
SITE = Identity(trust_domain=DOMAIN, kind=Kind.SITE, org="org-a", name="hospital-d")
INVITE = "0123456789abcdef"


class Issuing:
    """A workspace's CA, which issues what a server would."""

    def __init__(self, workspace: Path, *, now: datetime = NOW) -> None:
        self.now = now
        self.authorities: Authorities = open_authorities(workspace / "ca", passphrase=None)

    @property
    def trust(self) -> Trust:
        return self.authorities.read_trust(self.now)

    def invitation(self, site: Identity = SITE, *, invite: str = INVITE, days: float = 1.0) -> Invitation:
        identity = Identity(
            trust_domain=DOMAIN, kind=Kind.INVITE, org=site.org, name=site.name, invite=invite
        )
        private_pem = create_key()
        made = issue_identity(
            self.authorities.issuing(Kind.SITE),
            identity,
            days=days,
            now=self.now,
            public_pem=public_key_pem(private_pem),
        )
        record = self.authorities.record
        return Invitation(
            project=record.project,
            project_id=record.project_id,
            server="server",
            endpoints=("fl.heart.example:8443",),
            root=fingerprint(self.authorities.anchor(None)),
            server_anchors_pem=join_certificates(*split_certificates(self.authorities.anchor(Kind.SERVER))),
            chain_pem=made.certificate_pem,
            private_pem=private_pem,
        )

    def answer(self, private_pem: bytes, site: Identity = SITE, *, days: float = 90.0) -> Answer:
        made = issue_identity(
            self.authorities.issuing(site.kind if site.kind is not Kind.INVITE else Kind.SITE),
            site,
            days=days,
            now=self.now,
            public_pem=public_key_pem(private_pem),
        )
        return Answer(
            chain_pem=made.chain_pem,
            trust=self.authorities.signed_trust,
            contact=CONTACT,
        )

    def join(self, folder: Path, *, days: float = 90.0) -> Path:
        """A kit of SITE at `folder`, as `join` writes it."""
        private_pem = create_key()
        answer = self.answer(private_pem, days=days)
        write_tree(folder, compose_joined(self.invitation(), private_pem, answer, now=self.now))
        return folder


def answer_to(issuing: Issuing, attempt: Attempt) -> Answer:
    return issuing.answer(attempt.private_pem, attempt.invitation.site)


def sign_again(
    folder: Path, key: bytes, changes: Mapping[str, bytes | None], *, kind: Kind = Kind.SITE
) -> None:
    """Change files of a kit and sign all of it with this key, as somebody would who has it."""
    for name, data in changes.items():
        if data is None:
            (folder / name).unlink()
        else:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
    files = {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (MANIFEST, SIGNATURE)
    }
    said = parse_json((folder / MANIFEST).read_bytes())
    manifest = build_manifest(
        files, kind=kind, name=said["name"], project=said["project"], project_id=said["project_id"], now=NOW
    )
    (folder / MANIFEST).write_bytes(manifest)
    (folder / SIGNATURE).write_bytes(sign(key, manifest))


def shifted(invitation: Invitation, **changes: object) -> Invitation:
    return replace(invitation, **changes)  # type: ignore[arg-type]


DAY = timedelta(days=1)
