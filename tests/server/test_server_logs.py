# SPDX-License-Identifier: Apache-2.0
"""Logs grow from the sites' streams: gaps are asked for again, what came twice stands once."""

from __future__ import annotations

import asyncio
import time

import pytest

from flprov.server import logs as module
from flprov.server.logs import LogBook


@pytest.fixture
def book(tmp_path) -> LogBook:
    return LogBook(tmp_path)


def content(book, party="site-1"):
    return book.path("job", party).read_bytes()


async def read(book, *parties, offset=0, live=False):
    found = dict.fromkeys(parties, b"")
    async with asyncio.timeout(10):
        async for part in book.follow("job", dict.fromkeys(parties, offset), live=live):
            found[part.party] += part.data
    return found


# What a site sends at which offset -> what the server wants next, and what is in the file.
SENT = {
    "in order": ([(0, b"ab"), (2, b"cd")], [2, 4], b"abcd"),
    "the same twice": ([(0, b"ab"), (0, b"ab")], [2, 2], b"ab"),
    "overlapping": ([(0, b"abc"), (1, b"bcde")], [3, 5], b"abcde"),
    "a gap is not written": ([(0, b"ab"), (5, b"xy"), (2, b"cd")], [2, 2, 4], b"abcd"),
    "older than all": ([(0, b"abcd"), (1, b"b")], [4, 4], b"abcd"),
    "nothing": ([(0, b"")], [0], None),
    "beyond any file": ([(0, b"a"), (2**64 - 1, b"z")], [1, 1], b"a"),
    "other bytes for what is here": ([(0, b"abc"), (0, b"XYZd")], [3, 4], b"abcd"),
}


@pytest.mark.parametrize("case", SENT)
def test_bytes_find_their_place(book, case):
    messages, wanted, whole = SENT[case]
    assert [book.append("job", "site-1", offset, data) for offset, data in messages] == wanted
    assert (content(book) if whole is not None else None) == whole


def test_parties_and_jobs_are_apart(book):
    book.append("job", "site-1", 0, b"one")
    book.append("job", "site-2", 0, b"two")
    book.append("other", "site-1", 0, b"three")
    assert (content(book), content(book, "site-2")) == (b"one", b"two")
    assert book.size("other", "site-1") == 5


async def test_of_a_log_that_outgrows_its_limit_the_newest_is_kept(book, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 80)
    for number in range(30):
        assert book.append("job", "site-1", 10 * number, b"line %03d.\n" % number) == 10 * number + 10
    start = book.start("job", "site-1")
    assert 220 <= start < 300
    assert book.size("job", "site-1") == 300
    parts = [part async for part in book.follow("job", {"site-1": 0}, live=False)]
    assert parts[0].offset == start
    assert b"".join(part.data for part in parts).endswith(b"line 028.\nline 029.\n")


def test_what_a_site_has_dropped_is_not_waited_for(book):
    book.append("job", "site-1", 0, b"abc")
    assert book.append("job", "site-1", 10, b"xyz") == 3
    assert book.append("job", "site-1", 10, b"xyz", first=10) == 13
    assert book.append("job", "site-1", 0, b"", first=2**64 - 1) == 13


async def test_the_last_lines_are_found_over_segments(book, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 80)
    for number in range(8):
        book.append("job", "site-1", 4 * number, b"ab%d\n" % number)
    for lines, offset in ((1, 28), (2, 24), (7, 4), (8, 0), (100, 0)):
        assert await book.tail("job", "site-1", lines) == offset
    book.append("job", "site-1", 32, b"half a line")
    assert await book.tail("job", "site-1", 2) == 28
    assert await book.tail("job", "site-2", 2) == 0


async def test_all_parties_are_read_from_an_offset_in_order_of_their_names(book):
    book.append("job", "site-2", 0, b"second")
    book.append("job", "site-1", 0, b"first")
    assert await read(book, "site-1", "site-2", "server", offset=2) == {
        "site-1": b"rst",
        "site-2": b"cond",
        "server": b"",
    }


