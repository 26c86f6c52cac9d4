# SPDX-License-Identifier: Apache-2.0
"""What people see: the ladder of each site, jobs in words, the first cause and the next thing to type."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from server_network import ALONE
from server_parties import NOW, SITES, inline, vitals
from server_world import broadcast, close_round, deploy, train

from flprov.blobs import digest_of
from flprov.jobs import JobState, Workflow
from flprov.server.records import BlobRef, SiteRecord
from flprov.server.sights.jobs import job_document, result_files
from flprov.server.sights.ladder import environment_problem, ladder
from flprov.server.sights.sites import expired, site_document
from flprov.server.sights.why import why_document
from flprov.wire.documents import Cause, Space

SITE = SiteRecord(name="site-1", org="org-a")


def rungs(world, name="site-1", record=SITE):
    return [
        (rung.name, rung.ok, rung.reason) for rung in ladder(record, world.sessions.get(name), world.jobs)
    ]


# ---- the ladder ------------------------------------------------------------------------------


async def test_site_that_never_came_stands_on_the_first_rung(world):
    assert rungs(world) == [("enrolled", True, ""), ("connected", False, "never connected")]


async def test_site_that_is_gone_says_since_when(world):
    record = replace(SITE, first_connected=NOW, last_seen=NOW + timedelta(hours=3))
    assert rungs(world, record=record)[1] == ("connected", False, "last seen 2026-01-01 03:00:00 UTC")


PROBLEMS = {
    "no heartbeat": (None, "no heartbeat yet"),
    "all is well": (vitals(), ""),
    "a full disk": (vitals(disk=Space(total=1 << 40, available=5 << 20)), "5 MiB of disk left"),
    "exactly enough disk": (vitals(disk=Space(total=1 << 40, available=1 << 30)), ""),
    "no confinement": (vitals(confinement="none"), "job code cannot be confined there"),
    "unconfined by policy": (vitals(confinement="unconfined"), ""),
    "a note": (vitals(notes=("policy.yml allows nobody", "and more")), "policy.yml allows nobody"),
}


@pytest.mark.parametrize("case", PROBLEMS)
async def test_environment_is_ready_or_says_what_is_missing(world, case):
    machine, problem = PROBLEMS[case]
    world.connect("site-1").session.vitals = machine
    last = rungs(world)[-1]
    assert (last[0], last[1]) == ("environment_ready", not problem)
    assert last[2].startswith(problem)
    assert environment_problem(machine).startswith(problem)


async def test_ladder_follows_a_job_to_the_contribution(world):
    running = await deploy(world, "site-1", "site-2")
    run, workflow = running.run, running.workflow
    assert rungs(world)[3:] == [("job_deployed", True, "job 0job: ready")]
    workflow.say(broadcast())
    for fake in running.sites.values():
        await fake.hears("task")
    assert rungs(world)[3:] == [
        ("job_deployed", True, "job 0job: training"),
        ("training", True, "job 0job: training"),
    ]
    run.sites.note_progress("site-1", 12)
    assert rungs(world)[-1] == ("training", True, "job 0job: round 1, step 12, at 00:00:00 UTC")
    for fake in running.sites.values():
        fake.updates(run, "train/0/0")
        await workflow.hears("answer")
    workflow.say(close_round())
    await workflow.hears("saved")
    assert [name for name, _, _ in rungs(world)[3:]] == ["job_deployed", "contributed"]


async def test_job_that_is_not_deployed_at_a_site_is_a_rung_that_fails(world):
    running = await deploy(world, "site-1", "site-2", targets=SITES, spec=ALONE)
    world.connect("site-3")
    record = SiteRecord(name="site-3", org="org-a")
    assert rungs(world, "site-3", record)[3:] == [("job_deployed", False, "job 0job: waiting")]
    assert running.run.active


async def test_site_whose_certificate_has_expired_says_so_and_the_way_back(world):
    end = NOW + timedelta(days=90)
    known = replace(SITE, cert_not_after=end, last_seen=NOW, first_connected=NOW)
    assert expired(known, end) is None
    barred = expired(known, end + timedelta(seconds=1))
    found = site_document(known, None, world.jobs, barred)
    assert found.state == "refused"
    assert [(rung.name, rung.ok) for rung in found.ladder] == [("enrolled", True), ("connected", False)]
    assert "expired on 2026-04-01 00:00:00 UTC; last seen 2026-01-01" in found.ladder[-1].reason
    assert f"flprov invite create {known.name}" in found.ladder[-1].reason


async def test_stale_vitals_of_a_site_that_is_away_are_not_shown(world):
    site = world.connect("site-1", machine=vitals(gpu_note="no driver", datasets=("heart",)))
    record = replace(SITE, host="old.example", version="0.9", first_connected=NOW)
    here = site_document(record, world.sessions.get("site-1"), world.jobs)
    assert (here.state, here.host, here.datasets, here.gpu_note) == (
        "connected",
        "site-1.example",
        ("heart",),
        "no driver",
    )
    site.leave()
    gone = site_document(record, None, world.jobs)
    assert (gone.state, gone.host, gone.version, gone.datasets, gone.cpu, gone.gpu_note) == (
        "disconnected",
        "old.example",
        "0.9",
        (),
        None,
        "",
    )


async def test_jobs_of_a_site_are_those_that_run(world):
    await world.put_job(id="runs", state=JobState.RUNNING)
    await world.put_job(id="ended", state=JobState.FAILED)
    world.jobs.load()
    assert site_document(SITE, None, world.jobs).jobs == ("runs",)


# ---- jobs ------------------------------------------------------------------------------------

SITE_STATES = {
    "as the job knows it": (JobState.RUNNING, {}, (), ("training", "")),
    "refused, whatever came later": (JobState.RUNNING, {"site-1": "no policy"}, (), ("refused", "no policy")),
    "stopped with the job": (JobState.COMPLETED, {}, (), ("stopped", "")),
    "not confirmed": (JobState.ABORTED, {}, ("site-1",), ("unconfirmed", "")),
    "refused and over": (JobState.COMPLETED, {"site-1": "no"}, (), ("refused", "no")),
}


@pytest.mark.parametrize("case", SITE_STATES)
async def test_job_at_a_site(world, case):
    state, refusals, unconfirmed, (shown, reason) = SITE_STATES[case]
    run = await world.run(state=state, refusals=refusals, unconfirmed=unconfirmed)
    run.sites.set("site-1", "training")
    [one] = [site for site in job_document(run).sites if site.site == "site-1"]
    assert (one.state, one.reason) == (shown, reason)


async def test_rounds_of_a_workflow_of_the_app_are_known_once_it_says_so(world):
    own = replace(ALONE, workflow=Workflow(type=None, entry="flow:Flow", rounds=5))
    running = await deploy(world, "site-1", spec=own)
    assert job_document(running.run).rounds_total is None
    running.workflow.say(broadcast(rounds=9))
    await running["site-1"].hears("task")
    assert job_document(running.run).rounds_total == 9


async def test_results_have_digests_whether_they_are_blobs_or_not(world):
    run = await world.run(
        state=JobState.COMPLETED, results={"b": BlobRef(digest="d" * 64, size=9), "a": inline(b"12345")}
    )
    assert [(file.name, file.size, file.digest) for file in result_files(run)] == [
        ("a", 5, digest_of(b"12345")),
        ("b", 9, "d" * 64),
    ]


# ---- why -------------------------------------------------------------------------------------


def cause(message, minute, party="site-1"):
    return Cause(at=NOW + timedelta(minutes=minute), party=party, code="job-failed", message=message)


BOOM = (cause("second", 2), cause("first", 1, "site-2"))
WHY = {
    "in the queue": (
        {"reason": "site-1: not connected yet"},
        "queued: site-1: not connected yet",
        "flprov site ls",
    ),
    "about to start": ({}, "queued: it is about to start", "flprov site ls"),
    "deploying": (
        {"state": JobState.DEPLOYING, "reason": "waiting for site-2"},
        "deploying: waiting for site-2",
        "flprov job show 0job",
    ),
    "running": (
        {"state": JobState.RUNNING, "round": 3},
        "running: round 4, the workflow is at work",
        "flprov job show 0job",
    ),
    "running and waiting": (
        {"state": JobState.RUNNING, "reason": "waiting up to 60 s for site-1 to return"},
        "waiting up to 60 s for site-1 to return",
        "flprov job show 0job",
    ),
    "failed: the earliest cause, not the first noted": (
        {"state": JobState.FAILED, "causes": BOOM, "reason": "second"},
        "failed: site-2: first",
        "flprov job logs 0job",
    ),
    "degraded with a cause": (
        {"state": JobState.DEGRADED, "causes": BOOM[:1]},
        "degraded: site-1: second",
        "flprov job show 0job",
    ),
    "degraded without one": (
        {"state": JobState.DEGRADED},
        "degraded: some rounds lacked a site; `job show` names who contributed to each",
        "flprov job show 0job",
    ),
    "completed": ({"state": JobState.COMPLETED}, "completed: nothing went wrong", "flprov job show 0job"),
    "aborted": (
        {"state": JobState.ABORTED, "reason": "typo", "causes": BOOM},
        "aborted: typo",
        "flprov job show 0job",
    ),
    "aborted, not confirmed": (
        {"state": JobState.ABORTED, "reason": "typo", "unconfirmed": ("site-2", "site-3")},
        "aborted: typo; not confirmed by site-2, site-3",
        "flprov job show 0job",
    ),
}


@pytest.mark.parametrize("case", WHY)
async def test_why(world, case):
    changes, answer, hint = WHY[case]
    run = await world.run(**changes)
    found = why_document(run, NOW)
    assert (found.answer, found.hint, found.state) == (answer, hint, run.record.state.value)


async def test_why_of_an_open_round_names_who_is_waited_for(world):
    running = await train(world, "site-1", "site-2")
    running["site-1"].updates(running.run, "train/0/0")
    await running["site-1"].hears("ack")
    assert why_document(running.run, NOW).answer == "running: round 1, waiting for site-2"
