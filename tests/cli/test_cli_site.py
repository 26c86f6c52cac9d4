# SPDX-License-Identifier: Apache-2.0
"""`flprov site`: all of them for an admin, and one's own on its own machine without any admin."""

from __future__ import annotations

import dataclasses
import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from cli_admin import BEEP, NOW, FakeAdmin, before, make_gpu
from cli_process import run_process, speaking

from flprov._base import canonical_json
from flprov.wire import documents as doc

STATUS = doc.SiteStatusDocument(
    name="site-1",
    org="org-a",
    project="heart",
    version="0.1.0",
    server=("fl.heart.example:8443", "10.0.0.7:8443"),
    connected=True,
    link=doc.LinkStatus(state="connected", since=before(hours=5.2)),
    cert_not_after=NOW,
    policy="/srv/site-1.local/policy.yml",
    site_settings="/srv/site-1.local/site.yml",
    jobs={"j1": "training"},
    vitals=doc.Vitals(
        cpu=doc.CPU(count=4, load=0.5, percent=3.0),
        memory=doc.Space(total=2 << 30, available=1 << 30),
        disk=doc.Space(total=2 << 30, available=1 << 30),
        gpus=(make_gpu(),),
        confinement="landlock",
        datasets=("heart", "lung"),
        notes=("its policy.yml allows nobody",),
    ),
)
AWAY = dataclasses.replace(
    STATUS,
    connected=False,
    link=doc.LinkStatus(state="connecting", since=before(seconds=30), reason="nobody answers", tries=7),
    jobs={},
    vitals=None,
)


@pytest.fixture
def kit(kits: Path, tmp_path: Path) -> Path:
    """The kit of a site, with a state folder of this test's own beside it."""
    return Path(shutil.copytree(kits / "site-1", tmp_path / "site-1"))


@pytest.fixture
def state(kit: Path) -> Path:
    return kit.with_name("site-1.local") / "state"


# ---- as an admin -------------------------------------------------------------------------------


def test_every_site_is_listed(run, admin: FakeAdmin):
    ran = run("site", "ls")
    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines()] == ["SITE", "site-1", "site-2"]


def test_the_list_as_json_is_one_document(run, admin: FakeAdmin):
    ran = run("site", "ls", "--json")
    assert ran.document(doc.SiteListDocument).sites == admin.status_document.sites


def test_one_site_is_shown_with_its_whole_ladder(run, admin: FakeAdmin):
    out = run("site", "show", "site-1").out
    for line in ("state         connected", "host          node-7", "memory        8.0 GiB of 16.0 GiB free"):
        assert line in out
    assert "  yes  enrolled\n" in out
    assert "  yes  connected since 5 h\n" in out
    out = run("site", "show", "site-2").out
    assert "  no   connected  has never connected\n" in out


def test_one_site_as_json_is_one_document(run, admin: FakeAdmin):
    ran = run("site", "show", "site-1", "--json")
    assert ran.document(doc.SiteDocument) == admin.status_document.sites[0]


def test_a_site_that_is_not_there_is_not_found(run, admin: FakeAdmin):
    ran = run("site", "show", "site-9", "--json")
    assert (ran.code, ran.out) == (5, "")
    assert "flprov site ls" in ran.err


# ---- on its own machine ------------------------------------------------------------------------


def test_a_running_agent_tells_how_it_is(run, kit: Path, state: Path):
    with speaking(state, canonical_json(STATUS)):
        ran = run("site", "status", str(kit))
    assert ran.code == 0
    for line in (
        "site         site-1 of org-a, project heart",
        "server       fl.heart.example:8443, 10.0.0.7:8443",
        "link         connected since 5 h",
        "policy       /srv/site-1.local/policy.yml",
        "datasets     heart, lung",
        "gpus         A100",
        "disk         1.0 GiB free",
        "confinement  landlock",
        "jobs         j1 (training)",
        "its policy.yml allows nobody",
    ):
        assert line in ran.out.splitlines()


DUE = NOW + timedelta(days=14, hours=1)


@pytest.mark.parametrize(
    ("renewal", "line"),
    [
        (doc.RenewalStatus(due_at=DUE), "renewal      next in 14 d"),
        (doc.RenewalStatus(due_at=DUE, last_at=before(days=16)), "renewal      last 16 d ago, next in 14 d"),
        (doc.RenewalStatus(due_at=before(seconds=1)), "renewal      now"),
        (
            doc.RenewalStatus(due_at=before(days=1), last_error=f"nobody answers {BEEP}"),
            "renewal      failed, and is tried again: nobody answers",
        ),
    ],
    ids=["first", "later", "now", "failing"],
)
def test_it_tells_when_its_certificate_was_and_will_be_renewed(run, kit: Path, state: Path, renewal, line):
    with speaking(state, canonical_json(dataclasses.replace(STATUS, renewal=renewal))):
        ran = run("site", "status", str(kit))
    assert any(found.startswith(line) for found in ran.out.splitlines()), ran.out
    assert BEEP not in ran.out


def test_one_that_is_not_connected_says_why_and_exits_4(run, kit: Path, state: Path):
    with speaking(state, canonical_json(AWAY)):
        ran = run("site", "status", str(kit))
    assert ran.code == 4
    assert "nobody answers" in ran.out
    assert ran.out.splitlines()[-1].split() == ["jobs", "none"]


