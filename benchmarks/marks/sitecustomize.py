# SPDX-License-Identifier: Apache-2.0
"""Marks in a running server or agent, for `roundprofile.py`: when each step of a round began and ended.

Python imports a module of this name at its start when the folder is on PYTHONPATH. Nothing is changed before
SIGUSR2 comes: then functions are wrapped, and the second SIGUSR2 writes what they saw. Times are those of
CLOCK_MONOTONIC, the same for all processes of a machine.
"""

import functools
import importlib
import inspect
import json
import os
import pathlib
import signal
import sys
import time

SERVER = (
    ("flprov.server.jobs.run", "JobRun", "tell", "heard", lambda _self, event: _event(event)),
    (
        "flprov.server.sessions",
        "Session",
        "send",
        "queued",
        lambda self, said, **_: f"{_body(said)} {self.name}",
    ),
    (
        "flprov.server.siteservice",
        "SiteService",
        "_take",
        "taken",
        lambda _self, session, said: f"{_body(said)} {session.name}",
    ),
    ("flprov.workers.channel", "StreamChannel", "send", "told", lambda _self, said: _body(said)),
    ("flprov.store.writer", "Writer", "_transact", "commit", lambda _self, batch: str(len(batch))),
)
SITE = (
    ("flprov.agent.held", "SiteJobs", "order", "ordered", lambda *_: ""),
    ("flprov.workers.channel", "StreamChannel", "send", "told", lambda _self, said: _body(said)),
    ("flprov.agent.hearing", "Hearing", "said", "heard", lambda _self, said: _body(said)),
    ("flprov.agent.control", "Control", "report", "reported", lambda _self, said: _body(said)),
    ("flprov.store.writer", "Writer", "_transact", "commit", lambda _self, batch: str(len(batch))),
)


def _body(message):
    return message.WhichOneof("body")


def _event(event):
    frame = getattr(event, "frame", None)
    return type(event).__name__ if frame is None else _body(frame)


def _watch(name):
    marks, out = [], os.environ["FLPROV_MARKS"]

    def toggle(_number, _frame):
        if marks:
            with open(f"{out}/{name}.json", "w") as file:
                json.dump(marks, file)
            return
        marks.append((time.monotonic_ns(), "begin"))
        for step in SERVER if name == "server" else SITE:
            _wrap(marks, *step)

    signal.signal(signal.SIGUSR2, toggle)


def _wrap(marks, module, kind, method, label, detail):
    holder = getattr(importlib.import_module(module), kind)
    function = getattr(holder, method)

    def mark(sign, words):
        marks.append((time.monotonic_ns(), f"{sign}{label} {words}".strip()))

    @functools.wraps(function)
    async def waits(*args, **named):
        words = detail(*args, **named)
        mark("<", words)
        try:
            return await function(*args, **named)
        finally:
            mark(">", words)

    @functools.wraps(function)
    def runs(*args, **named):
        words = detail(*args, **named)
        mark("<", words)
        try:
            return function(*args, **named)
        finally:
            mark(">", words)

    setattr(holder, method, waits if inspect.iscoroutinefunction(function) else runs)


if "FLPROV_MARKS" in os.environ and "start" in sys.orig_argv:
    if "server" in sys.orig_argv:
        _watch("server")
    elif "site" in sys.orig_argv:
        _watch(pathlib.Path(sys.orig_argv[-1]).name)
