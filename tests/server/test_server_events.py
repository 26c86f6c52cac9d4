# SPDX-License-Identifier: Apache-2.0
"""Events as they come, rows of the audit, the whole log: who sees what, from where, and until when."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from server_fakes import PATIENCE
from server_parties import ADA, LEO, MIA, OBI, OLGA, site

from flprov._base import from_document, parse_json, to_iso
from flprov.errors import Misuse, PermissionRefused
from flprov.rpc import methods as m
from flprov.server.log.logservice import RIGHTS, WORK
from flprov.store import Row, read_line
from flprov.wire import documents as doc
from flprov.wire import pb

ROW = Row(who=LEO.uri, what="job.submit", object="0job")
ROWS = (
    ROW,
    Row(who=site("site-1").uri, what="site.connect", object="site-1"),
    Row(who=site("site-2").uri, what="site.connect", object="site-2"),
    Row(who=OBI.uri, what="call", object="/flprov.v1.Admin/AbortJob", outcome="denied", reason="no"),
    Row(who=ADA.uri, what="site.lock", object="site-2", reason="stolen"),
    Row(who="server", what="cert.expiring", object="site-1"),
    Row(who=ADA.uri, what="user.remove", object=MIA.uri),
    replace(ROW, what="job.abort", outcome="aborting", reason="enough"),
)


@pytest.fixture
async def log(world) -> int:
    """The rows above; the index before the first of them."""
    before = world.store.head
    for row in ROWS:
        await world.store.commit([], row)
    return before


class Reader:
    """One caller's reading."""

    def __init__(self, network, caller) -> None:
        self._connection = network.connect(caller)

    async def pages(self, method: m.Method, **words: Any) -> AsyncIterator[Any]:
        kind = doc.EventListDocument if method is m.WATCH_EVENTS else doc.AuditListDocument
        replies = self._connection.download(method, pb.EventsRequest(**words))
        async with contextlib.aclosing(replies):
            async for reply in replies:
                yield from_document(kind, parse_json(reply.json))

    async def events(self, **words: Any) -> list[str]:
        pages = [page async for page in self.pages(m.WATCH_EVENTS, **words)]
        return [event.what for page in pages for event in page.events]

    async def audit(self, **words: Any) -> list[doc.AuditRowDocument]:
        pages = [page async for page in self.pages(m.READ_AUDIT, **words)]
        return [row for page in pages for row in page.rows]

    async def close(self) -> None:
        await self._connection.close()


@pytest.fixture
async def reader(network) -> AsyncIterator[Any]:
    made: list[Reader] = []

    def make(caller) -> Reader:
        made.append(Reader(network, caller))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def test_everybody_but_observers_sees_jobs_and_sites(reader, log):
    seen = ["job.submit", "site.connect", "site.connect", "site.lock", "job.abort"]
    for caller in (LEO, MIA, OLGA):
        assert await reader(caller).events(start=log + 1) == seen
    rights = [*seen[:-1], "cert.expiring", "user.remove", "job.abort"]
    assert await reader(ADA).events(start=log + 1) == rights
    with pytest.raises(PermissionRefused):
        await reader(OBI).events(start=1)


async def test_audit_is_all_of_it_or_an_organisations_own(reader, log):
    rows = await reader(ADA).audit(start=log + 1)
    assert [row.what for row in rows] == [row.what for row in ROWS]
    assert rows[1].previous == rows[0].digest
    mine = await reader(OLGA).audit(start=log + 1)  # of org-b: site-2, obi
    assert [(row.what, row.object) for row in mine] == [
        ("site.connect", "site-2"),
        ("call", "/flprov.v1.Admin/AbortJob"),
        ("site.lock", "site-2"),
    ]
    for caller in (LEO, MIA):
        with pytest.raises(PermissionRefused):
            await reader(caller).audit(start=1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"what": "job."}, ["job.submit", "job.abort"]),
        ({"what": "job.abort"}, ["job.abort"]),
        ({"object": "site-2"}, ["site.connect", "site.lock"]),
        ({"who": "ada"}, ["site.lock", "user.remove"]),
        ({"who": LEO.uri}, ["job.submit", "job.abort"]),
        ({"outcome": "aborting"}, ["job.abort"]),
        ({"what": "call"}, []),
        ({"who": "nobody"}, []),
        ({"limit": 2}, ["job.submit", "site.connect"]),
        ({"limit": 1, "what": "site.lock"}, ["site.lock"]),
    ],
)
async def test_events_are_filtered(reader, log, words, expected):
    assert await reader(ADA).events(start=log + 1, **words) == expected


async def test_newest_come_in_their_order(reader, log):
    assert await reader(LEO).events(last=2) == ["site.lock", "job.abort"]
    assert await reader(LEO).events(last=1, what="site.") == ["site.lock"]
    assert len(await reader(LEO).events(last=1000)) >= 5
    assert await reader(LEO).events() == []


