# SPDX-License-Identifier: Apache-2.0
"""What flprov.rpc.transport promises, on every transport."""

from __future__ import annotations

import asyncio
import contextlib
import re
from concurrent.futures import Future

import pytest
from parties import LEAD, OTHER_SITE, SITE, person

from flprov import errors
from flprov.pki import Role
from flprov.rpc import MESSAGE_LIMIT, Method, Shape
from flprov.rpc import methods as m
from flprov.wire import pb

MIB = 1 << 20


def told() -> Future:
    """A word from a handler to the test, whatever loop and thread the handler runs in."""
    return Future()


async def heard(future: Future, seconds: float = 10.0):
    return await asyncio.wait_for(asyncio.wrap_future(future), seconds)


def tell(future: Future, word=None) -> None:
    if not future.done():
        future.set_result(word)


async def hang(future: Future):
    """Wait for ever; tell when cancelled."""
    try:
        await asyncio.Event().wait()
    finally:
        tell(future, "cancelled")


async def drained(replies) -> int:
    """Read to the end; how many there were."""
    return len([reply async for reply in replies])


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
        async for request in requests:
            size += len(request.data)
            yield pb.UploadReply(offset=size)
        yield pb.UploadReply(offset=size, complete=True)

    answered = asyncio.Semaphore(1)

    async def messages():
        for _ in range(50):
            await answered.acquire()
            yield pb.UploadMessage(data=b"abc")

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
            yield pb.UploadMessage(data=b"x")
            await asyncio.Event().wait()
        finally:
            closed.set()

    connection = (await start({m.UPLOAD_APP: upload})).connect(LEAD)
    assert [reply.offset async for reply in connection.stream(m.UPLOAD_APP, messages())] == [7]
    assert closed.is_set()


async def test_messages_near_the_limit_pass_both_ways(start):
    async def upload(call, requests):
        async for request in requests:
            yield pb.UploadReply(offset=len(request.data))

    async def fetch(call, request):
        yield pb.Chunk(data=bytes(MESSAGE_LIMIT - 100))

    async def messages():
        yield pb.UploadMessage(data=bytes(MESSAGE_LIMIT - 100))

    network = await start({m.UPLOAD_APP: upload, m.DOWNLOAD_RESULT: fetch})
    connection = network.connect(LEAD)
    sent = [reply.offset async for reply in connection.stream(m.UPLOAD_APP, messages())]
    got = [len(c.data) async for c in connection.download(m.DOWNLOAD_RESULT, pb.DownloadRequest())]
    assert sent == got == [MESSAGE_LIMIT - 100]


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
        await network.connect(LEAD).unary(m.STATUS, pb.Chunk(data=b"\xff\xfe"))
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
            yield pb.Chunk(data=bytes([number]) * MIB)

    connection = (await start({m.DOWNLOAD_RESULT: fetch})).connect(LEAD)
    async with contextlib.aclosing(connection.download(m.DOWNLOAD_RESULT, pb.DownloadRequest())) as chunks:
        assert (await anext(chunks)).data[0] == 0
        _, pending = await asyncio.wait([asyncio.wrap_future(ran_away)], timeout=0.5)
        assert pending
        pending.pop().cancel()
        assert [(await anext(chunks)).data[0] for _ in range(60)] == list(range(1, 61))


async def test_sender_waits_for_a_slow_handler(start):
    go_on = told()

    async def upload(call, requests):
        await anext(requests)
        yield pb.UploadReply()
        await asyncio.wrap_future(go_on)
        size = [len(request.data) async for request in requests]
        yield pb.UploadReply(offset=sum(size))

    sent = 0

    async def messages():
        nonlocal sent
        for _ in range(50):
            sent += 1
            yield pb.UploadMessage(data=bytes(MIB))

    connection = (await start({m.UPLOAD_APP: upload})).connect(LEAD)
    async with contextlib.aclosing(connection.stream(m.UPLOAD_APP, messages())) as replies:
        await anext(replies)
        await asyncio.sleep(0.3)
        assert sent < 40
        tell(go_on)
        assert (await anext(replies)).offset == 49 * MIB


