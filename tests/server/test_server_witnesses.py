# SPDX-License-Identifier: Apache-2.0
"""Sites vouch for rows of the log; a log that is not any more what they saw is found out."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from server_fakes import PATIENCE
from server_parties import site

from flprov._base import to_iso
from flprov.errors import LocalError, StateDamaged
from flprov.pki import sign
from flprov.server.log import ServerLog, receipts, witnesses
from flprov.server.log.witnesses import SPACING
from flprov.store import Row
from flprov.wire import pb, witness_bytes

ROW = Row(who="server", what="job.start", object="0job")


def vouch(kit, index, digest, *, at, project_id=""):
    """What the agent of this kit would send."""
    text = to_iso(at)
    payload = witness_bytes(project_id or kit.project_id, index, digest, text)
    return pb.Witness(
        index=index, digest=digest, at=text, signature=sign(kit.private_pem, payload), chain=kit.chain_pem
    )


@pytest.fixture
def log(network) -> ServerLog:
    return network.log


@pytest.fixture
async def asking(log, world):
    """The server asks its sites, as it does once it runs."""
    task = asyncio.create_task(log.witnesses.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def kept(log, name, index):
    """Wait until the receipt of a site is on disk."""
    async with asyncio.timeout(PATIENCE):
        while not any((r.site, r.index) == (name, index) for r in log.witnesses.document().receipts):
            await asyncio.sleep(0)


async def conflicts(world, count=1):
    async with asyncio.timeout(PATIENCE):
        while len(found := world.store.told("log.conflict")) < count:
            await asyncio.sleep(0)
    return found


def forge(world, index):
    """Rewrite the log from a row on, as somebody on the server's machine could: with its whole chain."""
    rows = [entry.row for entry in world.store.rows(index)]
    del world.store._log[index - 1 :]
    return [replace(row, reason="rewritten") for row in rows]


async def write(world, rows):
    for row in rows:
        await world.store.commit([], row)


async def test_welcome_has_the_end_of_the_log_and_the_answer_is_kept(dial, log, world, early_kit):
    one = dial()
    welcome = await one.open()
    head = world.store.rows(welcome.head.index)[0]
    assert (welcome.head.digest, welcome.head.witnessed_index) == (head.digest, 0)
    one.say(witness=vouch(early_kit("site-1"), head.index, head.digest, at=world.clock.now()))
    await kept(log, "site-1", head.index)
    [receipt] = log.witnesses.document().receipts
    assert (receipt.identity, receipt.digest) == (site("site-1").uri, head.digest)
    again = ServerLog(  # it survives a restart
        clock=world.clock,
        store=world.store,
        registry=world.registry,
        sessions=world.sessions,
        project_id="p",
        anchors=log.witnesses._anchors,
    )
    again.load()
    assert again.witnesses.document().receipts == (receipt,)


async def test_heads_are_pushed_one_at_a_time_and_not_for_each_row(dial, log, world, early_kit, asking):
    kit, one = early_kit("site-1"), dial()
    welcome = await one.open()
    await write(world, [ROW] * 50)
    one.say(witness=vouch(kit, welcome.head.index, welcome.head.digest, at=world.clock.now()))
    await kept(log, "site-1", welcome.head.index)
    await world.clock.elapse(SPACING)
    first = await one.hears("head")
    assert (first.witnessed_index, first.witnessed_digest) == (welcome.head.index, welcome.head.digest)
    await write(world, [ROW] * 50)
    await world.clock.elapse(SPACING * 3)  # it has not answered: nothing more is sent
    one.say(witness=vouch(kit, first.index, first.digest, at=world.clock.now()))
    second = await one.hears("head")  # at once: it is behind
    assert second.index == world.store.head
    assert second.witnessed_index == first.index
    one.say(witness=vouch(kit, second.index, second.digest, at=world.clock.now()))
    await kept(log, "site-1", second.index)
    await world.clock.elapse(SPACING * 3)  # what was signed is no row, and so asks for no more
    await write(world, [ROW])
    await world.clock.elapse(SPACING)
    assert (await one.hears("head")).index == second.index + 1


