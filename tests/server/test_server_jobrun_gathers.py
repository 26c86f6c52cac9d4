# SPDX-License-Identifier: Apache-2.0
"""Several tasks of a job at once: who has which, who is spared, what a restart leaves, what is refused."""

from __future__ import annotations

from datetime import timedelta

import pytest
from server_parties import payload, spec, tensors
from server_world import broadcast, close_round, deploy, finished, ready

from flprov.jobs import JobSpec, JobState, Membership
from flprov.server.sights.jobs import job_document, round_document
from flprov.wire import pb

THREE = ("site-1", "site-2", "site-3")


def ask(name: str, *sites: str, sequence: int = 0, **changes) -> pb.FromWorker:
    return broadcast(name=name, sites=sites, task_id=f"0/{name}/{sequence}", **changes)


def withdraw(task_id: str) -> pb.FromWorker:
    return pb.FromWorker(withdraw=pb.Withdraw(task_id=task_id))


def refuse(task_id: str, site: str, reason: str = "not a ciphertext") -> pb.FromWorker:
    return pb.FromWorker(refuse=pb.Refuse(task_id=task_id, site=site, reason=reason))


def needing(least: int) -> JobSpec:
    return spec(sites=Membership(min=least, absence_seconds=60))


async def asks(running, frame: pb.FromWorker) -> None:
    """The workflow says it, and every site that it asks has heard it."""
    running.workflow.say(frame)
    for site in frame.broadcast.sites:
        assert (await running[site].hears("task")).task_id == frame.broadcast.task_id


async def answers(running, count: int) -> list[tuple[str, str, bool]]:
    found = [(await running.workflow.hears("answer")).answer for _ in range(count)]
    return [(one.task_id, one.site, one.last) for one in found]


async def fails(world, running) -> str:
    await world.reaches(running.run, JobState.FINISHING)
    return running.run.record.reason


async def test_two_tasks_at_once_are_answered_each_for_itself(world):
    running = await deploy(world, *THREE)
    running.workflow.say(ask("train", "site-1", "site-2"))
    running.workflow.say(ask("evaluate", "site-3"))
    assert [(await running[name].hears("task")).task_id for name in THREE] == [
        "0/train/0",
        "0/train/0",
        "0/evaluate/0",
    ]
    running["site-2"].updates(running.run, "0/train/0")
    running["site-3"].updates(running.run, "0/evaluate/0")
    running["site-1"].updates(running.run, "0/train/0")
    assert await answers(running, 3) == [
        ("0/train/0", "site-2", False),
        ("0/evaluate/0", "site-3", True),
        ("0/train/0", "site-1", True),
    ]
    running.workflow.say(close_round())
    await running.workflow.hears("saved")
    [record] = world.jobs.rounds(running.run.record.id)
    assert [line.site for line in record.contributors] == [*THREE]
    assert not running.run.record.degraded


async def test_a_site_that_has_not_answered_cannot_be_asked_anew(world):
    running = await deploy(world, *THREE)
    running.workflow.say(ask("train", "site-1", "site-2"))
    running.workflow.say(ask("train", "site-2", sequence=1))
    said = "the workflow broadcast task '0/train/1' to site-2, which has not answered task '0/train/0'"
    assert await fails(world, running) == said


async def test_the_same_task_twice_in_a_round_is_refused(world):
    running = await deploy(world, "site-1", "site-2", spec=needing(1))
    running.workflow.say(ask("train", "site-1"))
    running.workflow.say(ask("train", "site-2"))
    assert await fails(world, running) == "the workflow broadcast task '0/train/0' twice in one round"


async def test_an_update_of_another_site_than_was_asked_does_not_count(world):
    running = await deploy(world, *THREE)
    running.workflow.say(ask("train", "site-1"))
    running.workflow.say(ask("evaluate", "site-2"))
    await running["site-2"].hears("task")
    running["site-2"].updates(running.run, "0/train/0")
    ack = (await running["site-2"].hears("ack")).refused
    assert ack.message == "the round went on without it"
    assert running.run.rounds.gathers.get("0/train/0").taken == {}


# ---- withdrawn -------------------------------------------------------------------------------


