# SPDX-License-Identifier: Apache-2.0
"""What people see: the ladder of each site, jobs in words, the first cause and the next thing to type."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from server_network import ALONE
from server_parties import NOW, SITES, inline, vitals
from server_world import broadcast, close_round, deploy, train

from flprov.blobs import digest_of
from flprov.jobs import JobState, Workflow
from flprov.server.jobs.gather import Gather
from flprov.server.records import BlobRef, Enrolment, Mark, RoundRecord, SiteRecord
from flprov.server.sights.jobs import job_document, result_files
from flprov.server.sights.ladder import ladder
from flprov.server.sights.scene import HeldTrust, NewestTrust, Scene, expired
from flprov.server.sights.sites import site_document
from flprov.server.sights.sitewhy import site_why
from flprov.server.sights.why import why_document
from flprov.wire import pb
from flprov.wire.documents import (
    Cause,
    CertificateWarning,
    Condition,
    Missing,
    RefusedDocument,
    Rung,
    Space,
)

SITE = SiteRecord(name="site-1", org="org-a")


def scene(world, **changes) -> Scene:
    return Scene(
        clock=world.clock, registry=world.registry, sessions=world.sessions, jobs=world.jobs, **changes
    )


def steps(world, name="site-1", record=SITE, **changes) -> tuple[Rung, ...]:
    return ladder(scene(world, **changes).at(replace(record, name=name)))


def rungs(world, name="site-1", record=SITE):
    return [(rung.name, rung.ok, rung.reason) for rung in steps(world, name, record)]


def names(world, name="site-1"):
    return [(rung.name, rung.ok) for rung in steps(world, name)]


# ---- the ladder ------------------------------------------------------------------------------


async def test_site_that_never_came_stands_on_the_first_rung(world):
    assert rungs(world) == [("enrolled", True, ""), ("connected", False, "it has never connected")]


async def test_site_that_is_gone_says_since_when_and_why(world):
    gone = NOW + timedelta(hours=3)
    record = replace(SITE, first_connected=NOW, last_seen=gone, gone_at=gone, gone_because="connection lost")
    last = steps(world, record=record)[-1]
    assert (last.name, last.ok, last.since) == ("connected", False, gone)
    assert last.reason == "connection lost; last seen 2026-01-01 03:00:00 UTC"


async def test_site_that_was_stopped_by_its_operator_was_not_lost(world):
    record = replace(
        SITE,
        first_connected=NOW,
        gone_at=NOW,
        gone_because="stopped by its operator",
        left_by_itself=True,
    )
    found = site_document(scene(world), record)
    assert (found.state, found.ladder[-1].reason) == ("stopped", "stopped by its operator")


async def test_enrolled_since_the_kit_was_made_or_the_site_was_added(world):
    made = NOW - timedelta(days=3)
    assert steps(world, kit_made_at=made)[0].since == made
    assert steps(world)[0].since is None  # not known, so not said
    mark = Mark(by="spiffe://heart.example/person/org-a/project_admin/ada", at=NOW)
    world.registry.enrol(Enrolment(name="site-1", org="org-a", added=mark))
    assert steps(world, kit_made_at=made)[0].since == NOW


def certificate(**changes) -> SiteRecord:
    return replace(SITE, cert_issued_at=NOW, cert_not_after=NOW + timedelta(days=90), **changes)


async def test_kit_is_current_since_the_later_of_its_certificate_and_its_trust(world):
    world.connect("site-1")
    later = NOW + timedelta(hours=1)
    newest = NewestTrust(version=3, made_at=NOW - timedelta(days=1))
    rung = steps(
        world,
        record=certificate(),
        newest_trust=lambda: newest,
        held_trust=lambda _who: HeldTrust(version=3, since=later),
    )[2]
    assert (rung.name, rung.ok, rung.since) == ("kit_current", True, later)
    assert "certificate until 2026-04-01" in rung.reason


async def test_kit_with_an_older_trust_bundle_is_not_current_since_the_newer_one_was_made(world):
    world.connect("site-1")
    newest = NewestTrust(version=3, made_at=NOW - timedelta(days=1))
    *_, rung = steps(
        world,
        record=certificate(),
        newest_trust=lambda: newest,
        held_trust=lambda _who: HeldTrust(version=2, since=NOW),
    )
    assert (rung.name, rung.ok, rung.since) == ("kit_current", False, newest.made_at)
    assert rung.reason == "it holds trust bundle 2; the newest is 3, which was sent to it"


async def test_kit_whose_certificate_should_have_been_renewed_is_not_current(world):
    world.connect("site-1")
    text = "the certificate of site site-1 ends soon and should have been renewed by now"
    late = CertificateWarning(subject="site-1", kind="site", text=text, not_after=NOW, days_left=1.0)
    other = replace(late, subject="site-2", text="another")
    *_, rung = steps(world, record=certificate(), warnings=lambda: (other, late))
    assert (rung.name, rung.ok, rung.reason) == ("kit_current", False, text)


async def test_what_the_server_cannot_know_of_a_kit_it_says(world):
    session = world.connect("site-1").session
    session.hello.manifest = "ab" * 32
    rung = steps(world, record=certificate())[2]
    assert rung.reason.endswith("kit abababababab; the server has no list of kits to compare it with")


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


def condition(name, minute, reason=""):
    return Condition(name=name, ok=not reason, since=NOW + timedelta(minutes=minute), reason=reason)


async def test_environment_is_ready_since_its_last_thing_became_so_not_since_the_site_came(world):
    machine = vitals(environment=(condition("disk", -50), condition("datasets", -10)))
    world.connect("site-1").session.vitals = machine
    rung = steps(world)[-1]
    assert (rung.ok, rung.since) == (True, NOW - timedelta(minutes=10))


async def test_environment_names_everything_that_is_wrong_since_the_first_of_it(world):
    machine = vitals(
        environment=(
            condition("disk", -5, "5 MiB left"),
            condition("confinement", -50),
            condition("datasets", -9, "heart: /data is not there"),
        )
    )
    world.connect("site-1").session.vitals = machine
    rung = steps(world)[-1]
    assert (rung.ok, rung.since) == (False, NOW - timedelta(minutes=9))
    assert rung.reason == "datasets: heart: /data is not there; disk: 5 MiB left"


async def test_times_of_a_site_whose_clock_is_off_are_put_right(world):
    session = world.connect("site-1").session
    session.vitals = vitals(environment=(condition("disk", -90),))
    session.note_clock(NOW - timedelta(hours=1), NOW)
    assert steps(world)[-1].since == NOW - timedelta(minutes=30)


async def test_a_heartbeat_that_was_long_on_its_way_is_no_wrong_clock(world):
    session = world.connect("site-1").session
    session.note_clock(NOW - timedelta(seconds=90), NOW)
    session.note_clock(NOW - timedelta(seconds=2), NOW)
    assert session.clock_off == timedelta(0)


async def test_ladder_follows_a_job_to_the_contribution(world):
    running = await deploy(world, "site-1", "site-2")
    run, workflow = running.run, running.workflow
    assert names(world)[4:] == [("job_deployed", True)]
    deployed = steps(world)[4].since
    world.clock.advance(60)
    workflow.say(broadcast())
    for fake in running.sites.values():
        await fake.hears("task")
    assert names(world)[4:] == [("job_deployed", True), ("training", True)]
    up, training = steps(world)[4:]
    assert (up.since, training.since) == (deployed, deployed + timedelta(seconds=60))
    assert {up.job, training.job} == {"0job"}
    assert training.reason == "no progress heard yet"
    run.sites.note_progress("site-1", pb.Progress(step=12))
    assert "step 12" in steps(world)[-1].reason
    for fake in running.sites.values():
        fake.updates(run, "train/0/0")
        await workflow.hears("answer")
    workflow.say(close_round())
    await workflow.hears("saved")
    assert names(world)[4:] == [("job_deployed", True), ("contributed", True)]
    assert steps(world)[-1].reason == "to round 1"


async def test_a_job_that_is_stuck_ends_its_own_part_of_the_ladder_and_no_other(world):
    await world.put_job(id="0stuck", state=JobState.RUNNING)
    await world.put_job(id="1good", state=JobState.RUNNING)
    world.jobs.load()
    world.connect("site-1")
    world.jobs.get("0stuck").sites.set("site-1", "deploying", "fetching app")
    world.jobs.get("1good").sites.set("site-1", "training")
    found = [(rung.job, rung.name, rung.ok) for rung in steps(world)[4:]]
    assert found == [
        ("0stuck", "job_deployed", False),
        ("1good", "job_deployed", True),
        ("1good", "training", True),
    ]


async def test_job_that_is_not_deployed_at_a_site_is_a_rung_that_fails(world):
    running = await deploy(world, "site-1", "site-2", targets=SITES, spec=ALONE)
    world.connect("site-3")
    last = steps(world, "site-3")[-1]
    assert (last.name, last.ok, last.job) == ("job_deployed", False, "0job")
    assert running.run.active


async def test_job_that_is_not_proven_to_be_gone_is_still_shown_at_its_site(world):
    await world.put_job(id="0gone", state=JobState.ABORTED, unconfirmed=("site-1",))
    world.jobs.load()
    world.connect("site-1")
    assert site_document(scene(world), SITE).jobs == ("0gone",)
    assert site_document(scene(world), replace(SITE, name="site-2")).jobs == ()
    assert "not proven" in steps(world)[-1].reason


async def test_site_whose_certificate_has_expired_says_so_and_the_way_back(world):
    end = NOW + timedelta(days=90)
    known = replace(SITE, cert_not_after=end, last_seen=NOW, first_connected=NOW)
    assert expired(known, end) is None
    world.clock.advance(timedelta(days=90, seconds=1).total_seconds())
    found = site_document(scene(world), known)
    assert found.state == "refused"
    assert [(rung.name, rung.ok) for rung in found.ladder] == [("enrolled", True), ("connected", False)]
    assert "expired on 2026-04-01 00:00:00 UTC; last seen 2026-01-01" in found.ladder[-1].reason
    assert f"flprov invite create {known.name}" in found.ladder[-1].reason


async def test_stale_vitals_of_a_site_that_is_away_are_not_shown(world):
    site = world.connect("site-1", machine=vitals(gpu_note="no driver", datasets=("heart",)))
    record = replace(SITE, host="old.example", version="0.9", first_connected=NOW)
    here = site_document(scene(world), record)
    assert (here.state, here.host, here.datasets, here.gpu_note) == (
        "connected",
        "site-1.example",
        ("heart",),
        "no driver",
    )
    site.leave()
    gone = site_document(scene(world), record)
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
    assert site_document(scene(world), SITE).jobs == ("runs",)


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
    run = await world.run(state=state, refusals=refusals, unconfirmed=unconfirmed, granted=("site-1",))
    run.sites.set("site-1", "training")
    [one] = [site for site in job_document(run).sites if site.site == "site-1"]
    assert (one.state, one.reason) == (shown, reason)


async def test_site_of_an_ended_job_that_was_never_sent_there_does_not_wait_for_room(world):
    run = await world.run(state=JobState.ABORTED)
    run.sites.set("site-1", "waiting", "needs 2 cpus, 0 free of 2")
    one = job_document(run).sites[0]
    assert (one.site, one.state, one.reason) == ("site-1", "stopped", "it was never sent there")


async def test_document_of_a_job_goes_through_its_sites_and_its_round_once(world, monkeypatch):
    running = await train(world, *SITES)
    run = running.run
    running["site-2"].updates(run, "train/0/0")
    await running.workflow.hears("answer")
    looks = []

    class Names(tuple):
        def __iter__(self):
            looks.append(1)
            return super().__iter__()

    job = replace(run.record, state=JobState.COMPLETED, granted=Names(SITES))
    monkeypatch.setattr(Gather, "asks", lambda *_: pytest.fail("a task was looked at for each site"))
    shown = SimpleNamespace(record=job, doing="", sites=run.sites, rounds=run.rounds)
    found = [(site.state, site.reason, site.answered) for site in job_document(shown).sites]
    assert found == [("stopped", "", False), ("stopped", "", True), ("stopped", "", False)]
    assert len(looks) == 1


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
        "flprov site why site-1",
    ),
    "about to start": ({}, "queued: it is about to start", "flprov site why site-1"),
    "deploying": (
        {"state": JobState.DEPLOYING, "reason": "waiting for site-2"},
        "deploying: waiting for site-2",
        "flprov site why site-1",
    ),
    "running": (
        {"state": JobState.RUNNING, "round": 3},
        "running: round 4, the workflow is at work",
        "flprov job logs 0job --follow",
    ),
    "running and waiting": (
        {"state": JobState.RUNNING, "reason": "waiting up to 60 s for site-1 to return"},
        "running: round 1, waiting up to 60 s for site-1 to return",
        "flprov job logs 0job --follow",
    ),
    "failed: the earliest cause, not the first noted": (
        {"state": JobState.FAILED, "causes": BOOM, "reason": "second"},
        "failed: site-2: first",
        "flprov job logs 0job --site site-2",
    ),
    "degraded with a cause": (
        {"state": JobState.DEGRADED, "causes": BOOM[:1]},
        "degraded: site-1: second",
        "flprov job logs 0job --site site-1",
    ),
    "degraded without one": (
        {"state": JobState.DEGRADED},
        "degraded: some rounds lacked a site; `job show` names who contributed to each",
        "flprov job show 0job",
    ),
    "completed": ({"state": JobState.COMPLETED}, "completed: nothing went wrong", "flprov job show 0job"),
    "completed in spite of something": (
        {"state": JobState.COMPLETED, "causes": BOOM[:1]},
        "completed: it came to its end, although site-1: second",
        "flprov job show 0job",
    ),
    "aborted by somebody": (
        {"state": JobState.ABORTED, "reason": "typo", "aborted_by": "spiffe://x/person/org-a/lead/leo"},
        "aborted by leo: typo",
        "flprov job show 0job",
    ),
    "aborted by somebody without a reason": (
        {
            "state": JobState.ABORTED,
            "reason": "aborted by leo",
            "aborted_by": "spiffe://x/person/org-a/lead/leo",
        },
        "aborted by leo",
        "flprov job show 0job",
    ),
    "aborted": (
        {"state": JobState.ABORTED, "reason": "typo", "causes": BOOM},
        "aborted: typo",
        "flprov job show 0job",
    ),
    "aborted, not confirmed": (
        {"state": JobState.ABORTED, "reason": "typo", "unconfirmed": ("site-2", "site-3")},
        "aborted: typo; not confirmed by site-2, site-3",
        "flprov site why site-2",
    ),
}


@pytest.mark.parametrize("case", WHY)
async def test_why(world, case):
    changes, answer, hint = WHY[case]
    run = await world.run(**changes)
    found = why_document(scene(world), run)
    assert (found.answer, found.hint, found.state) == (answer, hint, run.record.state.value)


async def test_why_of_an_open_round_names_who_is_waited_for(world):
    running = await train(world, "site-1", "site-2")
    running["site-1"].updates(running.run, "train/0/0")
    await running["site-1"].hears("ack")
    assert why_document(scene(world), running.run).answer == "running: round 1, waiting for site-2"


async def test_why_a_dataset_is_refused_names_the_line_of_site_yml(world):
    hint = "datasets: {heart: /path/to/it} in site.yml"
    refused = Cause(
        at=NOW, party="site-1", code="not-found", message="no dataset 'heart' is named here", hint=hint
    )
    found = why_document(scene(world), await world.run(state=JobState.FAILED, causes=(refused,)))
    assert found.answer == "failed: site-1: no dataset 'heart' is named here"
    assert found.hint == f"at site-1: {hint}"
    assert found.causes[0].nature == "configuration"


async def test_why_of_a_degraded_job_names_the_site_that_missed_rounds(world):
    lacking = RoundRecord(
        job_id="0job",
        round=0,
        started_at=NOW,
        finished_at=NOW,
        contributors=(),
        absent=(Missing(site="site-2", reason="connection lost"),),
        refused=(),
        metrics={},
    )
    reason = "site-2 missed round 1 (connection lost)"
    run = await world.run(state=JobState.DEGRADED, reason=reason, degraded=True)
    world.jobs._rounds["0job"] = [lacking]
    found = why_document(scene(world), run)
    assert (found.answer, found.hint) == (f"degraded: {reason}", "flprov site why site-2")


async def test_why_says_what_was_seen_of_each_site_and_when(world):
    running = await train(world, "site-1", "site-2")
    running.run.sites.note_progress("site-1", pb.Progress(step=7))
    running["site-2"].leave()
    seen = why_document(scene(world), running.run).seen
    progress = [line for line in seen if line.what == "progress"]
    assert [(line.party, line.at) for line in progress] == [("site-1", world.clock.now())]
    assert "step 7" in progress[0].text
    assert ("site-1", "heartbeat") in {(line.party, line.what) for line in seen}


# ---- why a site --------------------------------------------------------------------------------


async def why_site(world, record=SITE, **changes):
    return site_why(scene(world, **changes), record)


async def test_why_of_a_site_that_takes_jobs_is_that_nothing_is_in_its_way(world):
    world.connect("site-1")
    found = await why_site(world)
    assert found.answer == "site-1: nothing stands in its way; no job runs there now"
    assert (found.causes, found.hint) == ((), "")


ADA = "spiffe://heart.example/person/org-a/project_admin/ada"
MARK = Mark(by=ADA, at=NOW, reason="odd updates")


async def test_why_of_a_locked_site_is_the_lock_and_how_to_open_it(world):
    world.registry.enrol(Enrolment(name="site-1", org="org-a", locked=MARK))
    found = await why_site(world, world.registry.find("site-1"))
    assert found.state == "locked"
    assert "locked on 2026-01-01 00:00:00 UTC by ada: odd updates" in found.answer
    assert found.hint == "flprov site unlock site-1"
    assert found.causes[0].nature == "transient"


async def test_why_of_a_site_that_never_came(world):
    found = await why_site(world, kit_made_at=NOW)
    assert found.answer == "site-1: it has never connected"
    assert "flprov invite create site-1" in found.hint


async def test_why_of_a_drained_site_names_who_drained_it(world):
    world.connect("site-1")
    world.registry.enrol(Enrolment(name="site-1", org="org-a", drained=MARK))
    found = await why_site(world)
    assert found.answer.startswith(
        "site-1: it gets no new jobs: drained by ada since 2026-01-01 00:00 UTC: odd updates"
    )
    assert found.hint == "flprov site enable site-1"


async def test_why_of_a_site_whose_data_is_gone_says_what_to_change_there(world):
    machine = vitals(environment=(condition("datasets", -9, "heart: /data is not there"),))
    world.connect("site-1").session.vitals = machine
    found = await why_site(world)
    assert "heart: /data is not there" in found.answer
    assert "site.yml" in found.hint


async def test_why_shows_refused_calls_that_look_like_this_site(world):
    call = RefusedDocument(
        who="unknown",
        what="/flprov.v1.Site/Control",
        reason="the certificate was revoked",
        first=NOW,
        last=NOW + timedelta(minutes=3),
        count=4,
        looks_like="site-1",
    )
    other = replace(call, looks_like="site-2")
    found = await why_site(world, kit_made_at=NOW - timedelta(days=1), refused=lambda: (call, other))
    assert found.answer == "site-1: it has never connected"
    [looks] = [cause for cause in found.causes if cause.code == "identity-refused"]
    assert "4 calls that look like this site's were refused" in looks.message
    assert "the certificate was revoked" in looks.message
    assert looks.nature == "identity"


async def test_why_says_that_the_clock_of_a_site_is_off(world):
    session = world.connect("site-1").session
    session.note_clock(world.clock.now() - timedelta(minutes=5), world.clock.now())
    [clock] = [line for line in (await why_site(world)).seen if line.what == "clock"]
    assert clock.text == "its clock is 5 min behind the server's; the times shown are the server's"
