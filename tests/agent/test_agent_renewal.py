# SPDX-License-Identifier: Apache-2.0
"""The site's certificate: when it is renewed, with what, and what happens when that fails."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agent_parties import NOW, Parties
from agent_rig import PATIENCE

from flprov.agent import renewal as module
from flprov.agent.renewal import Renewal
from flprov.errors import FlprovError, IdentityRefused, KitRefused, ServerUnavailable, SiteLocked
from flprov.kits import Credential, Kit, own_anchors
from flprov.pki import Authority, Identity, issue_identity, load_authority, public_key_pem, verify_request
from flprov.rpc.methods import RENEW
from flprov.store import MemoryStore
from flprov.testing.clock import FakeClock
from flprov.wire import pb

DAY = 86_400.0
THIRD = 30 * DAY


class FakeServer:
    """Answers RENEW as a test says, and hears the requests."""

    def __init__(self, ca: Authority, kit: Kit, clock: FakeClock) -> None:
        self._ca = ca
        self._clock = clock
        self.identity: Identity = kit.identity
        self.days = 90.0
        self.ahead = timedelta(0)  # of the site's clock
        self.keys: list[bytes] = []  # public, one per request
        self.errors: list[FlprovError] = []  # raised one by one instead of an answer
        self.lost = 0  # so many answers never arrive, although a certificate was issued
        self.public: bytes | None = None  # issue for this key instead

    async def ask(self, method: Any, request: pb.RenewRequest, *, timeout: float) -> pb.Issued:
        assert method is RENEW
        assert timeout > 0
        public = verify_request(request.request)
        self.keys.append(public)
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        now = self._clock.now() + self.ahead
        made = issue_identity(
            self._ca, self.identity, days=self.days, now=now, public_pem=self.public or public
        )
        if self.lost:
            self.lost -= 1
            raise ServerUnavailable("the line broke")
        return pb.Issued(chain=made.chain_pem)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(start=NOW)


@pytest.fixture
def kit(parties: Parties) -> Kit:
    return parties.kit("site-1")


@pytest.fixture
def ca(kit: Kit) -> Authority:
    folder = kit.folder.parent.parent / "ca"
    return load_authority((folder / "sites.pem").read_bytes(), (folder / "sites.key.pem").read_bytes())


@pytest.fixture
def server(ca: Authority, kit: Kit, clock: FakeClock) -> FakeServer:
    return FakeServer(ca, kit, clock)


@pytest.fixture
def switched() -> list[Credential]:
    return []


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return MemoryStore(clock=clock)


@pytest.fixture
def make(
    kit: Kit,
    server: FakeServer,
    clock: FakeClock,
    tmp_path: Path,
    switched: list[Credential],
    store: MemoryStore,
) -> Callable[[], Renewal]:
    def build() -> Renewal:
        return Renewal(
            kit=kit,
            state=tmp_path,
            anchors=lambda: own_anchors(kit),
            ask=server.ask,
            switch=switched.append,
            store=store,
            clock=clock,
            chance=random.Random(4),
        )

    return build


@contextlib.asynccontextmanager
async def running(renewal: Renewal) -> AsyncIterator[Renewal]:
    task = asyncio.create_task(renewal.run())
    try:
        async with asyncio.timeout(PATIENCE):
            yield renewal
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def wait_for(clock: FakeClock, holds: Callable[[], bool]) -> None:
    """Let threads that write to the disk finish; no time passes."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0)


async def renewed(clock: FakeClock, switched: list[Credential], count: int) -> Credential:
    await wait_for(clock, lambda: len(switched) >= count)
    await clock.elapse(0)
    return switched[-1]


async def test_it_renews_at_a_third_of_its_life_with_a_new_key_and_goes_on_so(
    make, clock, server, switched, kit
):
    async with running(make()) as renewal:
        due = renewal.status.due_at
        assert timedelta(days=30) <= due - NOW <= timedelta(days=39)
        await clock.elapse((due - NOW).total_seconds() - 1)
        assert switched == []
        await clock.elapse(2)
        first = await renewed(clock, switched, 1)
        assert (renewal.credential, renewal.status.last_at) == (first, first.issued_at)
        assert first.private_pem != kit.private_pem
        await clock.elapse(40 * DAY)
        second = await renewed(clock, switched, 2)
        assert len(set(server.keys)) == 2
        assert {public_key_pem(one.private_pem) for one in (first, second)} == set(server.keys)