async def test_a_withdrawn_task_is_over_at_once_and_nobody_lacks(world):
    running = await deploy(world, *THREE, spec=needing(3))
    await asks(running, ask("train", *THREE))
    running["site-1"].updates(running.run, "0/train/0")
    running.workflow.say(withdraw("0/train/0"))
    assert await answers(running, 2) == [("0/train/0", "site-1", False), ("0/train/0", "", True)]
    running.workflow.say(close_round())
    await running.workflow.hears("saved")
    [record] = world.jobs.rounds(running.run.record.id)
    assert (record.absent, record.refused, record.spared) == ((), (), ("site-2", "site-3"))
    assert round_document(record).spared == ("site-2", "site-3")
    running.workflow.say(finished(model__safetensors=payload(b"m")))
    await world.until(running.run, lambda seen: seen.record.state is JobState.FINISHING)
    assert running.run.record.outcome == JobState.COMPLETED.value


async def test_a_late_answer_to_a_withdrawn_task_is_acknowledged_as_late(world):
    running = await deploy(world, "site-1", "site-2", spec=needing(1))
    running.workflow.say(ask("train", "site-1", "site-2"))
    await running["site-2"].hears("task")
    running.workflow.say(withdraw("0/train/0"))
    await running.workflow.hears("answer")
    running["site-2"].updates(running.run, "0/train/0")
    ack = await running["site-2"].hears("ack")
    assert ack.refused.message == "the round went on without it: the workflow went on without its answer"
    assert running.run.sites.parts["site-2"].state == "ready"
    assert running.run.record.late == {"site-2": 1}


async def test_a_site_of_a_withdrawn_task_gets_its_next_one_and_its_late_answer_changes_nothing(world):
    running = await deploy(world, "site-1", "site-2", spec=needing(1))
    running.workflow.say(ask("train", "site-1", "site-2"))
    running.workflow.say(withdraw("0/train/0"))
    running.workflow.say(ask("train", "site-2", sequence=1))
    assert [(await running["site-2"].hears("task")).task_id for _ in range(2)] == ["0/train/0", "0/train/1"]
    running["site-2"].updates(running.run, "0/train/0")
    await running["site-2"].hears("ack")
    assert running.run.sites.parts["site-2"].state == "training"
    running["site-2"].updates(running.run, "0/train/1")
    assert await answers(running, 2) == [("0/train/0", "", True), ("0/train/1", "site-2", True)]


async def test_withdrawing_what_has_its_last_answer_says_nothing_more(world):
    running = await deploy(world, "site-1", spec=needing(1))
    await asks(running, ask("train", "site-1"))
    running["site-1"].updates(running.run, "0/train/0")
    assert await answers(running, 1) == [("0/train/0", "site-1", True)]
    running.workflow.say(withdraw("0/train/0"))
    running.workflow.say(close_round())
    await running.workflow.hears("saved")  # and no answer before it
    assert world.jobs.rounds(running.run.record.id)[0].spared == ()


async def test_withdrawing_a_task_that_was_never_sent_fails_the_job(world):
    running = await deploy(world, "site-1", spec=needing(1))
    running.workflow.say(withdraw("0/train/9\n"))
    assert await fails(world, running) == "the workflow spoke of task '0/train/9\\n', which it has not sent"


# ---- no quorum -------------------------------------------------------------------------------


async def test_an_optional_task_that_fails_is_told_and_the_job_goes_on(world):
    running = await deploy(world, *THREE, spec=needing(3))
    await asks(running, ask("train", "site-1", optional=True))
    running["site-1"].fails(running.run, "0/train/0", "no key here")
    assert await answers(running, 1) == [("0/train/0", "site-1", True)]
    await asks(running, ask("train", "site-2", sequence=1, optional=True))
    running["site-2"].updates(running.run, "0/train/1")
    assert await answers(running, 1) == [("0/train/1", "site-2", True)]
    assert running.run.record.state is JobState.RUNNING


async def test_a_task_that_is_not_optional_ends_the_job_when_its_only_site_fails(world):
    running = await deploy(world, *THREE, spec=needing(3))
    await asks(running, ask("train", "site-1"))
    running["site-1"].fails(running.run, "0/train/0", "no key here")
    assert "no key here" in await fails(world, running)


async def test_one_task_below_its_quorum_ends_the_job_although_another_goes_well(world):
    running = await deploy(world, *THREE, spec=needing(2))
    await asks(running, ask("train", "site-1", "site-2"))
    await asks(running, ask("evaluate", "site-3"))
    running["site-1"].fails(running.run, "0/train/0", "boom")
    assert await fails(world, running) == "1 of 2 needed sites are left; site-1: boom"


