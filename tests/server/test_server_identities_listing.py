# SPDX-License-Identifier: Apache-2.0
"""What expires when: the list, the warnings in status, and one row of the log at each step."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from identity_parts import Parts, make_kits
from server_parties import site

from flprov.errors import LocalError
from flprov.rpc import methods as m
from flprov.server.identities.expiry import ExpiryWatch, say_days, steps
from flprov.wire import documents as doc

DAY = 86400.0


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    return make_kits(tmp_path_factory.mktemp("listing"))


@pytest.fixture
def parts(kits, tmp_path) -> Parts:
    return Parts(kits, tmp_path)


@contextlib.asynccontextmanager
async def watching(parts: Parts) -> AsyncIterator[ExpiryWatch]:
    """A watch that runs; its rows are in the store."""
    found = ExpiryWatch(parts.around)
    parts.around.changed = found.wake
    parts.around.book.listen(found.wake)
    task = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def watch(parts):
    async with watching(parts) as found:
        yield found


def told(parts: Parts, subject: str) -> list[str]:
    return [row.reason for row in parts.store.told("cert.expiring") if row.object == subject]


async def test_everything_that_can_expire_is_listed_what_ends_first_on_top(parts):
    await parts.comes("ada", "site-2")
    lines = await parts.certificates()
    assert set(lines) == {
        "root root",
        "ca servers CA",
        "ca sites CA",
        "ca people CA",
        "server server",
        *(f"site site-{n}" for n in (1, 2, 3)),
        *(f"person {name}" for name in ("ada", "leo", "lea", "olga", "mia", "milo", "obi")),
    }
    ends = [line.not_after for line in lines.values() if line.not_after]
    assert ends == sorted(ends)
    unseen = [name for name, line in lines.items() if line.state == "unseen"]
    assert unseen == ["site site-1", "site site-3"]
    assert {line.not_after for line in lines.values() if line.state == "unseen"} == {None}
    here = lines["site site-2"]
    leaf = parts.leaf("site-2")
    assert (here.serial, here.not_after, here.how) == (f"{leaf.serial:x}", leaf.not_after, "kit")
    assert here.renews_itself
    assert here.days_left == pytest.approx(89.0, abs=0.01)
    assert not lines["person ada"].renews_itself
    assert lines["root root"].how == "provision"


async def test_renewed_certificate_takes_the_place_of_the_older_one(parts):
    await parts.comes("site-2")
    parts.clock.advance(30 * DAY)
    newer = await parts.renew(site("site-2"))
    lines = await parts.certificates()
    assert (lines["site site-2"].serial, lines["site site-2"].how) == (f"{newer.serial:x}", "renewal")
    every = await parts.certificates(all=True)
    assert len(every) == len(lines)  # by name; the older one has the same
    found = await parts.call(m.LIST_CERTIFICATES, doc.CertificateListDocument, all=True)
    assert f"{parts.leaf('site-2').serial:x}" in {line.serial for line in found.certificates}


async def test_site_that_has_not_renewed_by_two_thirds_of_its_life_is_overdue(parts):
    await parts.comes("site-2")
    parts.clock.advance(58 * DAY)  # 59 since it was made
    assert (await parts.certificates())["site site-2"].state == "valid"
    parts.clock.advance(1.1 * DAY)
    line = (await parts.certificates())["site site-2"]
    assert line.state == "overdue"
    assert line.hint == "flprov site show site-2"
    assert [w.subject for w in parts.identities.warnings()] == ["server", "site-2"]


async def test_expired_site_is_told_the_way_back(parts):
    await parts.comes("site-2")
    parts.clock.advance(90 * DAY)
    line = (await parts.certificates())["site site-2"]
    assert line.state == "expired"
    assert "flprov invite create site-2" in line.hint


async def test_locked_and_revoked_are_marked_and_warn_of_nothing(parts):
    await parts.comes("site-2", "site-3")
    await parts.change(m.LOCK_SITE, "site-2", reason="look")
    await parts.revoke("site-3", comment="gone")
    parts.clock.advance(70 * DAY)
    lines = await parts.certificates()
    assert (lines["site site-2"].state, lines["site site-3"].state) == ("locked", "revoked")
    assert "look" in lines["site site-2"].reason
    assert "gone" in lines["site site-3"].reason
    assert {w.subject for w in parts.identities.warnings()} == {"server"}


async def test_person_warns_thirty_days_before_the_end_and_says_what_to_do(parts):
    await parts.comes("leo")
    end = parts.leaf("leo").not_after
    parts.clock.advance((end - timedelta(days=30, seconds=1) - parts.clock.now()).total_seconds())
    assert [w for w in parts.identities.warnings() if w.kind == "person"] == []
    parts.clock.advance(2)
    warning = next(w for w in parts.identities.warnings() if w.subject == "leo")
    assert warning.text == f"the certificate of person leo ends on {end:%Y-%m-%d %H:%M} UTC, in 30 days"
    assert "flprov provision" in warning.hint


async def test_each_step_is_one_row_also_over_a_restart(parts):
    await parts.comes("leo")
    end = parts.leaf("leo").not_after
    async with watching(parts):
        await parts.clock.elapse((end - timedelta(days=31) - parts.clock.now()).total_seconds())
        assert told(parts, "leo") == []
        for days, said in ((29.9, "30 days"), (13.9, "14 days"), (6.9, "7 days"), (0.99, "24 hours")):
            await parts.clock.elapse((end - timedelta(days=days) - parts.clock.now()).total_seconds())
            assert told(parts, "leo")[-1].endswith(f", in {said}")
        assert len(told(parts, "leo")) == 4
    async with watching(parts):
        await parts.clock.elapse(60)
        assert len(told(parts, "leo")) == 4
        await parts.clock.elapse(DAY)
        assert told(parts, "leo")[-1].endswith(f"expired on {end:%Y-%m-%d %H:%M} UTC")
        assert len(told(parts, "leo")) == 5


async def test_server_that_was_off_for_long_tells_the_last_step_once(parts):
    await parts.comes("leo")
    end = parts.leaf("leo").not_after
    parts.clock.advance((end - timedelta(days=3) - parts.clock.now()).total_seconds())
    async with watching(parts):
        await parts.clock.elapse(10)
    assert [reason[-9:] for reason in told(parts, "leo")] == ["in 3 days"]


async def test_overdue_renewal_is_a_row_and_a_renewal_ends_the_warning(parts, watch):
    await parts.comes("site-2")
    await parts.clock.elapse(60 * DAY)
    assert "should have been renewed" in told(parts, "site-2")[0]
    await parts.renew(site("site-2"))
    await parts.clock.elapse(DAY)
    assert [w.subject for w in parts.identities.warnings()] == ["server"]
    await parts.clock.elapse(60 * DAY)
    assert len(told(parts, "site-2")) == 2


async def test_unlocked_site_is_watched_again(parts, watch):
    await parts.comes("site-2")
    await parts.change(m.LOCK_SITE, "site-2")
    await parts.clock.elapse(60 * DAY)
    assert told(parts, "site-2") == []
    await parts.change(m.UNLOCK_SITE, "site-2")
    await parts.clock.elapse(2)
    assert len(told(parts, "site-2")) == 1


async def test_watch_sleeps_from_step_to_step(parts, watch):
    await parts.comes("leo")
    await parts.clock.elapse(5)
    looks = []
    load = parts.store.load
    parts.store.load = lambda kind: looks.append(kind) or load(kind)
    await parts.clock.elapse(50 * DAY)
    assert looks == []


async def test_row_that_could_not_be_written_is_written_later(parts, watch):
    await parts.comes("site-2")
    parts.store.full = True
    await parts.clock.elapse(60 * DAY)
    assert told(parts, "site-2") == []
    parts.store.full = False
    await parts.clock.elapse(120)
    assert len(told(parts, "site-2")) == 1


async def test_what_the_disk_did_not_give_is_looked_at_later(parts, watch):
    await parts.comes("site-2")
    await parts.clock.elapse(5)
    load = parts.store.load

    def refuse(kind):
        raise LocalError("store.db cannot be used: disk I/O error")

    parts.store.load = refuse
    parts.around.changed()
    await parts.clock.elapse(5)
    parts.store.load = load
    await parts.clock.elapse(60 * DAY)
    assert len(told(parts, "site-2")) == 1


async def test_short_lives_warn_in_their_last_third_only(parts):
    leaf = await parts.renew(site("site-2"), days=3)
    await parts.comes("leo")
    lines = await parts.certificates()
    assert steps(lines["site site-2"]) == [leaf.issued_at + timedelta(days=2), leaf.not_after]
    assert [w.subject for w in parts.identities.warnings()] == []


@pytest.mark.parametrize(
    ("days", "said"),
    [(30.2, "30 days"), (2, "2 days"), (1.0, "24 hours"), (0.05, "1 hour"), (0.01, "less than an hour")],
)
def test_days_are_said_so_that_nobody_reads_too_much_into_them(days, said):
    assert say_days(days) == said


async def test_kit_that_a_person_has_not_used_yet_is_known_from_the_provisioner(parts):
    entries = tuple(
        replace(
            entry,
            serial={"leo": "1e0", "mia": "5e71a1"}[entry.name],
            issued_at=parts.clock.now() - timedelta(hours=1),
            not_after=parts.clock.now() + timedelta(days=20),
        )
        if entry.name in ("leo", "mia")
        else replace(entry, serial="", issued_at=None, not_after=None)
        for entry in parts.kit.people
    )
    parts.kit = replace(parts.kit, people=entries)
    parts.restart()
    await parts.comes("leo")
    lines = await parts.certificates()
    mia, leo = lines["person mia"], lines["person leo"]
    assert (mia.serial, mia.days_left) == ("5e71a1", 20.0)
    assert leo.serial == f"{parts.leaf('leo').serial:x}"  # the one in use
    assert "a newer kit was made" in leo.reason
    assert lines["person obi"].state == "unseen"
    people = await parts.call(m.LIST_PEOPLE, doc.PersonListDocument)
    assert {one.name: one.state for one in people.people if one.name in ("leo", "mia")} == {
        "leo": "active",
        "mia": "unseen",
    }
    assert (await parts.revoke("5e71a1", reason="key-compromise")).serials == ("5e71a1",)
