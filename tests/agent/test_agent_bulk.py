# SPDX-License-Identifier: Apache-2.0
"""Blobs both ways over lines that break: resumed at the missing byte, verified, given up on demand."""

from __future__ import annotations

import asyncio

import pytest
from agent_parties import NOW
from agent_rig import PATIENCE, FakeServer

from flprov.agent.bulk import Bulk
from flprov.agent.pace import LEAST, Pace
from flprov.agent.underway import Asking
from flprov.blobs import BlobStore, digest_of
from flprov.errors import NotFound, ProtocolError, ServerUnavailable
from flprov.rpc import methods as m
from flprov.testing.clock import FakeClock
from flprov.wire import pb

DATA = bytes(range(256)) * 40


@pytest.fixture
async def server(tmp_path):
    made = FakeServer(tmp_path / "server")
    made.chunk = 1000
    yield made
    await made.network.stop()


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def clock():
    return FakeClock(start=NOW)


@pytest.fixture
async def bulk(server, blobs, clock):
    made = Bulk(server.connect, blobs, clock)
    async with asyncio.timeout(PATIENCE):
        yield made
    await made.close()


async def through_trouble(work, clock: FakeClock, breaks: int):
    """Let `work` go on after each of so many waits."""
    task = asyncio.create_task(work)
    for _ in range(breaks):
        await clock.wait_sleeping()
        assert not task.done()
        clock.advance(60.0)
    return await task


def ranges(server) -> list[tuple[int, int]]:
    return [(ask.offset, ask.length) for ask in server.fetches]


# ---- to the site -------------------------------------------------------------------------------


async def test_a_blob_is_brought_here(bulk, server, blobs):
    digest = server.add(DATA)
    await bulk.fetch("j1", digest, len(DATA))
    assert blobs.path(digest).read_bytes() == DATA
    assert {(ask.digest, ask.job_id) for ask in server.fetches} == {(digest, "j1")}
    assert ranges(server) == [(0, 4096), (4096, 4096), (8192, 2048)]


async def test_a_blob_that_is_here_is_not_asked_for(bulk, server, blobs):
    digest = await blobs.put(DATA)
    await bulk.fetch("j1", digest, len(DATA))
    assert server.fetches == []


async def test_an_empty_blob_is_a_blob(bulk, server, blobs):
    digest = server.add(b"")
    await bulk.fetch("j1", digest, 0)
    assert blobs.path(digest).read_bytes() == b""


async def test_after_a_break_only_the_rest_is_sent(bulk, server, blobs, clock):
    digest = server.add(DATA)
    server.cuts = [3, 0]
    await through_trouble(bulk.fetch("j1", digest, len(DATA)), clock, 2)
    assert [ask.offset for ask in server.fetches if ask.offset == 3000] == [3000, 3000]
    assert blobs.path(digest).read_bytes() == DATA


async def test_a_second_range_is_asked_for_before_the_first_is_here_and_no_third(clock):
    pace = Pace(clock)
    asking = Asking(pace, "j1", "d1", iter([(0, 3 * LEAST), (5 * LEAST, 5 * LEAST + 7)]))
    requests = asking.messages()
    assert [(await anext(requests)).offset for _ in range(2)] == [0, LEAST]
    third = asyncio.create_task(anext(requests))
    await asyncio.sleep(0)
    assert asking.came(LEAST - 1) == 0
    await asyncio.sleep(0)
    assert not third.done()
    assert asking.came(1) == 1
    assert (await third).offset == 2 * LEAST
    assert asking.came(LEAST) == asking.came(LEAST) == 1
    last = await anext(requests)
    assert (last.offset, last.length, last.job_id, last.digest) == (5 * LEAST, 7, "j1", "d1")
    with pytest.raises(ProtocolError, match="more than the 7 bytes"):
        asking.came(8)
    asking.release()
    await asyncio.wait_for(pace.take(pace.window), PATIENCE)  # nothing of it counts any more


@pytest.mark.parametrize("size", [0, 1])
def test_what_nobody_asked_for_is_refused(clock, size):
    with pytest.raises(ProtocolError, match=f"{size} bytes that nobody asked for"):
        Asking(Pace(clock), "j1", "d1", iter(())).came(size)


async def test_several_jobs_that_want_one_blob_share_one_transfer(bulk, server, blobs):
    digest = server.add(DATA)
    server.hold = asyncio.Event()
    waiting = [asyncio.create_task(bulk.fetch(f"j{n}", digest, len(DATA))) for n in range(4)]
    await server.asked.wait()
    server.hold.set()
    await asyncio.gather(*waiting)
    assert len(ranges(server)) == len(set(ranges(server))) == 3


async def test_other_bytes_than_the_digest_s_are_not_kept(bulk, server, blobs):
    digest = digest_of(DATA)
    server.blobs[digest] = DATA[:-1] + b"x"
    with pytest.raises(ProtocolError, match="another digest"):
        await bulk.fetch("j1", digest, len(DATA))
    assert not blobs.has(digest)
    server.blobs[digest] = DATA
    await bulk.fetch("j1", digest, len(DATA))
    assert [ask.offset for ask in server.fetches].count(0) == 2


@pytest.mark.parametrize(
    ("size", "said"), [(len(DATA) - 1, "another digest"), (len(DATA) + 1, "ended after")]
)
async def test_more_or_fewer_bytes_than_announced_are_refused(bulk, server, blobs, size, said):
    digest = server.add(DATA)
    with pytest.raises(ProtocolError, match=said):
        await bulk.fetch("j1", digest, size)
    assert not blobs.has(digest)