# ---- refused by the workflow -----------------------------------------------------------------


async def test_an_update_that_the_workflow_refuses_is_refused_in_the_record_and_forgotten(world):
    running = await deploy(world, *THREE, spec=needing(2))
    await asks(running, ask("train", *THREE))
    for name in THREE:
        running[name].updates(running.run, "0/train/0")
    await answers(running, 3)
    running.workflow.say(refuse("0/train/0", "site-2"))
    running.workflow.say(close_round())
    await running.workflow.hears("saved")
    [record] = world.jobs.rounds(running.run.record.id)
    assert [(line.site, line.reason) for line in record.refused] == [("site-2", "not a ciphertext")]
    assert [line.site for line in record.contributors] == ["site-1", "site-3"]
    assert running.run.record.degraded
    assert [row.object for row in world.store.told("update.refuse")] == [
        f"{running.run.record.id}/0/train/0/site-2"
    ]


async def test_refused_updates_below_the_quorum_end_the_job(world):
    running = await deploy(world, "site-1", "site-2", spec=needing(2))
    await asks(running, ask("train", "site-1", "site-2"))
    running["site-1"].updates(running.run, "0/train/0")
    running["site-2"].updates(running.run, "0/train/0")
    await answers(running, 2)
    running.workflow.say(refuse("0/train/0", "site-2"))
    assert await fails(world, running) == "1 of 2 needed sites are left; site-2: not a ciphertext"


async def test_refusing_what_was_not_taken_fails_the_job(world):
    running = await deploy(world, "site-1", spec=needing(1))
    running.workflow.say(ask("train", "site-1"))
    running.workflow.say(refuse("0/train/0", "site-1"))
    assert await fails(world, running) == "the workflow refused an update that site-1 has not sent"


# ---- away, and back --------------------------------------------------------------------------


async def test_a_site_that_one_task_gave_up_may_be_asked_another(world):
    running = await deploy(world, *THREE, spec=needing(1))
    await asks(running, ask("train", *THREE))
    running["site-1"].updates(running.run, "0/train/0")
    running["site-3"].leave()
    await world.until(running.run, lambda seen: "site-3" in seen.sites.away)
    world.clock.advance(timedelta(seconds=61).total_seconds())
    await running["site-1"].fence(running.run)
    assert (await answers(running, 2))[1][:2] == ("0/train/0", "site-3")
    back = world.connect("site-3")
    await back.deploys(running.run)
    assert (await back.hears("task")).task_id == "0/train/0"  # a late answer would still be taken
    running.workflow.say(ask("evaluate", "site-3"))
    assert (await back.hears("task")).task_id == "0/evaluate/0"
    back.updates(running.run, "0/train/0")
    back.updates(running.run, "0/evaluate/0")
    running["site-2"].updates(running.run, "0/train/0")
    assert await answers(running, 3) == [
        ("0/train/0", "site-3", False),
        ("0/evaluate/0", "site-3", True),
        ("0/train/0", "site-2", True),
    ]


async def test_a_site_that_comes_back_gets_the_task_that_is_open_for_it(world):
    running = await deploy(world, *THREE)
    running.workflow.say(ask("train", "site-1", "site-2"))
    running.workflow.say(ask("evaluate", "site-3"))
    for name in THREE:
        await running[name].hears("task")
        running[name].leave()
        back = world.connect(name)
        await back.deploys(running.run)
        assert (await back.hears("task")).task_id == ("0/evaluate/0" if name == "site-3" else "0/train/0")


async def test_after_a_restart_in_the_middle_of_two_tasks_nothing_is_done_twice(world):
    running = await deploy(world, *THREE)
    frames = [ask("train", "site-1", "site-2"), ask("evaluate", "site-3")]
    for frame in frames:
        await asks(running, frame)
    running["site-1"].updates(running.run, "0/train/0")
    await answers(running, 1)
    await running["site-1"].hears("ack")
    await world.reboot()
    run = world.jobs.find(running.run.record.id)
    workflow = await world.launcher.process()
    sites = {name: world.connect(name) for name in THREE}
    for fake in sites.values():
        await fake.deploys(run)
    sites["site-3"].updates(run, "0/evaluate/0")  # before the workflow has asked it again
    assert [message.WhichOneof("body") for message in await sites["site-3"].fence(run)] == []
    workflow.say(ready())
    await workflow.hears("start_workflow")
    workflow.say(frames[0])
    answer = (await workflow.hears("answer")).answer
    assert (answer.task_id, answer.site, answer.last) == ("0/train/0", "site-1", False)
    workflow.say(frames[1])
    assert (await sites["site-3"].hears("task")).task_id == "0/evaluate/0"
    assert (await sites["site-2"].hears("task")).task_id == "0/train/0"
    assert await sites["site-1"].fence(run) == []