async def test_cancelled_wait_for_a_request_loses_none(start):
    async def upload(call, requests):
        while True:
            try:
                request = await asyncio.wait_for(anext(requests), 0.02)
            except TimeoutError:
                yield pb.UploadReply()  # tells the caller that a wait was cancelled
                continue
            except StopAsyncIteration:
                return
            yield pb.UploadReply(offset=len(request.data))

    timed_out = asyncio.Event()

    async def messages():
        for size in (1, 2, 3):
            await timed_out.wait()
            timed_out.clear()
            yield pb.UploadMessage(data=bytes(size))

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
                yield pb.Chunk(data=bytes(MIB))
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
        yield pb.UploadMessage(data=b"x")
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


# ---- errors ----------------------------------------------------------------------------------


def _all(kind):
    return [kind] + [found for child in kind.__subclasses__() for found in _all(child)]


@pytest.mark.parametrize("kind", _all(errors.FlprovError), ids=lambda kind: kind.__name__)
async def test_error_of_a_handler_comes_out_with_class_message_and_hint(start, kind):
    async def status(call, request):
        raise kind("was ist los: größer\nzweite Zeile", hint="type this: flprov ü")

    connection = (await start({m.STATUS: status})).connect(LEAD)
    with pytest.raises(errors.FlprovError) as caught:
        await connection.unary(m.STATUS, pb.Query())
    local = issubclass(kind, errors.LocalError)
    assert type(caught.value) is (errors.RemoteError if local else kind)
    assert str(caught.value) == "was ist los: größer\nzweite Zeile"
    assert caught.value.hint == "type this: flprov ü"


async def test_error_without_a_hint_has_none(start):
    async def status(call, request):
        raise errors.NotFound("no such job")

    connection = (await start({m.STATUS: status})).connect(LEAD)
    with pytest.raises(errors.NotFound) as caught:
        await connection.unary(m.STATUS, pb.Query())
    assert caught.value.hint is None


async def test_error_comes_after_the_messages_before_it(start):
    async def watch(call, request):
        yield pb.Document(json=b"1")
        yield pb.Document(json=b"2")
        raise errors.JobFailed("it broke")

    connection = (await start({m.WATCH_JOB: watch})).connect(LEAD)
    replies = connection.download(m.WATCH_JOB, pb.Query())
    assert [(await anext(replies)).json, (await anext(replies)).json] == [b"1", b"2"]
    with pytest.raises(errors.JobFailed, match="it broke"):
        await anext(replies)


async def test_error_while_requests_are_under_way_comes_out(start):
    async def upload(call, requests):
        await anext(requests)
        raise errors.UpdateRefused("not this one")
        yield

    async def messages():
        while True:
            yield pb.UploadMessage(data=bytes(MIB))

    connection = (await start({m.UPLOAD_APP: upload})).connect(LEAD)
    with pytest.raises(errors.UpdateRefused, match="not this one"):
        await drained(connection.stream(m.UPLOAD_APP, messages()))


async def test_crash_of_a_handler_tells_a_reference_and_nothing_else(start, caplog):
    async def status(call, request):
        raise RuntimeError("password is hunter2")

    connection = (await start({m.STATUS: status})).connect(LEAD)
    with pytest.raises(errors.RemoteError) as caught:
        await connection.unary(m.STATUS, pb.Query())
    reference = re.fullmatch(
        r"internal error, see the server's log, reference ([0-9a-f]{8})", str(caught.value)
    )
    assert reference
    logged = [record for record in caplog.records if reference[1] in record.getMessage()]
    assert len(logged) == 1
    assert "hunter2" in str(logged[0].exc_info[1])


async def test_words_of_an_error_are_cut_and_cannot_drive_a_terminal(start):
    async def status(call, request):
        raise errors.NotFound("\x1b[2J\u202e" + "ä" * 5000, hint="h" * 5000)

    connection = (await start({m.STATUS: status})).connect(LEAD)
    with pytest.raises(errors.NotFound) as caught:
        await connection.unary(m.STATUS, pb.Query())
    assert str(caught.value).startswith("?[2J?ää")
    assert str(caught.value).endswith("ä [...]")
    assert len(str(caught.value).encode()) <= 4000
    assert len(caught.value.hint) == 1000


