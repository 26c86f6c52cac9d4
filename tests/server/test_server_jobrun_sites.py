# SPDX-License-Identifier: Apache-2.0
"""Sites of a running job: they refuse, vanish, return, come late, and say things twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from server_parties import SITES, spec
from server_world import broadcast, close_round, deploy, ready, train

from flprov.jobs import JobState, Membership
from flprov.server.jobs import events as ev
from flprov.wire import pb

SPARE = spec(sites=Membership(min=1, absence_seconds=60))


# ---- refusals --------------------------------------------------------------------------------


async def test_refusal_that_leaves_a_quorum_is_noted_and_the_job_begins(world):
    run = await world.run()
    sites = {name: world.connect(name) for name in ("site-1", "site-2", "site-3")}
    run.choose(tuple(sites))
    workflow = await world.launcher.process()
    workflow.say(ready())
    for name in ("site-1", "site-2"):
        await sites[name].deploys(run)
    sites["site-3"].refuses(run, "the policy allows nobody")
    await world.reaches(run, JobState.RUNNING)
    assert run.record.refusals == {"site-3": "the policy allows nobody"}
    assert run.record.members == ("site-1", "site-2")
    [cause] = run.record.causes
    assert (cause.party, cause.code, cause.message) == (
        "site-3",
        "policy-refused",
        "the policy allows nobody",
    )
    [row] = [row for row in world.store.told("job.deploy") if row.outcome == "refused"]
    assert (row.who, row.object) == ("site-3", "0job/site-3")


async def test_refusal_of_a_required_site_ends_the_job(world):
    run = await world.run(spec=spec(sites=Membership(min=1, required=("site-2",))))
    site = world.connect("site-2")
    run.choose(("site-2",))
    site.refuses(run, "no")
    await world.reaches(run, JobState.FINISHING)
    assert run.record.reason == "site-2 refused the job: no (it is required)"
    assert len(run.record.causes) == 1


async def test_refusals_that_leave_no_quorum_end_the_job(world):
    run = await world.run(targets=("site-1", "site-2"))
    site = world.connect("site-1")
    run.choose(("site-1",))
    site.refuses(run, "no")
    await world.reaches(run, JobState.FINISHING)
    assert run.record.reason == "site-1 refused the job: no (2 sites are needed, 1 are left)"


async def test_refusal_after_which_the_disk_is_full_ends_the_job_when_it_is_not(world):
    running = await train(world, "site-1", "site-2")
    commit = world.store.commit

    async def fills(changes, row, **kwargs):
        index = await commit(changes, row, **kwargs)
        world.store.full = world.store.full or (row.what, row.outcome) == ("job.deploy", "refused")
        return index

    world.store.commit = fills
    running["site-2"].refuses(running.run)
    await world.until(running.run, lambda seen: "disk is full; tried again" in seen.record.reason)
    world.store.full, world.store.commit = False, commit
    await running["site-1"].hears("stop")
    assert running.run.record.reason.startswith("site-2 refused the job: the policy allows nobody")


async def test_site_that_refuses_in_the_middle_of_a_round_is_not_waited_for(world):
    running = await train(world, "site-1", "site-2", "site-3")
    run = running.run
    back = world.connect("site-3")  # it came again, and is told to deploy again
    await back.hears("deploy")
    back.refuses(run, "the policy was changed")
    answer = (await running.workflow.hears("answer")).answer
    assert (answer.site, answer.absent.message) == ("site-3", "refused the job: the policy was changed")
    assert run.record.members == ("site-1", "site-2")
    assert run.rounds.gathers.newest.open == ("site-1", "site-2")


async def test_refused_job_is_not_sent_to_that_site_in_later_rounds(world):
    running = await train(world, "site-1", "site-2", "site-3")
    run, workflow = running.run, running.workflow
    running["site-3"].refuses(run)
    for name in ("site-1", "site-2"):
        running[name].updates(run, "train/0/0")
    for _ in running.sites:
        await workflow.hears("answer")
    workflow.say(close_round())
    await workflow.hears("saved")
    workflow.say(broadcast(1))
    answer = (await workflow.hears("answer")).answer
    assert (answer.site, answer.absent.message) == ("site-3", "refused the job: the policy allows nobody")
    assert "task" not in [m.WhichOneof("body") for m in await running["site-3"].fence(run)]


@pytest.mark.parametrize("words", ["refused twice", "refused, then ready"])
async def test_word_of_a_site_about_its_refusal_is_its_last(world, words):
    """Or else a site could write rows into the log for ever."""
    running = await train(world, "site-1", "site-2", "site-3")
    run = running.run
    running["site-3"].refuses(run, "no")
    await running.workflow.hears("answer")
    rows = world.store.head
    if words == "refused twice":
        running["site-3"].refuses(run, "still no")
    else:
        run.tell(ev.SiteDeployed(site="site-3", ready=True))
    await running["site-3"].fence(run)
    assert world.store.head == rows
    assert run.record.refusals == {"site-3": "no"}
    assert run.record.members == ("site-1", "site-2")


async def test_site_that_was_not_given_the_job_cannot_declare_itself_ready(world):
    run = await world.run(targets=("site-1", "site-2"))
    site, stranger = world.connect("site-1"), world.connect("site-2")
    run.choose(("site-1",))
    workflow = await world.launcher.process()
    workflow.say(ready())
    run.tell(ev.SiteDeployed(site="site-2", ready=True))
    await site.deploys(run)
    await stranger.fence(run)
    assert run.record.members == ("site-1",)
    assert run.record.state is JobState.DEPLOYING


async def test_site_that_says_ready_again_is_not_sent_its_task_again(world):
    """A reconnect is answered by Deploy, and that by one Ready. A flood of them must not draw tasks."""
    running = await train(world, "site-1", "site-2")
    for _ in range(3):
        running.run.tell(ev.SiteDeployed(site="site-1", ready=True))
    assert await running["site-1"].fence(running.run) == []


# ---- absence ---------------------------------------------------------------------------------


async def test_site_that_returns_within_its_absence_goes_on_with_its_task(world):
    running = await train(world, "site-1", "site-2", spec=SPARE)
    run = running.run
    running["site-2"].leave()
    await world.until(run, lambda seen: "site-2" in seen.record.reason)
    assert run.record.reason == "waiting up to 60 s for site-2 to return"
    world.clock.advance(59)
    back = world.connect("site-2")
    await back.deploys(run)
    assert (await back.hears("task")).task_id == "train/0/0"
    await world.until(run, lambda seen: seen.record.reason == "")
    assert run.rounds.gathers.newest.open == ("site-1", "site-2")


async def test_site_that_stays_away_is_given_up_while_there_is_a_quorum(world):
    running = await train(world, "site-1", "site-2", spec=SPARE)
    running["site-2"].leave()
    await world.until(running.run, lambda seen: "site-2" in seen.record.reason)
    world.clock.advance(60)
    running.run.tell(ev.LookAgain())
    answer = (await running.workflow.hears("answer")).answer
    assert (answer.site, answer.absent.message) == ("site-2", "not connected since 00:00:00 UTC")
    assert running.run.sites.parts["site-2"].state == "absent"


async def test_absence_is_looked_at_again_by_itself_when_it_runs_out(world):
    running = await train(world, "site-1", "site-2", spec=spec(sites=Membership(min=1, absence_seconds=0.02)))
    running["site-2"].leave()
    await world.until(running.run, lambda seen: "site-2" in seen.record.reason)
    world.clock.advance(0.02)  # the timer is the loop's; what it looks at is the clock
    await world.until(running.run, lambda seen: seen.rounds.gathers.newest.absent.keys() == {"site-2"})


async def test_absence_is_a_cause_once_for_each_time_that_a_site_goes_away(world):
    running = await train(world, "site-1", "site-2", spec=SPARE)
    run, workflow = running.run, running.workflow
    await given_up(world, running, "site-2")
    await workflow.hears("answer")
    rows = world.store.head
    for number in range(3):
        running["site-1"].updates(run, f"train/{number}/0")
        await running["site-1"].hears("ack")
        await workflow.hears("answer")
        workflow.say(close_round(number))
        await workflow.hears("saved")
        assert (await running["site-1"].hears("closed")).round == number
        workflow.say(broadcast(number + 1))
        await running["site-1"].hears("task")
        assert (await workflow.hears("answer")).answer.site == "site-2"
    [cause] = run.record.causes
    assert cause.party == "site-2"
    assert cause.message == "not connected since 00:00:00 UTC; the job goes on without it from round 1"
    assert world.store.head == rows + 6  # an update and a round each; nothing more of the absence


async def test_site_that_the_quorum_needs_is_waited_for_whatever_it_takes(world):
    running = await train(world, "site-1", "site-2")
    running["site-2"].leave()
    await world.until(running.run, lambda seen: "waiting up to" in seen.record.reason)
    world.clock.advance(10 * 24 * 3600)
    running.run.tell(ev.LookAgain())
    await world.until(running.run, lambda seen: "the job needs 2 sites" in seen.record.reason)
    assert running.run.rounds.gathers.newest.open == ("site-1", "site-2")


async def given_up(world, running, name):
    running[name].leave()
    await world.until(running.run, lambda seen: name in seen.record.reason)
    world.clock.advance(61)
    running.run.tell(ev.LookAgain())


async def test_given_up_site_is_part_of_the_next_round_again(world):
    running = await train(world, "site-1", "site-2", spec=SPARE)
    run, workflow = running.run, running.workflow
    await given_up(world, running, "site-2")
    assert (await workflow.hears("answer")).answer.HasField("absent")
    running["site-1"].updates(run, "train/0/0")
    await workflow.hears("answer")
    workflow.say(close_round())
    await workflow.hears("saved")
    back = world.connect("site-2")
    await back.deploys(run)
    await world.until(run, lambda seen: seen.sites.parts["site-2"].state == "ready")
    workflow.say(broadcast(1))
    assert (await back.hears("task")).round == 1


async def given_its_room_anew(world, running, name):
    """It was away, is back, has no room, and is asked once more 5 s later."""
    run = running.run
    running[name].leave()
    back = world.connect(name)
    await back.hears("deploy")
    run.tell(ev.SiteDeployed(site=name, ready=False, refusal="needs 1 GPU", code="no-room", transient=True))
    await back.fence(run)
    assert run.sites.away.keys() == {name}
    world.clock.advance(5)
    run.tell(ev.Joined(sites=(name,)))
    return back


async def test_member_that_had_no_room_for_a_while_is_missed_until_it_is_ready_again(world):
    running = await train(world, *SITES, spec=SPARE)
    run = running.run
    back = await given_its_room_anew(world, running, "site-3")
    await back.deploys(run)
    await back.hears("task")
    assert run.sites.away == {}
    world.clock.advance(61)
    run.tell(ev.LookAgain())
    await back.fence(run)
    assert (run.sites.parts["site-3"].state, run.rounds.gathers.newest.absent) == ("training", {})


async def test_member_that_is_given_up_while_it_gets_ready_again_is_heard_when_it_is(world):
    running = await train(world, *SITES, spec=SPARE)
    run, workflow = running.run, running.workflow
    back = await given_its_room_anew(world, running, "site-3")
    await back.hears("deploy")
    world.clock.advance(60)
    run.tell(ev.LookAgain())
    assert (await workflow.hears("answer")).answer.site == "site-3"
    for name in ("site-1", "site-2"):
        running[name].updates(run, "train/0/0")
        await workflow.hears("answer")
    workflow.say(close_round())
    await workflow.hears("saved")
    workflow.say(broadcast(1))
    assert (await workflow.hears("answer")).answer.site == "site-3"
    run.tell(ev.SiteDeployed(site="site-3", ready=True))
    heard = [message.WhichOneof("body") for message in await back.fence(run)]
    assert heard.index("task") == len(heard) - 1  # none before it was ready
    assert (run.sites.parts["site-3"].state, run.sites.away) == ("training", {})


async def test_site_that_leaves_while_it_joins_is_not_waited_for_for_ever(world):
    """It is no member yet: but it was asked, and so its absence counts."""
    running = await deploy(world, "site-1", "site-2", targets=SITES, spec=SPARE)
    run = running.run
    late = world.connect("site-3")  # it had no room before
    run.tell(ev.Joined(sites=("site-3",)))
    await late.hears("deploy")
    running.workflow.say(broadcast())
    await running["site-1"].hears("task")
    late.leave()
    await world.until(run, lambda seen: seen.record.reason == "waiting up to 60 s for site-3 to return")
    world.clock.advance(61)
    run.tell(ev.LookAgain())
    await world.until(run, lambda seen: "site-3" not in seen.rounds.gathers.newest.open)
    assert run.rounds.gathers.newest.open == ("site-1", "site-2")


async def test_site_without_a_stream_since_the_start_is_left_out_of_a_broadcast(world):
    run = await world.run(spec=SPARE, members=("site-1",), state=JobState.RUNNING, round=0)
    site = world.connect("site-1")
    workflow = await world.launcher.process()
    workflow.say(ready())
    await site.deploys(run)
    await workflow.hears("start_workflow")
    workflow.say(broadcast())
    missing = {(await workflow.hears("answer")).answer.site for _ in range(2)}
    assert missing == {"site-2", "site-3"}
    assert run.rounds.gathers.newest.absent["site-2"] == "not connected since the job began"


# ---- late, double, stale ---------------------------------------------------------------------


async def test_update_that_comes_twice_is_acknowledged_twice_and_taken_once(world):
    running = await train(world, "site-1", "site-2")
    site = running["site-1"]
    site.updates(running.run, "train/0/0", samples=1)
    site.updates(running.run, "train/0/0", samples=998)  # while the first is being written: one word for both
    assert not (await site.hears("ack")).HasField("refused")
    site.updates(running.run, "train/0/0", samples=999)
    assert not (await site.hears("ack")).HasField("refused")
    assert world.store.get("update", "0job/train/0/0/site-1")["samples"] == 1
    assert len(world.store.told("update.accept")) == 1


@pytest.mark.parametrize("task", ["train/1/0", "evaluate/0/0", "", "../../etc", "train/0/0/site-2"])
async def test_update_for_another_task_is_told_that_the_round_goes_on_without_it(world, task):
    running = await train(world, "site-1", "site-2")
    running["site-1"].updates(running.run, task)
    ack = await running["site-1"].hears("ack")
    assert (ack.task_id, ack.refused.message) == (task, "the round went on without it")
    assert world.store.load("update") == {}


async def test_late_update_of_a_site_that_was_given_up_counts_while_others_are_waited_for(world):
    running = await train(world, "site-1", "site-2", spec=SPARE)
    run = running.run
    await given_up(world, running, "site-2")
    assert (await running.workflow.hears("answer")).answer.HasField("absent")
    back = world.connect("site-2")
    await back.deploys(run)
    assert (await back.hears("task")).task_id == "train/0/0"  # it may have lost it
    back.updates(run, "train/0/0", samples=5)
    assert not (await back.hears("ack")).HasField("refused")
    answer = (await running.workflow.hears("answer")).answer
    assert (answer.site, answer.update.samples, answer.last) == ("site-2", 5, False)
    assert run.rounds.gathers.newest.absent == {}
    running["site-1"].updates(run, "train/0/0")
    assert (await running.workflow.hears("answer")).answer.last
    running.workflow.say(close_round())
    await running.workflow.hears("saved")
    assert (world.jobs.rounds(run.record.id)[0].absent, run.record.degraded) == ((), False)
    assert [row.reason for row in world.store.told("site.rejoin")] == ["not connected since 00:00:00 UTC"]


async def test_late_update_after_its_task_is_refused_told_why_and_counted(world):
    running = await train(world, "site-1", "site-2", spec=SPARE)
    run = running.run
    await given_up(world, running, "site-2")
    running["site-1"].updates(run, "train/0/0")
    for _ in range(2):
        await running.workflow.hears("answer")
    back = world.connect("site-2")
    await back.deploys(run)
    told = (await back.hears("ack")).refused  # before it says anything: it is what it was away from
    assert told.message == "the round went on without it: not connected since 00:00:00 UTC"
    assert told.hint == "it is part of the next round again"
    for _ in range(3):
        back.updates(run, "train/0/0")
        assert (await back.hears("ack")).refused.message == told.message
    assert run.record.late == {"site-2": 1}
    [row] = world.store.told("update.late")
    assert (row.who, row.object, row.outcome) == ("site-2", "0job/train/0/0/site-2", "late")
    running.workflow.say(close_round())
    await running.workflow.hears("saved")
    assert [row.outcome for row in world.store.told("update.accept")] == ["ok"]
    back.updates(run, "train/0/0")
    await back.hears("closed")
    assert (await back.hears("ack")).refused.message == "the round went on without it: its round is saved"


async def test_late_updates_are_counted_once_and_remembered_for_one_round(world):
    running = await train(world, "site-1", "site-2", spec=SPARE)
    run, workflow, slow = running.run, running.workflow, running["site-2"]
    for number in range(4):
        running["site-1"].updates(run, f"train/{number}/0")
        await workflow.hears("answer")
        workflow.say(pb.FromWorker(withdraw=pb.Withdraw(task_id=f"train/{number}/0")))
        await workflow.hears("answer")
        workflow.say(close_round(number))
        await workflow.hears("saved")
        for _ in range(2):
            slow.updates(run, f"train/{number}/0")
        await slow.fence(run)
        assert (run.record.late, list(run.rounds.gathers._late)) == (
            {"site-2": number + 1},
            [f"train/{number}/0"],
        )
        workflow.say(broadcast(number + 1))
        await slow.hears("task")
    run.rounds.drop()
    run.rounds.drop()  # its end
    assert run.rounds.gathers._late == {}


async def test_late_update_of_a_site_that_was_given_up_does_not_count_where_the_job_says_so(world):
    running = await train(world, "site-1", "site-2", spec=spec(sites=replace(SPARE.sites, late="refuse")))
    run = running.run
    await given_up(world, running, "site-2")
    await running.workflow.hears("answer")
    back = world.connect("site-2")
    await back.deploys(run)
    told = "the round went on without it: not connected since 00:00:00 UTC"
    assert (await back.hears("ack")).refused.message == told
    back.updates(run, "train/0/0")
    assert (await back.hears("ack")).refused.message == told
    assert set(run.rounds.gathers.newest.taken) == set()


async def test_failure_after_an_update_changes_nothing(world):
    running = await train(world, "site-1", "site-2")
    running["site-1"].updates(running.run, "train/0/0")
    await running["site-1"].hears("ack")
    running["site-1"].fails(running.run, "train/0/0")
    await running["site-1"].fence(running.run)
    assert set(running.run.rounds.gathers.newest.taken) == {"site-1"}
    assert running.run.record.causes == ()


async def test_site_that_says_stopped_while_the_job_runs_is_not_believed(world):
    running = await train(world, "site-1", "site-2")
    running["site-1"].stops(running.run)
    running["site-2"].stops(running.run, clean=False, reason="processes 7")
    await running["site-1"].fence(running.run)
    assert {part.state for part in running.run.sites.parts.values()} <= {"training", "ready"}
    assert running.run.sites.holds("site-1")
    assert running.run.record.unconfirmed == ()
