# SPDX-License-Identifier: Apache-2.0
"""The control stream from the site's side: welcome, beats, and dialling again with jitter."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from agent_parties import NOW
from agent_rig import PATIENCE, SITE_IDENTITY, Heard

from flprov._base import from_document, parse_json
from flprov.agent.control import Control, LinkState
from flprov.errors import (
    IdentityRefused,
    LocalError,
    NotFound,
    ProtocolError,
    ServerUnavailable,
    SiteLocked,
)
from flprov.rpc import Connection, InProcessNetwork
from flprov.rpc import methods as m
from flprov.testing.clock import FakeClock
from flprov.wire import PROTOCOL, pb
from flprov.wire.documents import CPU, Space, Vitals

BEAT = 10.0
VITALS = Vitals(
    cpu=CPU(count=2, load=0.5, percent=3.0),
    memory=Space(total=2, available=1),
    disk=Space(total=2, available=1),
)

Script = Callable[[AsyncIterator[pb.FromSite]], AsyncIterator[pb.ToSite]]


class Clock(FakeClock):
    """Remembers how long it was asked to wait."""

    def __init__(self) -> None:
        super().__init__(start=NOW)
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await super().sleep(seconds)


class Site:
    """A Control whose server answers each dial with the next script; the last one stays."""

    def __init__(self, *scripts: Script, patience: float = PATIENCE) -> None:
        self.clock = Clock()
        self.scripts = list(scripts)
        self.heard = Heard()  # by the server
        self.obeyed = Heard()
        self.welcomes: list[pb.Welcome] = []
        self.closed = 0
        self._closing = asyncio.Condition()
        self.vitals_error: Exception | None = None
        self.network = InProcessNetwork({method: self._answer(method) for method in m.METHODS})
        self.control = Control(
            connect=self._connect,
            hello=lambda: pb.Hello(protocol=PROTOCOL, installation="i", jobs=["j1"]),
            vitals=self._vitals,
            welcome=self.welcomes.append,
            obey=self.obeyed.add,
            clock=self.clock,
            patience=patience,
        )

    def _answer(self, method: m.Method) -> Any:
        async def control(call: object, requests: AsyncIterator[pb.FromSite]) -> AsyncIterator[pb.ToSite]:
            script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            async for message in script(self._listening(requests)):
                yield message

        async def other(*_: object) -> Any:
            raise NotFound("not part of this test")

        return control if method is m.CONTROL else other

    async def _listening(self, requests: AsyncIterator[pb.FromSite]) -> AsyncIterator[pb.FromSite]:
        async for message in requests:
            self.heard.add(message)
            yield message

    def _connect(self) -> Connection:
        site = self
        inner = self.network.connect(SITE_IDENTITY)
        close = inner.close

        async def counted() -> None:
            await close()
            async with site._closing:
                site.closed += 1
                site._closing.notify_all()

        inner.close = counted  # type: ignore[method-assign]
        return inner

    async def lost(self, count: int = 1) -> None:
        """Wait until so many connections have ended and the site waits to dial again."""
        async with self._closing:
            await self._closing.wait_for(lambda: self.closed >= count)
        await self.clock.elapse(0)

    async def _vitals(self) -> Vitals:
        return VITALS

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.control.run())
        try:
            async with asyncio.timeout(PATIENCE):
                yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.network.stop()


def welcome(**fields: Any) -> pb.ToSite:
    return pb.ToSite(welcome=pb.Welcome(**{"protocol": PROTOCOL, "heartbeat_seconds": BEAT} | fields))


async def stays(requests: AsyncIterator[pb.FromSite]) -> AsyncIterator[pb.ToSite]:
    """A server that welcomes and listens."""
    await anext(requests)
    yield welcome()
    async for _ in requests:
        pass


async def hangs_up(requests: AsyncIterator[pb.FromSite]) -> AsyncIterator[pb.ToSite]:
    """A server that welcomes and ends the stream."""
    await anext(requests)
    yield welcome()


def refuses(error: Exception) -> Script:
    async def script(requests: AsyncIterator[pb.FromSite]) -> AsyncIterator[pb.ToSite]:
        raise error
        yield

    return script


def hangs_up_with(error: Exception) -> Script:
    """A server that welcomes and then says no."""

    async def script(requests: AsyncIterator[pb.FromSite]) -> AsyncIterator[pb.ToSite]:
        await anext(requests)
        yield welcome()
        raise error

    return script


def says(message: pb.ToSite) -> Script:
    async def script(requests: AsyncIterator[pb.FromSite]) -> AsyncIterator[pb.ToSite]:
        yield message
        async for _ in requests:
            pass

    return script


# ---- a good day --------------------------------------------------------------------------------


async def test_hello_comes_first_and_beats_flow_after_the_welcome():
    site = Site(stays)
    async with site.running():
        hello = await site.heard.wait("hello")
        assert (hello.protocol, list(hello.jobs)) == (PROTOCOL, ["j1"])
        beat = await site.heard.wait("heartbeat")
        assert from_document(Vitals, parse_json(beat.vitals)) == VITALS
        assert site.control.link.state is LinkState.CONNECTED
        assert len(site.welcomes) == 1
        await site.clock.elapse(BEAT * 3)
        await site.heard.wait("heartbeat", 4)
        assert site.heard.all[0].WhichOneof("body") == "hello"


@pytest.mark.parametrize(("said", "kept"), [(0.0, 0.1), (-5.0, 0.1), (1e9, 60.0), (float("nan"), 0.1)])
async def test_a_senseless_rhythm_is_brought_to_reason(said, kept):
    site = Site(says(welcome(heartbeat_seconds=said)))
    async with site.running():
        await site.clock.elapse(5.0)
        assert site.clock.waits[-1] == kept


async def test_first_beats_of_many_sites_do_not_come_all_at_once():
    site = Site(says(welcome(heartbeat_seconds=20.0)))
    async with site.running():
        await site.clock.wait_sleeping()
        assert 0 < site.clock.waits[0] <= 5.0
        assert "heartbeat" not in [message.WhichOneof("body") for message in site.heard.all]
        await site.clock.elapse(5.0)
        await site.heard.wait("heartbeat")
        assert site.clock.waits[1:] == [20.0]


async def test_what_the_server_says_is_obeyed_in_order():
    async def orders(requests: AsyncIterator[pb.FromSite]) -> AsyncIterator[pb.ToSite]:
        yield welcome()
        for number in range(3):
            yield pb.ToSite(closed=pb.RoundClosed(job_id="j1", round=number))
        async for _ in requests:
            pass

    site = Site(orders)
    async with site.running():
        await site.obeyed.wait("closed", 3)
        assert [body.round for body in site.obeyed.of("closed")] == [0, 1, 2]


async def test_words_that_travel_together_are_obeyed_in_order():
    words = [pb.ToSite(closed=pb.RoundClosed(job_id="j1", round=number)) for number in range(3)]

    async def orders(requests: AsyncIterator[pb.FromSite]) -> AsyncIterator[pb.ToSite]:
        yield welcome()
        yield pb.ToSite(several=pb.Several(messages=words))
        async for _ in requests:
            pass

    site = Site(orders)
    async with site.running():
        await site.obeyed.wait("closed", 3)
        assert [body.round for body in site.obeyed.of("closed")] == [0, 1, 2]


async def test_what_is_reported_while_connected_arrives_and_otherwise_is_dropped():
    site = Site(stays)
    site.control.report(pb.FromSite(stopped=pb.Stopped(job_id="lost")))
    async with site.running():
        await site.heard.wait("heartbeat")
        site.control.report(pb.FromSite(stopped=pb.Stopped(job_id="said")))
        await site.heard.wait("stopped")
    assert [body.job_id for body in site.heard.of("stopped")] == ["said"]


# ---- dialling again ----------------------------------------------------------------------------


async def test_it_dials_again_with_growing_jittered_waits_up_to_five_seconds():
    site = Site(refuses(ServerUnavailable("nobody answers at localhost:1")))
    async with site.running() as task:
        for _ in range(12):
            await site.clock.wait_sleeping()
            site.clock.advance(30.0)
        await site.clock.wait_sleeping()
        assert not task.done()
        assert site.control.link.state is LinkState.CONNECTING
        assert site.control.link.reason == "nobody answers at localhost:1"
        assert site.control.link.tries == 13
        assert site.control.link.since == NOW
    ceilings = [min(0.1 * 2**n, 5.0) for n in range(len(site.clock.waits))]
    assert len(ceilings) == 13
    for waited, ceiling in zip(site.clock.waits, ceilings, strict=True):
        assert ceiling / 10 <= waited <= ceiling
    assert site.closed == 13


async def test_a_server_that_is_away_for_long_is_dialled_less_often():
    site = Site(refuses(ServerUnavailable("nobody answers")))
    async with site.running():
        for _ in range(260):
            await site.clock.wait_sleeping()
            site.clock.advance(30.0)
    assert max(site.clock.waits[:200]) <= 5.0
    assert 5.0 < max(site.clock.waits[200:]) <= 30.0


async def test_two_sites_do_not_come_back_in_step():
    """Full jitter: the chance that one wait in a million is the same is nobody's concern."""
    waits = []
    for _ in range(2):
        site = Site(refuses(ServerUnavailable("away")))
        async with site.running():
            await site.clock.wait_sleeping()
        waits += site.clock.waits
    assert waits[0] != waits[1]


