# SPDX-License-Identifier: Apache-2.0
"""The frames between parent and worker, whole and hostile."""

import asyncio
import contextlib
import gc
import os
import random
import socket
import struct
import threading
import tracemalloc

import pytest

from flprov.errors import JobFailed, LocalError, ProtocolError, Unavailable
from flprov.wire import MAX_FRAME, pb
from flprov.workers import WorkerChannel, adopt_channel, open_channel


@pytest.fixture
async def ends():
    """The parent's channel, and the raw socket at the worker's end."""
    ours, theirs = socket.socketpair()
    channel = await open_channel(ours)
    yield channel, theirs
    await channel.wait_closed()
    theirs.close()


def frame(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


READY = pb.FromWorker(ready=pb.Ready()).SerializeToString()


async def test_messages_arrive_whole_and_in_order_however_they_are_cut(ends):
    channel, raw = ends
    data = b"".join(
        frame(pb.FromWorker(progress=pb.Progress(step=n, job_id="j" * n)).SerializeToString())
        for n in range(200)
    )
    chance = random.Random(7)
    cuts = sorted(chance.sample(range(len(data)), 50))
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        await asyncio.to_thread(raw.sendall, data[start:end])
    assert [(await channel.receive()).progress.step for _ in range(200)] == list(range(200))


async def test_both_ends_understand_each_other(ends):
    channel, raw = ends
    worker = WorkerChannel(raw)
    await channel.send(pb.ToWorker(quit=pb.Quit(reason="enough")))
    assert worker.receive().quit.reason == "enough"
    worker.send(pb.FromWorker(ready=pb.Ready()))
    assert (await channel.receive()).WhichOneof("body") == "ready"


async def test_what_a_worker_said_before_it_ended_is_heard_though_nobody_hears_us_any_more(ends):
    """A script that fails at once is gone when its first task comes; why it failed must not go with it."""
    parent, worker = ends
    for number in range(3):
        worker.sendall(frame(pb.FromWorker(progress=pb.Progress(step=number)).SerializeToString()))
    worker.close()
    for _ in range(2):
        with contextlib.suppress(JobFailed):
            await parent.send(pb.ToWorker(quit=pb.Quit()))
        await asyncio.sleep(0)
    assert [(await parent.receive()).progress.step for _ in range(3)] == [0, 1, 2]
    assert await parent.receive() is None
    with pytest.raises(JobFailed, match="closed"):
        await parent.send(pb.ToWorker(quit=pb.Quit()))


async def test_end_between_two_frames_is_the_end(ends):
    channel, raw = ends
    raw.sendall(frame(READY))
    raw.close()
    assert (await channel.receive()).WhichOneof("body") == "ready"
    assert await channel.receive() is None
    assert await channel.receive() is None


@pytest.mark.parametrize(
    "data",
    [b"\0", b"\0\0\0", struct.pack(">I", 10), struct.pack(">I", 10) + b"abc"],
    ids=["one byte", "short header", "header alone", "short body"],
)
async def test_end_inside_a_frame_is_refused(ends, data):
    channel, raw = ends
    raw.sendall(data)
    raw.close()
    with pytest.raises(ProtocolError, match="in the middle of a message"):
        await channel.receive()


@pytest.mark.parametrize("length", [MAX_FRAME + 1, 1 << 31, (1 << 32) - 1])
async def test_huge_declared_length_is_refused_without_allocating(ends, length):
    channel, raw = ends
    raw.sendall(struct.pack(">I", length) + b"x" * 100)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match=f"declares {length} bytes; the limit is {MAX_FRAME}"):
            await channel.receive()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


async def test_empty_message_is_refused(ends):
    channel, raw = ends
    raw.sendall(frame(b""))
    with pytest.raises(ProtocolError, match="empty message"):
        await channel.receive()


async def test_random_bytes_are_refused_or_a_message_but_never_anything_else(ends):
    channel, raw = ends
    chance = random.Random(11)
    refused = 0
    for _ in range(2000):
        raw.sendall(frame(chance.randbytes(chance.randrange(1, 64))))
        try:
            await channel.receive()
        except ProtocolError:
            refused += 1
    assert refused > 1000


async def test_text_that_is_not_utf8_is_refused(ends):
    channel, raw = ends
    not_utf8 = b"\x3a\x03\x12\x01\xff"  # failure.message = 0xff
    raw.sendall(frame(not_utf8))
    with pytest.raises(ProtocolError):
        await channel.receive()


async def test_backpressure_the_parent_waits_for_a_worker_that_does_not_read(ends):
    channel, raw = ends
    message = pb.ToWorker(quit=pb.Quit(reason="x" * (1 << 20)))

    async def flood():
        for _ in range(8):
            await channel.send(message)

    flooding = asyncio.create_task(flood())
    done, _ = await asyncio.wait([flooding], timeout=0.2)
    assert not done
    worker = WorkerChannel(raw)
    for _ in range(8):
        assert len((await asyncio.to_thread(worker.receive)).quit.reason) == 1 << 20
    await flooding


async def test_too_large_a_message_is_our_own_mistake(ends):
    channel, raw = ends
    large = "x" * (MAX_FRAME + 1)
    with pytest.raises(LocalError, match="does not fit into a frame"):
        await channel.send(pb.ToWorker(quit=pb.Quit(reason=large)))
    with pytest.raises(LocalError, match="does not fit into a frame"):
        WorkerChannel(raw).send(pb.FromWorker(failure=pb.Failure(message=large)))


async def test_sending_after_close_names_the_job(ends):
    channel, _ = ends
    channel.close()
    with pytest.raises(JobFailed, match="closed"):
        await channel.send(pb.ToWorker(quit=pb.Quit()))


def test_worker_learns_that_its_parent_is_gone():
    ours, theirs = socket.socketpair()
    worker = WorkerChannel(theirs)
    ours.close()
    assert worker.receive() is None
    with pytest.raises(Unavailable, match="has closed the channel"):
        worker.send(pb.FromWorker(ready=pb.Ready()))
    worker.close()


def test_threads_of_a_worker_do_not_mix_their_frames():
    ours, theirs = socket.socketpair()
    worker = WorkerChannel(theirs)
    texts = [letter * 50_000 for letter in "abcd"]

    def send(text: str) -> None:
        for _ in range(20):
            worker.send(pb.FromWorker(failure=pb.Failure(message=text)))

    threads = [threading.Thread(target=send, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    seen = []
    with ours.makefile("rb") as stream:
        for _ in range(80):
            (length,) = struct.unpack(">I", stream.read(4))
            seen.append(pb.FromWorker.FromString(stream.read(length)).failure.message)
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted(texts * 20)
    ours.close()
    worker.close()


def test_adopted_channel_is_not_inherited_by_programs_of_the_job():
    ours, theirs = socket.socketpair()
    theirs.set_inheritable(True)
    worker = adopt_channel(theirs.detach())
    assert not os.get_inheritable(worker._sock.fileno())
    worker.close()
    ours.close()
    gc.collect()


def test_adopting_what_is_no_socket_is_refused(tmp_path):
    with (tmp_path / "file").open("w") as file, pytest.raises(LocalError, match="is not the channel"):
        adopt_channel(file.fileno())
    with pytest.raises(LocalError, match="is not the channel"):
        adopt_channel(9999)