async def test_spacing_holds_however_fast_the_site_is(dial, log, world, early_kit, asking):
    kit, one = early_kit("site-1"), dial()
    head = (await one.open()).head
    heads = []

    async def answer() -> None:
        nonlocal head
        while True:
            one.say(witness=vouch(kit, head.index, head.digest, at=world.clock.now()))
            head = await one.hears("head")
            heads.append(head.index)

    answering = asyncio.create_task(answer())
    for _ in range(50):
        await write(world, [ROW])
        await world.clock.elapse(SPACING / 10)
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    assert 4 <= len(heads) <= 5  # five spacings passed, and fifty rows
    assert heads == sorted(set(heads))


async def test_of_many_sites_each_is_asked_in_its_turn(dial, log, world, early_kit, monkeypatch):
    lines = {name: dial(name) for name in ("site-1", "site-2")}

    async def answers(name, head):
        lines[name].say(witness=vouch(early_kit(name), head.index, head.digest, at=world.clock.now()))
        await kept(log, name, head.index)

    for name, line in lines.items():
        await answers(name, (await line.open()).head)
    monkeypatch.setattr(witnesses, "AT_ONCE", 1)
    running = asyncio.create_task(log.witnesses.run())
    hearing = {name: asyncio.create_task(line.hears("head")) for name, line in lines.items()}
    asked = []
    for _ in range(4):
        await asyncio.wait(hearing.values(), return_when=asyncio.FIRST_COMPLETED)
        [name] = [name for name, task in hearing.items() if task.done()]
        asked.append(name)
        await answers(name, hearing[name].result())
        hearing[name] = asyncio.create_task(lines[name].hears("head"))
        await write(world, [ROW])
        await world.clock.elapse(SPACING)
    for task in (running, *hearing.values()):
        task.cancel()
    await asyncio.gather(running, *hearing.values(), return_exceptions=True)
    assert asked == ["site-1", "site-2", "site-1", "site-2"]


async def test_one_of_many_that_come_back_signs_later(dial, log, world, early_kit, monkeypatch):
    one, two = dial("site-1"), dial("site-2")
    head = (await one.open()).head
    said = vouch(early_kit("site-1"), head.index, head.digest, at=world.clock.now())
    one.say(witness=said)
    await kept(log, "site-1", head.index)
    await two.open()
    monkeypatch.setattr(witnesses, "AT_ONCE", 1)
    again = dial("site-1")
    head = (await again.open(witness=said)).head
    assert (
        (head.index, head.digest)
        == (head.witnessed_index, head.witnessed_digest)
        == (said.index, said.digest)
    )
    running = asyncio.create_task(log.witnesses.run())
    assert (await again.hears("head")).index > said.index
    running.cancel()


async def test_one_of_many_whose_row_is_not_as_it_was_is_told_at_once(
    dial, log, world, early_kit, monkeypatch
):
    await write(world, [ROW] * 10)
    row = world.store.rows(10)[0]
    said = vouch(early_kit("site-1"), row.index, row.digest, at=world.clock.now())
    await write(world, forge(world, 7))
    await dial("site-2").open()
    monkeypatch.setattr(witnesses, "AT_ONCE", 1)
    head = (await dial("site-1").open(witness=said)).head
    assert head.index == world.store.head
    assert head.witnessed_digest not in ("", row.digest)


async def test_receipt_that_comes_back_with_its_site_is_not_verified_again(
    dial,
    log,
    world,
    early_kit,
    monkeypatch,
):
    one = dial()
    head = (await one.open()).head
    said = vouch(early_kit("site-1"), head.index, head.digest, at=world.clock.now())
    one.say(witness=said)
    await kept(log, "site-1", head.index)
    await one.close()
    verified = []
    monkeypatch.setattr(
        witnesses, "verify_receipt", lambda *a, **k: verified.append(a) or receipts.verify_receipt(*a, **k)
    )
    assert (await dial().open(witness=said)).head.witnessed_index == head.index
    assert verified == []


