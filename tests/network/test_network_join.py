# SPDX-License-Identifier: Apache-2.0
"""Joining by invite on a real network: real handshakes, real processes, SIGKILL at every step."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from harness import Network, free_port

from flprov.admin import Admin
from flprov.kits import decode_invitation, encode_invitation, load_kit
from flprov.pki import create_key, issue_identity, public_key_pem
from flprov.rpc import connect
from flprov.rpc import methods as m
from flprov.wire import pb

ROOT = Path(__file__).resolve().parents[2]

# Replaces a function of flprov by SIGKILL of its own process, before or after it has done its work.
DIE = """
import asyncio, importlib, os, signal, sys
module, owner, name, when = {place!r}
target = getattr(importlib.import_module(module), owner)
original = getattr(target, name)
def die(*a, **k):
    os.kill(os.getpid(), signal.SIGKILL)
def after(*a, **k):
    original(*a, **k)
    die()
setattr(target, name, die if when == "before" else after)
from flprov.cli import main
main()
"""


def dying(module: str, owner: str, name: str, when: str) -> str:
    return DIE.format(place=(f"flprov.{module}", owner, name, when))


@dataclass
class Hospital:
    """A machine with a folder, where people type commands."""

    network: Network
    folder: Path

    def command(self, *words: str, script: str = "") -> list[str]:
        program = ["-c", script] if script else ["-m", "flprov"]
        return [sys.executable, *program, *words]

    def type(self, *words: str, script: str = "", line: str = "") -> tuple[int, str]:
        """Exit code, and everything that was said."""
        done = subprocess.run(
            self.command(*words, script=script),
            cwd=self.folder,
            input=line,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "XDG_CONFIG_HOME": str(self.folder)},
        )
        return done.returncode, done.stdout + done.stderr

    def join(self, line: str, *words: str, script: str = "") -> tuple[int, str]:
        return self.type("join", "-", *words, script=script, line=line)

    @contextlib.contextmanager
    def joining(self, line: str, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A join that waits for approval."""
        process = subprocess.Popen(
            self.command("join", "-", *words),
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(line)
        process.stdin.close()
        process.stdin = None
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    @property
    def kit(self) -> Path:
        return self.folder / "clinic"


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Network]:
    """A server that nobody harms."""
    made = Network(tmp_path_factory.mktemp("net"), 1)
    made.start("server")
    yield made
    made.close()


@pytest.fixture
def make_hospital(tmp_path) -> Callable[[Network], Hospital]:
    return lambda network: Hospital(network, tmp_path)


def line_for(admin: Admin, site: str = "clinic", org: str = "org-b", **options: bool) -> str:
    return admin.create_invite(site, org=org, **options).line


def joins(network: Network, admin: Admin, site: str) -> int:
    """How many certificates invites have brought to a site, by the server's own records."""
    return sum(one.site == site and bool(one.serial) for one in admin.invites())


def waits(process: subprocess.Popen[str]) -> str:
    """Read until the joiner has shown its fingerprint."""
    assert process.stderr is not None
    for text in process.stderr:
        if text.strip().startswith("SHA256:"):
            return text.strip()
    raise AssertionError("it ended before it waited")


# ---- the way it should go -------------------------------------------------------------------------


def test_from_an_invite_to_a_site_that_is_green(shared, make_hospital):
    hospital, admin = make_hospital(shared), shared.admin()
    code, said = hospital.join(line_for(admin, "green"), "-o", str(hospital.kit))
    assert code == 0, said
    assert f"flprov site start {hospital.kit}" in said
    assert hospital.type("kit", "verify", str(hospital.kit))[0] == 0
    shared.start("green", kit=hospital.kit)
    assert admin.site("green").state == "connected"
    assert hospital.type("site", "status", str(hospital.kit), "--alive")[0] == 0
    # No policy yet: the site is connected, and could take no job.
    assert hospital.type("site", "status", str(hospital.kit), "--health")[0] == 7
    shared.running.pop("green").stop()


def test_the_line_can_be_an_argument_or_a_file(shared, make_hospital):
    hospital, admin = make_hospital(shared), shared.admin()
    assert hospital.type("join", line_for(admin, "by-word"))[0] == 0
    (hospital.folder / "line").write_text(line_for(admin, "by-file") + "\n")
    assert hospital.type("join", "@line", "--site", "by-file")[0] == 0
    for name in ("by-word", "by-file"):
        assert load_kit(hospital.folder / name, now=datetime.now(UTC)).name == name


def test_an_admin_compares_the_fingerprint_of_whoever_waits(shared, make_hospital):
    hospital, admin = make_hospital(shared), shared.admin()
    with hospital.joining(line_for(admin, "careful", approval=True)) as process:
        mark = waits(process)
        [waiting] = [one for one in admin.invites() if one.state == "waiting"]
        assert waiting.fingerprint == mark
        code, said = hospital.type(
            "--kit", str(shared.kit("ada")), "invite", "approve", "careful", "--fingerprint", "00:11"
        )
        assert (code, "has another fingerprint" in said) == (3, True)
        code, said = hospital.type(
            "--kit", str(shared.kit("ada")), "invite", "approve", "careful", "--fingerprint", mark
        )
        assert code == 0, said
        assert process.wait(20) == 0
    assert load_kit(hospital.folder / "careful", now=datetime.now(UTC)).name == "careful"


