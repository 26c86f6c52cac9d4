# SPDX-License-Identifier: Apache-2.0
"""The agent as a whole, with a fake server and fake workers: start, status on its own machine, stop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agent_parties import NOW, App, make_config, make_deploy
from agent_rig import PATIENCE, FakeLauncher, FakeServer, Heard

from flprov._base import from_document, parse_json, to_document
from flprov.agent import Agent
from flprov.agent.leases import HeldLease
from flprov.errors import IdentityRefused, KitRefused, ServerUnavailable
from flprov.rpc import ask_local
from flprov.rpc import methods as m
from flprov.store import Put, open_store
from flprov.testing.clock import FakeClock
from flprov.wire import PROTOCOL, pb
from flprov.wire.documents import SiteStatusDocument, Vitals


class ControlServer(FakeServer):
    """A fake server that also has the control stream: it welcomes, hears, and says what a test puts in."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.heard = Heard()
        self.to_site: asyncio.Queue[pb.ToSite] = asyncio.Queue()
        self.refusal: Exception | None = None
        self.end = asyncio.Event()  # of the stream

    def more(self) -> dict[m.Method, Any]:
        return {m.CONTROL: self._control}

    async def _control(self, call: object, requests: AsyncIterator[pb.FromSite]) -> AsyncIterator[pb.ToSite]:
        if self.refusal is not None:
            raise self.refusal
        listening = asyncio.create_task(self._listen(requests))
        try:
            yield pb.ToSite(welcome=pb.Welcome(protocol=PROTOCOL, heartbeat_seconds=10, jobs=["j1"]))
            ended = asyncio.create_task(self.end.wait())
            while not ended.done():
                word = asyncio.create_task(self.to_site.get())
                await asyncio.wait({ended, word, listening}, return_when=asyncio.FIRST_COMPLETED)
                if word.done():
                    yield word.result()
                elif listening.done():
                    return
        finally:
            ended.cancel()
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self, requests: AsyncIterator[pb.FromSite]) -> None:
        async for message in requests:
            self.heard.add(message)

    def say(self, **body: Any) -> None:
        self.to_site.put_nowait(pb.ToSite(**body))


@pytest.fixture
async def server(tmp_path):
    made = ControlServer(tmp_path / "server")
    async with asyncio.timeout(PATIENCE):
        yield made
    await made.network.stop()


@pytest.fixture
def launcher():
    return FakeLauncher()


def make_agent(config, server: FakeServer, launcher: FakeLauncher, **changes: Any) -> Agent:
    named: dict[str, Any] = {
        "clock": FakeClock(start=NOW),
        "connect_to": server.connect,
        "launcher": launcher,
        "local_status": False,
    }
    return Agent(config, **(named | changes))


@contextlib.asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(agent.run())
    try:
        yield task
    finally:
        agent.stop()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_says_hello_takes_jobs_and_ends_them_when_it_stops(
    parties, config, server, launcher, app: App
):
    agent = make_agent(config, server, launcher)
    async with running(agent) as task:
        await agent.ready.wait()
        hello = await server.heard.wait("hello")
        assert hello.manifest == config.kit.manifest_digest
        assert len(hello.installation) == 32
        server.add(app.bundle.data)
        server.say(deploy=make_deploy(parties.kit("leo"), app))
        assert (await server.heard.wait("deployed")).ready
        server.say(task=pb.TaskOrder(job_id="j1", task_id="t", name="train"))
        await launcher.processes[0].channel.sent.wait("task")
        agent.stop()
        await task
    assert not launcher.processes[0].alive


async def test_what_it_does_is_in_its_record(config, server, launcher):
    async with running(make_agent(config, server, launcher)):
        await server.heard.wait("hello")
    store = open_store(config.state, clock=FakeClock(start=NOW))
    assert [log.row.what for log in store.rows()] == ["site.start", "site.stop"]
    await store.close()


async def test_each_word_of_the_server_reaches_its_job(parties, config, server, launcher, app: App):
    async with running(make_agent(config, server, launcher)):
        server.add(app.bundle.data)
        server.say(deploy=make_deploy(parties.kit("leo"), app))
        await server.heard.wait("deployed")
        server.say(task=pb.TaskOrder(job_id="j1", task_id="t", name="train"))
        await launcher.processes[0].channel.sent.wait("task")
        launcher.processes[0].channel.say(answer=pb.TaskAnswer(task_id="t", failure=pb.Failure(message="no")))
        await server.heard.wait("answer")
        server.say(ack=pb.AnswerAck(job_id="j1", task_id="t"))
        server.say(closed=pb.RoundClosed(job_id="j1", round=0))
        server.say(stop=pb.StopJob(job_id="j1", reason="done", grace_seconds=0.5))
        assert (await server.heard.wait("stopped")).clean


async def test_a_word_that_this_version_does_not_know_is_passed_over(config, server, launcher, caplog):
    caplog.set_level(logging.WARNING, logger="flprov.agent")
    async with running(make_agent(config, server, launcher)) as task:
        server.to_site.put_nowait(pb.ToSite())
        server.say(stop=pb.StopJob(job_id="j9"))
        assert (await server.heard.wait("stopped")).clean
        assert not task.done()
    assert "this version does not know" in caplog.text


