# SPDX-License-Identifier: Apache-2.0
"""Callers that leave everything open, and web pages that ask a machine for its own metrics."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from networks import grpc_network, plain_service
from parties import SITE
from test_rpc_monitoring import Service, ask, up

from flprov.errors import Unavailable
from flprov.pki import Identity, Kind, Role
from flprov.rpc import methods as m
from flprov.rpc.open_calls import MOST_OPEN, OpenCalls
from flprov.rpc.transport import Call
from flprov.wire import pb


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", b"200"),
        ("LOCALHOST:9464", b"200"),
        ("127.0.0.1:9464", b"200"),
        ("[::1]:9464", b"200"),
        ("evil.example", b"421"),
        ("evil.example:9464", b"421"),
        ("127.0.0.1.evil.example", b"421"),
        ("localhost.evil.example:9464", b"421"),
        ("localhost\r\nHost: evil.example", b"421"),
        ("", b"421"),
    ],
)
async def test_name_that_was_pointed_at_this_machine_is_not_its_own(host, status):
    """A page in a browser could read what is served here to this machine only (DNS rebinding)."""
    service = Service()
    async with up(service) as port:
        answer = await ask(port, f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert answer.split(b" ")[1] == status
    assert (b"flprov_up" in answer) == (status == b"200")


@pytest.mark.parametrize(
    ("kind", "role", "method"),
    [
        (Kind.PERSON, Role.LEAD, m.WATCH_DRAIN),
        (Kind.SITE, None, m.FETCH_BLOB),
    ],
)
async def test_one_identity_has_so_many_calls_open_and_others_have_theirs(kind, role, method):
    opened = OpenCalls()
    callers = [
        Identity(trust_domain="heart.example", kind=kind, org="org-a", role=role, name=name)
        for name in ("leo", "lea")
    ]

    def call(caller: Identity) -> Call:
        return Call(caller=caller, method=method, peer="here")

    with contextlib.ExitStack() as stack:
        for _ in range(MOST_OPEN[kind]):
            stack.enter_context(opened.track(call(callers[0])))
        with pytest.raises(Unavailable, match="calls open already"), opened.track(call(callers[0])):
            pytest.fail("it was let in")
        with opened.track(call(callers[1])):
            assert len(opened) == MOST_OPEN[kind] + 1
    with opened.track(call(callers[0])):
        assert len(opened) == 1
    await asyncio.sleep(0)


async def test_site_that_leaves_calls_open_is_bounded_over_any_number_of_connections():
    """Each call can hold what gRPC lets come ahead: without a bound one site filled the server's memory."""
    ended = asyncio.Event()

    async def say_nothing(_call, _requests):
        await ended.wait()
        for nothing in ():
            yield nothing

    async def ask_for_it(connection):
        async with contextlib.aclosing(connection.stream(m.FETCH_BLOB, _forever())) as replies:
            async for _ in replies:
                pytest.fail("it said something")

    async with grpc_network(plain_service({m.FETCH_BLOB: say_nothing})) as network:
        connections = [network.connect(SITE) for _ in range(3)]
        waiting = [
            asyncio.create_task(ask_for_it(connections[n % 3])) for n in range(MOST_OPEN[Kind.SITE] + 5)
        ]
        refused, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
        while len(refused) < 5:
            more, left = await asyncio.wait(left, return_when=asyncio.FIRST_EXCEPTION)
            refused |= more
        assert all(isinstance(task.exception(), Unavailable) for task in refused)
        assert "64 calls open already" in str(refused.pop().exception())
        ended.set()
        await asyncio.gather(*left)  # those that were let in are served to their end


async def _forever():
    yield pb.BlobRequest()
    await asyncio.Event().wait()
