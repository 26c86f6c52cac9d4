# SPDX-License-Identifier: Apache-2.0
"""A long-running command tells whoever started it that it is ready, and that it stops (sd_notify(3))."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from flprov.cli.running import notify

SERVICE = """
import asyncio, os, sys
sys.path[:] = {path!r}
from flprov.cli.running import run_until_stopped
from flprov.errors import LocalError

class Service:
    again = False

    def __init__(self):
        self.ready, self.stopping = asyncio.Event(), asyncio.Event()
    async def run(self):
        print(os.environ.get("NOTIFY_SOCKET"), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        {then}
        self.ready.set()
        await self.stopping.wait()
        print("stopped", flush=True)
    def stop(self):
        self.stopping.set()

run_until_stopped(Service, verbose=False)
"""


@pytest.fixture
def supervisor(tmp_path):
    """A datagram socket as systemd's, in a file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(20)
        yield sock


@pytest.fixture
def start():
    """Starts the service; it goes on when it gets a line."""
    started = []

    def starting(address: str, then: str = "") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVICE.format(path=sys.path, then=then)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "NOTIFY_SOCKET": address},
        )
        started.append(process)
        assert process.stdout.readline() == "None\n"  # what it starts cannot speak in its name
        return process

    yield starting
    for process in started:
        process.kill()
        process.communicate()


def pending(sock: socket.socket) -> bytes | None:
    found, _, _ = select.select([sock], [], [], 0)
    return sock.recv(100) if found else None


def test_it_says_ready_when_it_is_and_not_before(supervisor, start):
    process = start(supervisor.getsockname())
    assert pending(supervisor) is None
    process.stdin.write("go on\n")
    assert supervisor.recv(100) == b"READY=1"
    process.send_signal(signal.SIGTERM)
    assert supervisor.recv(100) == b"STOPPING=1"
    assert process.stdout.read() == "stopped\n"
    assert process.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(supervisor, start, number):
    process = start(supervisor.getsockname())
    process.stdin.write("go on\n")
    supervisor.recv(100)
    process.send_signal(number)
    assert process.wait() == 0


def test_one_that_fails_before_it_is_ready_never_says_so(supervisor, start):
    process = start(supervisor.getsockname(), then="raise LocalError('the port is taken')")
    process.stdin.write("go on\n")
    assert "the port is taken" in process.stderr.read()
    assert process.wait() == 1
    assert pending(supervisor) is None


def test_a_supervisor_that_is_gone_does_no_harm(tmp_path, start):
    process = start(str(tmp_path / "gone"))
    process.stdin.write("go on\n")
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0


def test_a_name_in_the_abstract_namespace_begins_with_an_at_sign():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0flprov-test-notify")
        notify("@flprov-test-notify", "READY=1")
        assert sock.recv(100, socket.MSG_DONTWAIT) == b"READY=1"


def test_a_supervisor_that_does_not_read_does_not_block(supervisor):
    for _ in range(2000):
        notify(supervisor.getsockname(), "READY=1")
    assert pending(supervisor) == b"READY=1"


def test_without_a_supervisor_nothing_happens():
    notify("", "READY=1")
