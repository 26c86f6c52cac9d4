# SPDX-License-Identifier: Apache-2.0
"""Starting processes that outlive us, recognising them, ending them."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys

import pytest

from flprov.poc.processes import (
    ProcessMark,
    collect,
    end_all,
    find_commands,
    find_descendants,
    mark,
    start_detached,
)

STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"


@pytest.fixture
def start():
    """Starts a Python that prints a line once it is as far as that; ends them all."""
    started = []

    def starting(code: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline()
        return process

    yield starting
    for process in started:
        process.kill()
        process.communicate()


PATIENT = "import signal; print('here', flush=True); signal.pause()"


def test_a_process_is_marked_by_its_number_and_its_start(start):
    process = start(PATIENT)
    found = mark(process.pid)
    assert found is not None
    assert found.pid == process.pid
    assert found.alive


def test_another_process_with_the_number_is_not_taken_for_it(start):
    process = start(PATIENT)
    found = mark(process.pid)
    earlier = ProcessMark(pid=found.pid, started=found.started[:-1])
    assert not earlier.alive
    assert end_all([earlier], grace=1) == set()
    assert found.alive


def test_a_process_of_an_earlier_boot_is_not_alive(start):
    found = mark(start(PATIENT).pid)
    ticks = found.started.partition(":")[2]
    assert not ProcessMark(pid=found.pid, started=f"another-boot:{ticks}").alive


def test_a_zombie_is_dead(start):
    process = start("print('here', flush=True)")
    handle = os.pidfd_open(process.pid)
    os.waitid(os.P_PIDFD, handle, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has taken note
    os.close(handle)
    assert mark(process.pid) is None


def test_no_process_has_no_mark():
    assert mark(2**22 + 1) is None


def test_a_process_that_ends_when_asked_is_not_killed(start):
    process = start(PATIENT)
    assert end_all([mark(process.pid)], grace=10) == set()
    assert process.wait() == -signal.SIGTERM or process.returncode == 0  # collected by end_all


def test_a_process_that_does_not_end_is_killed(start):
    process = start(STUBBORN)
    found = mark(process.pid)
    assert end_all([found], grace=0.1) == {found}
    assert not found.alive


def test_a_stopped_process_is_killed(start):
    process = start(
        "import signal; signal.signal(15, lambda *_: exit()); print('here', flush=True); signal.pause()"
    )
    found = mark(process.pid)
    process.send_signal(signal.SIGSTOP)
    assert end_all([found], grace=0.1) == {found}
    assert not found.alive


def test_a_detached_process_has_a_session_and_a_private_log_of_its_own(tmp_path):
    log = tmp_path / "log"
    code = "import os, sys; print(os.getsid(0), os.getcwd(), os.environ['A'], sys.stdin.read())"
    command = [sys.executable, "-I", "-S", "-c", code]
    log.write_text("from before\n")
    log.chmod(0o600)
    found = start_detached(command, log=log, environment={"A": "b"}, folder=tmp_path)
    handle = os.pidfd_open(found.pid)
    os.waitid(os.P_PIDFD, handle, os.WEXITED | os.WNOWAIT)
    assert collect(handle) == "with status 0"
    os.close(handle)
    assert log.read_text() == f"from before\n{found.pid} {tmp_path} b \n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_log_is_not_written_through_a_link(tmp_path):
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        start_detached(["true"], log=tmp_path / "log", environment={}, folder=tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_how_a_process_ended_is_said_in_words(start):
    process = start(PATIENT)
    handle = os.pidfd_open(process.pid)
    process.kill()
    os.waitid(os.P_PIDFD, handle, os.WEXITED | os.WNOWAIT)
    assert collect(handle) == "by SIGKILL"
    assert collect(handle) == ""  # it was noted already
    os.close(handle)


def test_a_command_is_found_by_its_last_words_whole(tmp_path):
    kit = str(tmp_path / "kits" / "site-1")
    code = "import signal; print('here', flush=True); signal.pause()"
    command = [sys.executable, "-I", "-S", "-c", code, "site", "start", kit]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert [found.pid for found in find_commands(["site", "start", kit])] == [process.pid]
        assert find_commands(["site", "start", kit[:-1]]) == []
        assert find_commands(["server", "start", kit]) == []
        process.kill()


def test_children_of_children_are_found(start):
    process = start(
        "import subprocess, signal\n"
        "child = subprocess.Popen(['sh', '-c', 'sleep 600 & echo here; wait'])\n"
        "signal.pause()"
    )
    found = find_descendants([mark(process.pid)])
    assert len(found) == 2
    assert end_all(found, grace=0) == found
    assert find_descendants([mark(process.pid)]) == set()