async def test_all_problems_of_a_config_error_arrive(start):
    async def submit(call, request):
        raise errors.ConfigError(["job.yml:1: this", "job.yml:2: that"])

    connection = (await start({m.SUBMIT_JOB: submit})).connect(LEAD)
    with pytest.raises(errors.ConfigError) as caught:
        await connection.unary(m.SUBMIT_JOB, pb.SubmitRequest())
    assert caught.value.problems == ["job.yml:1: this", "job.yml:2: that"]


# ---- who may ---------------------------------------------------------------------------------

UNKNOWN = Method(
    path="/flprov.v1.Admin/Rule", shape=Shape.UNARY, request=pb.Query, reply=pb.Document, kinds=frozenset()
)


async def test_wrong_role_is_refused_and_told_which_would_do(start):
    network = await start()
    observer = person(Role.OBSERVER)
    with pytest.raises(errors.PermissionRefused, match=r"these roles may: lead, project_admin$"):
        await network.connect(observer).unary(m.SUBMIT_JOB, pb.SubmitRequest())
    assert [(who, path) for who, path, _ in network.refusals] == [(observer, m.SUBMIT_JOB.path)]


async def test_method_of_another_kind_and_unknown_method_look_the_same(start):
    network = await start()
    connection = network.connect(SITE)
    messages = []
    for method in (m.STATUS, UNKNOWN):
        with pytest.raises(errors.PermissionRefused) as caught:
            await connection.unary(method, pb.Query())
        messages.append(str(caught.value).replace(method.path, "X"))
        assert caught.value.hint is None
    assert messages[0] == messages[1] == f"{SITE} may not call X"
    assert len(network.refusals) == 2


async def test_unknown_method_with_a_hostile_name_is_refused_printably(start):
    network = await start()
    odd = Method(
        path="/x/" + "%1b[2J" + "y" * 3000,
        shape=Shape.UNARY,
        request=pb.Query,
        reply=pb.Document,
        kinds=frozenset(),
    )
    with pytest.raises(errors.PermissionRefused):
        await network.connect(LEAD).unary(odd, pb.Query())
    assert len(network.refusals[0][1]) <= 103


async def test_gate_refuses_before_the_table_and_the_handler(start):
    asked = []

    def gate(identity):
        asked.append(identity)
        if identity == LEAD:
            raise errors.IdentityRefused("kim is locked", hint="ask Lee")

    network = await start(gate=gate)
    with pytest.raises(errors.IdentityRefused, match="kim is locked") as caught:
        await network.connect(LEAD).unary(m.STATUS, pb.Query())
    assert caught.value.hint == "ask Lee"
    with pytest.raises(errors.IdentityRefused):
        await network.connect(LEAD).unary(UNKNOWN, pb.Query())
    await network.connect(person(Role.MEMBER)).unary(m.STATUS, pb.Query())
    assert [identity.role for identity in asked] == [Role.LEAD, Role.LEAD, Role.MEMBER]
    assert [(who, path) for who, path, _ in network.refusals] == [
        (LEAD, m.STATUS.path),
        (LEAD, UNKNOWN.path),
    ]


async def test_refusal_by_a_handler_is_noted_and_other_errors_are_not(start):
    async def abort(call, request):
        raise errors.PermissionRefused("not your job")

    async def show(call, request):
        raise errors.NotFound("no such job")

    network = await start({m.ABORT_JOB: abort, m.SHOW_JOB: show})
    connection = network.connect(LEAD)
    with pytest.raises(errors.PermissionRefused):
        await connection.unary(m.ABORT_JOB, pb.AbortRequest())
    with pytest.raises(errors.NotFound):
        await connection.unary(m.SHOW_JOB, pb.Query())
    assert [(who, path, str(error)) for who, path, error in network.refusals] == [
        (LEAD, m.ABORT_JOB.path, "not your job")
    ]