async def test_a_thousand_sites_do_not_come_at_once(parties, kit, tmp_path, server, store):
    dues: list[datetime] = []
    for seed in range(1000):
        renewal = Renewal(
            kit=kit,
            state=tmp_path,
            anchors=lambda: own_anchors(kit),
            ask=server.ask,
            switch=lambda _: None,
            store=store,
            clock=FakeClock(start=NOW),
            chance=random.Random(seed),
        )
        dues.append(renewal.status.due_at)
    fullest = max(
        sum(hour <= due < hour + timedelta(hours=1) for due in dues)
        for hour in (NOW + timedelta(days=30, hours=n) for n in range(9 * 24))
    )
    assert fullest < 20  # of an hour; five are expected


async def test_after_a_restart_the_renewed_one_is_in_use(make, clock, switched, kit):
    async with running(make()) as renewal:
        renewal.renew_now("because")
        issued = await renewed(clock, switched, 1)
    again = make()
    assert again.credential == issued
    assert again.status.last_at == issued.issued_at
    clock.advance(85 * DAY)
    assert make().credential == issued


async def test_a_failure_is_told_and_tried_again_until_it_works(make, clock, server, switched):
    server.errors = [ServerUnavailable("nothing listens at fl:1"), SiteLocked("hospital-a is locked")]
    async with running(make()) as renewal:
        await clock.elapse((renewal.status.due_at - NOW).total_seconds() + 0.01)
        assert renewal.status.last_error == "nothing listens at fl:1"
        await clock.elapse(1)
        assert renewal.status.last_error == "hospital-a is locked"
        assert renewal.status.tries == 2
        assert renewal.status.next_at is not None
        assert renewal.status.next_at >= clock.now()
        await clock.elapse(3600)
        await renewed(clock, switched, 1)
        status = renewal.status
        assert (status.last_error, status.tries, status.next_at) == ("", 0, None)


async def test_what_only_a_person_can_change_is_not_tried_again_and_again(make, clock, server, switched):
    """But half of what is left later: an identity that somebody puts right must not end for that."""
    server.errors = [IdentityRefused("hospital-a was removed")] * 1000
    async with running(make()) as renewal:
        await clock.elapse((renewal.status.due_at - NOW).total_seconds() + 0.01)
        before, left = len(server.keys), renewal.credential.not_after - clock.now()
        assert renewal.status.next_at - clock.now() == pytest.approx(left / 2, abs=timedelta(minutes=1))
        await clock.elapse(2 * DAY)
        assert len(server.keys) == before
        server.errors.clear()
        renewal.connected()
        await renewed(clock, switched, 1)


async def test_a_server_that_is_away_for_days_is_asked_hourly_and_not_more(make, clock, server):
    server.errors = [ServerUnavailable("nothing listens at fl:1")] * 1000
    async with running(make()) as renewal:
        await clock.elapse((renewal.status.due_at - NOW).total_seconds())
        before = len(server.keys)
        await clock.elapse(2 * DAY)
        assert 48 <= len(server.keys) - before <= 48 * 3


async def test_when_the_link_is_up_again_what_failed_is_tried_at_once(make, clock, server, switched):
    server.errors = [ServerUnavailable("nothing listens at fl:1")] * 15
    async with running(make()) as renewal:
        await clock.elapse((renewal.status.due_at - NOW).total_seconds() + 3600)
        server.errors.clear()
        renewal.connected()
        await renewed(clock, switched, 1)


async def test_a_link_that_comes_and_goes_is_no_reason_to_renew(make, clock, server):
    async with running(make()) as renewal:
        for _ in range(10):
            renewal.connected()
            await clock.elapse(1)
    assert server.keys == []


async def test_the_server_may_ask_for_it_at_any_time(make, clock, switched):
    async with running(make()) as renewal:
        await clock.elapse(5)
        renewal.renew_now("another CA issues sites from now on")
        await renewed(clock, switched, 1)


async def test_a_lost_answer_costs_nothing_but_another_try(make, clock, server, switched, kit):
    server.lost = 1
    async with running(make()) as renewal:
        renewal.renew_now("because")
        await wait_for(clock, lambda: bool(renewal.status.last_error))
        assert renewal.credential.chain_pem == kit.chain_pem  # good for another 60 days
        await clock.elapse(2)
        await renewed(clock, switched, 1)
    assert len(server.keys) == 2


