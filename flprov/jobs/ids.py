# SPDX-License-Identifier: Apache-2.0
"""Job ids: short, sortable by time, and recognised by a unique prefix."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime

from flprov.errors import Misuse, NotFound

# Crockford's base 32 in lower case: no i, l, o, u to misread; in ASCII order, so that ids sort as numbers.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_EPOCH = datetime(2025, 1, 1, tzinfo=UTC)
_HALF = 6  # characters; 30 bits of seconds last until 2059, then the order starts over
_SHOWN = 5


def new_job_id(now: datetime) -> str:
    """Twelve characters: six of time (seconds), six of chance.

    An id opens no door (every call is checked against its caller), so 30 bits of chance need only
    keep two jobs of one second apart; the caller still refuses one that exists.
    """
    seconds = int((now - _EPOCH).total_seconds()) % 32**_HALF
    return _spell(seconds) + _spell(secrets.randbits(5 * _HALF))


def _spell(number: int) -> str:
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_HALF)))


def match_prefix(prefix: str, ids: Iterable[str], *, what: str = "job") -> str:
    """The one id that starts with `prefix`; an id that is equal to it wins over longer ones.

    Raises:
        NotFound: none does.
        Misuse: several do; up to five are named.
    """
    if not prefix:
        raise Misuse(f"the {what}'s id is empty", hint=f"flprov {what} ls")
    found = sorted(name for name in set(ids) if name.startswith(prefix))
    if not found:
        raise NotFound(f"no {what} {prefix[:80]!r}", hint=f"flprov {what} ls")
    if len(found) == 1 or found[0] == prefix:
        return found[0]
    shown = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
    raise Misuse(f"{prefix!r} could be {len(found)} {what}s: {shown}", hint="type more of the id")
