# SPDX-License-Identifier: Apache-2.0
"""SIGKILL of the server at each commit of a whole job, before and after it: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from server_fakes import PATIENCE, FakeProcess
from server_parties import ADA, inline_state, payload, tensors, update_record
from server_world import FakeSite, World, broadcast, close_round, finished, ready

from flprov.jobs import JobState
from flprov.server.jobs import answers
from flprov.server.jobs import events as ev
from flprov.store import Change, MemoryStore, Row
from flprov.wire import pb

TWO = ("site-1", "site-2")
ROUNDS = 2


class MortalStore(MemoryStore):
    """At one commit the server dies: the commit is on disk or it is not, and nobody hears of either."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.left: int | None = None  # commits until then
        self.written = False
        self.died = asyncio.Event()
        self.commits = 0

    async def commit(
        self,
        changes: Sequence[Change],
        row: Row | None,
        *,
        urgent: bool = False,
        before: Sequence[Row] = (),
    ) -> int:
        if self.died.is_set():
            await asyncio.Event().wait()
        self.commits += 1
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                if self.written:
                    await super().commit(changes, row, urgent=urgent, before=before)
                self.died.set()
                await asyncio.Event().wait()
        return await super().commit(changes, row, urgent=urgent, before=before)


class Network:
    """Two sites and the workflow's processes, which do what they are told, over many servers."""

    def __init__(self, world: World, run_id: str) -> None:
        self.world, self.run_id = world, run_id
        self.kept: dict[str, dict[str, int]] = {name: {} for name in TWO}  # site -> task -> samples
        self.trained: dict[tuple[str, str], int] = {}
        self.held: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def run(self):
        return self.world.jobs.get(self.run_id)

    def start(self) -> None:
        """Everybody connects to the server of now."""
        self._tasks = [asyncio.create_task(self._site(name)) for name in TWO]
        self._tasks.append(asyncio.create_task(self._workflows()))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- a site --------------------------------------------------------------------------

    async def _site(self, name: str) -> None:
        site = self.world.connect(name)
        active = [run.record.id for run in self.world.jobs.active_at(name)]
        if name in self.held and self.run_id not in active:
            self._stop(site)
        elif name in self.held:
            for task_id in self.kept[name]:
                self._answer(site, task_id)
        while (message := await site.session.outgoing()) is not None:
            await self._obey(site, message)

    async def _obey(self, site: FakeSite, message: pb.ToSite) -> None:
        name, run = site.name, self.run
        match message.WhichOneof("body"):
            case "deploy":
                self.held.add(name)
                run.tell(ev.SiteDeployed(site=name, ready=True))
            case "task":
                task_id = message.task.task_id
                if task_id not in self.kept[name]:
                    self.trained[name, task_id] = self.trained.get((name, task_id), 0) + 1
                    self.kept[name][task_id] = 10 * int(task_id.split("/")[1]) + int(name[-1])
                self._answer(site, task_id)
            case "closed":
                self.kept[name].pop(f"train/{message.closed.round}/0", None)
            case "stop":
                self._stop(site)

    def _answer(self, site: FakeSite, task_id: str) -> None:
        """As siteservice does: only the open task is looked at."""
        run, gather = self.run, self.run.rounds.gathers.newest
        if gather is None or gather.asked.task_id != task_id:
            run.tell(ev.SiteLate(site=site.name, task_id=task_id))
        else:
            samples = self.kept[site.name][task_id]
            update = update_record(site.name, task_id, job=self.run_id, samples=samples)
            run.tell(ev.SiteUpdated(site=site.name, update=update))

    def _stop(self, site: FakeSite) -> None:
        self.held.discard(site.name)
        self.kept[site.name].clear()
        self.run.tell(ev.SiteStopped(site=site.name, clean=True, reason="", freed=("gpu 1",)))

    # ---- the workflow --------------------------------------------------------------------

    async def _workflows(self) -> None:
        while True:
            process = await self.world.launcher.process()
            self._tasks.append(asyncio.create_task(self._workflow(process)))

    async def _workflow(self, process: FakeProcess) -> None:
        hear = process.channel.to_worker.get
        process.say(ready())
        start = (await hear()).start_workflow
        for number in range(start.round, ROUNDS):
            process.say(broadcast(number))
            total = 0
            while True:
                answer = (await hear()).answer
                total += answer.update.samples
                if answer.last:
                    break
            state = payload(tensors(number, total, name="state"))
            process.say(close_round(number, state))
            assert (await hear()).saved.round == number
        process.say(finished(model__safetensors=payload(tensors(ROUNDS))))


async def through(world: World, network: Network, *, ends: set[JobState]) -> int:
    """Drive the job to its end, over a new server whenever one dies; how often that was."""
    deaths = 0
    async with asyncio.timeout(PATIENCE):
        network.start()
        while True:
            ended = asyncio.create_task(ended_everywhere(world, network.run_id, ends))
            died = asyncio.create_task(world.store.died.wait())
            await asyncio.wait([ended, died], return_when=asyncio.FIRST_COMPLETED)
            for task in (ended, died):
                task.cancel()
            if not world.store.died.is_set():
                ended.result()
                await network.stop()
                return deaths
            deaths += 1
            await asyncio.gather(ended, died, return_exceptions=True)
            await network.stop()
            for loop in world.jobs._loops.values():
                loop.cancel()
            await reborn(world)
            network.start()
            choose_again(world, network.run_id)


