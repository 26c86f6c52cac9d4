# SPDX-License-Identifier: Apache-2.0
"""From a host name to a TCP connection: IPv6 and IPv4 side by side, so that a dead one costs no patience."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Sequence
from typing import Any

from flprov._base import run_aside

# RFC 8305 section 8, "Connection Attempt Delay".
_HEAD_START = 0.25

Address = tuple[int, Any]  # family, and the address in its family's form


async def resolve(host: str, port: int) -> tuple[Address, ...]:
    """The host's addresses in the system's order of preference (RFC 6724).

    Raises:
        OSError: the name does not resolve.
        UnicodeError: it is no name.
    """
    try:  # an address is its own answer, and needs no thread to wait in
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await run_aside(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    return tuple((int(family), address) for family, _kind, _protocol, _name, address in found)


async def connect_first(addresses: Sequence[Address]) -> socket.socket:
    """A TCP connection to the first address that takes it; each has a head start before the next.

    Raises:
        OSError: none does; that of the address which says most.
    """
    waiting = _interleaved(addresses)
    trials: set[asyncio.Task[socket.socket]] = set()
    failures: list[OSError] = []
    try:
        while waiting or trials:
            if waiting:
                trials.add(asyncio.create_task(_connect(*waiting.pop(0))))
            ended, trials = await asyncio.wait(
                trials, timeout=_HEAD_START if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for trial in ended:
                failure = trial.exception()
                if failure is None:
                    trials |= ended - {trial}  # one may have won at the same moment
                    return trial.result()
                failures.append(_expected(failure))
    finally:
        for trial in trials:
            trial.add_done_callback(_close_unused)
            trial.cancel()
    refused = [failure for failure in failures if isinstance(failure, ConnectionRefusedError)]
    raise (refused or failures)[0]


def _interleaved(addresses: Sequence[Address]) -> list[Address]:
    """One of each family in turn, the preferred family first (RFC 8305 section 4)."""
    families = dict.fromkeys(family for family, _ in addresses)
    columns = [[found for found in addresses if found[0] == family] for family in families]
    return [found for row in itertools.zip_longest(*columns) for found in row if found is not None]


def _expected(failure: BaseException) -> OSError:
    if isinstance(failure, OSError):
        return failure
    raise failure


def _close_unused(trial: asyncio.Task[socket.socket]) -> None:
    if not trial.cancelled() and trial.exception() is None:
        trial.result().close()


async def _connect(family: int, address: Any) -> socket.socket:  # noqa: ANN401 - of its family's form
    connected = socket.socket(family, socket.SOCK_STREAM)
    try:
        connected.settimeout(0)
        await asyncio.get_running_loop().sock_connect(connected, address)
    except BaseException:
        connected.close()
        raise
    return connected
