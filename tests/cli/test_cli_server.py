# SPDX-License-Identifier: Apache-2.0
"""`flprov server`: asked how it is, on its own machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cli_admin import make_server
from cli_process import run_process, speaking

from flprov._base import canonical_json
from flprov.wire import documents as doc


@pytest.fixture
def kit(kits: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kits / "server", tmp_path / "server"))


@pytest.fixture
def state(kit: Path) -> Path:
    return kit.with_name("server.local") / "state"


def test_a_running_server_tells_how_it_is(run, kit: Path, state: Path):
    with speaking(state, canonical_json(make_server())):
        ran = run("server", "status", str(kit))
    assert ran.code == 0
    assert [line.split(maxsplit=1)[1] for line in ran.out.splitlines() if not line.startswith("listens")] == [
        "server",
        "heart",
        "3 h",
        "1 running, 2 queued",
        "60 d left",
        "0.1.0",
    ]
    assert "listens on   0.0.0.0:8443" in ran.out


def test_its_json_is_one_document(run, kit: Path, state: Path):
    with speaking(state, canonical_json(make_server())):
        ran = run("server", "status", str(kit), "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.document(doc.ServerDocument) == make_server()


def test_a_probe_prints_nothing(run, kit: Path, state: Path):
    with speaking(state, canonical_json(make_server())):
        assert tuple(vars(run("server", "status", str(kit), "--health")).values()) == (0, "", "")
    (state / "status.sock").unlink()
    assert tuple(vars(run("server", "status", str(kit), "--health")).values()) == (4, "", "")


def test_one_that_does_not_run_is_unreachable_with_what_to_type(run, kit: Path):
    ran = run("server", "status", str(kit), "--json")
    assert (ran.code, ran.out) == (4, "")
    assert "the server server is not running on this machine" in ran.err
    assert f"flprov server start {kit}" in ran.err


@pytest.mark.parametrize("answer", [b"", b"{", b"[]", b"{}"])
def test_an_answer_that_was_cut_off_is_no_answer(run, kit: Path, state: Path, answer):
    with speaking(state, answer):
        ran = run("server", "status", str(kit))
    assert (ran.code, ran.out) == (4, "")
    assert "did not say how it is" in ran.err


@pytest.mark.parametrize("command", ["start", "status"])
@pytest.mark.parametrize("name", ["leo", "site-1"])
def test_another_party_s_kit_is_refused(run, kits: Path, command, name):
    ran = run("server", command, str(kits / name))
    assert ran.code == 3
    assert "kit of the server is needed" in ran.err


def test_a_kit_that_is_not_there_is_not_found(run):
    assert run("server", "start", "gone").code == 5


def test_settings_with_mistakes_are_told_with_their_line(run, kit: Path):
    local = kit.with_name("server.local")
    local.mkdir()
    (local / "server.yml").write_text("\nlisten_on: x\n")
    ran = run("server", "start", str(kit))
    assert ran.code == 2
    assert "server.yml:2" in ran.err
    assert "listen" in ran.err


def test_in_a_process_of_its_own(kit: Path, tmp_path: Path):
    (kit / "identity" / "key.pem").chmod(0o644)
    ran = run_process("server", "start", str(kit), folder=tmp_path)
    assert ran.code == 3
    assert "key.pem" in ran.err
    assert "Traceback" not in ran.err