async def test_a_server_that_does_not_take_the_site_ends_it(config, server, launcher):
    server.refusal = IdentityRefused("site-1 is locked")
    with pytest.raises(IdentityRefused, match="locked"):
        await make_agent(config, server, launcher).run()


async def test_a_second_agent_on_the_same_kit_is_refused(config, server, launcher):
    agent = make_agent(config, server, launcher)
    async with running(agent):
        await agent.ready.wait()
        with pytest.raises(KitRefused, match="already running") as refused:
            await make_agent(config, server, launcher).run()
        assert "flprov site status" in (refused.value.hint or "")
    async with running(make_agent(config, server, launcher)):  # and free again afterwards
        await server.heard.wait("hello", 2)


async def test_it_is_the_same_installation_after_a_restart_and_another_on_another_machine(
    parties, config, server, launcher, tmp_path, monkeypatch
):
    async with running(make_agent(config, server, launcher)):
        await server.heard.wait("hello")
    async with running(make_agent(config, server, launcher)):
        await server.heard.wait("hello", 2)
    elsewhere = make_config(parties.kit("site-1"), tmp_path / "elsewhere")
    async with running(make_agent(elsewhere, server, launcher)):
        await server.heard.wait("hello", 3)
    monkeypatch.setattr("flprov.agent.agent.platform.node", lambda: "a-copy")
    async with running(make_agent(config, server, launcher)):
        await server.heard.wait("hello", 4)
    first, again, other, copied = (hello.installation for hello in server.heard.of("hello"))
    assert first == again
    assert len({first, other, copied}) == 3
    assert server.heard.of("hello")[3].host == "a-copy"


# ---- its status, on its own machine ------------------------------------------------------------


def ask(state: Path) -> SiteStatusDocument:
    answer = ask_local(state, what="the agent of site-1", hint="flprov site start KIT")
    return from_document(SiteStatusDocument, parse_json(answer))


async def test_it_tells_how_it_is_to_whoever_asks_on_its_machine(parties, config, server, launcher, app: App):
    async with running(make_agent(config, server, launcher, local_status=True)):
        server.add(app.bundle.data)
        server.say(deploy=make_deploy(parties.kit("leo"), app))
        await server.heard.wait("deployed")
        await server.heard.wait("heartbeat")
        found = await asyncio.to_thread(ask, config.state)
        assert (found.name, found.org, found.project) == ("site-1", "org-a", "heart")
        assert (found.connected, found.link.state, found.link.since) == (True, "connected", NOW)
        assert found.server == ("localhost:1",)
        assert found.cert_not_after == config.kit.not_after
        assert (found.policy, found.site_settings) == (str(config.policy), str(config.settings))
        assert found.jobs == {"j1": "ready"}
        assert found.vitals is not None
        assert found.vitals.cpu.count >= 1


async def test_its_status_answers_however_deep_its_folder_lies(parties, server, launcher, tmp_path):
    """A Unix socket's name has room for 107 bytes."""
    config = make_config(parties.kit("site-1"), tmp_path / ("d" * 120) / ("e" * 120))
    async with running(make_agent(config, server, launcher, local_status=True)):
        await server.heard.wait("hello")
        assert (await asyncio.to_thread(ask, config.state)).connected
        assert (config.state / "status.sock").stat().st_mode & 0o777 == 0o600
    assert not (config.state / "status.sock").exists()


async def test_it_tells_why_it_is_not_connected(config, server, launcher):
    def nobody() -> Any:
        raise ServerUnavailable("nobody answers at localhost:1")

    clock = FakeClock(start=NOW)
    agent = make_agent(config, server, launcher, local_status=True, connect_to=nobody, clock=clock)
    async with running(agent):
        await clock.wait_sleeping()
        found = await asyncio.to_thread(ask, config.state)
    assert (found.connected, found.link.state) == (False, "connecting")
    assert found.link.reason == "nobody answers at localhost:1"
    assert (found.link.tries, found.vitals, found.jobs) == (1, None, {})


async def test_when_it_does_not_run_that_is_the_answer(config):
    with pytest.raises(ServerUnavailable, match="not running on this machine") as refused:
        ask(config.state)
    assert refused.value.hint == "flprov site start KIT"


async def test_a_socket_that_a_killed_agent_left_is_no_answer_and_no_obstacle(config, server, launcher):
    import socket

    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(config.state / "status.sock"))
    with pytest.raises(ServerUnavailable):
        ask(config.state)
    async with running(make_agent(config, server, launcher, local_status=True)):
        await server.heard.wait("hello")
        assert (await asyncio.to_thread(ask, config.state)).connected


def test_nothing_is_touched_before_it_runs(config):
    before = list(config.state.iterdir())
    Agent(dataclasses.replace(config, state=config.state / "deeper"))
    assert list(config.state.iterdir()) == before


# ---- told by the server ------------------------------------------------------------------------


async def test_it_says_that_it_goes_before_it_stops(config, server, launcher):
    async with running(make_agent(config, server, launcher)):
        await server.heard.wait("heartbeat")
    [leaving] = server.heard.of("leaving")
    assert (leaving.reason, leaving.back) == ("stopped by its operator", False)