async def test_lie_about_a_receipt_is_verified_all_the_same(dial, log, world, early_kit):
    one = dial()
    head = (await one.open()).head
    said = vouch(early_kit("site-1"), head.index, head.digest, at=world.clock.now())
    one.say(witness=said)
    await kept(log, "site-1", head.index)
    await one.close()
    said.signature = said.signature[:-1] + bytes([said.signature[-1] ^ 1])
    assert (await dial().open(witness=said)).head.witnessed_index == head.index
    assert log.refused()[0].who == site("site-1").uri


async def test_site_whose_log_was_rewritten_meanwhile_gives_it_away(dial, log, world, early_kit):
    """The server was stopped, its rows changed and chained anew, and started again."""
    await write(world, [ROW] * 10)
    row = world.store.rows(10)[0]
    seen = vouch(early_kit("site-1"), row.index, row.digest, at=world.clock.now())
    await write(world, forge(world, 7))
    one = dial()
    welcome = await one.open(witness=seen)
    assert welcome.head.witnessed_index == 10
    assert welcome.head.witnessed_digest not in ("", row.digest)
    [told] = await conflicts(world)
    assert (told.who, told.object, told.outcome) == (site("site-1").uri, "site-1", "differs")
    assert told.data["index"] == 10
    assert told.data["vouched"] == row.digest
    [warning] = log.warnings()
    assert "site site-1 vouched for row 10" in warning.text
    assert "rewritten" in warning.text
    assert (warning.site, warning.hint) == ("site-1", "flprov audit verify")


async def test_cut_off_tail_is_given_away_and_said_once(dial, log, world, early_kit):
    await write(world, [ROW] * 100)
    row = world.store.rows(100)[0]
    seen = vouch(early_kit("site-1"), 100, row.digest, at=world.clock.now())
    del world.store._log[6:]
    for _ in range(3):
        one = dial()
        welcome = await one.open(witness=seen, disputed=[seen])
        assert welcome.head.witnessed_digest == ""
        await one.close()
    [told] = await conflicts(world)
    assert (told.outcome, told.data["found"]) == ("missing", "")
    [dispute] = log.witnesses.document().disputes
    assert dispute.receipt.index == 100


async def test_log_that_was_restored_from_a_backup_is_told_apart_in_words(dial, log, world, early_kit):
    await write(world, [ROW] * 10)
    row = world.store.rows(10)[0]
    seen = vouch(early_kit("site-1"), 10, row.digest, at=world.clock.now())
    del world.store._log[6:]
    await write(world, [Row(who="server", what="server.restore", object="server"), *[ROW] * 10])
    one = dial()
    welcome = await one.open(witness=seen)
    assert welcome.head.remark.startswith("row 7 says that the server was restored from a backup on 2026")
    [told] = await conflicts(world)
    assert "restored from a backup" in told.reason
    assert len(log.warnings()) == 1
    world.clock.advance(timedelta(days=8).total_seconds())
    assert log.warnings() == ()  # everybody knows by then; the audit says it for ever


async def test_row_that_cannot_be_read_any_more_is_a_conflict_and_keeps_no_site_out(
    dial, log, world, early_kit
):
    kit, one = early_kit("site-1"), dial()
    head = (await one.open()).head
    mine = vouch(kit, head.index, head.digest, at=world.clock.now())
    one.say(witness=mine)
    await kept(log, "site-1", head.index)
    await one.close()
    rows = world.store.rows

    def damaged(start=1, limit=1000):
        if (start, limit) == (head.index, 1):
            raise StateDamaged(f"store.db is damaged: row {start} of the log cannot be read")
        return rows(start, limit)

    world.store.rows = damaged
    await dial().open(witness=mine)
    [dispute] = log.witnesses.document().disputes
    assert (dispute.receipt.index, dispute.found) == (head.index, "")


async def test_restore_does_not_excuse_rows_from_before_it(dial, world, early_kit):
    await write(world, [ROW] * 10)
    row = world.store.rows(5)[0]
    seen = vouch(early_kit("site-1"), 5, row.digest, at=world.clock.now())
    await write(world, [*forge(world, 4), Row(who="server", what="server.restore", object="server")])
    one = dial()
    welcome = await one.open(witness=seen)
    assert welcome.head.remark == ""
    assert "rewritten" in (await conflicts(world))[0].reason


