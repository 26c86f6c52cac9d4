# SPDX-License-Identifier: Apache-2.0
"""`flprov job plan`, as people and programs use it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cli_admin import APP, BEEP, FakeAdmin

from flprov.wire import documents as doc


@pytest.fixture
def planned(admin: FakeAdmin, monkeypatch) -> dict[str, Any]:
    """What was asked; the answer is under `answer`."""
    found: dict[str, Any] = {}

    def plan(app: str, *, progress: object, **wanted: Any) -> doc.JobPlanDocument:
        found["asked"] = {"app": app, **wanted}
        return found["answer"]

    monkeypatch.setattr(admin, "plan", plan, raising=False)
    room = doc.SiteOffer(cpus=8, memory=1 << 34, disk=1 << 36, gpus=("GPU-1",), disk_needed=1 << 20)
    refusal = doc.Objection(code="policy-refused", message=f"only org-b {BEEP}", hint="ask the site")
    found["answer"] = doc.JobPlanDocument(
        name="heart",
        app=APP,
        starts=False,
        reason="1 of 2 sites would run it now, and it needs 2",
        sites=(
            doc.JobPlanSite(site="site-1", verdict="runs", room=room),
            doc.JobPlanSite(site="site-2", verdict="refuses", reason="only org-b", objections=(refusal,)),
        ),
        quorum=2,
        ahead=1,
        position=2,
        disk=doc.DiskEstimate(needed=3 << 30, free=1 << 36, text="2 updates"),
    )
    return found


def test_it_says_who_would_and_who_would_not_and_ends_with_7(run, planned):
    ran = run("job", "plan", "heart", "--set", "rounds=2", "--sites", "site-1,site-2", "--min-sites", "2")
    assert ran.code == 7
    assert planned["asked"] == {
        "app": "heart",
        "settings": {"rounds": "2"},
        "sites": ["site-1", "site-2"],
        "min_sites": 2,
    }
    for words in (
        "not now: 1 of 2 sites",
        "position 2, behind 1 job",
        "2 updates",
        "8 cpus",
        "1 gpu",
        "ask the site",
    ):
        assert words in ran.out
    assert not {"\x1b", "\x07", "\u202e"} & set(ran.out)


def test_a_job_that_would_start_ends_with_0(run, planned):
    planned["answer"] = doc.JobPlanDocument(name="heart", app=APP, starts=True, reason="", sites=(), quorum=1)
    ran = run("job", "plan", "heart")
    assert ran.code == 0
    assert "it would not wait" in ran.out
    assert "its size is not known before it runs" in ran.out


def test_the_same_for_programs(run, planned):
    ran = run("job", "plan", "heart", "--json")
    assert ran.code == 7
    assert [site["verdict"] for site in json.loads(ran.out)["sites"]] == ["runs", "refuses"]