@pytest.mark.parametrize(("status", "code"), [(STATUS, 0), (AWAY, 4)])
def test_its_json_is_one_document_whatever_the_exit_code(run, kit: Path, state: Path, status, code):
    with speaking(state, canonical_json(status)):
        ran = run("site", "status", str(kit), "--json")
    assert (ran.code, ran.err) == (code, "")
    assert ran.document(doc.SiteStatusDocument) == status


def with_environment(*conditions: doc.Condition) -> doc.SiteStatusDocument:
    assert STATUS.vitals
    return dataclasses.replace(STATUS, vitals=dataclasses.replace(STATUS.vitals, environment=conditions))


DISK = doc.Condition(name="disk", ok=True, since=NOW, reason="900 MiB")
DATA = doc.Condition(name="datasets", ok=False, since=NOW, reason="heart: /data is not there")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (with_environment(DISK), 0),
        (with_environment(DISK, DATA), 7),
        (STATUS, 7),  # an older agent, whose policy allows nobody
        (dataclasses.replace(STATUS, vitals=None), 7),  # no heartbeat yet
        (AWAY, 4),
        (dataclasses.replace(with_environment(DISK), connected=False), 4),
    ],
    ids=["could take a job", "data is missing", "allows nobody", "too early", "away", "away and ready"],
)
def test_a_probe_prints_nothing(run, kit: Path, state: Path, status, code):
    with speaking(state, canonical_json(status)):
        assert tuple(vars(run("site", "status", str(kit), "--health")).values()) == (code, "", "")


LADDER = (
    doc.Rung(name="enrolled", ok=True, since=before(days=3), reason="its kit was made then"),
    doc.Rung(name="connected", ok=False, since=before(hours=5), reason="nobody answers (try 7, next in 9 s)"),
)


def test_it_shows_its_ladder_what_it_tries_again_and_what_to_type(run, kit: Path, state: Path):
    found = dataclasses.replace(
        AWAY,
        ladder=LADDER,
        why="not connected: nobody answers",
        hint="flprov doctor KIT",
        retrying=("the link to the server: nobody answers (try 7, next in 9 s)",),
        drained="drained by ada since 2026-01-01 12:00 UTC",
    )
    with speaking(state, canonical_json(found)):
        out = run("site", "status", str(kit)).out.splitlines()
    for line in (
        "drained      by ada since 2026-01-01 12:00 UTC",
        "  yes  enrolled since 3 d  its kit was made then",
        "  no   connected since 5 h  nobody answers (try 7, next in 9 s)",
        "waiting: the link to the server: nobody answers (try 7, next in 9 s)",
        "why: not connected: nobody answers",
        "next: flprov doctor KIT",
    ):
        assert line in out, out


@pytest.mark.parametrize("status", [STATUS, AWAY])
def test_an_agent_that_lost_its_server_is_alive(run, kit: Path, state: Path, status):
    with speaking(state, canonical_json(status)):
        assert tuple(vars(run("site", "status", str(kit), "--alive")).values()) == (0, "", "")
    state.joinpath("status.sock").unlink()
    assert tuple(vars(run("site", "status", str(kit), "--alive")).values()) == (4, "", "")


def test_one_that_does_not_run_is_unreachable_with_what_to_type(run, kit: Path):
    ran = run("site", "status", str(kit), "--json")
    assert (ran.code, ran.out) == (4, "")
    assert "the agent of site-1 is not running on this machine" in ran.err
    assert f"flprov site start {kit}" in ran.err
    assert tuple(vars(run("site", "status", str(kit), "--health")).values()) == (4, "", "")


@pytest.mark.parametrize(
    "answer", [b"", b"{", canonical_json(STATUS)[:-7], b"[]", b'{"connected": true}', b"\xff\xfe"]
)
def test_an_answer_that_was_cut_off_is_no_answer(run, kit: Path, state: Path, answer):
    with speaking(state, answer):
        ran = run("site", "status", str(kit))
        assert (ran.code, ran.out) == (4, "")
        assert "did not say how it is" in ran.err
        assert run("site", "status", str(kit), "--health").code == 4


def test_a_newer_agent_may_say_more(run, kit: Path, state: Path):
    with speaking(state, canonical_json(json.loads(canonical_json(STATUS)) | {"mood": "good"})):
        assert run("site", "status", str(kit)).code == 0


def test_what_it_says_cannot_drive_the_terminal(run, kit: Path, state: Path):
    assert STATUS.vitals
    vitals = dataclasses.replace(STATUS.vitals, gpus=(make_gpu(name=BEEP),), notes=(BEEP,), datasets=(BEEP,))
    link = dataclasses.replace(STATUS.link, reason=BEEP)
    with speaking(state, canonical_json(dataclasses.replace(STATUS, vitals=vitals, link=link))):
        out = run("site", "status", str(kit)).out
    assert out.count("[31mred") == 4
    assert not {"\x1b", "\x07", "\u202e"} & set(out)


@pytest.mark.parametrize("command", ["start", "status"])
@pytest.mark.parametrize("name", ["leo", "server"])
def test_another_party_s_kit_is_refused(run, kits: Path, command, name):
    ran = run("site", command, str(kits / name))
    assert ran.code == 3
    assert "kit of a site is needed" in ran.err


@pytest.mark.parametrize("command", ["start", "status"])
def test_a_kit_that_is_not_there_is_not_found(run, command):
    assert run("site", command, "gone").code == 5


def test_in_processes_of_their_own(kit: Path, tmp_path: Path):
    (kit / "kit.yml").write_text("changed")
    ran = run_process("site", "start", str(kit), folder=tmp_path)
    assert ran.code == 3
    assert "kit.yml" in ran.err
    assert "Traceback" not in ran.err