@pytest.mark.parametrize("restart", [True, False])
async def test_it_stops_or_wants_to_start_anew_when_an_admin_says_so(config, server, launcher, restart):
    agent = make_agent(config, server, launcher)
    async with running(agent) as task:
        hello = await server.heard.wait("hello")
        server.say(halt=pb.StopSite(reason="asked by ada: new disk", restart=restart))
        await task
    assert agent.again is restart
    [leaving] = server.heard.of("leaving")
    assert (leaving.reason, leaving.back) == ("asked by ada: new disk", restart)
    assert hello.started_at == "2026-03-01T12:00:00.000Z"


async def test_an_identity_that_is_refused_later_ends_it_after_its_jobs(
    parties, config, server, launcher, app: App
):
    clock = FakeClock(start=NOW)
    agent = make_agent(config, server, launcher, clock=clock)
    async with running(agent) as task:
        server.add(app.bundle.data)
        server.say(deploy=make_deploy(parties.kit("leo"), app))
        await server.heard.wait("deployed")
        server.refusal = IdentityRefused("site-1 was removed from this project")
        server.end.set()
        await clock.wait_sleeping()
        while not task.done():
            await clock.elapse(5)
        with pytest.raises(IdentityRefused, match="removed"):
            await task
    assert not launcher.processes[0].alive
    assert agent.again is False


async def test_that_it_is_drained_is_in_its_status(config, server, launcher):
    agent = make_agent(config, server, launcher, local_status=True)
    async with running(agent):
        server.say(standing=pb.Standing(drained="drained by ada since 12:00 UTC"))
        server.say(stop=pb.StopJob(job_id="j9"))  # what comes after it has been heard
        await server.heard.wait("stopped")
        await server.heard.wait("heartbeat")
        found = await asyncio.to_thread(ask, config.state)
        assert found.drained == "drained by ada since 12:00 UTC"
        assert [rung.name for rung in found.ladder] == [
            "enrolled",
            "connected",
            "kit_current",
            "environment_ready",
        ]
        if all(rung.ok for rung in found.ladder):
            assert found.why == "no new jobs come: drained by ada since 12:00 UTC"


async def test_away_its_ladder_ends_with_the_link_and_says_which_try_it_is(config, server, launcher):
    def nobody() -> Any:
        raise ServerUnavailable("nobody answers at localhost:1")

    clock = FakeClock(start=NOW)
    agent = make_agent(config, server, launcher, local_status=True, connect_to=nobody, clock=clock)
    async with running(agent):
        await clock.wait_sleeping()
        found = await asyncio.to_thread(ask, config.state)
    last = found.ladder[-1]
    assert (last.name, last.ok, last.since) == ("connected", False, NOW)
    assert last.reason.startswith("nobody answers at localhost:1 (try 1, ")
    assert found.retrying == (f"the link to the server: {last.reason}",)
    assert found.why == f"not connected: {last.reason}"
    assert found.hint == f"flprov doctor {config.kit.folder}"


# ---- leases ------------------------------------------------------------------------------------


async def test_a_lease_that_a_killed_agent_left_of_a_job_that_is_gone_is_over(config, server, launcher):
    store = open_store(config.state, clock=FakeClock(start=NOW))
    left = HeldLease(job_id="gone", name="toy", at=NOW, cpus=1, memory=1 << 30)
    await store.commit([Put("lease", "gone", to_document(left))], None)
    await store.close()
    async with running(make_agent(config, server, launcher)):
        beat = await server.heard.wait("heartbeat")
        assert from_document(Vitals, parse_json(beat.vitals)).room.held == ()
    store = open_store(config.state, clock=FakeClock(start=NOW))
    assert store.load("lease") == {}
    await store.close()


async def test_what_is_leased_is_told_at_once_and_not_with_the_next_heartbeat(
    parties, config, server, launcher, app: App
):
    """The clock stands still: without being asked for, no second heartbeat would come."""
    server.add(app.bundle.data)
    async with running(make_agent(config, server, launcher)):
        await server.heard.wait("heartbeat")
        server.say(deploy=make_deploy(parties.kit("leo"), app))
        assert (await server.heard.wait("deployed")).ready
        beat = await server.heard.wait("heartbeat", 2)
        assert [held.job_id for held in from_document(Vitals, parse_json(beat.vitals)).room.held] == ["j1"]


async def test_a_lease_that_a_killed_agent_left_for_a_job_that_is_gone_is_no_obstacle(
    config, server, launcher
):
    """It is let go while the agent loads, before there is a link to beat on."""
    store = open_store(config.state, clock=FakeClock(start=NOW))
    lease = HeldLease(job_id="j9", name="heart", at=NOW, cpus=1)
    await store.commit([Put("lease", "j9", to_document(lease))], None)
    await store.close()
    async with running(make_agent(config, server, launcher)):
        await server.heard.wait("heartbeat")
    store = open_store(config.state, clock=FakeClock(start=NOW))
    assert store.load("lease") == {}
    await store.close()
