# SPDX-License-Identifier: Apache-2.0
"""How a worker's process begins: its channel, its folder, its output."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from flprov.errors import LocalError
from flprov.workers.channel import WorkerChannel, adopt_channel

CHANNEL_VARIABLE = "FLPROV_CHANNEL_FD"
LIFELINE_VARIABLE = "FLPROV_LIFELINE_FD"


def run_main(run: Callable[[WorkerChannel, Path], int]) -> NoReturn:
    """Call `run` with the inherited channel and the job's folder, and end with the status that it gives.

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
    end_process(status)


def end_process(status: int) -> NoReturn:
    """Wait for threads, call what `atexit` has, flush: all that Python does at its end but clear modules.

    That alone takes half a second where torch was imported, and gives nothing back that the kernel does
    not. Several workers on few processors would not be done within the job's grace. multiprocessing's
    children end like this, too (`BaseProcess._bootstrap`).
    """
    threading._shutdown()  # type: ignore[attr-defined]  # also ends the threads of concurrent.futures
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or taken away by the job
            stream.flush()
    os._exit(status)


def show_output_at_once() -> None:
    """Line by line, though it goes to a file: somebody may follow the log."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
