# SPDX-License-Identifier: Apache-2.0
"""`flprov invite` and `flprov join`: what is typed, what is said, and where each of it goes."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path

import pytest
from cli_admin import BEEP, LEO, NOW

from flprov.admin import NewInvite
from flprov.errors import IdentityRefused
from flprov.kits import (
    Answer,
    SignedRequest,
    decode_request,
    encode_invitation,
    encode_request,
    load_kit,
    sign_request,
)
from flprov.kits.authorities import open_authorities
from flprov.kits.invitation import Invitation
from flprov.pki import (
    Identity,
    Kind,
    create_key,
    create_request,
    fingerprint,
    issue_identity,
    public_key_pem,
    verify_request,
)
from flprov.wire import documents as doc

LINE = "flprov1:AAAA"
MARK = "SHA256:" + ":".join(["AB"] * 32)


def make_invite(site: str = "clinic", **changes: object) -> doc.InviteDocument:
    fields: dict[str, object] = {
        "id": "0123456789abcdef",
        "site": site,
        "org": "org-a",
        "state": "open",
        "approval": False,
        "created_at": NOW,
        "created_by": LEO,
        "not_after": NOW + timedelta(days=1),
    }
    return doc.InviteDocument(**(fields | changes))  # type: ignore[arg-type]


class FakeInvites:
    """The admin's client as far as invites go."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, object]]] = []
        self.created = NewInvite(line=LINE, invite=make_invite(), site_added=False, replaced=())
        self.listed: tuple[doc.InviteDocument, ...] = ()
        self.answer: Answer | None = None

    def __enter__(self) -> FakeInvites:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def open(self, *_words: object, **_options: object) -> FakeInvites:
        return self

    def create_invite(self, site: str, **options: object) -> NewInvite:
        self.calls.append(("create", {"site": site} | options))
        return self.created

    def invites(self) -> tuple[doc.InviteDocument, ...]:
        return self.listed

    def approve_invite(self, invite: str, *, fingerprint: str) -> doc.InviteDocument:
        self.calls.append(("approve", {"invite": invite, "fingerprint": fingerprint}))
        return make_invite(state="approved")

    def revoke_invite(self, invite: str, *, reason: str) -> doc.InviteDocument:
        self.calls.append(("revoke", {"invite": invite, "reason": reason}))
        return make_invite(state="revoked")

    def relay_join(self, signed: SignedRequest) -> Answer:
        self.calls.append(("relay", {"request": signed.request}))
        assert self.answer is not None
        return self.answer


@pytest.fixture
def invites(run, monkeypatch) -> FakeInvites:
    fake = FakeInvites()
    monkeypatch.setenv("FLPROV_KIT", "kits/leo")
    monkeypatch.setattr("flprov.admin.open_admin", fake.open)
    return fake


def answers(monkeypatch, text: str) -> None:
    """Somebody sits at the terminal and types this."""
    stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
    stdin.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", stdin)


# ---- create ---------------------------------------------------------------------------------------


def test_stdout_has_the_line_and_nothing_else(run, invites):
    ran = run("invite", "create", "clinic")
    assert (ran.code, ran.out) == (0, f"{LINE}\n")
    assert "as much as a key" in ran.err
    assert "flprov join INVITE" in ran.err
    assert LINE not in ran.err
    options = {"site": "clinic", "org": "", "lifetime": timedelta(hours=24), "approval": False}
    assert invites.calls == [("create", options)]


def test_what_happened_besides_is_told(run, invites):
    found = make_invite(approval=True)
    invites.created = NewInvite(line=LINE, invite=found, site_added=True, replaced=("feed",))
    ran = run("invite", "create", "clinic", "--org", "org-a", "--expires", "3d", "--approve")
    assert "Site clinic of org-a was added" in ran.err
    assert "Invite feed, the site's earlier one, was taken back" in ran.err
    assert "flprov invite approve clinic" in ran.err
    assert invites.calls[0][1]["lifetime"] == timedelta(days=3)


