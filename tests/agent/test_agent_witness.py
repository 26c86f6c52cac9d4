# SPDX-License-Identifier: Apache-2.0
"""The site remembers a row of the server's log, signs it, and notices when it is not so any more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agent_parties import NOW, Parties
from agent_rig import PATIENCE

from flprov.agent.witness import Witnessing
from flprov.errors import LocalError
from flprov.kits import current_credential, own_anchors
from flprov.pki import verify_signed
from flprov.store import MemoryStore
from flprov.testing.clock import FakeClock
from flprov.wire import pb, witness_bytes


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def digest(index: int) -> str:
    return f"{index:064x}"


class SlowStore(MemoryStore):
    """Its disk is full, or waits for the test."""

    full = False
    slow: asyncio.Event | None = None

    async def commit(self, *args: Any, **kwargs: Any) -> int:
        if self.full:
            raise LocalError("the disk is full")
        if self.slow is not None:
            await self.slow.wait()
        return await super().commit(*args, **kwargs)


class Site:
    """A witness and what it has sent."""

    def __init__(self, parties: Parties, store: SlowStore, clock: FakeClock) -> None:
        kit = parties.kit("site-1")
        self.kit = kit
        self.sent: asyncio.Queue[pb.Witness] = asyncio.Queue()
        self.witness = Witnessing(
            kit=kit,
            store=store,
            clock=clock,
            credential=lambda: current_credential(kit, anchors=own_anchors(kit), now=NOW),
            report=lambda message: self.sent.put_nowait(message.witness),
        )
        self.witness.load()

    async def hears(self, index: int, was: int = 0, said: str = "", **more: Any) -> pb.Witness:
        """The server says where its log ends, and what it has at row `was`; what the site answers."""
        said = said or (digest(was) if was else "")
        self.witness.take(
            pb.LogHead(
                index=index,
                digest=digest(index),
                witnessed_index=was,
                witnessed_digest=said.strip("-"),
                **more,
            )
        )
        async with asyncio.timeout(PATIENCE):
            return await self.sent.get()


@pytest.fixture
def store() -> SlowStore:
    return SlowStore(clock=FakeClock(NOW))


@pytest.fixture
def site(parties, store) -> Site:
    made = Site(parties, store, FakeClock(NOW))
    assert made.witness.begin() is None
    return made


async def test_head_is_kept_and_then_signed_with_the_sites_key(site, store):
    answer = await site.hears(7)
    payload = witness_bytes(site.kit.project_id, 7, digest(7), answer.at)
    anchors = own_anchors(site.kit)
    assert verify_signed(payload, answer.signature, answer.chain, anchors, now=NOW) == site.kit.identity
    assert store.head == 0  # no row: what others do is not this site's log
    assert site.witness.status.newest.index == 7


async def test_row_is_remembered_across_a_restart_and_told_in_hello(parties, site, store):
    answer = await site.hears(7)
    again = Site(parties, store, FakeClock(NOW))
    assert again.witness.begin() == answer
    await again.hears(9, was=7)
    assert again.witness.status.disputed == ()


async def test_log_that_grows_is_vouched_for_each_time(site):
    for index in range(1, 6):
        assert (await site.hears(index, was=index - 1)).index == index
    assert site.witness.status.newest.index == 5
    assert site.witness.disputed == []


@pytest.mark.parametrize(
    ("was", "said", "outcome", "found"),
    [
        (7, digest(99), "differs", digest(99)),
        (7, "-", "missing", ""),  # the log has no such row
        (0, "-", "missing", ""),  # it says nothing of the row that it was told
        (6, digest(6), "missing", ""),  # it speaks of another row
        (7, "rm -rf /", "missing", ""),
    ],
)
async def test_row_that_is_not_so_any_more_is_a_dispute(site, store, was, said, outcome, found):
    first = await site.hears(7)
    second = await site.hears(9, was=was, said=said)
    assert second.index == 9  # it goes on to vouch for what there is
    [dispute] = site.witness.status.disputed
    assert (dispute.index, dispute.digest, dispute.found) == (7, digest(7), found)
    assert site.witness.disputed == [first]  # told at each connect, signed
    [row] = store.rows()
    assert (row.row.what, row.row.outcome, row.row.data["index"]) == ("log.conflict", outcome, 7)


async def test_dispute_outlives_a_restart_and_carries_what_the_server_says_about_it(parties, site, store):
    await site.hears(7)
    await site.hears(3, was=7, said="-", remark="restored from a backup\x1b[31m")
    again = Site(parties, store, FakeClock(NOW))
    [dispute] = again.witness.status.disputed
    assert dispute.remark == "restored from a backup[31m"
    assert [found.index for found in again.witness.disputed] == [7]
    assert again.witness.begin().index == 3


async def test_disputes_are_bounded_and_the_first_ones_stay(site):
    await site.hears(1)
    for index in range(2, 40):
        await site.hears(index, was=index - 1, said=digest(1000))
    assert [dispute.index for dispute in site.witness.status.disputed] == list(range(1, 9))


@pytest.mark.parametrize(
    "head",
    [
        pb.LogHead(),
        pb.LogHead(index=3, digest="x" * 64),
        pb.LogHead(index=0, digest=digest(1)),
        pb.LogHead(index=3, digest=digest(3).upper() + "A"),
    ],
)
async def test_site_signs_nothing_that_is_no_row(site, store, head, caplog):
    site.witness.take(head)
    await site.hears(1)
    assert site.sent.empty()
    assert site.witness.status.newest.index == 1


async def test_what_could_not_be_kept_is_not_vouched_for(site, store, caplog):
    store.full = True
    site.witness.take(pb.LogHead(index=1, digest=digest(1)))
    await settle()
    assert site.sent.empty()
    assert "was not vouched for" in caplog.text
    store.full = False
    await site.hears(2)


async def test_head_of_an_earlier_session_raises_no_dispute(site, store):
    """The connection breaks while the answer is being written: Hello names the row before it."""
    await site.hears(5)
    store.slow = asyncio.Event()
    site.witness.take(pb.LogHead(index=6, digest=digest(6), witnessed_index=5, witnessed_digest=digest(5)))
    await settle()
    assert site.witness.begin().index == 5
    store.slow.set()
    await site.hears(7, was=5)  # the Welcome that answers that Hello
    assert site.witness.status.disputed == ()