async def test_after_a_good_connection_the_first_wait_is_short_again():
    away = refuses(ServerUnavailable("away"))
    site = Site(away, away, away, away, away, away, hangs_up, stays)
    async with site.running():
        for number in range(6):
            await site.lost(number + 1)
            site.clock.advance(30.0)
        await site.lost(7)
        assert site.clock.waits[-1] <= 0.1
        assert site.control.link.reason == "the server closed the stream"
        site.clock.advance(1.0)
        await site.heard.wait("heartbeat")  # the first connection ended before it could be heard
        assert len(site.welcomes) == 2


async def test_the_heartbeat_of_a_lost_connection_ends():
    site = Site(hangs_up, hangs_up, stays)
    async with site.running():
        for number in range(2):
            await site.lost(number + 1)
            site.clock.advance(1.0)
        await site.heard.wait("heartbeat")
        await site.clock.elapse(0)
        assert site.control.link.state is LinkState.CONNECTED
        assert site.clock.sleeping == 1


# ---- no ----------------------------------------------------------------------------------------


async def test_a_refusal_before_the_first_welcome_ends_the_agent():
    site = Site(refuses(IdentityRefused("site-1 is locked")))
    async with site.running() as task:
        with pytest.raises(IdentityRefused, match="locked"):
            await task
    assert site.clock.waits == []
    assert site.closed == 1