def test_what_a_server_says_of_a_new_invite_does_not_drive_the_terminal(run, invites):
    odd = make_invite(BEEP, org=BEEP, approval=True)
    invites.created = NewInvite(line=LINE, invite=odd, site_added=True, replaced=(BEEP,))
    assert "\x1b" not in run("invite", "create", "clinic").err


@pytest.mark.parametrize("time", ["24", "1w", "-1h", "h", "1.5h", "", "99999999d"])
def test_a_time_that_is_none_is_misuse(run, invites, time):
    ran = run("invite", "create", "clinic", "--expires", time)
    assert ran.code == 2
    assert "write 30m, 24h or 7d" in ran.err
    assert invites.calls == []


def test_creating_with_json_gives_one_document(run, invites):
    found = run("invite", "create", "clinic", "--json").document(doc.NewInviteDocument)
    assert (found.line, found.invite.site) == (LINE, "clinic")


# ---- ls, approve, revoke --------------------------------------------------------------------------


def test_the_list_says_what_waits_and_for_what(run, invites):
    invites.listed = (
        make_invite(state="waiting", fingerprint=MARK),
        make_invite("other", state="used", used_at=NOW),
        make_invite(BEEP, state="expired"),
        make_invite(BEEP, state="waiting", fingerprint=BEEP),
    )
    ran = run("invite", "ls")
    assert [line.split()[3] for line in ran.out.splitlines()[1:3]] == ["waiting", "used"]
    assert MARK in ran.err
    assert "flprov invite approve clinic" in ran.err
    assert "\x1b" not in ran.out + ran.err
    assert len(run("invite", "ls", "--json").document(doc.InviteListDocument).invites) == 4


def test_a_fingerprint_that_was_read_to_the_admin_is_sent(run, invites):
    ran = run("invite", "approve", "clinic", "--fingerprint", MARK)
    assert ran.code == 0
    assert invites.calls == [("approve", {"invite": "clinic", "fingerprint": MARK})]


def test_without_one_it_is_shown_and_must_be_confirmed(run, invites, monkeypatch):
    invites.listed = (make_invite(state="waiting", fingerprint=MARK), make_invite(id="f" * 16, state="used"))
    answers(monkeypatch, "n\n")
    ran = run("invite", "approve", "clinic")
    assert ran.code == 3
    assert MARK in ran.err
    assert "flprov invite revoke clinic" in ran.err
    assert invites.calls == []
    answers(monkeypatch, "y\n")
    ran = run("invite", "approve", "0123")
    assert ran.code == 0
    assert invites.calls == [("approve", {"invite": "0123456789abcdef", "fingerprint": MARK})]


def test_without_a_terminal_the_fingerprint_must_be_given(run, invites):
    invites.listed = (make_invite(state="waiting", fingerprint=MARK),)
    ran = run("invite", "approve", "clinic")
    assert ran.code == 2
    assert "--fingerprint SHA256:" in ran.err
    assert invites.calls == []


def test_what_does_not_wait_cannot_be_approved(run, invites):
    invites.listed = (make_invite(state="used"),)
    ran = run("invite", "approve", "clinic")
    assert (ran.code, "0123456789abcdef is used" in ran.err) == (2, True)
    ran = run("invite", "approve", "nobody")
    assert (ran.code, "flprov invite ls" in ran.err) == (5, True)


def test_files_come_in_pairs(run, invites):
    for words in ([], ["--request", "a"], ["clinic", "--request", "a", "--response", "b"]):
        ran = run("invite", "approve", *words)
        assert (ran.code, "--request FILE and --response FILE together" in ran.err) == (2, True)
    ran = run("invite", "approve", "--json", "--request", "a", "--response", "b")
    assert (ran.code, "--json does not go with --request" in ran.err) == (2, True)


def test_an_invite_is_taken_back_with_a_reason(run, invites):
    ran = run("invite", "revoke", "clinic", "--reason", "wrong address")
    assert "nobody can join with it" in ran.out
    assert invites.calls == [("revoke", {"invite": "clinic", "reason": "wrong address"})]
    assert run("invite", "revoke", "clinic", "--json").document(doc.InviteDocument).state == "revoked"


