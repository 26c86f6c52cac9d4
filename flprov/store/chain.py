# SPDX-License-Identifier: Apache-2.0
"""The hash chain: each row of the log vouches for all rows before it.

Changing, dropping or inserting a row in the middle breaks the chain from there on. Cutting rows off
the end does not: for that, somebody else has to remember a digest.
"""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3

from flprov._base import canonical_json, to_iso
from flprov.store.records import LogRow

GENESIS = "0" * 64  # `previous` of row 1


def digest_row(index: int, at: str, row: bytes, previous: str) -> str:
    """The digest of one row.

    Args:
        index: the row's place in the log.
        at: its time, as `to_iso` spells it.
        row: its canonical JSON.
        previous: the digest of the row before it.
    """
    # Spelled by hand, once: this is canonical_json({"at": at, "index": index, "row": row}).
    return blake3(
        b'%s{"at":"%s","index":%d,"row":%s}' % (previous.encode(), at.encode(), index, row)
    ).hexdigest()


def verify_chain(rows: Iterable[LogRow]) -> int | None:
    """The first index at which the chain is broken; None when it holds.

    Args:
        rows: consecutive rows, in order, from any index on. Where they do not begin with row 1 the
            first one's `previous` is taken on trust.
    """
    expected: tuple[int, str] | None = None
    for row in rows:
        if expected is None:
            expected = (row.index, GENESIS if row.index == 1 else row.previous)
        if (row.index, row.previous) != expected or row.digest != _digest(row):
            return expected[0]
        expected = (row.index + 1, row.digest)
    return None


def _digest(row: LogRow) -> str:
    return digest_row(row.index, to_iso(row.at), canonical_json(row.row), row.previous)
