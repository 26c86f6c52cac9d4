# SPDX-License-Identifier: Apache-2.0
"""The server's log as others see it: events and audit, refused calls, and the sites that vouch for it.

Start reading at `serverlog.py`, which wires the room.
"""

from flprov.server.log.denials import Denials
from flprov.server.log.serverlog import ServerLog
from flprov.server.log.witnesses import Witnesses

__all__ = ["Denials", "ServerLog", "Witnesses"]
