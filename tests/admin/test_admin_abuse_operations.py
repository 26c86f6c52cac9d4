# SPDX-License-Identifier: Apache-2.0
"""A server whose operator rewrites the log and has an excuse, and a site that frames its server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

from test_admin_audit import forge, lines_of, log, witnesses  # noqa: F401

from faults.tampering import NOW, ROWS, judge, rewrite_tail
from flprov.admin.audit import verify_log
from flprov.store import Row, open_store
from flprov.testing.clock import FakeClock


def restore_at(log, at) -> None:  # noqa: F811
    async def write() -> None:
        store = open_store(log.path.parent, clock=FakeClock(at))
        await store.commit([], Row(who="server", what="server.restore", object="server"))
        await store.close()

    asyncio.run(write())


def test_restore_of_long_ago_excuses_no_rewriting_of_later_rows(log):  # noqa: F811
    """The row of a restore stays for ever, and was an excuse for every row after it."""
    early = [receipt for receipt in log.receipts if receipt.index > 10]

    def with_restore(at) -> object:
        def rewrite(forger, row):
            return rewrite_tail(forger, row)

        return rewrite

    row = log.signed[4] + 1
    forge(log, with_restore(NOW), row)
    old = lines_of(log)
    assert early
    verdict = judge(log, old)
    against = [one for one in verdict.witnesses if one.verdict == "differs"]
    assert against
    latest = max(receipt.at for receipt in log.receipts)
    first = min(one.index for one in against)
    from flprov.admin.audit import _compare, _Seen

    receipt = next(one for one in log.receipts if one.index == first)
    for restored_at, expected in (
        (receipt.at - timedelta(days=30), "differs"),
        (latest + timedelta(hours=1), "restored"),
    ):
        seen = _Seen(restores=[(1, restored_at, "row 1 says that the server was restored")])
        seen.digests[first] = "0" * 64
        assert _compare(receipt, seen)[0] == expected
