# SPDX-License-Identifier: Apache-2.0
"""How a worker's process begins: its channel, its folder, its output."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from flprov.errors import LocalError
from flprov.workers.channel import WorkerChannel, adopt_channel

CHANNEL_VARIABLE = "FLPROV_CHANNEL_FD"
LIFELINE_VARIABLE = "FLPROV_LIFELINE_FD"


def run_main(run: Callable[[WorkerChannel, Path], int]) -> int:
    """Call `run` with the inherited channel and the job's folder; the process's exit status.

    A worker is started in the folder `work` of its job's folder.

    Raises:
        LocalError: this process was not started as a worker.
    """
    folder = Path.cwd().parent
    descriptor = os.environ.pop(CHANNEL_VARIABLE, "")  # what the job starts has no business with it
    if not descriptor.isdecimal():
        raise LocalError(
            f"a job's process was started without a channel ({CHANNEL_VARIABLE} is {descriptor!r})",
            hint="to try an app: flprov simulate APP -n 2",
        )
    lifeline = os.environ.pop(LIFELINE_VARIABLE, "")
    show_output_at_once()
    status = run(adopt_channel(int(descriptor), int(lifeline) if lifeline else None), folder)
    # The job is over: being asked to end now must not interrupt what libraries do at exit.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return status


def show_output_at_once() -> None:
    """Line by line, though it goes to a file: somebody may follow the log."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
