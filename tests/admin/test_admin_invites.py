# SPDX-License-Identifier: Apache-2.0
"""Invites from the admin's side: whom the hospital is to believe never comes from the server."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from flprov._base import canonical_json
from flprov.admin import fingerprint_of
from flprov.admin.invites import create_invite, relay_join
from flprov.admin.link import read_document
from flprov.errors import IdentityRefused, ProtocolError
from flprov.kits import SignedRequest, decode_invitation, load_kit, provision
from flprov.kits.authorities import open_authorities
from flprov.pki import (
    Identity,
    Kind,
    create_key,
    create_request,
    fingerprint,
    issue_identity,
    key_fingerprint,
    public_key_pem,
    verify_request,
)
from flprov.project import Organisation, Person, Project, ServerParty
from flprov.testing.clock import START, FakeClock
from flprov.wire import documents as doc
from flprov.wire import pb

DOMAIN = "heart.example"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("admin") / "ws"
    project = Project(
        name="heart",
        trust_domain=DOMAIN,
        organisations=(Organisation(name="org-a"),),
        server=ServerParty(name="server", org="org-a", endpoints=("fl.heart.example:8443",)),
        sites=(),
        people=(Person(name="ada", org="org-a", role="project_admin"),),
        source=Path("project.yml"),
    )
    provision(project, folder, now=START)
    return folder


class Server:
    """Answers as a server would, or as `answer` says."""

    def __init__(self, workspace: Path) -> None:
        self._sites = open_authorities(workspace / "ca", passphrase=None).issuing(Kind.SITE)
        self.identity = Identity(
            trust_domain=DOMAIN, kind=Kind.INVITE, org="org-a", name="clinic", invite="ab" * 8
        )
        self.key: bytes | None = None  # for another key than the one that was asked for
        self.requests: list[pb.InviteRequest] = []
        self.reply: pb.JoinReply | None = None

    def document(self, kind, _method, request):
        self.requests.append(request)
        public = public_key_pem(self.key) if self.key else verify_request(request.request)
        made = issue_identity(self._sites, self.identity, days=1, now=START, public_pem=public)
        answer = doc.InviteIssueDocument(
            invite=doc.InviteDocument(
                id="ab" * 8,
                site="clinic",
                org="org-a",
                state="open",
                approval=False,
                created_at=START,
                created_by="ada",
                not_after=START + timedelta(days=1),
            ),
            certificate=made.certificate_pem.decode(),
        )
        return read_document(kind, pb.Document(json=canonical_json(answer)))

    def unary(self, _method, _request):
        return self.reply


@pytest.fixture
def server(workspace) -> Server:
    return Server(workspace)


@pytest.fixture(scope="module")
def kit(workspace):
    return load_kit(workspace / "kits/ada", now=START)


def create(server, kit, trust=None):
    options = {"site": "clinic", "org": "", "lifetime": timedelta(hours=24), "approval": False}
    return create_invite(server, kit, FakeClock(START), trust=trust, **options)


def test_the_line_has_the_anchors_of_the_admins_own_kit_and_a_key_that_the_server_never_saw(server, kit):
    made = create(server, kit)
    found = decode_invitation(made.line)
    assert found.root == fingerprint(kit.anchors["root"].pem)
    assert found.server_anchors_pem == kit.anchors["servers"].pem
    assert (found.endpoints, found.server) == (kit.endpoints, "server")
    [request] = server.requests
    assert verify_request(request.request) == public_key_pem(found.private_pem)
    assert b"PRIVATE" not in request.SerializeToString()
    assert request.not_after == "2026-01-01T00:02:00.000Z"
    assert made.line not in repr(made)


@pytest.mark.parametrize(
    "changes", [{"name": "other"}, {"invite": "0" * 16}, {"kind": Kind.SITE, "invite": ""}]
)
def test_a_certificate_for_something_else_makes_no_line(server, kit, changes):
    server.identity = replace(server.identity, **changes)
    with pytest.raises(ProtocolError, match="the server answered with a certificate of"):
        create(server, kit)


def test_a_certificate_for_another_key_makes_no_line(server, kit):
    server.key = create_key()
    with pytest.raises(IdentityRefused, match="is not the key of the certificate"):
        create(server, kit)


def test_after_a_rotation_the_newer_bundle_says_whom_to_believe(server, kit, workspace, tmp_path):
    trust = open_authorities(workspace / "ca", passphrase=None).read_trust(START)
    other = Project(
        name="heart",
        trust_domain=DOMAIN,
        organisations=(Organisation(name="org-a"),),
        server=ServerParty(name="server", org="org-a", endpoints=("fl.heart.example:8443",)),
        sites=(),
        people=(),
        source=Path("project.yml"),
    )
    provision(other, tmp_path / "ws", now=START)
    newer = open_authorities(tmp_path / "ws/ca", passphrase=None).read_trust(START)
    roots = (*trust.says.roots, *newer.says.roots)  # both are believed; the new one's provisioner has signed
    both = SimpleNamespace(
        says=SimpleNamespace(roots=roots), signed=newer.signed, anchors={"servers": newer.anchors["servers"]}
    )
    found = decode_invitation(create(server, kit, both).line)
    assert found.root == fingerprint(newer.says.roots[0].encode())
    assert found.server_anchors_pem == newer.anchors["servers"].pem


def test_an_answer_without_a_certificate_is_none(server):
    server.reply = pb.JoinReply(pending=pb.JoinPending(fingerprint="x"))
    signed = SignedRequest(request=b"r", signature=b"s", chain=b"c")
    with pytest.raises(ProtocolError, match="without a certificate"):
        relay_join(server, FakeClock(START), signed)


def test_the_fingerprint_of_a_file_is_that_of_its_key():
    key = create_key()
    signed = SignedRequest(request=create_request(key), signature=b"", chain=b"")
    assert fingerprint_of(signed) == key_fingerprint(public_key_pem(key))