def other_site(kit, row, now):
    return vouch(kit("site-2"), row.index, row.digest, at=now)


def other_project(kit, row, now):
    return vouch(kit("site-1"), row.index, row.digest, at=now, project_id="another")


def changed_digest(kit, row, now):
    found = vouch(kit("site-1"), row.index, row.digest, at=now)
    found.digest = "ab" * 32
    return found


def person(kit, row, now):
    return vouch(kit("leo"), row.index, row.digest, at=now)


def expired(kit, row, now):
    return vouch(kit("site-1"), row.index, row.digest, at=now + timedelta(days=400))


def nonsense(_kit, _row, _now):
    return pb.Witness(index=1 << 63, digest="x" * 100, at="yesterday", signature=b"0", chain=b"PEM")


@pytest.mark.parametrize(
    "villain",
    [other_site, other_project, changed_digest, person, expired, nonsense],
    ids=lambda v: v.__name__,
)
async def test_what_is_no_receipt_of_this_site_is_refused_and_recorded(dial, log, world, early_kit, villain):
    one = dial()
    await one.open()
    row = world.store.rows(1)[0]
    one.say(witness=villain(early_kit, row, world.clock.now()))
    one.beat()
    async with asyncio.timeout(PATIENCE):
        while not (denied := world.store.told("call")):
            await asyncio.sleep(0)
    assert (denied[0].who, denied[0].outcome) == (site("site-1").uri, "denied")
    assert log.witnesses.document().receipts == ()
    assert "site-1" in world.sessions  # a site with a wrong clock is not thrown out for it


async def test_site_can_make_up_only_so_many_disputes(dial, log, world, early_kit):
    one = dial()
    made_up = [
        vouch(early_kit("site-1"), 1, f"{number:064x}", at=world.clock.now()) for number in range(1, 200)
    ]
    await one.open(disputed=made_up)
    assert len(log.witnesses.document().disputes) == 20
    assert len(world.store.told("log.conflict")) == 20


async def test_receipt_is_stored_although_the_disk_was_full_before(dial, log, world, early_kit, asking):
    kit, one = early_kit("site-1"), dial()
    head = (await one.open()).head
    world.store.full = True
    one.say(witness=vouch(kit, head.index, head.digest, at=world.clock.now()))
    one.beat()
    await world.clock.elapse(1)
    assert log.witnesses.document().receipts == ()
    world.store.full = False
    await write(world, [ROW])
    await world.clock.elapse(SPACING)
    head = await one.hears("head")
    one.say(witness=vouch(kit, head.index, head.digest, at=world.clock.now()))
    await kept(log, "site-1", head.index)


async def test_sites_are_asked_although_the_disk_gave_no_row_before(dial, log, world, early_kit, asking):
    kit, one = early_kit("site-1"), dial()
    head = (await one.open()).head
    one.say(witness=vouch(kit, head.index, head.digest, at=world.clock.now()))
    await kept(log, "site-1", head.index)
    rows = world.store.rows

    def refuse(start=1, limit=1000):
        raise LocalError("store.db cannot be used: disk I/O error")

    world.store.rows = refuse
    await write(world, [ROW])
    await world.clock.elapse(SPACING)
    world.store.rows = rows
    await write(world, [ROW])
    await world.clock.elapse(SPACING)
    assert (await one.hears("head")).index == world.store.head


async def test_flapping_site_leaves_some_rows_and_a_count(dial, world):
    for _ in range(40):
        one = dial()
        await one.open()
        await one.close()
    async with asyncio.timeout(PATIENCE):
        while "site-1" in world.sessions:
            await asyncio.sleep(0)
    assert len(world.store.told("site.connect")) == 5
    await world.clock.elapse(60)
    *_, rest = world.store.told("site.connect")
    assert rest.data["more"] == 35
    assert rest.reason.startswith("and 35 more times within a minute")
    *_, gone = world.store.told("site.disconnect")
    assert gone.data["more"] == 35
    assert world.store.rows(limit=1000)[-1].row.what == "site.disconnect"  # as it was left
