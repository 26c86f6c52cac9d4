# SPDX-License-Identifier: Apache-2.0
"""What flprov.rpc.transport promises of errors, refusals and the end, on every transport."""

from __future__ import annotations

import asyncio
import re

import pytest
from parties import LEAD, OTHER_SITE, SITE, person
from signals import drained, hang, heard, tell, told

from flprov import errors
from flprov.pki import Role
from flprov.rpc import Method, Shape
from flprov.rpc import methods as m
from flprov.wire import pb

MIB = 1 << 20


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
        yield pb.UploadHeader()
        while True:
            yield bytes(MIB)

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

    def gate(identity, leaf):
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
    assert await network.drop(SITE, errors.IdentityRefused("the certificate of site-a was revoked")) == 1
    with pytest.raises(errors.IdentityRefused, match="the certificate of site-a was revoked"):
        await anext(streams[0])
    go_on.set()
    assert len([reply async for reply in streams[1]]) == 1
    await heard(ended)
    assert await network.drop(SITE, errors.IdentityRefused("again")) == 0


async def test_dropped_identity_that_does_not_read_is_dropped_too(start):
    began, ended = told(), told()

    async def fetch(call, request):
        try:
            while True:
                yield bytes(MIB)
                tell(began)
        finally:
            tell(ended)

    network = await start({m.DOWNLOAD_RESULT: fetch})
    replies = network.connect(LEAD).download(m.DOWNLOAD_RESULT, pb.DownloadRequest())
    await anext(replies)
    await heard(began)
    assert await network.drop(LEAD, errors.IdentityRefused("locked")) == 1
    await heard(ended)
    with pytest.raises(errors.IdentityRefused, match="locked"):
        await drained(replies)


async def test_call_that_is_cut_while_its_peer_reads_nothing_ends_for_both(start):
    began, ended = told(), told()
    calls = []

    async def control(call, requests):
        calls.append(call)
        try:
            while True:
                yield pb.ToSite(closed=pb.RoundClosed(job_id="x" * MIB))
                tell(began)
        finally:
            tell(ended)

    async def silent():
        await asyncio.Event().wait()
        yield pb.FromSite()

    network = await start({m.CONTROL: control})
    words = network.connect(SITE).stream(m.CONTROL, silent())
    await anext(words)
    await heard(began)

    async def cut():
        calls[0].cut(errors.Unavailable("it stopped reading its commands"))

    await network.run(cut())
    await heard(ended)
    with pytest.raises(errors.Unavailable, match="it stopped reading its commands"):
        await drained(words)


async def test_call_that_drops_its_own_identity_is_spared(start):
    networks = []

    async def status(call, request):
        dropped = networks[0].listener.drop(call.caller.uri, errors.IdentityRefused("locked"))
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
