# SPDX-License-Identifier: Apache-2.0
"""Sites that stand still are shown, then left out, never ended; slow ones are not stuck. Who gave what."""

from __future__ import annotations

from datetime import timedelta

import pytest
from server_parties import spec
from server_world import broadcast, close_round, finished, ready, train

from flprov.jobs import JobState, Membership
from flprov.server.jobs import events as ev
from flprov.server.jobs.contributions import contributions, lacking
from flprov.server.jobs.patience import Pace
from flprov.server.records import RoundRecord
from flprov.testing.clock import FakeClock
from flprov.wire import pb
from flprov.wire.documents import Contributor, Missing

SPARE = spec(sites=Membership(min=1, absence_seconds=60))
TWO = ("site-1", "site-2")


def step(world, run, name, number, seconds=0.0, **changes):
    world.clock.advance(seconds)
    run.note_progress(name, pb.Progress(step=number, **changes))


async def look(running, name="site-1"):
    running.run.tell(ev.LookAgain())
    await running[name].fence(running.run)


# ---- the start -------------------------------------------------------------------------------


async def deploying(world, **changes):
    run = await world.run(targets=TWO, **changes)
    sites = {name: world.connect(name) for name in TWO}
    run.choose(TWO)
    workflow = await world.launcher.process()
    workflow.say(ready())
    await sites["site-1"].deploys(run)
    await sites["site-2"].hears("deploy")
    await sites["site-1"].fence(run)
    return run, sites, workflow


async def test_site_that_never_answers_deploy_does_not_hold_up_the_start_for_ever(world):
    run, sites, workflow = await deploying(world, spec=SPARE)
    assert (run.record.state, run.record.reason) == (JobState.DEPLOYING, "waiting for site-2")
    world.clock.advance(31)
    run.tell(ev.LookAgain())
    await sites["site-1"].fence(run)
    stuck = "site-2 makes no progress since 00:00:00 UTC (no answer to Deploy)"
    assert run.record.reason == f"waiting for site-2; {stuck}"  # shown before anything is done about it
    world.clock.advance(30)
    run.tell(ev.LookAgain())
    await workflow.hears("start_workflow")
    assert run.record.state is JobState.RUNNING
    assert (run.sites.parts["site-2"].state, run.sites.parts["site-2"].reason) == ("stalled", stuck)
    [row] = world.store.told("site.absent")
    assert row.who == "site-2"
    workflow.say(broadcast(0))
    assert (await workflow.hears("answer")).answer.site == "site-2"
    run.tell(ev.SiteDeployed(site="site-2", ready=True))  # at last
    await sites["site-2"].hears("task")  # in the open round: it is taken while others are waited for


async def test_site_that_fetches_slowly_is_waited_for(world):
    run, sites, _ = await deploying(world, spec=SPARE)
    for number in range(100):
        step(world, run, "site-2", 0, 50, doing="fetching app", bytes_done=number * 1000, bytes_total=10**6)
        run.tell(ev.LookAgain())
        await sites["site-1"].fence(run)
    assert run.record.state is JobState.DEPLOYING
    part = run.sites.parts["site-2"]
    assert (part.doing, part.bytes_done, part.bytes_total) == ("fetching app", 99_000, 10**6)
    assert part.progress == "fetching app, 96.7 KiB of 976.6 KiB, at 01:23:20 UTC"


async def test_bytes_that_we_see_ourselves_are_progress(world):
    run, sites, _ = await deploying(world, spec=SPARE)
    for _ in range(3):
        world.clock.advance(50)
        run.sites.note_moved("site-2")
    run.tell(ev.LookAgain())
    await sites["site-1"].fence(run)
    assert run.record.reason == "waiting for site-2"


async def test_site_that_is_needed_is_waited_for_and_named(world):
    run, sites, _ = await deploying(world, spec=spec(sites=Membership(min=2, absence_seconds=60)))
    world.clock.advance(3600)
    run.tell(ev.LookAgain())
    await sites["site-1"].fence(run)
    assert run.record.state is JobState.DEPLOYING
    assert run.record.reason == (
        "waiting for site-2; site-2 makes no progress since 00:00:00 UTC (no answer to Deploy)"
    )


# ---- a task ----------------------------------------------------------------------------------


async def test_site_whose_steps_stand_still_is_shown_and_then_left_out(world):
    running = await train(world, *TWO, spec=SPARE)
    run = running.run
    step(world, run, "site-2", 1, 1)
    step(world, run, "site-2", 2, 1)
    world.clock.advance(31)
    await look(running)
    assert run.record.reason == "site-2 makes no progress since 00:00:02 UTC (round 1, step 2)"
    world.clock.advance(30)
    await look(running)
    answer = (await running.workflow.hears("answer")).answer
    assert (answer.site, answer.absent.message) == ("site-2", run.rounds.gathers.newest.absent["site-2"])
    assert run.sites.parts["site-2"].state == "stalled"
    assert running["site-2"].session.closed_because == ""  # nothing of it was ended
    running["site-2"].updates(run, "train/0/0")
    assert not (await running["site-2"].hears("ack")).HasField("refused")


async def test_progress_takes_the_reason_back(world):
    running = await train(world, *TWO, spec=SPARE)
    run = running.run
    step(world, run, "site-2", 1, 1)
    world.clock.advance(31)
    await look(running)
    assert "makes no progress" in run.record.reason
    step(world, run, "site-2", 2)
    await world.until(run, lambda seen: seen.record.reason == "")


