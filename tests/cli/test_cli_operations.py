# SPDX-License-Identifier: Apache-2.0
"""Drain, stop, gc, backup, restore as they are typed: what is printed, and the exit codes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cli_admin import BEEP, FakeAdmin, before

from flprov.errors import SiteUnavailable
from flprov.wire import documents as doc

SINCE = "drained by ada since 2026-01-01 12:03 UTC: new disk"


def drained(**changes: Any) -> doc.DrainDocument:
    found: dict[str, Any] = {
        "name": "site-1",
        "kind": "site",
        "changed": True,
        "drained": SINCE,
        "safe_to_stop": False,
        "safe_when": "when job j1 (round 4 of 20) has ended there",
        "jobs": ("j1",),
    }
    return doc.DrainDocument(**(found | changes))


def order(state: str, text: str, word: str = "stop") -> doc.SiteOrderDocument:
    return doc.SiteOrderDocument(name="site-1", order=word, state=state, text=text)


def test_drain_says_when_it_is_safe_to_stop(run, admin: FakeAdmin):
    admin.drains = [drained()]
    ran = run("site", "drain", "site-1", "--reason", "new disk")
    assert ran.code == 0
    assert ran.out == f"site site-1 {SINCE}\nsafe to stop when job j1 (round 4 of 20) has ended there\n"
    assert admin.calls == [("drain_site", {"name": "site-1", "reason": "new disk"})]


def test_what_was_drained_before_is_said_so(run, admin: FakeAdmin):
    admin.drains = [drained(changed=False)]
    assert "was already drained by ada" in run("site", "drain", "site-1").out
    admin.drains = [drained(changed=False, drained="")]
    assert run("site", "enable", "site-1").out == "site site-1 was already enabled; nothing was done\n"


def test_waiting_ends_when_it_is_safe(run, admin: FakeAdmin):
    admin.drains = [drained(), drained(safe_to_stop=True, safe_when="now: no job runs there", jobs=())]
    ran = run("site", "drain", "site-1", "--wait")
    assert (ran.code, ran.err.splitlines()[-1]) == (0, "safe to stop now: no job runs there")
    ran = run("site", "drain", "site-1", "--wait", "--json")
    assert ran.document(doc.DrainDocument).safe_to_stop


def test_waiting_that_somebody_ended_is_attention(run, admin: FakeAdmin):
    admin.drains = [drained(), drained(drained="")]
    ran = run("server", "drain", "--wait")
    assert ran.code == 7
    assert "was enabled meanwhile" in ran.err
    assert admin.calls[0] == ("drain_server", {"reason": ""})


def test_stop_follows_the_order_until_the_site_has_gone(run, admin: FakeAdmin):
    admin.orders = [order("waiting", f"waiting {BEEP}"), order("gone", "site-1 has stopped")]
    ran = run("site", "stop", "site-1", "--now", "--reason", "x")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "site-1 has stopped"
    assert "\x1b" not in ran.out
    assert admin.calls == [("stop_site", {"name": "site-1", "now": True, "reason": "x"})]
    assert run("site", "stop", "site-1", "--json").document(doc.SiteOrderDocument).state == "gone"


def test_order_that_was_taken_back_is_attention(run, admin: FakeAdmin):
    admin.orders = [order("waiting", "w"), order("taken_back", "it was taken back")]
    assert run("site", "stop", "site-1").code == 7
    admin.orders = [order("back", "site-1 is back", "restart")]
    assert run("site", "restart", "site-1").code == 0


def test_site_that_is_away_is_unreachable(run, admin: FakeAdmin):
    admin.fails["stop_site"] = SiteUnavailable(
        "site site-1 is not connected", hint="flprov site drain site-1"
    )
    ran = run("site", "stop", "site-1")
    assert ran.code == 4
    assert "flprov site drain" in ran.err
    admin.fails.clear()
    admin.orders = []
    assert run("site", "stop", "site-1").code == 4


def test_status_shows_drains_notes_and_orders(run, admin: FakeAdmin):
    from dataclasses import replace

    status = admin.status_document
    server = replace(status.server, drained=SINCE, safe_when="now", notes=(f"restored {BEEP}",))
    site = replace(status.sites[0], drained=SINCE, safe_when="now: no job", order="stop, asked by ada")
    admin.status_document = replace(status, server=server, sites=(site,))
    out = run("status").out
    assert f"server {SINCE}" in out
    assert "restored" in out
    assert "\x1b[31mred" not in out
    out = run("site", "show", "site-1").out
    for line in ("drained       by ada", "told          stop, asked by ada", "safe to stop  now: no job"):
        assert line in out


# ---- gc ----------------------------------------------------------------------------------------


def test_gc_says_what_went(run, admin: FakeAdmin):
    job = doc.CleanedJob(id="j1", name="heart", state="failed", finished_at=before(hours=5))
    admin.cleaned = doc.CleanDocument(
        dry_run=True, jobs=(job,), checkpoints=1, blobs=2, uploads=3, bytes=2048
    )
    ran = run("server", "gc", "--older-than", "90d", "--dry-run")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "would go: 1 jobs, 1 checkpoints, 2 blobs and 3 uploads of 2.0 KiB"
    assert admin.calls == [("clean", {"older_than": timedelta(days=90), "dry_run": True})]
    assert run("server", "gc", "--json").document(doc.CleanDocument) == admin.cleaned


@pytest.mark.parametrize("age", ["90", "0d", "-1d", "1y", "d", "9999999d", "1.5h"])
def test_age_that_is_none_is_misuse(run, admin: FakeAdmin, age):
    ran = run("server", "gc", "--older-than", age)
    assert ran.code == 2
    assert "90d or 12h" in ran.err or "option" in ran.err.lower()
    assert admin.calls == []


# ---- backup and restore ------------------------------------------------------------------------


def test_backup_of_a_server_that_never_ran_is_not_found(run, kits, tmp_path):
    ran = run("server", "backup", str(kits / "server"), "-o", str(tmp_path / "b.tar"))
    assert ran.code == 5
    assert "no server has run" in ran.err


def test_restore_of_something_else_is_refused_before_anything_is_made(run, kits, tmp_path):
    import shutil

    kit = shutil.copytree(kits / "server", tmp_path / "server")
    (tmp_path / "b.tar").write_text("hello")
    ran = run("server", "restore", str(kit), str(tmp_path / "b.tar"))
    assert ran.code == 1
    assert "take another one" in ran.err
    assert [path.name for path in (tmp_path / "server.local").iterdir()] == ["restore.lock"]