# ---- tensors beside the model ----------------------------------------------------------------


async def test_each_site_gets_its_own_tensors_and_what_it_has_to_look_at(world):
    running = await deploy(world, "site-1", "site-2")
    own = {"site-2": payload(tensors(7, name="c"))}
    frame = ask("train", "site-1", "site-2", extra=payload(tensors(1, name="c")), requires=["extra"])
    for site, part in own.items():
        frame.broadcast.extra_of[site].CopyFrom(part)
    running.workflow.say(frame)
    orders = [await running[name].hears("task") for name in ("site-1", "site-2")]
    assert [order.extra.inline for order in orders] == [tensors(1, name="c"), tensors(7, name="c")]
    assert [list(order.requires) for order in orders] == [["extra"], ["extra"]]


async def test_a_site_may_fetch_its_own_tensors_and_nobody_elses(world):
    running = await deploy(world, *THREE, spec=needing(1))
    frame = ask("train", "site-1", "site-2", model=running.workflow.leave("m", b"model" * 20_000))
    frame.broadcast.extra_of["site-1"].CopyFrom(running.workflow.leave("a", b"one" * 30_000))
    frame.broadcast.extra_of["site-2"].CopyFrom(running.workflow.leave("b", b"two" * 30_000))
    running.workflow.say(frame)
    orders = [await running[name].hears("task") for name in ("site-1", "site-2")]
    model, rounds = orders[0].model.digest, running.run.rounds
    assert rounds.given("site-1") == {model, orders[0].extra.digest}
    assert rounds.given("site-2") == {model, orders[1].extra.digest}
    assert rounds.given("site-3") == set()
    assert rounds.blobs() == rounds.given("site-1") | rounds.given("site-2")
    running.workflow.say(withdraw("0/train/0"))
    running.workflow.say(close_round())
    await running.workflow.hears("answer")
    await running.workflow.hears("saved")
    assert not world.blobs.has(orders[0].extra.digest)
    assert not world.blobs.has(orders[1].extra.digest)


async def test_tensors_for_a_site_that_was_not_asked_fail_the_job(world):
    running = await deploy(world, "site-1", "site-2")
    frame = ask("train", "site-1")
    frame.broadcast.extra_of["site-2"].CopyFrom(payload(tensors(1)))
    running.workflow.say(frame)
    assert await fails(world, running) == "the workflow sent tensors for site-2, which was not sent the task"


# ---- too much --------------------------------------------------------------------------------


async def test_a_flood_of_tasks_fails_the_job(world, monkeypatch):
    monkeypatch.setattr("flprov.server.jobs.gathers._MOST", 3)
    running = await deploy(world, "site-1", spec=needing(1))
    for number in range(4):
        running.workflow.say(ask("train", "site-1", sequence=number))
        running.workflow.say(withdraw(f"0/train/{number}"))
    assert await fails(world, running) == "the workflow made 3 broadcasts in one round; no more are taken"


@pytest.mark.parametrize(
    "changes", [{"requires": ["n" * 70_000]}, {"name": "n" * 101}, {"scalars": b"x" * 70_000}]
)
async def test_names_above_the_limits_fail_the_job(world, changes):
    running = await deploy(world, "site-1", spec=needing(1))
    running.workflow.say(broadcast(**changes))
    assert "larger than a message may be" in await fails(world, running)


# ---- what the workflow says of itself --------------------------------------------------------


async def test_what_the_workflow_does_is_shown_while_the_job_runs(world):
    running = await deploy(world, "site-1", spec=needing(1))
    running.workflow.say(pb.FromWorker(progress=pb.Progress(doing="fitting the \x1b[31m prior " + "x" * 200)))
    running.workflow.say(ask("train", "site-1"))
    await running["site-1"].hears("task")
    shown = job_document(running.run).doing
    assert shown.startswith("fitting the ")
    assert len(shown) <= 120
    assert "\x1b" not in shown
