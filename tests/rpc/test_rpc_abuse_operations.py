# SPDX-License-Identifier: Apache-2.0
"""Callers that leave everything open, and web pages that ask a machine for its own metrics."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from test_rpc_monitoring import Service, ask, up

from flprov.errors import Unavailable
from flprov.pki import Identity, Kind, Role
from flprov.rpc import methods as m
from flprov.rpc.open_calls import MOST_OPEN, OpenCalls
from flprov.rpc.transport import Call


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


async def test_one_identity_has_so_many_calls_open_and_others_have_theirs():
    opened = OpenCalls()
    callers = [
        Identity(trust_domain="heart.example", kind=Kind.PERSON, org="org-a", role=Role.LEAD, name=name)
        for name in ("leo", "lea")
    ]

    def call(caller: Identity) -> Call:
        return Call(caller=caller, method=m.WATCH_DRAIN, peer="here")

    with contextlib.ExitStack() as stack:
        for _ in range(MOST_OPEN):
            stack.enter_context(opened.track(call(callers[0])))
        with pytest.raises(Unavailable, match="calls open already"), opened.track(call(callers[0])):
            pytest.fail("it was let in")
        with opened.track(call(callers[1])):
            assert len(opened) == MOST_OPEN + 1
    with opened.track(call(callers[0])):
        assert len(opened) == 1
    await asyncio.sleep(0)