@pytest.mark.parametrize("what", ["identity", "key", "CA"])
async def test_an_answer_that_is_not_for_us_is_not_used(make, clock, server, switched, kit, strangers, what):
    if what == "identity":
        server.identity = Identity(trust_domain=kit.trust_domain, kind=kit.kind, org="org-b", name="site-2")
    elif what == "key":
        server.public = public_key_pem(kit.private_pem)
    else:
        folder = strangers.kit("site-1").folder.parent.parent / "ca"
        server._ca = load_authority(
            (folder / "sites.pem").read_bytes(), (folder / "sites.key.pem").read_bytes()
        )
    async with running(make()) as renewal:
        renewal.renew_now("because")
        await wait_for(clock, lambda: bool(renewal.status.last_error))
        assert renewal.credential.chain_pem == kit.chain_pem
    assert switched == []


async def test_a_full_disk_keeps_the_old_one_and_asks_for_no_second_one(
    make, clock, server, switched, monkeypatch
):
    stored = module.store_credential

    def full(state: Path, credential: Credential) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "store_credential", full)
    async with running(make()) as renewal:
        renewal.renew_now("because")
        await wait_for(clock, lambda: "No space left" in renewal.status.last_error)
        for _ in range(30):
            await clock.elapse(3600)
            await asyncio.sleep(0.001)
        assert (len(server.keys), switched) == (1, [])
        monkeypatch.setattr(module, "store_credential", stored)
        renewal.connected()
        await renewed(clock, switched, 1)
    assert len(server.keys) == 1


async def test_a_clock_that_is_behind_is_named_and_no_second_one_is_asked_for(make, clock, server, switched):
    server.ahead = timedelta(minutes=20)
    async with running(make()) as renewal:
        renewal.renew_now("because")
        await wait_for(clock, lambda: bool(renewal.status.last_error))
        assert "this machine's clock says 2026-03-01 12:00:00 UTC" in renewal.status.last_error
        assert "check the clock" in renewal.status.last_error
        await clock.elapse(600)
        assert switched == []
        await clock.elapse(3600)
        await renewed(clock, switched, 1)
    assert len(server.keys) == 1


async def test_a_renewed_one_that_ended_before_the_kits_own_is_left_for_that(
    make, clock, server, switched, kit
):
    """The project asks for shorter lives than before, and the site was stopped for a while."""
    server.days = 1
    async with running(make()) as renewal:
        renewal.renew_now("because")
        await renewed(clock, switched, 1)
        server.errors = [ServerUnavailable("nothing listens at fl:1")] * 1000
        await clock.elapse(1.5 * DAY)
        assert renewal.credential.chain_pem == switched[-1].chain_pem == kit.chain_pem
        server.errors.clear()
        await clock.elapse(3600)
        assert (await renewed(clock, switched, 3)).issued_at > NOW + timedelta(days=1)


async def test_when_nothing_is_valid_any_more_the_status_says_the_way_back(make, clock, server):
    server.errors = [ServerUnavailable("nothing listens at fl:1")] * 10_000
    async with running(make()) as renewal:
        await clock.elapse(89 * DAY)
        assert renewal.status.last_error == "nothing listens at fl:1"
        await clock.elapse(2 * DAY)
        assert "expired on 2026-05-30 12:00:00 UTC" in renewal.status.last_error
        assert "flprov invite create site-1" in renewal.status.last_error
        asked = len(server.keys)
        await clock.elapse(DAY)
        assert len(server.keys) == asked  # with what certificate?


async def test_each_renewal_is_in_the_sites_own_record(make, clock, switched, store):
    async with running(make()) as renewal:
        renewal.renew_now("because")
        issued = await renewed(clock, switched, 1)
    [row] = [log.row for log in store.rows() if log.row.what == "cert.renew"]
    assert row.data == {"serial": f"{issued.leaf.serial:x}"}


async def test_a_machine_that_slept_over_it_renews_soon_after_it_wakes(make, clock, switched):
    async with running(make()):
        await clock.elapse(1)
        clock.jump(45 * DAY)  # the wall clock went on while nothing ran
        await clock.elapse(3601)
        await renewed(clock, switched, 1)


async def test_a_site_whose_certificate_has_expired_does_not_start_and_says_the_way_back(make, clock):
    clock.advance(91 * DAY)
    with pytest.raises(KitRefused, match="expired on 2026-05-30 12:00:00 UTC") as caught:
        make()
    assert "flprov invite create site-1" in str(caught.value.hint)
