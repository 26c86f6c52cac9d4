# SPDX-License-Identifier: Apache-2.0
"""The protocol version: one integer. The server speaks PROTOCOL and, after a release, PROTOCOL - 1.

History (a test parses it; the newest line is PROTOCOL):

    1  2026-11-22  first: control, bulk and admin calls, worker frames
"""

from __future__ import annotations

from flprov.errors import ProtocolError

PROTOCOL = 1
OLDEST = 1


def verify_protocol(version: int, *, peer: str, local: str = "this flprov") -> int:
    """The version that `peer` speaks, if `local` speaks it too.

    Args:
        version: what the peer says it speaks.
        peer: its name, for the message.
        local: who we are to the reader of the message, who may sit at the other end.

    Raises:
        ProtocolError: the two cannot talk; the message says who has to upgrade.
    """
    if version < OLDEST:
        raise ProtocolError(
            f"{peer} speaks protocol {version}; {local} speaks {_range()}",
            hint=f"upgrade flprov at {peer}",
        )
    if version > PROTOCOL:
        raise ProtocolError(
            f"{peer} speaks protocol {version}; {local} speaks {_range()}",
            hint=f"upgrade {local}",
        )
    return version


def _range() -> str:
    return str(PROTOCOL) if OLDEST == PROTOCOL else f"{OLDEST} to {PROTOCOL}"
