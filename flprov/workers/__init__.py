# SPDX-License-Identifier: Apache-2.0
"""Job processes: the frames they speak, the shim that watches them, the confinement they run in.

Names are imported when they are first used: shim and worker import single modules of this package, and
start fast because this file imports none.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flprov.workers.channel import Channel, WorkerChannel, adopt_channel, open_channel
    from flprov.workers.detection import Method, confinement_gaps, confinement_method
    from flprov.workers.footprint import Footprint, read_footprints
    from flprov.workers.launcher import Launcher, Process, ProcessLauncher
    from flprov.workers.logsegments import (
        LogSegments,
        log_segments,
        log_size,
        log_start,
        read_log,
        remove_log,
    )
    from flprov.workers.order import LaunchOrder
    from flprov.workers.reaping import Leftovers, reap_leftovers
    from flprov.workers.record import ExitRecord, read_exit_record
    from flprov.workers.seatlogs import SEAT_LOGS
    from flprov.workers.session import Session, current_session, open_session, use_session
    from flprov.workers.starting import Starting
    from flprov.workers.tasks import OpenTask
    from flprov.workers.usable import change_spec, verify_use
    from flprov.workers.warming import Warming

__all__ = [
    "SEAT_LOGS",
    "Channel",
    "ExitRecord",
    "Footprint",
    "LaunchOrder",
    "Launcher",
    "Leftovers",
    "LogSegments",
    "Method",
    "OpenTask",
    "Process",
    "ProcessLauncher",
    "Session",
    "Starting",
    "Warming",
    "WorkerChannel",
    "adopt_channel",
    "change_spec",
    "confinement_gaps",
    "confinement_method",
    "current_session",
    "log_segments",
    "log_size",
    "log_start",
    "open_channel",
    "open_session",
    "read_exit_record",
    "read_footprints",
    "read_log",
    "reap_leftovers",
    "remove_log",
    "use_session",
    "verify_use",
]

_MODULES = {
    "verify_use": "usable",
    "change_spec": "usable",
    "SEAT_LOGS": "seatlogs",
    "Channel": "channel",
    "ExitRecord": "record",
    "Footprint": "footprint",
    "LaunchOrder": "order",
    "Launcher": "launcher",
    "Leftovers": "reaping",
    "LogSegments": "logsegments",
    "Method": "detection",
    "OpenTask": "tasks",
    "Process": "launcher",
    "ProcessLauncher": "launcher",
    "Session": "session",
    "Starting": "starting",
    "Warming": "warming",
    "WorkerChannel": "channel",
    "adopt_channel": "channel",
    "confinement_gaps": "detection",
    "confinement_method": "detection",
    "current_session": "session",
    "log_segments": "logsegments",
    "log_size": "logsegments",
    "log_start": "logsegments",
    "open_channel": "channel",
    "open_session": "session",
    "read_exit_record": "record",
    "read_footprints": "footprint",
    "read_log": "logsegments",
    "reap_leftovers": "reaping",
    "remove_log": "logsegments",
    "use_session": "session",
}


def __getattr__(name: str) -> object:  # not _base.lazy_names: a shim starts without _base
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