@pytest.mark.parametrize("digest", ["", "..", "../../etc/passwd", "AB" * 32, "ab" * 31])
async def test_a_digest_that_is_none_never_becomes_a_path(bulk, server, digest):
    with pytest.raises(ProtocolError):
        await bulk.fetch("j1", digest, 3)
    assert server.fetches == []


async def test_a_blob_that_the_server_does_not_have_is_not_asked_for_again(bulk, server):
    with pytest.raises(NotFound):
        await bulk.fetch("j1", "ab" * 32, 3)
    assert len(server.fetches) == 1


async def test_a_cancelled_fetch_gives_up_while_it_waits_for_the_server(bulk, server, clock):
    digest = server.add(DATA)
    server.away = True
    task = asyncio.create_task(bulk.fetch("j1", digest, len(DATA)))
    await clock.wait_sleeping()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.sleeping == 0


async def test_when_one_job_gives_up_in_the_middle_another_goes_on(bulk, server, blobs):
    digest = server.add(DATA)
    server.hold = asyncio.Event()
    first = asyncio.create_task(bulk.fetch("j1", digest, len(DATA)))
    await server.asked.wait()
    second = asyncio.create_task(bulk.fetch("j2", digest, len(DATA)))
    await asyncio.sleep(0)
    first.cancel()
    server.hold.set()
    await second
    assert blobs.path(digest).read_bytes() == DATA
    assert {ask.job_id for ask in server.fetches} == {"j1", "j2"}


# ---- to the server -----------------------------------------------------------------------------


async def test_a_blob_of_ours_is_brought_to_the_server(bulk, server, blobs):
    digest = await blobs.put(DATA)
    await bulk.send("j1", digest)
    assert server.received.path(digest).read_bytes() == DATA
    [header] = server.uploads
    assert (header.digest, header.size, header.job_id, header.kind) == (digest, len(DATA), "j1", "update")


async def test_what_the_server_has_is_not_sent_again(bulk, server, blobs):
    digest = await blobs.put(DATA)
    await bulk.send("j1", digest)
    server.cuts = [0]  # would break at the first byte of data
    await bulk.send("j1", digest)
    assert len(server.uploads) == 2


async def test_an_upload_goes_on_where_it_broke_off(bulk, server, blobs, clock, monkeypatch):
    monkeypatch.setattr("flprov.agent.underway.MOST_PIECE", 1000)
    digest = await blobs.put(DATA)
    server.cuts = [3, 0, 20]
    await through_trouble(bulk.send("j1", digest), clock, 2)
    assert server.received.path(digest).read_bytes() == DATA
    assert len(server.uploads) == 3


class Sparing(FakeServer):
    """Takes pieces, and answers only when none comes any more."""

    ahead = 16 << 10

    def more(self):
        self.pieces: list[int] = []
        self.waiting: list[int] = []  # bytes that were there without an answer, each time
        return {m.SEND_BLOB: self._take}

    async def _take(self, _call, requests):
        header = await anext(requests)
        offset = answered = 0
        yield pb.UploadReply(ahead=self.ahead)
        while offset < header.size:
            coming = asyncio.ensure_future(anext(requests))
            while not (await asyncio.wait({coming}, timeout=0.01))[0]:
                self.waiting.append(offset - answered)
                answered = offset
                yield pb.UploadReply(offset=offset, ahead=self.ahead)
            self.pieces.append(len(coming.result()))
            offset += self.pieces[-1]
        yield pb.UploadReply(offset=offset, complete=True)


async def test_no_more_is_on_the_way_than_the_server_has_room_for(tmp_path, blobs, clock):
    server = Sparing(tmp_path / "sparing")
    bulk = Bulk(server.connect, blobs, clock)
    data = bytes(10 * server.ahead)
    async with asyncio.timeout(PATIENCE):
        await bulk.send("j1", await blobs.put(data))
        await bulk.close()
        await server.network.stop()
    assert sum(server.pieces) == len(data)
    assert max(server.pieces) <= server.ahead // 2
    assert 0 < max(server.waiting) <= server.ahead


async def test_a_blob_that_is_not_here_cannot_be_sent(bulk, server):
    with pytest.raises(NotFound):
        await bulk.send("j1", "ab" * 32)
    assert server.uploads == []


async def test_a_cancelled_send_gives_up(bulk, server, blobs, clock):
    digest = await blobs.put(DATA)
    server.away = True
    task = asyncio.create_task(bulk.send("j1", digest))
    await clock.wait_sleeping()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ---- logs --------------------------------------------------------------------------------------


async def test_a_part_of_a_log_is_answered_with_what_is_wanted_next(bulk):
    assert await bulk.send_log("j1", 0, b"abc") == 3
    assert await bulk.send_log("j1", 7, b"later") == 3
    assert await bulk.send_log("j1", 0, b"abcdef") == 6


async def test_a_log_is_not_tried_again_by_itself(bulk, server, clock):
    server.away = True
    with pytest.raises(ServerUnavailable):
        await bulk.send_log("j1", 0, b"abc")
    assert clock.sleeping == 0


async def test_one_connection_serves_all_and_is_closed(server, blobs, clock):
    dialled = []

    def connect():
        dialled.append(server.connect())
        return dialled[-1]

    bulk = Bulk(connect, blobs, clock)
    assert dialled == []
    await bulk.send_log("j1", 0, b"a")
    await bulk.send_log("j1", 1, b"b")
    await bulk.close()
    await bulk.close()
    assert len(dialled) == 1
    with pytest.raises(ServerUnavailable):
        await bulk.send_log("j1", 2, b"c")