async def test_a_refusal_after_being_away_at_first_ends_the_agent_too():
    site = Site(refuses(ServerUnavailable("away")), refuses(IdentityRefused("not of this project")))
    async with site.running() as task:
        await site.clock.wait_sleeping()
        site.clock.advance(1.0)
        with pytest.raises(IdentityRefused):
            await task


async def test_a_lock_is_waited_out_also_before_the_first_welcome():
    locked = SiteLocked("site-1 was locked by ada: look", hint="flprov site unlock site-1")
    site = Site(refuses(locked), refuses(locked), stays)
    async with site.running() as task:
        for count in (1, 2):
            await site.lost(count)
            assert site.control.link.state is LinkState.REFUSED
            assert site.control.link.reason == "site-1 was locked by ada: look; flprov site unlock site-1"
            site.clock.advance(30.0)
        await site.heard.wait("heartbeat")
        assert site.control.link.state is LinkState.CONNECTED
        assert not task.done()


async def test_a_refusal_that_ends_a_good_connection_is_followed_by_a_short_wait():
    away = [refuses(ServerUnavailable("away"))] * 6  # the next wait in this row has at least 0.6 s
    site = Site(*away, hangs_up_with(SiteLocked("locked")), stays)
    async with site.running():
        for count in range(1, 8):
            await site.lost(count)
            site.clock.advance(60.0)
        await site.heard.wait("heartbeat")
    waits = [seconds for seconds in site.clock.waits if seconds != BEAT]
    assert waits[6] <= 0.1


async def test_a_refusal_later_ends_the_agent_as_well():
    site = Site(hangs_up, refuses(IdentityRefused("site-1 was removed", hint="ask for an invite")))
    async with site.running() as task:
        await site.lost(1)
        site.clock.advance(1.0)
        with pytest.raises(IdentityRefused, match="removed"):
            await task
        assert site.control.link.state is LinkState.REFUSED
        assert site.control.link.reason == "site-1 was removed; ask for an invite"


async def test_a_refusal_in_the_middle_of_a_good_connection_ends_the_agent():
    site = Site(hangs_up_with(IdentityRefused("its certificate was revoked")))
    async with site.running() as task:
        with pytest.raises(IdentityRefused, match="revoked"):
            await task
    assert len(site.welcomes) == 1


@pytest.mark.parametrize(
    "first",
    [pb.ToSite(), pb.ToSite(stop=pb.StopJob(job_id="j1")), pb.ToSite(deploy=pb.Deploy(job_id="j1"))],
)
async def test_a_server_that_does_not_begin_with_welcome_is_not_obeyed_and_not_asked_again(first):
    site = Site(says(first))
    async with site.running() as task:
        with pytest.raises(ProtocolError, match="did not begin with Welcome"):
            await task
        assert site.obeyed.all == []
        assert site.welcomes == []
        assert site.clock.waits == []


