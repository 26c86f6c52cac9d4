# SPDX-License-Identifier: Apache-2.0
"""Long-running commands: SIGTERM and SIGINT stop cleanly, log lines go to stderr.

Whoever started the process is told when it is ready and when it stops (sd_notify(3)): systemd with
`Type=notify`, and `flprov poc up`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, Protocol

from flprov._base import keep_freed_memory
from flprov.cli.garbage import collect_as_usual
from flprov.cli.output import clean


class Service(Protocol):
    """A server or an agent."""

    ready: asyncio.Event  # set when it serves, or when the server has welcomed it
    again: bool  # after `run`: this process is to start anew

    def run(self) -> Awaitable[None]:
        """Serve until stopped."""
        ...

    def stop(self) -> None:
        """Ask `run` to return."""
        ...


def run_until_stopped(make: Callable[[], Service], *, verbose: bool) -> None:
    """Run the service that `make()` makes (inside the loop) until a signal or its own end."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        handlers=[log_handler()],
    )
    logging.captureWarnings(capture=True)
    # Taken out of the environment: what this process starts must not speak in its name.
    supervisor = os.environ.pop("NOTIFY_SOCKET", "")
    collect_as_usual()
    keep_freed_memory()
    if asyncio.run(_serve(make, supervisor)):
        start_anew(supervisor)


def start_anew(supervisor: str) -> NoReturn:
    """Become a new process with the same id, the same command line and nothing of the old one's state.

    So it works under a service manager, in a container and in a plain shell alike: for each of them the
    process has never ended. What it holds open is not inherited (PEP 446), so locks and ports are free.
    """
    if supervisor:
        os.environ["NOTIFY_SOCKET"] = supervisor
    logging.getLogger(__name__).info("starting anew")
    logging.shutdown()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command line


def log_handler() -> logging.Handler:
    """One line for each message; words of others in it start none, and do not drive a terminal."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    return handler


class _Lines(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging calls it so
        return clean(super().formatMessage(record)).replace("\n", "\n    ")

    def formatException(self, ei: Any) -> str:  # noqa: ANN401, N802 - as logging has it
        return clean(super().formatException(ei))  # a peer's words may be in it


async def _serve(make: Callable[[], Service], supervisor: str) -> bool:
    """Whether the service wants to start anew."""
    service = make()

    def stop() -> None:
        notify(supervisor, "STOPPING=1")
        service.stop()

    async def tell_when_ready() -> None:
        await service.ready.wait()
        notify(supervisor, "READY=1")
        await asyncio.to_thread(_load_late)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    telling = asyncio.create_task(tell_when_ready(), name="tell when ready")
    try:
        await service.run()
    finally:
        telling.cancel()
    return service.again


def _load_late() -> None:
    """What the first update will need and readiness does not: with numpy it takes 80 ms of a processor."""
    from flprov.wire import read_tensors, verify_update  # noqa: F401 - to have been imported


def notify(address: str, state: str) -> None:
    """Send one state to the supervisor's datagram socket; nothing happens when there is none.

    A leading `@` stands for the NUL byte of the abstract namespace (unix(7)). A supervisor that has
    gone away, or does not read, is no reason to stop.
    """
    if not address:
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)  # noqa: FBT003 - by position only
        sock.sendto(state.encode(), address)
