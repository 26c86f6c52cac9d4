# SPDX-License-Identifier: Apache-2.0
"""Log lines of server and agent: what a peer says in one cannot look like another one."""

from __future__ import annotations

import logging
import subprocess
import sys

from cli_admin import BEEP

from flprov.cli.running import log_handler


def test_a_message_with_somebody_elses_words_is_one_entry_without_control_characters():
    said = f"{BEEP}\n2026-01-01 00:00:00 INFO    flprov.agent: the server was verified"
    record = logging.LogRecord("flprov.agent", logging.INFO, "", 0, "it asks: %s", (said,), None)
    first, *rest = log_handler().format(record).split("\n")
    assert "it asks: " in first
    assert "\x1b" not in first
    assert all(line.startswith("    ") for line in rest)


def test_a_traceback_stays_readable():
    try:
        raise ValueError("odd")
    except ValueError as error:
        record = logging.LogRecord("flprov", logging.ERROR, "", 0, "failed", (), (ValueError, error, None))
    assert log_handler().format(record).endswith("failed\nValueError: odd")


SERVICE = """
import asyncio, os, sys
from pathlib import Path
from flprov.cli.running import run_until_stopped

told = Path(sys.argv[1])

class Once:
    def __init__(self):
        self.ready = asyncio.Event()
        self.again = not told.exists()

    async def run(self):
        with told.open("a") as file:
            held = os.environ.get("NOTIFY_SOCKET", "none")
            file.write(f"{os.getpid()} {sys.argv[2]} {held} {len(os.listdir('/proc/self/fd'))}\\n")

    def stop(self):
        pass

run_until_stopped(Once, verbose=False)
"""


def test_a_service_that_wants_to_starts_anew_as_the_same_process(tmp_path):
    """For a service manager it has never ended; what it held open is gone, and its arguments are the same."""
    told = tmp_path / "told"
    command = [sys.executable, "-c", SERVICE, str(told), "two words"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    first, second = told.read_text().splitlines()
    assert first == second  # one process, the same words, nothing left open, nobody notified
    assert " two words none " in first
    assert "starting anew" in ran.stderr
