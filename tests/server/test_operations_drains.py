# SPDX-License-Identifier: Apache-2.0
"""Drain, enable, stop, restart: what admins type, what sites and the scheduler hear, what survives."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from server_fakes import PATIENCE
from server_network import ALONE, Network, WireSite, settle, trained
from server_parties import ADA, LEO, OLGA

from flprov._base import from_document, parse_json
from flprov.errors import Misuse, NotFound, PermissionRefused, RemoteError, SiteUnavailable
from flprov.jobs import JobState
from flprov.rpc import methods as m
from flprov.wire import documents as doc
from flprov.wire import pb


class Asker:
    """A person's calls."""

    def __init__(self, network: Network, who) -> None:
        self._connection = network.connect(who)

    async def __call__(self, method, name="", **changes) -> doc.DrainDocument:
        request = pb.PartyChange(name=name, **changes)
        reply = await self._connection.unary(method, request, PATIENCE)
        return from_document(doc.DrainDocument, parse_json(reply.json))

    async def watch(self, name="", after_first=lambda: None) -> list[doc.DrainDocument]:
        found = []
        async with asyncio.timeout(PATIENCE):
            async for reply in self._connection.download(m.WATCH_DRAIN, pb.Query(id=name)):
                found.append(from_document(doc.DrainDocument, parse_json(reply.json)))
                if len(found) == 1:
                    after_first()
        return found

    def order(self, name, **changes):
        return self._connection.download(m.ORDER_SITE, pb.SiteOrder(name=name, **changes))


async def step(replies) -> doc.SiteOrderDocument:
    async with asyncio.timeout(PATIENCE):
        reply = await anext(replies)
    return from_document(doc.SiteOrderDocument, parse_json(reply.json))


async def reaches(replies, state) -> doc.SiteOrderDocument:
    while (found := await step(replies)).state != state:
        assert found.state == "waiting", found
    return found


async def rest(replies) -> list[str]:
    async with asyncio.timeout(PATIENCE):
        return [parse_json(reply.json)["state"] async for reply in replies]


@pytest.fixture
def ada(network):
    return Asker(network, ADA)


@pytest.fixture
def olga(network):
    return Asker(network, OLGA)


# ---- drain and enable --------------------------------------------------------------------------


async def test_drained_site_gets_no_new_job_and_says_why_until_it_is_enabled(world, dial, ada):
    one = dial()
    await one.open()
    found = await ada(m.DRAIN_SITE, "site-1", reason="new disk")
    assert found.changed
    assert found.drained == "drained by ada since 2026-01-01 00:00 UTC: new disk"
    assert (found.safe_to_stop, found.safe_when) == (
        True,
        "now: no job runs there, and none will start there",
    )
    assert (await one.hears("standing")).drained == found.drained
    run = await world.run(targets=("site-1",), spec=ALONE)
    scheduler = asyncio.create_task(world.jobs.run_scheduler())
    world.jobs.scheduler.wake()
    await settle(lambda: "drained by ada" in run.record.reason)
    assert run.record.state is JobState.QUEUED
    await ada(m.ENABLE_SITE, "site-1")
    assert (await one.hears("standing")).drained == ""
    await one.hears("deploy")
    scheduler.cancel()


async def test_running_job_goes_on_at_a_drained_site_and_safety_waits_for_it(world, dial, ada):
    one = dial()
    await one.open()
    run, _ = await trained(world, one, spec=ALONE)
    found = await ada(m.DRAIN_SITE, "site-1")
    assert (found.safe_to_stop, found.jobs) == (False, ("0job",))
    assert found.safe_when == "when job 0job (round 1 of 2) has ended there"
    assert run.record.state is JobState.RUNNING


async def test_waiting_ends_when_the_last_job_there_has(world, dial, ada):
    one = dial()
    await one.open()
    run, _ = await trained(world, one, spec=ALONE)
    await ada(m.DRAIN_SITE, "site-1")
    await one.hears("standing")

    def abort() -> None:
        task = asyncio.ensure_future(world.jobs.abort(run, ADA, "enough"))
        task.add_done_callback(lambda _: None)
        ending.append(task)

    async def stop() -> None:
        assert (await one.hears("stop")).job_id == "0job"
        one.say(stopped=pb.Stopped(job_id="0job", clean=True))

    ending: list[asyncio.Task[None]] = []
    stopping = asyncio.create_task(stop())
    found = await ada.watch("site-1", after_first=abort)
    await stopping
    assert (found[0].safe_to_stop, found[-1].safe_to_stop) == (False, True)
    await asyncio.gather(*ending)


