# SPDX-License-Identifier: Apache-2.0
"""An enrolled site is not trusted: blobs of others, garbage, floods, and words that reach terminals."""

from __future__ import annotations

import asyncio
import json

import pytest
from server_network import ALONE, settle, trained
from server_parties import ADA, inline, payload, spec, tensors, vitals
from server_world import broadcast

from flprov._base import canonical_json, to_document
from flprov.blobs import digest_of
from flprov.errors import FlprovError, NotFound, PermissionRefused, ProtocolError, Unavailable
from flprov.jobs import JobState, Membership
from flprov.rpc import methods as m
from flprov.server.records import BlobRef
from flprov.wire import pb

BIG = tensors(*range(1000))


# ---- blobs -----------------------------------------------------------------------------------


async def test_blob_is_sent_and_named_by_the_update(world, dial):
    one = dial()
    await one.open()
    run, workflow = await trained(world, one, spec=ALONE)
    said = await one.send(tensors(5, 6))
    replies = [(reply.offset, reply.complete) for reply in said]
    assert (replies[0], replies[-1]) == ((0, False), (72, True))
    assert {reply.ahead for reply in said} == {32 << 20}  # nobody else sends
    one.updates(run, part=pb.Payload(digest=digest_of(tensors(5, 6)), size=72))
    assert not (await one.hears("ack")).HasField("refused")
    update = (await workflow.hears("answer")).answer.update
    assert workflow.handed(update.tensors) == tensors(5, 6)


async def test_update_that_names_a_blob_that_was_not_sent_is_asked_for_again(world, dial):
    """Also when the blob is here, from somebody else. The server may just have forgotten who sent it."""
    one, two = dial("site-1"), dial("site-2")
    await one.open()
    await two.open()
    run, _ = await trained(world, one, two)
    await two.send(tensors(5, 6))
    for digest in (digest_of(tensors(5, 6)), "0" * 64, world.app.digest, "../../etc/passwd", "x" * 100_000):
        one.updates(run, part=pb.Payload(digest=digest, size=72))
        ack = await one.hears("ack")
        assert ack.refused.code == "unavailable"
    assert run.rounds.gathers.newest.open == ("site-1", "site-2")


async def test_blob_of_another_job_stays_while_a_site_shows_that_it_has_it(world, dial):
    """Two jobs of one app, seed and data have the same updates."""
    one = dial()
    await one.open()
    run, _ = await trained(world, one, spec=ALONE)
    digest, go_on = await world.blobs.put(BIG), asyncio.Event()

    async def in_two_parts():
        yield pb.UploadHeader(digest=digest, size=len(BIG), job_id=run.record.id, kind="update")
        yield BIG[:1000]
        await go_on.wait()
        yield BIG[1000:]

    async for reply in one.connection.stream(m.SEND_BLOB, in_two_parts()):
        if reply.offset == 1000:
            world.jobs.collect({digest})  # the other job's round is saved just now
            go_on.set()
    assert reply.complete
    assert world.blobs.has(digest)


async def test_name_of_a_foreign_blob_is_no_proof_of_having_it(world, dial):
    """Or else a site could pass another's update, or any result whose digest it saw, for its own."""
    one, two = dial("site-1"), dial("site-2")
    await one.open()
    await two.open()
    run, _ = await trained(world, one, two)
    await two.send(BIG)
    with pytest.raises(ProtocolError, match=r"has another digest|ended after"):
        await one.send(BIG, send=b"")
    with pytest.raises(ProtocolError, match="has another digest"):
        await one.send(BIG, send=b"\0" * len(BIG))
    with pytest.raises(ProtocolError, match="ended after"):
        await one.send(BIG, send=BIG[:-1])
    with pytest.raises(ProtocolError, match="has another digest"):
        await one.send(BIG, send=BIG + b"\0")
    one.updates(run, part=pb.Payload(digest=digest_of(BIG), size=len(BIG)))
    assert (await one.hears("ack")).refused.code == "unavailable"
    assert world.blobs.has(digest_of(BIG))
    replies = await one.send(BIG, chunk=1000)  # who has the bytes may send them
    assert [reply.offset for reply in replies[:3]] == [0, 1000, 2000]
    assert (replies[-1].offset, replies[-1].complete) == (len(BIG), True)
    assert run.rounds.sent_by("site-1", digest_of(BIG))