async def test_a_server_that_hangs_up_without_a_word_is_asked_again():
    async def silent(requests: AsyncIterator[pb.FromSite]) -> AsyncIterator[pb.ToSite]:
        await anext(requests)
        return
        yield

    site = Site(silent, stays)
    async with site.running():
        await site.lost()
        assert site.control.link.reason == "the server closed the stream before it said Welcome"
        site.clock.advance(1.0)
        await site.heard.wait("heartbeat")


async def test_a_server_that_listens_and_never_welcomes_is_given_up_and_dialled_anew():
    async def stuck(requests: AsyncIterator[pb.FromSite]) -> AsyncIterator[pb.ToSite]:
        async for _ in requests:
            pass
        yield

    site = Site(stuck, stays, patience=0.05)
    async with site.running():
        await site.lost()
        assert "has not welcomed this site within" in site.control.link.reason
        site.clock.advance(1.0)
        await site.heard.wait("heartbeat")


@pytest.mark.parametrize("version", [0, PROTOCOL + 1, 4_000_000_000])
async def test_a_server_that_speaks_another_protocol_is_named_and_not_asked_again(version):
    """Only another version of flprov, here or there, can change that; the service file starts us again."""
    site = Site(says(welcome(protocol=version)), stays)
    async with site.running() as task:
        with pytest.raises(ProtocolError, match=f"the server speaks protocol {version}"):
            await task
        assert site.control.link.state is LinkState.REFUSED
        assert site.welcomes == []


async def test_an_internal_error_of_the_server_is_waited_out():
    """A full disk there, say: what is local to it is remote here, and time may heal it."""
    site = Site(hangs_up_with(LocalError("no space left on device")), stays)
    async with site.running():
        await site.lost()
        assert site.control.link.reason == "no space left on device"
        site.clock.advance(1.0)
        await site.heard.wait("heartbeat")


async def test_each_try_has_its_number_its_reason_and_the_next_moment(caplog):
    caplog.set_level(logging.INFO, logger="flprov.agent.control")
    away = refuses(ServerUnavailable("nobody answers", hint="flprov doctor KIT"))
    site = Site(away, away, away, stays)
    async with site.running():
        for number in range(1, 4):
            await site.clock.wait_sleeping()
            link = site.control.link
            assert (link.tries, link.reason) == (number, "nobody answers; flprov doctor KIT")
            assert link.next_at == site.clock.now() + timedelta(seconds=site.clock.waits[-1])
            site.clock.advance(30.0)
        await site.heard.wait("heartbeat")
        assert (site.control.link.tries, site.control.link.next_at) == (0, None)
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(
        "link to the server: connecting: nobody answers; flprov doctor KIT (try 1, next in"
    )
    assert said[1].startswith(
        "link to the server: connecting: nobody answers; flprov doctor KIT (try 2, next in"
    )
    assert said[-1] == "link to the server: connected"
    assert len(said) == 3  # not each one: a server may be away for a week


# ---- leaving -----------------------------------------------------------------------------------


async def test_a_site_that_leaves_says_so_after_all_else_and_ends_the_stream():
    ended = asyncio.Event()

    async def listens(requests: AsyncIterator[pb.FromSite]) -> AsyncIterator[pb.ToSite]:
        await anext(requests)
        yield welcome()
        async for _ in requests:
            pass
        ended.set()

    site = Site(listens)
    async with site.running() as task:
        await site.heard.wait("heartbeat")
        site.control.report(pb.FromSite(stopped=pb.Stopped(job_id="j1", clean=True)))
        site.control.leave("stopped by its operator", back=False)
        await site.control.part(task)
        leaving = site.heard.of("leaving")[0]
        assert (leaving.reason, leaving.back) == ("stopped by its operator", False)
        assert site.heard.of("stopped")
        assert ended.is_set()
        assert site.control.link.state is LinkState.STOPPED


async def test_a_site_that_leaves_while_the_server_is_away_does_not_wait_for_it():
    site = Site(refuses(ServerUnavailable("away")))
    async with site.running() as task:
        await site.clock.wait_sleeping()
        site.control.leave("stopped by its operator", back=False)
        await site.control.part(task)
        assert task.done()


async def test_a_beat_that_is_wanted_goes_at_once():
    site = Site(stays)
    async with site.running():
        await site.heard.wait("heartbeat")
        await site.clock.wait_sleeping()
        site.control.beat_soon()
        await site.heard.wait("heartbeat", 2)
        assert site.clock.now() == NOW
