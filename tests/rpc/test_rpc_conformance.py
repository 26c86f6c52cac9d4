# SPDX-License-Identifier: Apache-2.0
"""What flprov.rpc.transport promises of messages and cancellation, on every transport."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from parties import LEAD, SITE
from signals import hang, heard, tell, told

from flprov import errors
from flprov.rpc import MESSAGE_LIMIT
from flprov.rpc import methods as m
from flprov.wire import pb

MIB = 1 << 20

# ---- messages --------------------------------------------------------------------------------


async def test_unary_call_carries_request_reply_and_caller(start):
    async def status(call, request):
        assert call.is_open()
        return pb.Document(json=f"{request.id} {call.caller} {call.method.path} {bool(call.peer)}".encode())

    connection = (await start({m.STATUS: status})).connect(LEAD)
    reply = await connection.unary(m.STATUS, pb.Query(id="x"))
    assert reply.json.decode() == f"x {LEAD.uri} /flprov.v1.Admin/Status True"


async def test_download_arrives_whole_and_in_order(start):
    async def watch(call, request):
        for number in range(300):
            yield pb.Document(json=str(number).encode())

    connection = (await start({m.WATCH_JOB: watch})).connect(LEAD)
    got = [int(reply.json) async for reply in connection.download(m.WATCH_JOB, pb.Query())]
    assert got == list(range(300))


async def test_empty_download_ends(start):
    async def watch(call, request):
        for never in ():
            yield never

    connection = (await start({m.WATCH_JOB: watch})).connect(LEAD)
    assert [reply async for reply in connection.download(m.WATCH_JOB, pb.Query())] == []


async def test_stream_is_a_conversation(start):
    async def upload(call, requests):
        size = 0
        assert (await anext(requests)).digest == "d"
        async for piece in requests:
            size += len(piece)
            yield pb.UploadReply(offset=size)
        yield pb.UploadReply(offset=size, complete=True)

    answered = asyncio.Semaphore(1)

    async def messages():
        yield pb.UploadHeader(digest="d")
        for _ in range(50):
            await answered.acquire()
            yield b"abc"

    connection = (await start({m.UPLOAD_APP: upload})).connect(LEAD)
    got = []
    async for reply in connection.stream(m.UPLOAD_APP, messages()):
        got.append((reply.offset, reply.complete))
        answered.release()
    assert got == [(3 * n, False) for n in range(1, 51)] + [(150, True)]


async def test_server_may_end_a_stream_first_and_requests_are_closed(start):
    async def upload(call, requests):
        await anext(requests)
        yield pb.UploadReply(offset=7, complete=True)

    closed = asyncio.Event()

    async def messages():
        try:
            yield pb.UploadHeader()
            await asyncio.Event().wait()
        finally:
            closed.set()

    connection = (await start({m.UPLOAD_APP: upload})).connect(LEAD)
    assert [reply.offset async for reply in connection.stream(m.UPLOAD_APP, messages())] == [7]
    assert closed.is_set()


async def test_messages_near_the_limit_pass_both_ways(start):
    async def upload(call, requests):
        await anext(requests)
        async for piece in requests:
            yield pb.UploadReply(offset=len(piece))

    async def fetch(call, request):
        yield bytes(MESSAGE_LIMIT)

    async def messages():
        yield pb.UploadHeader()
        yield bytes(MESSAGE_LIMIT)

    network = await start({m.UPLOAD_APP: upload, m.DOWNLOAD_RESULT: fetch})
    connection = network.connect(LEAD)
    sent = [reply.offset async for reply in connection.stream(m.UPLOAD_APP, messages())]
    got = [len(piece) async for piece in connection.download(m.DOWNLOAD_RESULT, pb.DownloadRequest())]
    assert sent == got == [MESSAGE_LIMIT]


async def test_too_large_request_is_refused_before_it_is_sent(start):
    connection = (await start()).connect(LEAD)
    with pytest.raises(errors.LocalError, match=f"limit is {MESSAGE_LIMIT}"):
        await connection.unary(m.SUBMIT_JOB, pb.SubmitRequest(submission=bytes(MESSAGE_LIMIT + 1)))
    await connection.unary(m.STATUS, pb.Query())  # and the connection is as good as before


async def test_too_large_reply_is_the_servers_fault(start):
    async def status(call, request):
        return pb.Document(json=bytes(MESSAGE_LIMIT + 1))

    connection = (await start({m.STATUS: status})).connect(LEAD)
    with pytest.raises(errors.RemoteError, match="cannot be sent"):
        await connection.unary(m.STATUS, pb.Query())


async def test_bytes_of_another_message_are_a_protocol_error(start):
    network = await start()
    with pytest.raises(errors.ProtocolError, match="no Query message"):
        await network.connect(LEAD).unary(m.STATUS, pb.Document(json=b"\xff\xfe"))
    assert [type(error) for _, _, error in network.refusals] == [errors.ProtocolError]


async def test_many_calls_share_a_connection(start):
    async def status(call, request):
        await asyncio.sleep(0)
        return pb.Document(json=request.id.encode())

    connection = (await start({m.STATUS: status})).connect(LEAD)
    calls = [connection.unary(m.STATUS, pb.Query(id=str(number))) for number in range(30)]
    assert [int(reply.json) for reply in await asyncio.gather(*calls)] == list(range(30))


# ---- back pressure ---------------------------------------------------------------------------


async def test_producer_waits_for_a_slow_reader(start):
    ran_away = told()

    async def fetch(call, request):
        for number in range(200):
            if number == 40:
                tell(ran_away)
            yield bytes([number]) * MIB

    connection = (await start({m.DOWNLOAD_RESULT: fetch})).connect(LEAD)
    async with contextlib.aclosing(connection.download(m.DOWNLOAD_RESULT, pb.DownloadRequest())) as chunks:
        assert (await anext(chunks))[0] == 0
        _, pending = await asyncio.wait([asyncio.wrap_future(ran_away)], timeout=0.5)
        assert pending
        pending.pop().cancel()
        assert [(await anext(chunks))[0] for _ in range(60)] == list(range(1, 61))


async def test_sender_waits_for_a_slow_handler(start):
    go_on = told()

    async def upload(call, requests):
        await anext(requests)
        yield pb.UploadReply()
        await asyncio.wrap_future(go_on)
        size = [len(piece) async for piece in requests]
        yield pb.UploadReply(offset=sum(size))

    sent = 0

    async def messages():
        nonlocal sent
        yield pb.UploadHeader()
        for _ in range(49):
            sent += 1
            yield bytes(MIB)

    connection = (await start({m.UPLOAD_APP: upload})).connect(LEAD)
    async with contextlib.aclosing(connection.stream(m.UPLOAD_APP, messages())) as replies:
        await anext(replies)
        await asyncio.sleep(0.3)
        assert sent < 40
        tell(go_on)
        assert (await anext(replies)).offset == 49 * MIB


async def test_cancelled_wait_for_a_request_loses_none(start):
    async def upload(call, requests):
        await anext(requests)
        while True:
            try:
                request = await asyncio.wait_for(anext(requests), 0.02)
            except TimeoutError:
                yield pb.UploadReply()  # tells the caller that a wait was cancelled
                continue
            except StopAsyncIteration:
                return
            yield pb.UploadReply(offset=len(request))

    timed_out = asyncio.Event()

    async def messages():
        yield pb.UploadHeader()
        for size in (1, 2, 3):
            await timed_out.wait()
            timed_out.clear()
            yield bytes(size)

    connection = (await start({m.UPLOAD_APP: upload})).connect(LEAD)
    got = []
    async for reply in connection.stream(m.UPLOAD_APP, messages()):
        if reply.offset:
            got.append(reply.offset)
        else:
            timed_out.set()
    assert got == [1, 2, 3]


# ---- cancellation ----------------------------------------------------------------------------


async def test_closing_a_download_cancels_the_handler(start):
    ended = told()

    async def watch(call, request):
        yield pb.Document()
        await hang(ended)

    connection = (await start({m.WATCH_JOB: watch})).connect(LEAD)
    replies = connection.download(m.WATCH_JOB, pb.Query())
    await anext(replies)
    await replies.aclose()
    assert await heard(ended) == "cancelled"


async def test_closing_a_download_in_full_flow_closes_the_handler(start):
    ended = told()

    async def fetch(call, request):
        try:
            while True:
                yield bytes(MIB)
        finally:
            tell(ended, call.is_open())

    connection = (await start({m.DOWNLOAD_RESULT: fetch})).connect(LEAD)
    replies = connection.download(m.DOWNLOAD_RESULT, pb.DownloadRequest())
    await anext(replies)
    await replies.aclose()
    await heard(ended)


async def test_cancelling_a_unary_call_cancels_the_handler(start):
    began, ended = told(), told()

    async def status(call, request):
        tell(began)
        await hang(ended)

    connection = (await start({m.STATUS: status})).connect(LEAD)
    task = asyncio.create_task(connection.unary(m.STATUS, pb.Query()))
    await heard(began)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await heard(ended) == "cancelled"


async def test_unary_call_times_out_and_the_handler_is_cancelled(start):
    ended = told()

    async def status(call, request):
        await hang(ended)

    connection = (await start({m.STATUS: status})).connect(LEAD)
    with pytest.raises(errors.TimedOut, match=r"Status was not answered within 0\.1 seconds"):
        await connection.unary(m.STATUS, pb.Query(), timeout=0.1)
    assert await heard(ended) == "cancelled"


async def test_closing_a_stream_cancels_the_handler_and_closes_the_requests(start):
    ended = told()

    async def control(call, requests):
        await anext(requests)
        yield pb.ToSite()
        await hang(ended)

    closed = asyncio.Event()

    async def messages():
        try:
            yield pb.FromSite()
            await asyncio.Event().wait()
        finally:
            closed.set()

    connection = (await start({m.CONTROL: control})).connect(SITE)
    replies = connection.stream(m.CONTROL, messages())
    await anext(replies)
    await replies.aclose()
    assert closed.is_set()
    assert await heard(ended) == "cancelled"


async def test_failing_requests_come_out_and_cancel_the_handler(start):
    ended = told()

    async def upload(call, requests):
        await anext(requests)
        yield pb.UploadReply()
        await hang(ended)

    async def messages():
        yield pb.UploadHeader()
        await go_on.wait()
        raise errors.StateDamaged("the disk ate it")

    go_on = asyncio.Event()
    connection = (await start({m.UPLOAD_APP: upload})).connect(LEAD)
    replies = connection.stream(m.UPLOAD_APP, messages())
    await anext(replies)
    go_on.set()
    with pytest.raises(errors.StateDamaged, match="the disk ate it"):
        await anext(replies)
    assert await heard(ended) == "cancelled"


async def test_closed_connection_ends_its_calls_and_starts_none(start):
    ended = told()

    async def watch(call, request):
        yield pb.Document()
        await hang(ended)

    connection = (await start({m.WATCH_JOB: watch})).connect(LEAD)
    replies = connection.download(m.WATCH_JOB, pb.Query())
    await anext(replies)
    await connection.close()
    await connection.close()
    with pytest.raises(errors.ServerUnavailable, match="closed here"):
        await anext(replies)
    with pytest.raises(errors.ServerUnavailable, match="closed here"):
        await connection.unary(m.STATUS, pb.Query())
    assert await heard(ended) == "cancelled"
