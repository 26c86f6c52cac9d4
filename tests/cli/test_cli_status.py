# SPDX-License-Identifier: Apache-2.0
"""`flprov status`: one line a site, the rung where its ladder breaks, and nothing that drives a terminal."""

from __future__ import annotations

import dataclasses

from cli_admin import BEEP, FakeAdmin, make_away, make_gpu, make_server, make_site
from cli_process import run_process

from flprov.wire import documents as doc


def lines(text: str) -> list[list[str]]:
    """The cells of a table's lines."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def test_the_server_and_every_site_are_shown(run, admin: FakeAdmin):
    ran = run("status")
    assert ran.code == 0
    head, _, *table = ran.out.splitlines()
    assert head == (
        "heart  server server 0.0.0.0:8443  up 3 h  flprov 0.1.0"
        "  jobs 1 running, 2 queued  certificate 60 d left"
    )
    columns = ["SITE", "ORG", "STATE", "LADDER", "CPU", "MEMORY", "DISK", "GPUS", "JOBS", "SEEN"]
    assert table[0].split() == columns
    first, second = lines("\n".join(table[1:]))
    assert first[:5] == ["site-1", "org-a", "connected", "connected", "12% of 4"]
    assert first[5:8] == ["8.0 GiB free", "40.0 GiB free", "-"]
    assert second[:4] == ["site-2", "org-a", "never_connected", "not connected: has never connected"]
    assert second[4:] == ["-", "-", "-", "-", "0", "-"]


def test_gpus_are_named_with_their_memory(run, admin: FakeAdmin):
    gpus = (make_gpu(), make_gpu(index=1, name="L4", memory_used=0, memory_total=24 << 30))
    admin.status_document = doc.StatusDocument(server=make_server(), sites=(make_site(gpus=gpus),))
    assert "0: A100 3/80 GiB, 1: L4 0/24 GiB" in run("status").out


def test_disk_and_confinement_of_the_server_are_shown_when_it_tells(run, admin: FakeAdmin):
    server = make_server(disk=doc.Space(total=100 << 30, available=5 << 30), confinement="landlock")
    admin.status_document = doc.StatusDocument(server=server, sites=())
    assert "disk 5.0 GiB free  confinement landlock" in run("status").out


def test_json_is_one_document(run, admin: FakeAdmin):
    ran = run("status", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.document(doc.StatusDocument) == admin.status_document


def test_what_a_site_says_of_itself_cannot_drive_the_terminal_or_break_the_table(run, admin: FakeAdmin):
    text = f"{BEEP}\nsite-3  org-a  connected"
    rung = doc.Rung(name="connected", ok=False, since=None, reason=text)
    hostile = make_site(
        host=text, gpu_note=text, version=text, confinement=text, ladder=(rung,), notes=(text,)
    )
    gpu = make_site("site-2", gpus=(make_gpu(name=text),), datasets=(text,), jobs=(text,))
    receiver = doc.TrackingStatus(name=text, ready=False, reason=text, restarts=3)
    admin.status_document = doc.StatusDocument(server=make_server(tracking=(receiver,)), sites=(hostile, gpu))
    for words in (["status"], ["site", "ls"], ["site", "show", "site-1"], ["site", "show", "site-2"]):
        out = run(*words).out
        assert "red" in out
        assert not {"\x1b", "\x07", "\u202e"} & set(out), words
    assert len(run("site", "ls").out.splitlines()) == 3


def test_a_site_without_a_ladder_is_shown_all_the_same(run, admin: FakeAdmin):
    bare = dataclasses.replace(make_away(), ladder=())
    admin.status_document = doc.StatusDocument(server=make_server(), sites=(bare,))
    assert run("status").code == 0


def test_in_a_process_of_its_own_it_says_which_server_does_not_answer(kits, tmp_path):
    ran = run_process("--kit", str(kits / "leo"), "status", "--json", folder=tmp_path)
    assert (ran.code, ran.out) == (4, "")
    assert "localhost:1" in ran.err
    assert "Traceback" not in ran.err