async def test_dropped_identity_loses_its_open_calls_and_others_keep_theirs(start):
    ended = told()

    async def control(call, requests):
        yield pb.ToSite()
        async for _ in requests:
            yield pb.ToSite()
        tell(ended)

    network = await start({m.CONTROL: control})
    go_on = asyncio.Event()

    async def messages():
        await go_on.wait()
        yield pb.FromSite()

    streams = [network.connect(who).stream(m.CONTROL, messages()) for who in (SITE, OTHER_SITE)]
    for stream in streams:
        await anext(stream)
    assert await network.drop(SITE, "the certificate of site-a was revoked") == 1
    with pytest.raises(errors.IdentityRefused, match="the certificate of site-a was revoked"):
        await anext(streams[0])
    go_on.set()
    assert len([reply async for reply in streams[1]]) == 1
    await heard(ended)
    assert await network.drop(SITE, "again") == 0


async def test_dropped_identity_that_does_not_read_is_dropped_too(start):
    began, ended = told(), told()

    async def fetch(call, request):
        try:
            while True:
                yield pb.Chunk(data=bytes(MIB))
                tell(began)
        finally:
            tell(ended)

    network = await start({m.DOWNLOAD_RESULT: fetch})
    replies = network.connect(LEAD).download(m.DOWNLOAD_RESULT, pb.DownloadRequest())
    await anext(replies)
    await heard(began)
    assert await network.drop(LEAD, "locked") == 1
    await heard(ended)
    with pytest.raises(errors.IdentityRefused, match="locked"):
        await drained(replies)


async def test_call_that_drops_its_own_identity_is_spared(start):
    networks = []

    async def status(call, request):
        dropped = networks[0].listener.drop(call.caller.uri, "locked")
        await asyncio.sleep(0)
        return pb.Document(json=str(dropped).encode())

    network = await start({m.STATUS: status})
    networks.append(network)
    assert (await network.connect(LEAD).unary(m.STATUS, pb.Query())).json == b"0"


# ---- the end ---------------------------------------------------------------------------------


async def test_stopping_ends_streams_lets_unary_calls_finish_and_refuses_new_ones(start):
    began, finish = told(), told()

    async def control(call, requests):
        yield pb.ToSite()
        await asyncio.Event().wait()

    async def status(call, request):
        tell(began)
        await asyncio.wrap_future(finish)
        return pb.Document(json=b"done")

    async def messages():
        await asyncio.Event().wait()
        yield pb.FromSite()

    network = await start({m.CONTROL: control, m.STATUS: status})
    stream = network.connect(SITE).stream(m.CONTROL, messages())
    await anext(stream)
    unary = asyncio.create_task(network.connect(LEAD).unary(m.STATUS, pb.Query()))
    await heard(began)
    stopping = asyncio.ensure_future(network.stop(10.0))
    with pytest.raises(errors.ServerUnavailable, match="the server is stopping"):
        await anext(stream)
    with pytest.raises(errors.ServerUnavailable):
        await network.connect(LEAD).unary(m.STATUS, pb.Query())
    tell(finish)
    assert (await unary).json == b"done"
    await stopping


async def test_stopping_without_grace_ends_unary_calls(start):
    began, ended = told(), told()

    async def status(call, request):
        tell(began)
        await hang(ended)

    network = await start({m.STATUS: status})
    unary = asyncio.create_task(network.connect(LEAD).unary(m.STATUS, pb.Query()))
    await heard(began)
    await network.stop()
    with pytest.raises(errors.ServerUnavailable):
        await unary
    assert await heard(ended) == "cancelled"


@pytest.mark.parametrize("spoil", ["missing", "surplus"])
async def test_service_that_does_not_fit_the_table_does_not_start(spoil):
    from networks import NETWORKS, plain_service

    service = dict(plain_service())
    if spoil == "missing":
        del service[m.STATUS]
    else:
        service[UNKNOWN] = service[m.STATUS]
    for make in NETWORKS.values():
        with pytest.raises(errors.LocalError, match="Status" if spoil == "missing" else "Rule"):
            async with make(service):
                pass