async def test_waiting_ends_when_somebody_enables_the_site_meanwhile(world, network, dial, ada):
    one = dial()
    await one.open()
    await trained(world, one, spec=ALONE)
    await ada(m.DRAIN_SITE, "site-1")
    enabling = []
    found = await ada.watch(
        "site-1",
        after_first=lambda: enabling.append(
            asyncio.ensure_future(Asker(network, ADA)(m.ENABLE_SITE, "site-1"))
        ),
    )
    assert (found[-1].drained, found[-1].safe_to_stop) == ("", False)
    await asyncio.gather(*enabling)


async def test_same_command_twice_has_one_effect_and_one_row(world, ada):
    first = await ada(m.DRAIN_SITE, "site-1", key="k1")
    again = await ada(m.DRAIN_SITE, "site-1", key="k1")
    assert (first.changed, again.changed) == (True, False)
    await ada(m.ENABLE_SITE, "site-1", key="k2")
    replayed = await ada(m.DRAIN_SITE, "site-1", key="k1")  # a copy that was held up on the way
    assert (replayed.changed, replayed.drained) == (False, "")
    assert len(world.store.told("site.drain")) == 1
    with pytest.raises(Misuse, match="another one"):
        await ada(m.DRAIN_SITE, "site-2", key="k1")


async def test_drains_survive_a_restart(world, network, ada):
    await ada(m.DRAIN_SITE, "site-1", reason="x")
    await ada(m.DRAIN_SERVER, reason="update")
    await world.reboot()
    assert world.registry.closed("site-1").endswith(": x")
    assert world.registry.hold == "the server is drained by ada since 2026-01-01 00:00 UTC: update"


async def test_drain_that_cannot_be_written_is_no_drain(world, ada):
    world.store.full = world.store.no_reserve = True
    with pytest.raises(RemoteError, match="disk is full"):
        await ada(m.DRAIN_SITE, "site-1")
    assert world.registry.closed("site-1") == ""


async def test_on_a_full_disk_drains_and_stops_use_the_reserve(world, dial, ada):
    await dial("site-2").open()
    world.store.full = True
    assert (await ada(m.DRAIN_SITE, "site-1")).changed
    assert (await ada(m.DRAIN_SERVER)).changed
    steps = ada.order("site-2")
    assert (await step(steps)).state == "told"
    await steps.aclose()


async def test_org_admin_drains_own_sites_only_and_never_the_server(olga, network):
    assert (await olga(m.DRAIN_SITE, "site-2")).changed
    for method, name in ((m.DRAIN_SITE, "site-1"), (m.ENABLE_SITE, "site-1"), (m.DRAIN_SERVER, "")):
        with pytest.raises(PermissionRefused):
            await olga(method, name)
    for name in ("site-1", ""):
        with pytest.raises(PermissionRefused):
            await olga.watch(name)
    with pytest.raises(PermissionRefused):
        await Asker(network, LEO)(m.DRAIN_SITE, "site-1")


async def test_site_that_nobody_knows_is_not_found(ada):
    with pytest.raises(NotFound):
        await ada(m.DRAIN_SITE, "../x")


async def test_drained_server_starts_nothing_and_says_so_at_each_job(world, dial, ada):
    one = dial()
    await one.open()
    found = await ada(m.DRAIN_SERVER, reason="update")
    assert found.safe_to_stop
    assert "a restart of the server loses nothing at any time" in found.safe_when
    run = await world.run(targets=("site-1",), spec=ALONE)
    scheduler = asyncio.create_task(world.jobs.run_scheduler())
    world.jobs.scheduler.wake()
    await settle(lambda: bool(run.record.reason))
    assert "the server is drained by ada" in run.record.reason
    await ada(m.ENABLE_SERVER)
    await one.hears("deploy")
    scheduler.cancel()


async def test_standing_is_told_at_welcome(dial, ada):
    await ada(m.DRAIN_SITE, "site-1", reason="x")
    assert (await dial().open()).standing.drained.endswith(": x")
    assert (await dial("site-2").open()).standing.drained == ""


# ---- stop and restart --------------------------------------------------------------------------


