# SPDX-License-Identifier: Apache-2.0
"""A connection that shows another certificate from now on: open calls end where they began."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
from networks import Network
from parties import DOMAIN, LEAD, SITE, credential, make_project, project

from flprov.errors import IdentityRefused, ServerUnavailable
from flprov.pki import Leaf
from flprov.rpc import Connection, dialling
from flprov.rpc import methods as m
from flprov.wire import pb

PATIENCE = 10.0


class Seen:
    """Which certificate came with each call, by serial number."""

    def __init__(self) -> None:
        self.serials: list[int] = []

    def gate(self, _identity: object, leaf: Leaf | None) -> None:
        assert leaf is not None
        self.serials.append(leaf.serial)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
async def network(start_grpc, seen) -> Network:
    async def echo(call, requests) -> AsyncIterator[pb.ToSite]:
        async for message in requests:
            yield pb.ToSite(stop=pb.StopJob(job_id=message.stopped.job_id))

    return await start_grpc({m.CONTROL: echo}, gate=seen.gate)


def sockets(network: Network) -> int:
    """How many TCP connections to the server are open here."""
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.raddr and one.raddr.port == network.listener.port
        for one in psutil.Process().net_connections("tcp")
    )


async def settle(network: Network, count: int) -> None:
    """Wait until gRPC's own threads have closed what is not needed any more."""
    async with asyncio.timeout(PATIENCE):
        while sockets(network) != count:
            await asyncio.sleep(0)


def renew(connection: Connection) -> None:
    fresh = project().issue(SITE)
    connection.renew(fresh.chain_pem, fresh.private_pem)


async def ask(connection: Connection) -> Any:
    return await connection.unary(m.RENEW, pb.RenewRequest(), timeout=PATIENCE)


class Stream:
    """An open control stream."""

    def __init__(self, connection: Connection) -> None:
        self._outgoing: asyncio.Queue[pb.FromSite | None] = asyncio.Queue()
        self._replies = connection.stream(m.CONTROL, self._drain())

    async def _drain(self) -> AsyncIterator[pb.FromSite]:
        while (message := await self._outgoing.get()) is not None:
            yield message

    async def echo(self, text: str) -> str:
        self._outgoing.put_nowait(pb.FromSite(stopped=pb.Stopped(job_id=text)))
        async with asyncio.timeout(PATIENCE):
            return (await anext(self._replies)).stop.job_id

    async def end(self) -> None:
        self._outgoing.put_nowait(None)
        assert [reply async for reply in self._replies] == []


async def test_who_dials_again_and_again_has_its_key_read_once(network, seen):
    own = project().issue(SITE)
    shown = {"private_pem": own.private_pem, "server_anchors": project().server_anchors}
    dial = dialling([f"127.0.0.1:{network.listener.port}"], chain_pem=own.chain_pem, **shown)
    for _ in range(2):
        connection = dial()
        await ask(connection)
        await connection.close()
    assert len(seen.serials) == 2
    assert len(set(seen.serials)) == 1
    with pytest.raises(IdentityRefused):
        dialling(["127.0.0.1:1"], chain_pem=project().issue(SITE).chain_pem, **shown)


async def test_new_calls_show_the_new_certificate_and_an_open_stream_goes_on(network, seen):
    connection = network.connect(SITE)
    stream = Stream(connection)
    assert await stream.echo("a") == "a"
    await ask(connection)
    assert len(set(seen.serials)) == 1
    renew(connection)
    await ask(connection)
    assert len(set(seen.serials)) == 2
    assert await stream.echo("b") == "b"
    await stream.end()
    await settle(network, 1)


async def test_a_hundred_renewals_leave_one_connection_behind(network, seen):
    connection = network.connect(SITE)
    await ask(connection)
    for _ in range(100):
        renew(connection)
        await ask(connection)
    assert len(set(seen.serials)) == 101
    await settle(network, 1)


async def test_calls_that_are_under_way_while_it_renews_all_succeed(network, seen):
    connection = network.connect(SITE)

    async def call() -> None:
        for _ in range(25):
            await ask(connection)

    calls = [asyncio.create_task(call()) for _ in range(8)]
    for _ in range(20):
        await asyncio.sleep(0.01)
        renew(connection)
    await asyncio.gather(*calls)
    await settle(network, 1)


async def test_one_that_renews_while_it_is_being_opened_does_not_keep_the_old_one(network, seen):
    connection = network.connect(SITE)
    opening = asyncio.create_task(ask(connection))
    await asyncio.sleep(0)
    renew(connection)
    await opening
    await ask(connection)
    assert len(seen.serials) == 2
    await settle(network, 1)


async def test_closing_also_ends_what_is_still_open_with_the_old_one(network):
    connection = network.connect(SITE)
    stream = Stream(connection)
    await stream.echo("a")
    renew(connection)
    await ask(connection)
    await connection.close()
    with pytest.raises(ServerUnavailable):
        await stream.echo("b")
    await settle(network, 0)


async def test_the_key_of_another_certificate_is_refused_and_the_old_one_stays(network, seen):
    connection = network.connect(SITE)
    fresh = project().issue(SITE)
    with pytest.raises(IdentityRefused):
        connection.renew(fresh.chain_pem, credential(LEAD).private_pem)
    await ask(connection)
    assert len(seen.serials) == 1


async def test_other_servers_are_believed_from_now_on(network, seen):
    connection = network.connect(SITE)
    await ask(connection)
    strangers = make_project(DOMAIN)
    own = credential(SITE)
    connection.renew(own.chain_pem, own.private_pem, strangers.server_anchors)
    with pytest.raises(IdentityRefused):
        await ask(connection)
    connection.renew(own.chain_pem, own.private_pem, project().server_anchors)
    await ask(connection)