async def test_site_need_not_send_twice_what_it_sent_or_was_given(world, dial):
    one = dial()
    await one.open()
    run, workflow = await trained(world, one, spec=ALONE)
    await one.send(BIG)
    assert [reply.complete for reply in await one.send(BIG, send=b"")] == [True]
    one.updates(run)
    await one.hears("ack")
    model = tensors(*range(2000))
    workflow.say(broadcast(name="evaluate", model=workflow.leave("m", model), expects=""))
    await one.hears("task")
    assert [reply.complete for reply in await one.send(model, send=b"")] == [True]


async def test_site_fetches_the_app_and_the_model_of_its_own_job_and_nothing_else(world, dial):
    one, two = dial("site-1"), dial("site-2")
    await one.open()
    await two.open()
    model = tensors(*range(2000))
    run, workflow = await trained(world, one, two)
    for each in (one, two):
        each.updates(run)
        await each.hears("ack")
    workflow.say(broadcast(name="evaluate", model=workflow.leave("m", model)))
    order = await one.hears("task")
    assert await one.fetch(order.model.digest) == model
    assert await one.fetch(order.model.digest, offset=100) == model[100:]
    assert await one.fetch(world.app.digest) == world.app.data
    await two.send(BIG)
    secret = await world.blobs.put(b"a result of another job")
    for digest in (digest_of(BIG), secret, "0" * 64, "../../server.key", "", "\x1b[2J" * 9):
        with pytest.raises(PermissionRefused, match="job 0job has no blob") as found:
            await one.fetch(digest)
        assert str(found.value).isprintable()


async def test_a_model_is_asked_for_again_while_its_round_is_not_open_yet(world, dial):
    """After a restart of the server the sites go on fetching before the workflow has broadcast again."""
    one = dial()
    await one.open()
    await world.put_job(id="mine", targets=("site-1",), members=("site-1",), state=JobState.RUNNING)
    world.jobs.load()
    with pytest.raises(Unavailable, match="round 1 of job mine is about to be opened"):
        await one.fetch("0" * 64, job_id="mine")


async def test_site_touches_no_blob_through_a_job_that_is_not_its_own(world, dial):
    one = dial()
    await one.open()
    await world.put_job(id="theirs", targets=("site-2",), state=JobState.RUNNING)
    world.jobs.load()
    for job_id in ("theirs", "nobodys", "", "../theirs", "x" * 10_000):
        with pytest.raises(PermissionRefused):
            await one.fetch(world.app.digest, job_id=job_id)
        with pytest.raises(PermissionRefused):
            await one.send(b"x", job_id=job_id)
    assert world.blobs.digests() == {world.app.digest}


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.COMPLETED, JobState.ABORTING])
async def test_job_that_does_not_run_takes_no_blobs(world, dial, state):
    one = dial()
    await one.open()
    await world.put_job(targets=("site-1",), state=state, members=("site-1",))
    world.jobs.load()
    with pytest.raises(PermissionRefused, match="it takes no updates"):
        await one.send(b"x")


async def test_site_cannot_fill_the_disk_with_blobs_that_no_update_names(world, dial):
    one = dial()
    await one.open()
    run, workflow = await trained(world, one, spec=ALONE)
    await one.send(b"its update")
    for number in range(32):
        await one.send(b"%d" % number)
        with pytest.raises(ProtocolError, match="ended after"):  # begun and left: that takes room as well
            await one.send(b"half %d" % number, send=b"half")
    with pytest.raises(ProtocolError, match="site-1 has announced 65 blobs in one round"):
        await one.send(b"one more")
    workflow.say(pb.FromWorker(failure=pb.Failure(message="end")))
    await one.hears("stop")
    one.say(stopped=pb.Stopped(job_id="0job", clean=True))
    await world.over(run)
    assert world.blobs.digests() == {world.app.digest}


