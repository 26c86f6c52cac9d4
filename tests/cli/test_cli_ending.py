# SPDX-License-Identifier: Apache-2.0
"""Being told to end, by a service manager or by a terminal that is closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from flprov.cli.ending import ending_cleanly


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield before
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_is_an_exit_with_the_code_that_a_shell_would_show(number):
    with pytest.raises(SystemExit) as ended, ending_cleanly():
        signal.raise_signal(number)
    assert ended.value.code == 128 + number


def test_what_runs_under_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_cleanly():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_network_that_is_not_up_yet_is_taken_down_when_its_command_is_told_to_end(tmp_path, number):
    net = tmp_path / "net"
    command = [sys.executable, "-m", "flprov", "poc", "up", "-n", "1", "-o", str(net)]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    running = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        while not (net / "logs" / "server.log").exists():
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(number)
        assert running.wait(30) == 128 + number
        down = [*command[:4], "down", "-o", str(net)]
        said = subprocess.run(down, env=environment, capture_output=True, text=True, check=True).stdout
        assert said.startswith("nothing ran")
    finally:
        running.kill()
        running.wait()