@pytest.mark.parametrize("offset", [5, 6, 2**63 - 1, 2**63, 2**64 - 1])
async def test_nothing_comes_from_behind_the_end(book, offset):
    book.append("job", "site-1", 0, b"first")
    assert await read(book, "site-1", offset=offset) == {"site-1": b""}


async def test_large_log_comes_in_pieces_that_say_where_they_belong(book, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 4)
    book.append("job", "site-1", 0, b"0123456789")
    parts = [(part.offset, part.data) async for part in book.follow("job", {"site-1": 0}, live=False)]
    assert parts == [(0, b"0123"), (4, b"4567"), (8, b"89")]


async def test_follower_sees_what_is_added_until_the_job_ends(book):
    book.append("job", "site-1", 0, b"a")
    reader = book.follow("job", {"site-1": 0, "site-2": 0}, live=True)
    assert (await anext(reader)).data == b"a"
    for party, data in (("site-1", b"b"), ("site-2", b"c"), ("site-1", b"d")):
        waiting = asyncio.create_task(anext(reader))
        await asyncio.sleep(0)
        book.append("job", party, book.size("job", party), data)
        book.tell("job")
        async with asyncio.timeout(10):
            part = await waiting
        assert (part.party, part.data) == (party, data)
    ending = asyncio.create_task(anext(reader, None))
    await asyncio.sleep(0)
    book.tell("job", ended=True)
    assert await ending is None


async def test_growth_while_a_reader_is_busy_is_not_missed(book):
    """The reader stands still at the second log; what the first grows meanwhile wakes nobody, and is read."""
    book.append("job", "site-1", 0, b"a")
    book.append("job", "site-2", 0, b"b")
    reader = book.follow("job", {"site-1": 0, "site-2": 0}, live=True)
    await anext(reader)
    await anext(reader)
    book.append("job", "site-1", 1, b"A")
    book.tell("job")
    async with asyncio.timeout(10):
        assert (await anext(reader)).data == b"A"


async def test_last_bytes_before_the_end_are_read(book):
    book.append("job", "site-1", 0, b"a")
    reader = book.follow("job", {"site-1": 0}, live=True)
    await anext(reader)
    book.append("job", "site-1", 1, b"last words")
    book.tell("job", ended=True)
    assert [part.data async for part in reader] == [b"last words"]


async def test_following_a_job_that_has_ended_returns(book):
    book.append("job", "site-1", 0, b"a")
    book.tell("job", ended=True)
    assert await read(book, "site-1", live=True) == {"site-1": b"a"}
    assert await read(book, "site-1", live=True) == {"site-1": b"a"}


async def test_workflows_own_log_is_read_where_its_process_writes_it(book, tmp_path):
    path = tmp_path / "job" / "workflow" / "log"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"round 0\n")
    assert await read(book, "server") == {"server": b"round 0\n"}


async def test_log_that_is_missing_is_empty(book):
    assert await read(book, "site-1", "server") == {"site-1": b"", "server": b""}
    assert book.size("job", "site-1") == 0


async def test_a_thread_that_appends_wakes_nobody_by_itself(book, monkeypatch):
    """An event of the loop is not a thread's to set: who follows may never wake."""
    told: list[str] = []
    monkeypatch.setattr(book, "tell", told.append)
    assert await asyncio.to_thread(book.append, "job", "site-1", 0, b"a") == 1
    assert told == []


async def test_the_same_bytes_over_two_streams_at_once_stand_once(book, monkeypatch):
    """The disk is slow, and the site connects anew and sends again."""

    class SlowDisk(module.LogSegments):
        def skip_to(self, offset):
            time.sleep(0.05)
            super().skip_to(offset)

    monkeypatch.setattr(module, "LogSegments", SlowDisk)
    twice = (asyncio.to_thread(book.append, "job", "site-1", 0, b"line\n") for _ in range(2))
    assert await asyncio.gather(*twice) == [5, 5]
    assert content(book) == b"line\n"