async def test_refused_update_leaves_no_blob_behind_its_round(world, dial):
    one, two = dial("site-1"), dial("site-2")
    await one.open()
    await two.open()
    run, workflow = await trained(world, one, two, spec=ALONE)
    bad = tensors(float("nan"), 1)
    await one.send(bad)
    one.updates(run, part=pb.Payload(digest=digest_of(bad), size=len(bad)))
    assert "NaN" in (await one.hears("ack")).refused.message
    two.updates(run)
    await two.hears("ack")
    workflow.say(pb.FromWorker(close=pb.CloseRound(round=0, state=payload(b"s"))))
    for _ in range(2):
        await workflow.hears("answer")
    await workflow.hears("saved")
    await one.hears("closed")
    await settle(lambda: world.blobs.digests() == {world.app.digest})


async def test_blob_that_is_gone_refuses_its_update_and_not_its_site(world, dial):
    one = dial()
    await one.open()
    run, _ = await trained(world, one, spec=ALONE)
    await one.send(BIG)
    world.blobs.remove(digest_of(BIG))
    one.updates(run, part=pb.Payload(digest=digest_of(BIG), size=len(BIG)))
    assert (await one.hears("ack")).refused.message.startswith("no blob ")
    assert "site-1" in world.sessions


# ---- foreign jobs ----------------------------------------------------------------------------


async def test_reports_on_foreign_jobs_are_passed_over(world, dial):
    """Whatever a site says of a job that is not its own: no event, no row, no answer, no memory."""
    one = dial()
    await one.open()
    await world.put_job(id="theirs", targets=("site-2",), state=JobState.RUNNING, members=("site-2",))
    await world.put_job(id="over", targets=("site-1",), state=JobState.FAILED)
    world.jobs.load()
    await world.launcher.process()
    rows, theirs, over = world.store.head, world.jobs.find("theirs"), world.jobs.find("over")
    for _ in range(200):
        for job_id in ("theirs", "nobodys", "over", "", "../theirs", "x" * 1000):
            one.say(progress=pb.Progress(job_id=job_id, step=1))
            one.say(stopped=pb.Stopped(job_id=job_id, clean=True))
            one.say(deployed=pb.Deployed(job_id=job_id, ready=False, refused=pb.Failure(message="no")))
            one.say(answer=pb.TaskAnswer(job_id=job_id, task_id="t", failure=pb.Failure(message="no")))
            one.say(answer=pb.TaskAnswer(job_id=job_id, task_id="t", update=pb.UpdateMessage(kind="full")))
    one.hang_up()
    assert await one.ended() == "its connection was closed without a goodbye"
    assert world.store.head == rows + 1
    assert (theirs._inbox.qsize(), over._inbox.qsize()) == (0, 0)
    assert (theirs.record.refusals, theirs.record.causes) == ({}, ())
    assert {part.state for part in over.sites.parts.values()} == {"waiting"}


async def test_flood_on_its_own_job_is_handled_as_fast_as_it_comes(world, dial):
    one = dial()
    await one.open()
    run, _ = await trained(world, one, spec=ALONE)
    rows = world.store.head
    for _ in range(2000):
        one.say(progress=pb.Progress(job_id="0job", step=1, values={"loss": 1.0}))
        one.say(stopped=pb.Stopped(job_id="0job", clean=True))
        one.say(deployed=pb.Deployed(job_id="0job", ready=True))
    one.updates(run)
    assert (await one.hears("ack")).task_id == "train/0/0"
    assert world.store.head == rows + 1
    assert run._inbox.qsize() < 100


async def test_logs_go_to_ones_own_jobs_and_under_ones_own_name(world, dial):
    one = dial()
    await one.open()
    await world.put_job(targets=("site-1", "site-2"))
    await world.put_job(id="theirs", targets=("site-2",))
    world.jobs.load()

    async def logs(*messages):
        async def send():
            for message in messages:
                yield message

        return [reply.offset async for reply in one.connection.stream(m.SEND_LOGS, send())]

    lie = pb.LogMessage(job_id="0job", site="site-2", offset=0, data=b"hello")
    assert await logs(lie, pb.LogMessage(job_id="0job", offset=9, data=b"gap")) == [5, 5]
    assert (world.logs.size("0job", "site-1"), world.logs.size("0job", "site-2")) == (5, 0)
    for job_id in ("theirs", "nobodys", "../0job"):
        with pytest.raises(PermissionRefused):
            await logs(pb.LogMessage(job_id=job_id, data=b"x"))
    assert world.logs.size("theirs", "site-1") == 0


