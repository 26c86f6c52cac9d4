# SPDX-License-Identifier: Apache-2.0
"""The server: the one process that every site and person dials; it never imports a job's code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names
from flprov.server.config import ServerConfig, load_server_config

if TYPE_CHECKING:
    from flprov.server.operations.backup import back_up
    from flprov.server.operations.restore import restore
    from flprov.server.server import Server

__all__ = ["Server", "ServerConfig", "back_up", "load_server_config", "restore"]

_LATE = {"Server": "server", "back_up": "operations.backup", "restore": "operations.restore"}

__getattr__ = lazy_names(__name__, _LATE)
