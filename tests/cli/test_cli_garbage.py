# SPDX-License-Identifier: Apache-2.0
"""How often Python looks for cycles: hardly ever in a command, as ever in what runs on."""

from __future__ import annotations

import subprocess
import sys

COMMAND = """
import atexit, gc, sys
usual = gc.get_threshold()
def tell():
    print(gc.get_threshold()[0] >= 10 * usual[0], gc.get_freeze_count() > 1000)
atexit.register(tell)
from flprov.cli import main
sys.argv = ["flprov", *sys.argv[1:]]
main()
"""

SERVICE = """
import asyncio, gc
from flprov.cli.garbage import collect_rarely
from flprov.cli.running import run_until_stopped

usual = gc.get_threshold()
collect_rarely()

class Once:
    again = False

    def __init__(self):
        self.ready = asyncio.Event()

    async def run(self):
        print(gc.get_threshold() == usual, gc.get_freeze_count() > 1000)

    def stop(self):
        pass

run_until_stopped(Once, verbose=False)
"""


def last_line(code: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout.splitlines()[-1]


def test_a_command_ends_without_a_look_at_what_it_has_made(tmp_path):
    assert last_line(COMMAND, "--version") == "True True"
    assert last_line(COMMAND, "use", str(tmp_path / "none")) == "True True"  # nor when it fails


def test_a_service_looks_as_often_as_ever_but_not_at_what_it_was_started_with():
    assert last_line(SERVICE) == "True True"