async def test_who_follows_a_log_hears_what_a_site_sends(world, dial, network):
    one = dial()
    await one.open()
    await trained(world, one, spec=ALONE)
    request = pb.LogsRequest(job_id="0job", site="site-1", follow=True)
    parts = network.connect(ADA).download(m.JOB_LOGS, request)
    heard = asyncio.ensure_future(anext(parts))
    await asyncio.sleep(0.05)

    async def send():
        yield pb.LogMessage(job_id="0job", offset=0, data=b"hello")

    assert [reply.offset async for reply in one.connection.stream(m.SEND_LOGS, send())] == [5]
    assert (await asyncio.wait_for(heard, 10)).data == b"hello"
    await parts.aclose()


# ---- garbage ---------------------------------------------------------------------------------


def beat(**changes):
    document = to_document(vitals())
    for path, value in changes.items():
        *above, last = path.split("__")
        place = document
        for key in above:
            place = place[key]
        place[last] = value
    return json.dumps(document).encode()


HEARTBEATS = {
    "nothing": b"",
    "no JSON": b"\xff\xfe",
    "a list": b"[]",
    "no cpu": b"{}",
    "text for a number": beat(cpu__count="many"),
    "NaN": beat(cpu__load=float("nan")),
    "infinity, spelled as a number": beat().replace(b"0.5", b"1e999"),
    "memory beyond all machines": beat(memory__total=10**400),
    "negative memory": beat(memory__total=-(10**400)),
    "2^63 cpus": beat(cpu__count=2**63),
    "a million notes": beat(notes=["x"] * 1001),
    "a megabyte": beat(gpu_note="x" * 1_000_000),
    "half a surrogate pair in a key": b'{"\\ud800": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "a key twice": b'{"cpu": 1, "cpu": 2}',
    "nested too deep": b"[" * 30_000,
}


@pytest.mark.parametrize("case", HEARTBEATS)
async def test_garbage_for_a_heartbeat_ends_the_stream_and_says_why(world, dial, network, case):
    one = dial()
    await one.open()
    good = world.sessions.get("site-1")
    await settle(lambda: good.vitals is not None)
    one.beat(HEARTBEATS[case])
    reason = await one.ended()
    assert reason.startswith("a heartbeat ")
    assert (len(reason) < 300, reason.isprintable()) == (True, True)
    assert canonical_json(good.vitals)  # what people see is still the last good one
    assert (await network.connect(ADA).unary(m.STATUS, pb.Query())).json


async def test_scheduler_survives_the_vitals_of_a_liar(world, dial, kit):
    """Whatever passes the door may be scheduled with."""
    world.jobs.load()
    task = asyncio.create_task(world.jobs.run_scheduler())
    one = dial()
    await one.open()
    one.beat(beat(memory__total=0, memory__available=2**63 - 1, cpu__count=0))
    run = await world.run(targets=("site-1",), spec=ALONE)
    world.jobs.wake()
    await world.until(run, lambda seen: "needs" in seen.record.reason)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


WRONG_NOW = {
    "a second Hello": {"hello": pb.Hello(protocol=1, installation="x" * 32)},
    "an empty message": {},
}


@pytest.mark.parametrize("case", WRONG_NOW)
async def test_message_out_of_place_ends_the_stream(dial, case):
    one = dial()
    await one.open()
    one.say(**WRONG_NOW[case])
    assert (await one.ended()).startswith("a site cannot send ")


async def test_answer_for_a_task_with_an_endless_name_ends_the_stream(world, dial):
    """Names come back in acknowledgements: thousands of these would wait in memory."""
    one = dial()
    await one.open()
    run, _ = await trained(world, one, spec=ALONE)
    one.updates(run, "t" * 1_000_000)
    assert await one.ended() == "an answer names a task of 1000000 characters"


# ---- words -----------------------------------------------------------------------------------