def test_joining_elsewhere_ends_the_site_that_was_there_and_says_why(shared, make_hospital):
    hospital, admin = make_hospital(shared), shared.admin()
    shared.start("site-1")
    assert hospital.join(line_for(admin, "site-1", ""))[0] == 0
    shared.start("moved", kit=hospital.folder / "site-1")
    assert admin.site("site-1").state == "connected"
    assert "a newer one has taken its place" in shared.running["site-1"].log.read_text()
    shared.running.pop("moved").stop()
    shared.running.pop("site-1").stop()
    code, said = shared.start_refused("site-1")
    assert (code, "a newer one has taken its place" in said) == (3, True)
    assert "flprov invite create site-1" in said


def test_the_way_back_of_a_site_that_was_revoked(shared, make_hospital):
    hospital, admin = make_hospital(shared), shared.admin()
    assert hospital.join(line_for(admin, "lost"))[0] == 0
    line = line_for(admin, "lost")
    code, said = hospital.join(line)
    assert (code, "the server takes its certificate" in said) == (2, True)
    assert not (hospital.folder / "lost.joining").exists()
    code, said = hospital.type(
        "--kit", str(shared.kit("ada")), "cert", "revoke", "lost", "--reason", "key-compromise"
    )
    assert code == 0, said
    code, said = hospital.join(line_for(admin, "lost"))
    assert code == 0, said
    [aside] = hospital.folder.glob("lost.old-*")
    assert str(aside) in said
    shared.start("lost", kit=hospital.folder / "lost")
    shared.running.pop("lost").stop()


def test_without_a_network_files_go_there_and_back(shared, make_hospital):
    hospital, admin = make_hospital(shared), shared.admin()
    line = encode_invitation(
        replace(decode_invitation(line_for(admin, "island")), endpoints=(f"127.0.0.1:{free_port()}",))
    )
    code, said = hospital.join(line, "--request", "out")
    assert code == 0, said
    [mark] = [text.strip() for text in said.splitlines() if text.strip().startswith("SHA256:")]
    assert b"PRIVATE" not in (hospital.folder / "out").read_bytes()
    ada = ("--kit", str(shared.kit("ada")))
    files = ("--request", "out", "--response", "back")
    code, said = hospital.type(*ada, "invite", "approve", *files, "--fingerprint", "00")
    assert (code, "has another fingerprint" in said) == (3, True)
    code, said = hospital.type(*ada, "invite", "approve", *files, "--fingerprint", mark)
    assert code == 0, said
    assert b"PRIVATE" not in (hospital.folder / "back").read_bytes()
    code, said = hospital.type("join", "--response", "back")
    assert code == 0, said
    assert load_kit(hospital.folder / "island", now=datetime.now(UTC)).name == "island"
    assert not (hospital.folder / "island.joining").exists()


# ---- SIGKILL --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name", "when"),
    [
        ("Attempt", "keep_answer", "before"),  # the answer came, and nothing of it is on the disk
        ("Attempt", "_move_aside", "after"),
        ("shutil", "rmtree", "before"),  # the kit is in its place
    ],
)
def test_a_joiner_that_is_killed_goes_on_where_it_was(shared, make_hospital, owner, name, when):
    hospital, admin = make_hospital(shared), shared.admin()
    site = f"dies-{name.strip('_').replace('_', '-')}-{when}"
    line = line_for(admin, site)
    code, _ = hospital.join(line, script=dying("kits.attempt", owner, name, when))
    assert code == -9
    assert joins(shared, admin, site) == 1
    code, said = hospital.join(line)
    assert code == 0, said
    assert joins(shared, admin, site) == 1
    assert [path.name for path in hospital.folder.iterdir()] == [site]
    assert load_kit(hospital.folder / site, now=datetime.now(UTC)).name == site


@pytest.mark.parametrize(
    ("module", "owner", "name", "left"),
    [
        ("server.identities.admission", "Admission", "_issue", 0),  # the key came; nothing is issued yet
        ("server.identities.inviteservice", "InviteService", "_issued", 1),  # issued, and nobody was told
    ],
)
def test_a_server_that_is_killed_in_the_middle_gives_one_certificate_to_the_same_key(
    make_network, make_hospital, module, owner, name, left
):
    network = make_network(1)
    network.start("server")
    line = line_for(network.admin())
    network.kill("server")
    script = dying(module, owner, name, "before")
    network.command = lambda words: [words[0], "-c", script, *words[3:]]
    dying_server = network.start("server")
    hospital = make_hospital(network)
    code, said = hospital.join(line)
    assert code == 4, said
    dying_server.process.wait(20)
    network.command = list
    network.start("server")
    admin = network.admin()
    assert joins(network, admin, "clinic") == left
    if left:
        code, said = hospital.join(line, "-o", str(hospital.folder / "thief"))
        assert (code, "by another key" in said) == (3, True)
    code, said = hospital.join(line)
    assert code == 0, said
    assert joins(network, admin, "clinic") == 1


