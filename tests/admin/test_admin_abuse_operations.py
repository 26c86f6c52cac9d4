# SPDX-License-Identifier: Apache-2.0
"""A server whose operator rewrites the log and has an excuse, and a site that frames its server."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from faults.tampering import NOW, cut_tail, judge
from sound_logs import forge, lines_of

from flprov.admin.audit import Judge, _conclude, _Seen
from flprov.store import Row, open_store
from flprov.testing.clock import FakeClock
from flprov.wire.documents import WitnessVerdict


async def write(log, *, restored_at) -> None:
    store = open_store(log.path.parent, clock=FakeClock(restored_at))
    await store.commit([], Row(who="server", what="server.restore", object="server"))
    for _ in range(60):
        await store.commit([], Row(who="server", what="job.start", object="other"))
    await store.close()


@pytest.mark.parametrize(("before", "ok"), [(timedelta(days=30), False), (timedelta(minutes=5), True)])
def test_restore_excuses_no_rows_that_were_signed_long_after_it(log, before, ok):
    """Its row stays for ever, and would excuse every rewriting behind it."""
    signed_at = max(receipt.at for receipt in log.receipts)
    assert signed_at > NOW
    forge(log, cut_tail, 2)
    asyncio.run(write(log, restored_at=signed_at - before))
    verdict = judge(log, lines_of(log))
    assert verdict.ok == ok
    assert {one.verdict for one in verdict.witnesses if one.index > 1} == {"restored" if ok else "differs"}


@pytest.mark.parametrize(
    ("others", "named"),
    [
        ({"site-2": 70, "site-3": 50}, "site-2 vouch for the log as it is now, and beyond row 60"),
        ({"site-2": 59}, ""),  # what it saw ends before
        ({}, ""),
    ],
)
def test_site_that_alone_accuses_the_server_is_named_with_those_who_do_not(others, named):
    def said(site: str, index: int, verdict: str) -> WitnessVerdict:
        return WitnessVerdict(
            site=site, index=index, at=NOW, vouched="a" * 64, found="b" * 64, verdict=verdict, text="no"
        )

    verdicts = (said("site-1", 60, "differs"), *(said(site, n, "agrees") for site, n in others.items()))
    found = _conclude(_Seen(), verdicts, Judge(project_id="p", anchors={}), "server", asked=True)
    assert not found.ok
    notes = [note for note in found.notes if "has signed what never was" in note]
    assert bool(notes) == bool(named)
    assert not notes or named in notes[0]