async def test_stop_drains_and_is_told_when_no_job_runs_there_any_more(world, dial, ada):
    one = dial()
    await one.open(started_at="a")
    run, _ = await trained(world, one, spec=ALONE)
    steps = ada.order("site-1", reason="power cut")
    first = await step(steps)
    assert (first.state, first.jobs) == ("waiting", ("0job",))
    assert first.text == "site-1 stops when job 0job (round 1 of 2) has ended there"
    assert (await one.hears("standing")).drained.endswith("power cut")
    await world.jobs.abort(run, ADA, "enough")
    await one.hears("stop")
    one.say(stopped=pb.Stopped(job_id="0job", clean=True))
    assert not (await one.hears("halt")).restart
    await reaches(steps, "told")
    one.say(leaving=pb.Leaving(reason="told to"))
    last = await reaches(steps, "gone")
    assert last.text == "site-1 has stopped, and stays drained until: flprov site enable site-1"
    await settle(lambda: bool(world.store.told("site.stopped")))
    assert world.store.get("order", "site-1") is None
    assert world.registry.closed("site-1")


async def test_stop_now_does_not_wait_for_jobs(world, dial, ada):
    one = dial()
    await one.open(started_at="a")
    await trained(world, one, spec=ALONE)
    steps = ada.order("site-1", now=True)
    assert (await step(steps)).state == "told"
    await one.hears("standing")
    await one.hears("halt")
    await steps.aclose()


async def test_order_is_given_again_after_a_lost_link_and_a_killed_server(world, network, dial, ada):
    one = dial()
    await one.open(started_at="a")
    steps = ada.order("site-1")
    assert (await step(steps)).state == "told"
    await steps.aclose()
    await one.close()
    await settle(lambda: "site-1" not in world.sessions)
    await network.close()
    await world.reboot()
    second = Network(world, network.admin_service._kit)
    again = WireSite(second, "site-1")
    await again.open(started_at="a")
    await again.hears("halt")
    await again.close()
    await second.close()


async def test_restart_is_over_when_another_agent_comes(world, dial, ada):
    one = dial()
    await one.open(started_at="a")
    steps = ada.order("site-1", restart=True, now=True)
    assert (await step(steps)).state == "told"
    assert (await one.hears("standing")).drained == ""
    assert (await one.hears("halt")).restart
    one.say(leaving=pb.Leaving(back=True))
    one.hang_up()
    assert (await step(steps)).text == "site-1 has gone, and is awaited"
    again = dial()
    await again.open(started_at="b")
    assert await rest(steps) == ["back"]
    assert world.registry.closed("site-1") == ""  # a restart drains nothing
    await settle(lambda: bool(world.store.told("site.restarted")))


async def test_enabling_takes_an_order_back(world, dial, ada, network):
    one = dial()
    await one.open(started_at="a")
    await trained(world, one, spec=ALONE)
    steps = ada.order("site-1")
    await step(steps)
    await Asker(network, ADA)(m.ENABLE_SITE, "site-1")
    assert (await step(steps)).state == "taken_back"
    assert world.store.get("order", "site-1") is None
    assert [kind for kind in await heard(one) if kind == "halt"] == []


async def heard(one: WireSite) -> list[str]:
    kinds = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            while (message := await anext(one._replies, None)) is not None:
                kinds.append(message.WhichOneof("body"))
    return kinds


async def test_site_that_is_away_cannot_be_stopped_and_nothing_is_kept(world, ada):
    with pytest.raises(SiteUnavailable, match="not connected"):
        await step(ada.order("site-1"))
    assert world.store.get("order", "site-1") is None
    assert world.registry.closed("site-1") == ""


async def test_org_admin_stops_own_sites_only(dial, olga):
    await dial().open()
    await dial("site-2").open()
    with pytest.raises(PermissionRefused):
        await step(olga.order("site-1"))
    steps = olga.order("site-2")
    assert (await step(steps)).state == "told"
    await steps.aclose()


async def test_status_of_a_site_says_what_it_was_told(world, dial, ada, network):
    one = dial()
    await one.open(started_at="a")
    await trained(world, one, spec=ALONE)
    steps = ada.order("site-1", reason="x")
    await step(steps)
    reply = await network.connect(ADA).unary(m.SHOW_SITE, pb.Query(id="site-1"), PATIENCE)
    site = from_document(doc.SiteDocument, parse_json(reply.json))
    assert site.order == "stop, asked by ada since 2026-01-01 00:00 UTC: x"
    assert (site.safe_to_stop, site.drained[:14]) == (False, "drained by ada")
    await steps.aclose()