def test_whoever_waits_goes_on_when_the_server_was_killed(make_network, make_hospital):
    network = make_network(1)
    network.start("server")
    hospital, line = make_hospital(network), line_for(network.admin(), approval=True)
    with hospital.joining(line) as process:
        mark = waits(process)
        network.kill("server")
        network.start("server")
        network.admin().approve_invite("clinic", fingerprint=mark)
        assert process.wait(40) == 0
    assert load_kit(hospital.kit, now=datetime.now(UTC)).name == "clinic"


# ---- villains -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Network:
    """Another project of the same name, whose server is not running."""
    return Network(tmp_path_factory.mktemp("other"), 1)


def invite_of(network: Network, site: str = "clinic") -> str:
    """An invite that was made with a project's own CA, and that its server knows nothing of."""
    from flprov.kits import Invitation
    from flprov.kits.authorities import open_authorities
    from flprov.pki import Identity, Kind, fingerprint

    authorities = open_authorities(network.folder / "ws/ca", passphrase=None)
    key, kit = create_key(), load_kit(network.kit("ada"), now=datetime.now(UTC))
    identity = Identity(
        trust_domain=kit.trust_domain, kind=Kind.INVITE, org="org-b", name=site, invite="f" * 16
    )
    made = issue_identity(
        authorities.issuing(Kind.SITE),
        identity,
        days=1,
        now=datetime.now(UTC),
        public_pem=public_key_pem(key),
    )
    return encode_invitation(
        Invitation(
            project=kit.project,
            project_id=kit.project_id,
            server=kit.server,
            endpoints=kit.endpoints,
            root=fingerprint(kit.anchors["root"].pem),
            server_anchors_pem=kit.anchors["servers"].pem,
            chain_pem=made.certificate_pem,
            private_pem=key,
        )
    )


def test_an_invite_that_the_server_has_never_made_is_refused(shared, make_hospital):
    shared.admin().create_invite("clinic", org="org-b")
    code, said = make_hospital(shared).join(invite_of(shared))
    assert (code, "this server knows no invite ffffffffffffffff" in said) == (3, True)


def test_another_projects_invite_is_refused_at_our_server_by_both_sides(shared, other, make_hospital):
    hospital = make_hospital(shared)
    endpoints = load_kit(shared.kit("ada"), now=datetime.now(UTC)).endpoints
    strayed = replace(decode_invitation(invite_of(other)), endpoints=endpoints)
    code, said = hospital.join(encode_invitation(strayed))
    assert code == 3, said
    assert "is issued by" in said  # our server is no server of that project
    ours = load_kit(shared.kit("ada"), now=datetime.now(UTC)).anchors["servers"].pem
    code, said = hospital.join(encode_invitation(replace(strayed, server_anchors_pem=ours)))
    assert code == 3, said
    assert "does not take the certificate" in said
    assert not hospital.kit.exists()


def test_an_invite_with_a_forged_root_writes_no_kit(shared, other, make_hospital):
    hospital, admin = make_hospital(shared), shared.admin()
    good = decode_invitation(line_for(admin, "forged"))
    forged = replace(good, root=decode_invitation(invite_of(other)).root)
    code, said = hospital.join(encode_invitation(forged))
    assert (code, "offers another root than the invite names" in said) == (3, True)
    assert not (hospital.folder / "forged").exists()
    code, said = hospital.join(encode_invitation(good))  # the same key: nothing is lost
    assert code == 0, said


def test_an_invites_certificate_may_call_nothing_else(shared):
    import asyncio

    found = decode_invitation(line_for(shared.admin(), "curious"))

    async def call_everything() -> dict[str, str]:
        connection = connect(
            found.endpoints,
            chain_pem=found.chain_pem,
            private_pem=found.private_pem,
            server_anchors=found.server_anchors,
        )
        refused = {}
        for method in m.METHODS:
            try:
                async with contextlib.aclosing(connection.download(method, pb.Query())) as replies:
                    await anext(replies, None)
            except Exception as error:
                refused[method.path] = type(error).__name__
        await connection.close()
        return refused

    refused = asyncio.run(call_everything())
    assert refused.pop(m.JOIN.path) == "IdentityRefused"  # an empty request
    assert refused == {method.path: "PermissionRefused" for method in m.METHODS if method is not m.JOIN}


def test_an_invite_that_expired_or_was_taken_back_says_so(shared, make_hospital):
    hospital, admin = make_hospital(shared), shared.admin()
    line = line_for(admin, "gone")
    admin.revoke_invite("gone", reason="wrong address")
    code, said = hospital.join(line)
    assert (code, "was taken back" in said, "wrong address" in said) == (3, True, True)
    assert not hospital.kit.exists()


# ---- many ------------------------------------------------------------------------------------------


def test_replays_and_races_end_with_one_certificate_each(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "identity"))
    sys.modules.pop("invites", None)
    import invites

    found = invites.run(tmp_path, small=True)
    assert found["met"], found
