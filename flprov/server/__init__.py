# SPDX-License-Identifier: Apache-2.0
"""The server: the one process that every site and person dials; it never imports a job's code."""

from flprov.server.config import ServerConfig, load_server_config
from flprov.server.server import Server

__all__ = ["Server", "ServerConfig", "load_server_config"]