async def test_task_that_tells_of_no_step_is_not_judged(world):
    running = await train(world, *TWO, spec=SPARE)
    world.clock.advance(1e6)
    await look(running)
    assert running.run.rounds.gathers.newest.open == TWO
    assert running.run.record.reason == ""


async def test_slow_site_has_three_times_its_slowest_step(world):
    running = await train(world, *TWO, spec=SPARE)
    run = running.run
    for number in (1, 2):
        step(world, run, "site-2", number, 3600)
    world.clock.advance(3 * 3600 - 1)
    await look(running)
    assert run.rounds.gathers.newest.open == TWO
    world.clock.advance(1)
    await look(running)
    assert run.rounds.gathers.newest.open == ("site-1",)


async def test_stalled_site_is_asked_in_the_next_round_again(world):
    running = await train(world, *TWO, spec=SPARE)
    run, workflow = running.run, running.workflow
    step(world, run, "site-2", 1, 1)
    world.clock.advance(61)
    await look(running)
    running["site-1"].updates(run, "train/0/0")
    for _ in range(2):
        await workflow.hears("answer")
    workflow.say(close_round())
    await workflow.hears("saved")
    workflow.say(broadcast(1))
    assert (await running["site-2"].hears("closed")).round == 0
    assert (await running["site-2"].hears("task")).round == 1


def test_same_word_again_is_no_progress():
    clock = FakeClock()
    pace = Pace(moved_at=clock.now(), seen="")
    pace.begin(clock.now(), "no step yet", judged=False)
    assert pace.still("site-1", timedelta(seconds=60)) is None
    pace.move(clock.now() + timedelta(seconds=5), "step 1", stepped=True)
    still = pace.still("site-1", timedelta(seconds=60))
    assert (still.until - still.since, still.seen) == (timedelta(seconds=60), "step 1")


@pytest.mark.parametrize("doing", ["\x1b[2J", "x" * 10_000, "a\nb"])
async def test_words_of_a_site_are_bounded_and_cannot_drive_a_terminal(world, doing):
    running = await train(world, *TWO)
    running.run.note_progress("site-1", pb.Progress(doing=doing, bytes_done=2**64 - 1, bytes_total=2**64 - 1))
    part = running.run.sites.parts["site-1"]
    assert len(part.doing) <= 120
    assert part.doing.isprintable()
    assert part.bytes_total == 2**53


# ---- who gave what ---------------------------------------------------------------------------


def closed(number, contributors=(), absent=()):
    lines = [
        Contributor(site=site, samples=samples, weight=1.0, bytes=1, seconds=1.0)
        for site, samples in contributors
    ]
    missing = tuple(Missing(site=site, reason=reason) for site, reason in absent)
    return RoundRecord(
        job_id="0job",
        round=number,
        started_at=None,
        finished_at=None,
        contributors=tuple(lines),
        absent=missing,
        refused=(),
        metrics={},
    )


async def test_contributions_and_the_reason_of_degraded(world):
    run = await world.run(targets=TWO, state=JobState.DEGRADED, unconfirmed=("site-2",))
    rounds = [
        closed(0, [("site-1", 10), ("site-2", 7)]),
        closed(1, [("site-1", 10)], [("site-2", "not connected since 12:00:00 UTC")]),
        closed(2, [("site-1", 10)], [("site-2", "not connected since 12:00:00 UTC")]),
        closed(3, [("site-2", 7)], [("site-1", "boom")]),
    ]
    one, two = contributions(run.record, rounds)
    assert (one.rounds, one.samples, one.missed, one.reasons) == (3, 30, (3,), ("boom",))
    assert (two.rounds, two.samples, two.missed) == (2, 14, (1, 2))
    assert lacking(run.record, rounds) == (
        "site-1 missed round 4 (boom); site-2 missed rounds 2-3 (not connected since 12:00:00 UTC);"
        " site-2 could not confirm that nothing of it runs any more"
    )


async def test_degraded_job_names_who_missed_what(world):
    running = await train(world, *TWO, spec=SPARE)
    run, workflow = running.run, running.workflow
    running["site-2"].leave()
    await world.until(run, lambda seen: "site-2" in seen.record.reason)
    world.clock.advance(61)
    run.tell(ev.LookAgain())
    running["site-1"].updates(run, "train/0/0")
    for _ in range(2):
        await workflow.hears("answer")
    workflow.say(close_round())
    await workflow.hears("saved")
    back = world.connect("site-2")
    await back.deploys(run)
    workflow.say(finished())
    await world.reaches(run, JobState.FINISHING)
    running["site-1"].stops(run)
    back.stops(run)
    await world.reaches(run, JobState.DEGRADED)
    assert run.record.reason == "site-2 missed round 1 (not connected since 00:00:00 UTC)"


async def test_job_whose_site_could_not_confirm_its_end_is_degraded(world):
    running = await train(world, *TWO)
    run, workflow = running.run, running.workflow
    for name in TWO:
        running[name].updates(run, "train/0/0")
        await workflow.hears("answer")
    workflow.say(close_round())
    workflow.say(finished())
    await world.reaches(run, JobState.FINISHING)
    running["site-1"].stops(run)
    running["site-2"].leave()
    await running["site-1"].fence(run)
    assert run.record.state is JobState.FINISHING  # it may be back in a moment
    world.clock.advance(12)
    run.tell(ev.LookAgain())
    await world.reaches(run, JobState.DEGRADED)
    assert run.record.reason == "site-2 could not confirm that nothing of it runs any more"
