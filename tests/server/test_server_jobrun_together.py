# SPDX-License-Identifier: Apache-2.0
"""What a round costs the server, in commits and steps: not more because many answer at once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest
from server_fakes import PATIENCE
from server_parties import SITE_ORGS, spec
from server_world import FakeSite, Running, World, broadcast, close_round, ready

from flprov.errors import LocalError
from flprov.jobs import JobState, Membership
from flprov.server.jobs import answers
from flprov.server.jobs import events as ev
from flprov.server.jobs import run as jobrun
from flprov.server.jobs.membership import Membership as Rule
from flprov.store import Change, MemoryStore, Row
from flprov.wire import pb

MANY = tuple(f"site-{number:02}" for number in range(1, 33))


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are sites of the project."""
    for name in MANY:
        monkeypatch.setitem(SITE_ORGS, name, "org-a")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer waits for its round to end."""
    monkeypatch.setattr(answers, "MOMENT", 0.0)


@pytest.fixture
def with_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, a round is over within a moment."""
    monkeypatch.setattr(answers, "MOMENT", 2 * PATIENCE)


class SlowStore(MemoryStore):
    """Its commits wait for the disk while `gate` is closed; `waiting` is what they are."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.gate = asyncio.Event()
        self.gate.set()
        self.full = False
        self.waiting: list[str] = []
        self.commits = 0

    async def commit(
        self,
        changes: Sequence[Change],
        row: Row | None,
        *,
        urgent: bool = False,
        before: Sequence[Row] = (),
    ) -> int:
        self.commits += 1
        self.waiting.append(row.what if row else "")
        await self.gate.wait()
        self.waiting.pop()
        if self.full and not urgent:
            raise LocalError("the disk is full")
        return await super().commit(changes, row, urgent=urgent, before=before)


async def begin(world: World, *names: str) -> Running:
    """A job in its first broadcast at these sites."""
    world.store = SlowStore(clock=world.clock)
    world.boot()
    await world.put_app()
    run = await world.run(targets=names, spec=spec(sites=Membership(min=len(names))))
    sites: dict[str, FakeSite] = {name: world.connect(name) for name in names}
    run.choose(names)
    workflow = await world.launcher.process()
    for fake in sites.values():
        await fake.deploys(run)
    workflow.say(ready())
    await workflow.hears("start_workflow")
    workflow.say(broadcast())
    for fake in sites.values():
        await fake.hears("task")
    return Running(world, run, sites, workflow)


@pytest.mark.usefixtures("at_once")
async def test_answers_that_come_together_share_a_commit_and_a_step(world, monkeypatch):
    running = await begin(world, *MANY)
    steps, settle, before = [], Rule.settle, world.store.commits
    monkeypatch.setattr(Rule, "settle", lambda self: steps.append(1) or settle(self))
    world.store.gate.clear()
    for fake in running.sites.values():
        fake.updates(running.run, "train/0/0")
    async with asyncio.timeout(PATIENCE):
        while world.store.waiting != ["update.accept"]:
            await asyncio.sleep(0)
    world.store.gate.set()
    for fake in running.sites.values():
        assert not (await fake.hears("ack")).HasField("refused")
    assert world.store.commits - before == 1
    assert len(world.store.load("update")) == len(MANY)
    assert len(steps) <= 3


@pytest.mark.parametrize("names", [MANY[:2], MANY])
@pytest.mark.usefixtures("with_the_round")
async def test_a_round_that_is_over_within_a_moment_is_one_commit(world, names):
    running = await begin(world, *names)
    before = world.store.commits
    for fake in running.sites.values():
        fake.updates(running.run, "train/0/0")
    for _ in names:
        await running.workflow.hears("answer")
    running.workflow.say(close_round())
    await running.workflow.hears("saved")
    assert world.store.commits - before == 1
    rows = [entry.row.what for entry in world.store.rows()]
    assert rows[-len(names) - 1 :] == ["update.accept"] * len(names) + ["round.close"]
    assert world.store.load("update") == {}


@pytest.mark.usefixtures("at_once")
async def test_the_workflow_folds_while_answers_are_written_and_its_round_waits_for_them(world):
    running = await begin(world, *MANY[:2])
    world.store.gate.clear()
    for fake in running.sites.values():
        fake.updates(running.run, "train/0/0")
    for _ in running.sites:
        await running.workflow.hears("answer")  # nothing is on disk yet
    async with asyncio.timeout(PATIENCE):
        while world.store.waiting != ["update.accept"]:
            await asyncio.sleep(0)
    assert all(not fake.session.waiting for fake in running.sites.values())
    running.workflow.say(close_round())
    await asyncio.sleep(0)
    assert world.store.waiting == ["update.accept"]
    world.store.gate.set()
    await running.workflow.hears("saved")
    rows = [entry.row.what for entry in world.store.rows()]
    assert rows[-3:] == ["update.accept", "update.accept", "round.close"]


async def test_no_round_is_saved_whose_answers_the_disk_did_not_take(world):
    running = await begin(world, *MANY[:2])
    world.store.full = True
    for fake in running.sites.values():
        fake.updates(running.run, "train/0/0")
    for _ in running.sites:
        await running.workflow.hears("answer")
    running.workflow.say(close_round())
    await world.until(running.run, lambda seen: "disk is full; tried again" in seen.record.reason)
    assert running.run.record.round == 0
    world.store.full = False
    await running.workflow.hears("saved")
    rows = [entry.row.what for entry in world.store.rows()]
    assert rows[-3:] == ["update.accept", "update.accept", "round.close"]
    assert running.run.record.state is JobState.RUNNING


@pytest.mark.usefixtures("with_the_round")
async def test_what_the_workflow_says_while_the_disk_is_full_is_heard_in_order(world):
    running = await begin(world, *MANY[:2])
    for fake in running.sites.values():
        fake.updates(running.run, "train/0/0")
    for _ in running.sites:
        await running.workflow.hears("answer")
    world.store.full = True
    running.workflow.say(close_round())
    running.workflow.say(broadcast(1))  # it does not wait for the disk
    await world.until(running.run, lambda seen: "disk is full; tried again" in seen.record.reason)
    world.store.full = False
    await running.workflow.hears("saved")
    for fake in running.sites.values():
        await fake.hears("closed")
        assert (await fake.hears("task")).round == 1
    assert running.run.record.state is JobState.RUNNING


@pytest.mark.usefixtures("with_the_round")
async def test_what_is_tried_again_is_heard_before_what_came_meanwhile(world, monkeypatch):
    monkeypatch.setattr(jobrun, "backoff", lambda: itertools.repeat(2 * PATIENCE))
    running = await begin(world, *MANY[:2])
    run = running.run
    for fake in running.sites.values():
        fake.updates(run, "train/0/0")
        await running.workflow.hears("answer")
    world.store.full = True
    running.workflow.say(close_round())
    await world.until(run, lambda seen: "disk is full; tried again" in seen.record.reason)
    world.store.full = False
    world.store.gate.clear()
    run.tell(ev.AnswersDue())
    running.workflow.say(broadcast(1))
    async with asyncio.timeout(PATIENCE):
        while not (world.store.waiting and run._inbox.qsize()):
            await asyncio.sleep(0)
    run._timer.cancel()
    run._retry()  # it is time, and the disk is slow
    world.store.gate.set()
    await running.workflow.hears("saved")
    for fake in running.sites.values():
        while (message := await fake.next()).WhichOneof("body") != "task":
            assert message.WhichOneof("body") in ("ack", "closed")
        assert message.task.round == 1
    assert run.record.state is JobState.RUNNING


@pytest.mark.usefixtures("with_the_round")
async def test_the_word_that_the_round_is_saved_travels_with_the_next_task(world):
    running = await begin(world, *MANY[:2])
    fake = running["site-01"]
    for one in running.sites.values():
        one.updates(running.run, "train/0/0")
    for _ in running.sites:
        await running.workflow.hears("answer")
    running.workflow.say(close_round())
    await running.workflow.hears("saved")
    running.workflow.say(broadcast(1))
    async with asyncio.timeout(PATIENCE):
        while fake.session.waiting < 2:
            await asyncio.sleep(0)
    together = fake.session.together(await fake.next())
    assert [each.WhichOneof("body") for each in together.several.messages] == ["closed", "task"]
    assert isinstance(together, pb.ToSite)
