# SPDX-License-Identifier: Apache-2.0
"""When a certificate is renewed, whatever the clocks say."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from flprov.kits import Credential, Renewing
from flprov.pki import Identity, Kind, Leaf
from flprov.testing.clock import FakeClock

DAY = timedelta(days=1)


def issued(at: datetime) -> Credential:
    leaf = Leaf(
        identity=Identity(trust_domain="heart.example", kind=Kind.SITE, org="org-a", name="hospital-a"),
        serial=1,
        issued_at=at,
        not_before=at,
        not_after=at + 90 * DAY,
        fingerprint="",
        issuer_key_id="",
    )
    return Credential(chain_pem=b"", private_pem=b"", leaf=leaf)


@pytest.mark.parametrize(("ahead", "most"), [(40 * DAY, 24), (timedelta(), 0)])
async def test_a_clock_that_is_far_ahead_renews_once_an_hour_and_says_so(ahead, most, caplog):
    clock, renewals = FakeClock(), 0

    async def renew() -> Credential:
        nonlocal renewals
        renewals += 1
        assert renewals <= 30, "it renews again and again"
        return issued(clock.now() - ahead)  # by the issuer's clock, which is right

    renewing = Renewing(issued(clock.now() - ahead), renew, clock=clock)
    running = asyncio.ensure_future(renewing.run())
    await clock.elapse(DAY.total_seconds() - 1)
    assert renewals == most
    assert ("is this machine's clock right?" in caplog.text) == bool(most)
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