# ---- join -----------------------------------------------------------------------------------------


class Server:
    """What a server of the project in conftest.py would issue."""

    def __init__(self, kits: Path) -> None:
        self.authorities = open_authorities(kits.parent / "ca", passphrase=None)
        self.kit = load_kit(kits / "leo", now=NOW + timedelta(seconds=5))
        self.site = Identity(trust_domain="heart.example", kind=Kind.SITE, org="org-a", name="clinic")

    def invitation(self) -> Invitation:
        key = create_key()
        identity = Identity(
            trust_domain="heart.example", kind=Kind.INVITE, org="org-a", name="clinic", invite="f" * 16
        )
        made = self._issue(identity, public_key_pem(key))
        return Invitation(
            project=self.kit.project,
            project_id=self.kit.project_id,
            server=self.kit.server,
            endpoints=self.kit.endpoints,
            root=fingerprint(self.authorities.anchor(None)),
            server_anchors_pem=self.kit.anchors["servers"].pem,
            chain_pem=made.partition(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n",
            private_pem=key,
        )

    def answer(self, request: bytes) -> Answer:
        chain = self._issue(self.site, verify_request(request))
        return Answer(chain_pem=chain, trust=self.authorities.signed_trust, contact="leo of org-a")

    def _issue(self, identity: Identity, public_pem: bytes) -> bytes:
        sites = self.authorities.issuing(Kind.SITE)
        return issue_identity(
            sites, identity, days=1, now=NOW + timedelta(seconds=5), public_pem=public_pem
        ).chain_pem


@pytest.fixture
def server(kits) -> Server:
    return Server(kits)


@pytest.fixture
def line(server) -> str:
    return encode_invitation(server.invitation())


@pytest.fixture
def answered(server, monkeypatch):
    """The server answers at once."""

    async def ask(attempt, **_options):
        return server.answer(attempt.request_pem)

    monkeypatch.setattr("flprov.agent.ask_to_join", ask)


def test_a_join_says_where_the_kit_is_and_what_comes_next(run, line, answered, tmp_path):
    ran = run("join", line)
    assert ran.code == 0, ran.err
    assert str(tmp_path / "clinic") in ran.out
    assert f"flprov site start {tmp_path / 'clinic'}" in ran.err
    assert "policy.yml" in ran.err
    assert load_kit(tmp_path / "clinic", now=NOW + timedelta(seconds=9)).name == "clinic"


def test_a_join_with_json_gives_one_document(run, line, answered, tmp_path):
    found = run("join", line, "-o", "here/kit", "--json").document(doc.JoinDocument)
    assert (found.site, found.kit, found.moved_aside) == ("clinic", str(tmp_path / "here/kit"), None)


def test_the_invite_is_in_no_message(run, line, monkeypatch):
    async def refuse(attempt, **_options):
        raise IdentityRefused("the invite expired")

    monkeypatch.setattr("flprov.agent.ask_to_join", refuse)
    ran = run("join", line)
    assert (ran.code, "the invite expired" in ran.err) == (3, True)
    assert line[8:60] not in ran.out + ran.err
    assert run("join", line[:-9]).code == 2
    assert line[8:60] not in ran.out + ran.err


def test_an_invite_comes_from_a_file_or_stdin(run, line, answered, monkeypatch, tmp_path):
    (tmp_path / "line").write_text(f"{line}\n")
    assert run("join", "@line", "-o", "a").code == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{line}\n"))
    assert run("join", "-", "-o", "b").code == 0
    answers(monkeypatch, f"{line}\nmore")
    ran = run("join", "-", "-o", "c")
    assert (ran.code, "Paste the invite" in ran.err) == (0, True)
    assert run("join", "@nowhere").code == 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no invite was given"),
        (["hello"], "does not begin with flprov1:"),
        ([" "], "it is empty"),
        (["flprov1:AAAA"], "was cut on the way"),
        (["flprov7:AAAA"], "is of format 7"),
        (["x", "--request", "a", "--response", "b"], "are two steps"),
        (["--response", "back"], "no join was begun"),
    ],
)
def test_what_is_typed_wrongly_is_said_and_leaves_nothing(run, tmp_path, words, says):
    before = set(tmp_path.iterdir())
    ran = run("join", *words)
    assert ran.code in (2, 5)
    assert says in ran.err
    assert set(tmp_path.iterdir()) == before


