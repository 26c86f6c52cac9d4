# SPDX-License-Identifier: Apache-2.0
"""Starts the transports under test and stops them again."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from networks import NETWORKS, Network, grpc_network, plain_service

Start = Callable[..., Awaitable[Network]]


async def _starter(stack: contextlib.AsyncExitStack, make: Any) -> Start:
    async def start(handlers: Any = None, **kwargs: Any) -> Network:
        return await stack.enter_async_context(make(plain_service(handlers), **kwargs))

    return start


@pytest.fixture(params=list(NETWORKS))
async def start(request: pytest.FixtureRequest) -> AsyncIterator[Start]:
    """`await start({method: handler}, gate=...)` gives a Network; once per transport."""
    async with contextlib.AsyncExitStack() as stack:
        yield await _starter(stack, NETWORKS[request.param])


@pytest.fixture
async def start_grpc() -> AsyncIterator[Start]:
    """The same for tests of gRPC alone."""
    async with contextlib.AsyncExitStack() as stack:
        yield await _starter(stack, grpc_network)