RUDE = "\x1b[2J\x07\x9b31mred\N{RIGHT-TO-LEFT OVERRIDE}\N{ZERO WIDTH SPACE}\r\nsite-9  connected\t"


def printable(text):
    return all(character.isprintable() for character in text)


async def test_words_of_a_site_cannot_drive_a_terminal(world, dial, network):
    """Everything that a site may write, and every document in which people read it."""
    one, two = dial("site-1"), dial("site-2")
    await one.open(host=RUDE * 100, version=RUDE * 100)
    await two.open()
    one.beat(
        vitals(
            gpu_note=RUDE, notes=(RUDE * 100,), datasets=(RUDE,), confinement=RUDE, python=RUDE, jobs=(RUDE,)
        )
    )
    run, workflow = await trained(world, one, two, spec=ALONE)
    failure = pb.Failure(code=RUDE * 100, message=RUDE * 1000, traceback=RUDE * 10_000)
    one.say(answer=pb.TaskAnswer(job_id="0job", task_id="train/0/0", failure=failure))
    await workflow.hears("answer")
    workflow.end(RUDE)
    await one.hears("ack")
    await one.hears("stop")
    one.say(stopped=pb.Stopped(job_id="0job", clean=False, reason=RUDE * 1000))
    await world.until(run, lambda seen: seen.sites.parts["site-1"].reason != "")
    assert run.record.unconfirmed == ("site-1", "site-2")
    connection = network.connect(ADA)
    for method in (m.STATUS, m.LIST_SITES, m.LIST_JOBS):
        check((await connection.unary(method, pb.Query())).json)
    for method, id_ in ((m.SHOW_SITE, "site-1"), (m.SHOW_JOB, "0job"), (m.WHY_JOB, "0job")):
        check((await connection.unary(method, pb.Query(id=id_))).json)
    for row in (entry.row for entry in world.store.rows()):
        assert printable(row.reason + row.object + row.who), row
        assert len(row.reason) <= 2100


def check(data):
    assert len(data) < 200_000

    def walk(value, name=""):
        if isinstance(value, str):
            lines = value.replace("\n", "") if name == "traceback" else value
            assert printable(lines), (name, value)
        elif isinstance(value, dict):
            for key, item in value.items():
                assert printable(key)
                walk(item, key)
        elif isinstance(value, list):
            for item in value:
                walk(item, name)

    walk(json.loads(data))


async def test_refusal_of_a_site_is_one_bounded_line(world, dial):
    one = dial()
    await one.open()
    run = await world.run(targets=("site-1", "site-2"), spec=spec(sites=Membership(min=1)))
    run.choose(("site-1",))
    await one.hears("deploy")
    one.say(deployed=pb.Deployed(job_id="0job", refused=pb.Failure(code=RUDE * 9, message=RUDE * 100_000)))
    await world.until(run, lambda seen: bool(seen.record.refusals))
    reason = run.record.refusals["site-1"]
    assert (len(reason), printable(reason)) == (2000, True)
    assert printable(run.record.causes[0].code)


async def test_one_site_cannot_make_status_too_large_for_all(world, dial, network):
    """Every list is a single message of at most 4 MiB."""
    for name in ("site-1", "site-2", "site-3"):
        one = dial(name)
        await one.open(host="h" * 3_000_000)
        one.beat(beat(notes=["n" * 490] * 120, gpu_note="g" * 500))
        await settle(lambda name=name: bool((now := world.sessions.get(name).vitals) and now.notes))
    data = (await network.connect(ADA).unary(m.STATUS, pb.Query())).json
    assert len(data) < 400_000


@pytest.mark.parametrize("error", [NotFound, FlprovError])
async def test_results_that_vanish_are_told_as_such(world, dial, network, error):
    ref = BlobRef(digest="e" * 64, size=5)
    await world.put_job(state=JobState.COMPLETED, results={"model": ref, "small": inline(b"12345")})
    world.jobs.load()
    request = pb.DownloadRequest(job_id="0job", name="model")
    with pytest.raises(error, match="no blob eeeeeeeeeeee here"):
        [chunk async for chunk in network.connect(ADA).download(m.DOWNLOAD_RESULT, request)]