async def test_many_rows_come_in_pages_that_follow_each_other(reader, world):
    await asyncio.gather(*(world.store.commit([], replace(ROW, object=str(n))) for n in range(950)))
    pages = [page async for page in reader(LEO).pages(m.WATCH_EVENTS, start=1, what="job.submit")]
    assert [len(page.events) for page in pages] == [200, 200, 200, 200, 150]
    assert [page.events[0].index for page in pages[1:]] == [page.next for page in pages[:-1]]
    assert [event.object for page in pages for event in page.events] == [str(n) for n in range(950)]


async def test_follower_hears_each_event_once_as_it_is_written(reader, world, log):
    pages = reader(LEO).pages(m.WATCH_EVENTS, last=1, follow=True, what="job.")
    async with contextlib.aclosing(pages), asyncio.timeout(PATIENCE):
        assert [event.what for event in (await anext(pages)).events] == ["job.abort"]
        heard: list[str] = []
        for number in range(30):
            await world.store.commit([], replace(ROW, object=str(number)))
            await world.store.commit([], replace(ROW, what="site.connect"))  # not asked for
        while len(heard) < 30:
            heard += [event.object for event in (await anext(pages)).events]
        assert heard == [str(number) for number in range(30)]


async def test_follower_goes_on_from_an_index_without_gap_or_repetition(reader, world, log):
    """As the command does when the server was away: the index comes from the page before."""
    found, start = [], log + 1
    for _ in range(3):
        pages = reader(LEO).pages(m.WATCH_EVENTS, start=start, follow=True)
        async with contextlib.aclosing(pages), asyncio.timeout(PATIENCE):
            page = await anext(pages)
            found += [event.index for event in page.events]
            start = page.next
        await world.store.commit([], ROW)
    expected = [row.index for row in world.store.rows(log + 1) if row.row.what.partition(".")[0] in WORK]
    assert found == expected[:-1]


async def test_hundred_followers_hear_a_burst(reader, world):
    start = world.store.head + 1

    async def follow() -> int:
        heard = 0
        pages = reader(LEO).pages(m.WATCH_EVENTS, start=start, follow=True)
        async with contextlib.aclosing(pages):
            while heard < 200:
                heard += len((await anext(pages)).events)
        return heard

    following = [asyncio.create_task(follow()) for _ in range(100)]
    await asyncio.gather(*(world.store.commit([], ROW) for _ in range(200)))
    async with asyncio.timeout(30):
        assert await asyncio.gather(*following) == [200] * 100


@pytest.mark.parametrize(
    "words", [{"since": "yesterday"}, {"until": "2026-13-01"}, {"since": "2026-01-01"}, {"who": "x" * 301}]
)
async def test_nonsense_is_misuse(reader, words):
    with pytest.raises(Misuse):
        await reader(ADA).audit(**words)


async def test_rows_of_a_time(reader, world, log):
    world.clock.advance(60)
    moment = to_iso(world.clock.now())
    await world.store.commit([], replace(ROW, what="job.end"))
    assert [row.what for row in await reader(ADA).audit(start=1, since=moment)] == ["job.end"]
    assert "job.end" not in [row.what for row in await reader(ADA).audit(start=1, until=moment)]


async def test_export_is_every_row_as_it_is_kept_and_for_project_admins_alone(network, world, log):
    for caller in (ADA, OLGA, LEO):
        connection = network.connect(caller)
        replies = connection.download(m.EXPORT_LOG, pb.EventsRequest(start=3))
        if caller is not ADA:
            with pytest.raises(PermissionRefused):
                await anext(replies)
        else:
            data = b"".join([chunk async for chunk in replies])
            assert [read_line(line) for line in data.splitlines()] == world.store.rows(3)
        await connection.close()


async def test_rows_that_are_too_large_for_one_message_come_in_several(network, reader, world):
    """A row's text is bounded where it is written, but two hundred of them need not fit."""
    start = world.store.head + 1
    for number in range(40):
        await world.store.commit([], replace(ROW, object=str(number), reason="x" * 300_000))
    pages = [page async for page in reader(LEO).pages(m.WATCH_EVENTS, start=start)]
    assert [event.object for page in pages for event in page.events] == [str(n) for n in range(40)]
    assert len(pages) > 10
    for page, following in itertools.pairwise(pages):
        assert page.next == following.events[0].index
    connection = network.connect(ADA)
    chunks = [chunk async for chunk in connection.download(m.EXPORT_LOG, pb.EventsRequest(start=start))]
    assert max(map(len, chunks)) <= 1 << 20
    assert [read_line(line) for line in b"".join(chunks).splitlines()] == world.store.rows(start)
    await connection.close()


def test_every_verb_of_the_source_is_in_a_view():
    """A new one that nobody has placed would be in no list of events."""
    source = Path(m.__file__).parents[1] / "server"
    texts = [path.read_text() for path in source.rglob("*.py")]
    verbs = {verb for text in texts for verb in re.findall(r'what="([a-z]+)\.[a-z_]+"', text)}
    assert verbs - {"call"} <= {*WORK, *RIGHTS}