async def reborn(world: World) -> None:
    """The dead server's threads die with it; here they are waited for."""
    await world.jobs.close()
    await asyncio.to_thread(int)
    world.store.died.clear()
    await world.reboot()


def choose_again(world: World, run_id: str) -> None:
    """What the scheduler does."""
    run = world.jobs.get(run_id)
    if run.record.state is JobState.QUEUED:
        run.choose(TWO)
    elif run.active and run.sites.lacking:
        run.tell(ev.Joined(sites=run.sites.lacking))


async def ended_everywhere(world: World, run_id: str, ends: set[JobState]) -> None:
    run = world.jobs.get(run_id)
    async for seen in world.jobs.watch(run_id):
        if seen.record.state.terminal:
            break
    assert run.record.state in ends, (run.record.state, run.record.reason, run.record.causes)
    loop = world.jobs._loops.get(run_id)
    if loop is not None:
        await asyncio.wait([loop])


async def begin(world: World) -> Network:
    """A queued job on a disk that can be taken away."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=1))
    world.store = MortalStore(clock=world.clock)
    world.boot()
    await world.put_app()
    run = await world.run(targets=TWO)
    return Network(world, run.record.id)


def verify_whole(world: World, network: Network) -> None:
    """The job is as if nobody had died."""
    record = network.run.record
    assert (record.round, record.unconfirmed, record.causes, record.late) == (ROUNDS, (), (), {})
    assert set(record.proofs) == set(TWO)
    rounds = world.jobs.rounds(record.id)
    assert [round_.round for round_ in rounds] == list(range(ROUNDS))
    for round_ in rounds:
        lines = [(line.site, line.samples) for line in round_.contributors]
        assert lines == [(name, 10 * round_.round + int(name[-1])) for name in TWO]
        total = sum(samples for _, samples in lines)
        assert round_.state == inline_state(tensors(round_.round, total, name="state"))
    assert world.store.load("update") == {}
    assert len(world.store.load("round")) == ROUNDS
    assert set(network.trained.values()) == {1}  # nobody did a task twice
    assert network.held == set()
    accepted = [
        entry.row.object for entry in world.store.rows(limit=1000) if entry.row.what == "update.accept"
    ]
    assert len(accepted) == len(set(accepted)) == ROUNDS * len(TWO)


# deploy, both ready, run, (answers, round) x 2, finish, both proofs, end; or answers and round in one
COMMITS = {0.0: 10, 2 * PATIENCE: 8}
KILLS = [(moment, kill) for moment, commits in COMMITS.items() for kill in range(commits)]


@pytest.mark.parametrize("moment", COMMITS)
async def test_undisturbed_job_needs_so_many_commits(world, monkeypatch, moment):
    monkeypatch.setattr(answers, "MOMENT", moment)
    network = await begin(world)
    network.run.choose(TWO)
    before = world.store.commits
    assert await through(world, network, ends={JobState.COMPLETED}) == 0
    verify_whole(world, network)
    assert world.store.commits - before == COMMITS[moment]


@pytest.mark.parametrize("written", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("moment", "kill"), KILLS)
async def test_server_that_is_killed_at_a_commit_goes_on_as_if_it_had_not_been(
    world, monkeypatch, moment, kill, written
):
    monkeypatch.setattr(answers, "MOMENT", moment)
    network = await begin(world)
    world.store.left, world.store.written = kill, written
    network.run.choose(TWO)
    deaths = await through(world, network, ends={JobState.COMPLETED, JobState.DEGRADED})
    assert deaths == 1
    verify_whole(world, network)


@pytest.mark.parametrize("written", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kill", range(4))
async def test_abort_survives_a_kill_at_each_of_its_commits(world, kill, written):
    """An abort that was acknowledged is carried out; one that was not may be asked for again."""
    network = await begin(world)
    network.start()
    network.run.choose(TWO)
    await world.until(network.run, lambda seen: seen.record.round == 1)
    world.store.left, world.store.written = kill, written
    aborting = asyncio.create_task(world.jobs.abort(network.run, ADA, "wrong data"))
    await asyncio.wait(
        [aborting, asyncio.create_task(world.store.died.wait())], return_when="FIRST_COMPLETED"
    )
    await network.stop()
    await asyncio.wait([asyncio.create_task(world.store.died.wait())], timeout=0.05)
    acknowledged = aborting.done()
    aborting.cancel()
    world.store.left = None
    await reborn(world)
    run = network.run
    if acknowledged:
        assert run.record.state in (JobState.ABORTING, JobState.ABORTED)
    elif not run.record.state.terminal and run.record.state is not JobState.ABORTING:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(PATIENCE):
                await world.jobs.abort(run, ADA, "wrong data")
    await through(world, network, ends={JobState.ABORTED})
    assert (network.run.record.unconfirmed, network.held) == ((), set())
    assert len([r for r in world.store.rows(limit=1000) if r.row.what == "job.abort"]) == 1
