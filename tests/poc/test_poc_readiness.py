# SPDX-License-Identifier: Apache-2.0
"""Waiting for READY=1: who may say it, and what happens when nobody does."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from flprov.errors import LocalError, TimedOut
from flprov.poc.processes import end_all, start_detached
from flprov.poc.readiness import VARIABLE, Child, Notifications, wait_until_ready

SAY = (
    "import os, signal, socket\n"
    "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    "s.sendto({state!r}, '\\0' + os.environ['NOTIFY_SOCKET'][1:])\n"
    "signal.pause()"
)


@pytest.fixture
def news():
    with Notifications() as found:
        yield found


@pytest.fixture
def child(tmp_path, news):
    """Starts a Python as a child that knows the socket; ends them all."""
    started = []

    def starting(code: str, name: str = "site-1") -> Child:
        log = tmp_path / f"{name}.log"
        start = log.stat().st_size if log.exists() else 0
        process = start_detached(
            [sys.executable, "-I", "-S", "-c", code],
            log=log,
            environment={VARIABLE: news.address},
            folder=tmp_path,
        )
        started.append(process)
        return Child(name=name, process=process, log=log, log_start=start)

    yield starting
    end_all(started, grace=0)


def wait(news, *children, timeout=20.0):
    ready = []
    by_number = {child.process.pid: child for child in children}
    wait_until_ready(by_number, news, timeout=timeout, on_ready=ready.append)
    return ready


def test_it_waits_until_each_has_said_so(news, child):
    code = SAY.format(state=b"READY=1")
    assert sorted(wait(news, child(code, "site-1"), child(code, "server"))) == ["server", "site-1"]


def test_other_lines_in_the_message_do_not_matter(news, child):
    assert wait(news, child(SAY.format(state=b"STATUS=serving\nREADY=1\n"))) == ["site-1"]


def test_nobody_else_can_say_it_for_a_child(news, child):
    silent = child("import signal; signal.pause()")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"READY=1", f"\0{news.address[1:]}")
    with pytest.raises(TimedOut, match=r"not ready after 0\.2 s: site-1"):
        wait(news, silent, timeout=0.2)


def test_the_kernel_tells_who_sent_a_message(news):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"READY=1", f"\0{news.address[1:]}")
    assert news.receive() == (os.getpid(), frozenset({"READY=1"}))
    assert news.receive() is None


def test_another_word_is_not_ready(news, child):
    with pytest.raises(TimedOut):
        wait(news, child(SAY.format(state=b"READY=0")), timeout=0.3)


def test_the_first_that_ends_is_named_with_its_last_lines(news, child, tmp_path):
    (tmp_path / "site-2.log").write_text("from an earlier start\n")
    waiting = child("import signal; signal.pause()")
    dying = child("import sys; print('error: no such kit'); sys.exit(3)", "site-2")
    with pytest.raises(LocalError) as caught:
        wait(news, waiting, dying)
    assert str(caught.value) == (
        "site-2 ended with status 3 before the network was ready; it said:\n  error: no such kit"
    )
    assert caught.value.hint == f"the whole log: {tmp_path / 'site-2.log'}"


def test_one_that_was_ready_and_ends_meanwhile_is_named_too(news, child):
    gone = child(SAY.format(state=b"READY=1").replace("signal.pause()", "os.kill(os.getpid(), 9)"))
    silent = child("import signal; signal.pause()", "site-2")
    with pytest.raises(LocalError, match=r"^site-1 ended by SIGKILL before the network was ready$"):
        wait(news, gone, silent)


def test_the_last_lines_of_a_long_log_are_its_last(news, child):
    talkative = child("print('early\\n' * 300_000 + 'the cause'); raise SystemExit(3)")
    with pytest.raises(LocalError, match=r"the cause$"):
        wait(news, talkative)


def test_only_the_last_lines_are_shown(news, child):
    dying = child("for n in range(40): print(n)")
    with pytest.raises(LocalError) as caught:
        wait(news, dying)
    assert str(caught.value).splitlines()[1:] == [f"  {n}" for n in range(25, 40)]
