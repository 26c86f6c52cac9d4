# SPDX-License-Identifier: Apache-2.0
"""The server: the one process that every site and person dials; it never imports a job's code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names

if TYPE_CHECKING:
    from flprov.server.config import ServerConfig, load_server_config
    from flprov.server.jobs.runfiles import metrics_json
    from flprov.server.operations.backup import back_up
    from flprov.server.operations.restore import restore
    from flprov.server.server import Server
    from flprov.server.simulated.outcome import write_run_files
    from flprov.server.simulated.record import simulated_record
    from flprov.server.simulated.run import SimulatedRun, SimulatedSurroundings
    from flprov.server.simulated.scratch import ScratchBlobs

__all__ = [
    "ScratchBlobs",
    "Server",
    "ServerConfig",
    "SimulatedRun",
    "SimulatedSurroundings",
    "back_up",
    "load_server_config",
    "metrics_json",
    "restore",
    "simulated_record",
    "write_run_files",
]

_LATE = {
    "ScratchBlobs": "simulated.scratch",
    "Server": "server",
    "ServerConfig": "config",
    "SimulatedRun": "simulated.run",
    "SimulatedSurroundings": "simulated.run",
    "back_up": "operations.backup",
    "load_server_config": "config",
    "metrics_json": "jobs.runfiles",
    "restore": "operations.restore",
    "simulated_record": "simulated.record",
    "write_run_files": "simulated.outcome",
}

__getattr__ = lazy_names(__name__, _LATE)