def test_an_invite_for_another_site_is_refused(run, line, answered, tmp_path):
    ran = run("join", line, "--site", "hospital-a")
    assert (ran.code, "for site clinic, not for hospital-a" in ran.err) == (2, True)
    assert not list(tmp_path.glob("clinic*"))


def test_a_kit_that_still_works_is_left_alone(run, line, answered, monkeypatch):
    async def welcome(_kit, **_options):
        return False

    assert run("join", line).code == 0
    monkeypatch.setattr("flprov.agent.is_refused", welcome)
    ran = run("join", line)
    assert (ran.code, "there is no need to join" in ran.err) == (2, True)


def test_a_kit_that_the_server_refuses_is_moved_aside(run, line, answered, monkeypatch, tmp_path):
    async def refused(_kit, **_options):
        return True

    assert run("join", line).code == 0
    monkeypatch.setattr("flprov.agent.is_refused", refused)
    found = run("join", line, "--json").document(doc.JoinDocument)
    assert found.moved_aside is not None
    assert Path(found.moved_aside).is_dir()
    assert load_kit(tmp_path / "clinic", now=NOW + timedelta(seconds=9)).name == "clinic"


def test_files_go_there_and_back(run, line, server, invites, tmp_path):
    ran = run("join", line, "--request", "out")
    assert ran.code == 0, ran.err
    mark = next(text.strip() for text in ran.err.splitlines() if text.strip().startswith("SHA256:"))
    assert run("join", line, "--request", "out").code == 2  # not overwritten
    invites.answer = server.answer(decode_request((tmp_path / "out").read_bytes()).request)
    ran = run("invite", "approve", "--request", "out", "--response", "back", "--fingerprint", MARK)
    assert (ran.code, mark in ran.err) == (3, True)
    assert invites.calls == []
    ran = run("invite", "approve", "--request", "out", "--response", "back", "--fingerprint", mark)
    assert (ran.code, "flprov join --response back" in ran.out) == (0, True)
    assert run("invite", "approve", "--request", "out", "--response", "back", "--fingerprint", mark).code == 2
    ran = run("join", "--response", "back")
    assert ran.code == 0, ran.err
    assert load_kit(tmp_path / "clinic", now=NOW + timedelta(seconds=9)).name == "clinic"


def test_an_answer_to_another_key_is_refused(run, line, server, invites, tmp_path):
    assert run("join", line, "--request", "out").code == 0
    other = sign_request(server.invitation(), create_request(create_key()))
    (tmp_path / "other").write_bytes(encode_request(other, site="clinic"))
    invites.answer = server.answer(other.request)
    mark = "SHA256:00"
    ran = run("invite", "approve", "--request", "other", "--response", "back", "--fingerprint", mark)
    found = next(word for word in ran.err.split() if word.startswith("SHA256:"))
    assert (
        run("invite", "approve", "--request", "other", "--response", "back", "--fingerprint", found).code == 0
    )
    ran = run("join", "--response", "back")
    assert (ran.code, "is not the key of the certificate" in ran.err) == (3, True)
    assert not (tmp_path / "clinic").exists()


def test_a_proxy_that_was_used_is_told_without_its_password(run, line, answered, monkeypatch):
    monkeypatch.setenv("FLPROV_PROXY", "http://us:secret@proxy.example:3128")
    ran = run("join", line)
    assert ran.code == 0, ran.err
    assert "through the proxy http://proxy.example:3128" in ran.err
    assert "secret" not in ran.out + ran.err


def test_files_that_cannot_be_written_are_named(run, line, tmp_path):
    ran = run("join", line, "--request", "nowhere/out")
    assert (ran.code, "nowhere/out cannot be written" in ran.err) == (1, True)
