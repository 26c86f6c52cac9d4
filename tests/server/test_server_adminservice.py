# SPDX-License-Identifier: Apache-2.0
"""What people call: each document is what docs/schemas say, each object rule holds, nothing happens twice."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from server_fakes import PATIENCE
from server_network import ALONE, trained, upload
from server_parties import ADA, LEA, LEO, MIA, MILO, OBI, OLGA, SITES, inline, signed, spec, submission
from server_world import close_round

from flprov._base import from_document, parse_json, to_document, to_iso
from flprov.blobs import digest_of
from flprov.errors import ConfigError, Misuse, NotFound, PermissionRefused, ProtocolError
from flprov.jobs import JobState, build_bundle
from flprov.rpc import methods as m
from flprov.server.jobs import planning
from flprov.server.records import BlobRef, Enrolment, Mark, RoundRecord
from flprov.wire import documents as doc
from flprov.wire import pb
from flprov.wire.documents import Contributor


@pytest.fixture
def ask(network):
    """Call as a person (ada unless said otherwise); the document as its own type, checked to be all of it."""

    async def call(kind, method, request=None, *, by=ADA):
        reply = await network.connect(by).unary(method, request or pb.Query(), timeout=PATIENCE)
        return read(kind, reply.json)

    return call


def read(kind, data):
    found = from_document(kind, parse_json(data))
    assert to_document(found) == parse_json(data)
    return found


@pytest.fixture
async def jobs(world):
    """leo's job at site-1 and site-2, lea's at site-3; apps and jobs are loaded."""
    await world.put_job(id="leos", targets=("site-1", "site-2"))
    await world.put_job(id="leas", targets=("site-3",), submitted_by=LEA.uri)
    world.jobs.load()
    return world.jobs


# ---- documents -------------------------------------------------------------------------------


async def test_status_is_the_server_and_every_site_by_name(ask, dial):
    await dial("site-2").open()
    found = await ask(doc.StatusDocument, m.STATUS)
    assert found.server.project == "heart"
    assert [(site.name, site.state) for site in found.sites] == [
        ("site-1", "never_connected"),
        ("site-2", "connected"),
        ("site-3", "never_connected"),
    ]


async def test_sites_as_a_list_and_one_by_one(ask, dial):
    await dial("site-1").open()
    found = await ask(doc.SiteListDocument, m.LIST_SITES)
    assert tuple(site.name for site in found.sites) == SITES
    one = await ask(doc.SiteDocument, m.SHOW_SITE, pb.Query(id="site-1"))
    assert (one.host, one.org, one.state) == ("site-1.example", "org-a", "connected")


async def test_apps_as_a_list_without_files_and_one_with_them(ask, jobs, world):
    found = await ask(doc.AppListDocument, m.LIST_APPS)
    assert [(app.digest, app.files) for app in found.apps] == [(world.app.digest, ())]
    one = await ask(doc.AppDocument, m.SHOW_APP, pb.Query(id="heart"))
    assert (one.files, one.size) == (world.app.files, len(world.app.data))


async def test_jobs_as_a_list_newest_first_and_by_the_name_of_their_app(ask, jobs):
    found = await ask(doc.JobListDocument, m.LIST_JOBS)
    assert [job.id for job in found.jobs] == ["leos", "leas"]
    assert (await ask(doc.JobListDocument, m.LIST_JOBS, pb.Query(id="heart"))).jobs == found.jobs
    assert (await ask(doc.JobListDocument, m.LIST_JOBS, pb.Query(id="lung"))).jobs == ()


async def test_job_with_its_rounds(ask, world, dial):
    one = dial()
    await one.open()
    run, workflow = await trained(world, one, spec=ALONE)
    one.updates(run)
    await workflow.hears("answer")
    workflow.say(close_round(loss=0.5))
    await workflow.hears("saved")
    found = await ask(doc.JobDocument, m.SHOW_JOB, pb.Query(id="last"))
    assert (found.state, found.rounds_done, found.rounds_total) == ("running", 1, 2)
    assert found.rounds[0].metrics == {"loss": 0.5}
    assert [(line.site, line.samples) for line in found.rounds[0].contributors] == [("site-1", 10)]
    listed = await ask(doc.JobListDocument, m.LIST_JOBS)
    assert listed.jobs[0].rounds == ()


async def test_why_is_a_sentence_and_the_next_thing_to_type(ask, jobs):
    found = await ask(doc.WhyDocument, m.WHY_JOB, pb.Query(id="leos"))
    assert (found.answer, found.hint) == ("queued: it is about to start", "flprov site why site-1")


async def test_results_as_a_list(ask, world):
    await world.put_job(state=JobState.COMPLETED, results={"model.safetensors": inline(b"12345")})
    world.jobs.load()
    found = await ask(doc.ResultsDocument, m.LIST_RESULTS, pb.Query(id="0job"))
    assert [(file.name, file.size) for file in found.files[:1]] == [("model.safetensors", 5)]
    assert {file.name for file in found.files[1:]} == {"metrics.json", "record.json"}


# ---- apps ------------------------------------------------------------------------------------


async def test_app_is_uploaded_once_and_downloaded_whole(network, world, ask):
    world.jobs.load()
    connection = network.connect(LEO)
    for _ in range(2):
        assert (await upload(connection, m.UPLOAD_APP, world.app.data))[-1].complete
    request = pb.BlobRequest(digest="heart", offset=10)
    data = [chunk async for chunk in connection.download(m.DOWNLOAD_APP, request)]
    assert b"".join(data) == world.app.data[10:]
    assert world.store.told("app.upload") == []  # the world had it already


async def test_new_app_is_a_row_and_known_by_its_name(network, world, ask, tmp_path: Path):
    folder = tmp_path / "lung"
    folder.mkdir()
    (folder / "job.yml").write_text("name: lung\ntasks: {train: t.py}\n")
    (folder / "t.py").write_text("")
    bundle = build_bundle(folder)
    await upload(network.connect(LEO), m.UPLOAD_APP, bundle.data)
    found = await ask(doc.AppDocument, m.SHOW_APP, pb.Query(id="lung"))
    assert (found.digest, found.uploaded_by) == (bundle.digest, LEO.uri)
    [row] = world.store.told("app.upload")
    assert (row.who, row.object, row.data) == (LEO.uri, bundle.digest, {"name": "lung"})


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no zip", b"\0" * 100_000])
async def test_what_is_no_app_is_refused_and_not_kept(network, world, data):
    world.jobs.load()
    with pytest.raises((ProtocolError, ConfigError)):
        await upload(network.connect(LEO), m.UPLOAD_APP, data)
    assert world.blobs.digests() == {world.app.digest}
    assert list(world.jobs.apps) == [world.app.digest]


async def test_what_is_no_app_but_a_result_of_a_job_stays(network, world):
    """Nobody can destroy a result by handing it in as an app."""
    data = b"weights, and no app"
    digest = await world.blobs.put(data)
    ref = BlobRef(digest=digest, size=len(data))
    await world.put_job(state=JobState.COMPLETED, results={"model.safetensors": ref})
    world.jobs.load()
    for bytes_sent in (b"", data):
        with pytest.raises(ProtocolError):
            await upload(network.connect(LEO), m.UPLOAD_APP, data, send=bytes_sent)
    assert world.blobs.has(digest)


async def test_app_that_is_too_large_is_refused_before_it_comes(network):
    with pytest.raises(ProtocolError, match="at most 536870912 are taken here"):
        await upload(network.connect(LEO), m.UPLOAD_APP, b"x", size=2**63)


# ---- submit and abort ------------------------------------------------------------------------


async def test_submission_gives_a_job_and_the_same_one_again(ask, world, early_kit):
    world.jobs.load()
    request = signed(early_kit("leo"), submission(early_kit("leo"), world.app.digest))
    first = await ask(doc.SubmitDocument, m.SUBMIT_JOB, request, by=LEO)
    again = await ask(doc.SubmitDocument, m.SUBMIT_JOB, request, by=LEO)
    assert (first.state, first.repeated, again.job_id, again.repeated) == (
        "queued",
        False,
        first.job_id,
        True,
    )
    assert len(world.jobs.all()) == 1


@pytest.mark.parametrize("changed", ["disk", "site"])
async def test_submission_whose_reply_was_lost_gives_its_job_whatever_has_changed_since(
    ask, world, early_kit, monkeypatch, changed
):
    world.jobs.load()
    request = signed(early_kit("leo"), submission(early_kit("leo"), world.app.digest))
    first = await ask(doc.SubmitDocument, m.SUBMIT_JOB, request, by=LEO)
    if changed == "disk":
        monkeypatch.setattr(planning, "_free", lambda _folder: 0)
    else:
        mark = Mark(by=ADA.uri, at=world.clock.now())
        world.registry.enrol(Enrolment(name="site-1", org="org-a", removed=mark))
    again = await ask(doc.SubmitDocument, m.SUBMIT_JOB, request, by=LEO)
    assert (again.job_id, again.repeated) == (first.job_id, True)


async def test_submission_of_somebody_else_is_no_job(ask, world, early_kit):
    world.jobs.load()
    request = signed(early_kit("leo"), submission(early_kit("leo"), world.app.digest))
    with pytest.raises(PermissionRefused):
        await ask(doc.SubmitDocument, m.SUBMIT_JOB, request, by=LEA)
    assert world.jobs.all() == []


@pytest.mark.parametrize(("who", "may"), [(ADA, True), (LEO, True), (OLGA, True), (LEA, False)], ids=str)
async def test_abort_is_for_whose_job_it_is_or_whose_site(ask, jobs, world, who, may):
    request = pb.AbortRequest(job_id="leos", reason="because")
    if not may:
        with pytest.raises(PermissionRefused):
            await ask(doc.JobDocument, m.ABORT_JOB, request, by=who)
        assert jobs.find("leos").record.state is JobState.QUEUED
        return
    found = await ask(doc.JobDocument, m.ABORT_JOB, request, by=who)
    assert (found.state in ("aborting", "aborted"), found.reason) == (True, "because")
    assert [row.who for row in world.store.told("job.abort")] == [who.uri]


async def test_abort_that_was_held_up_is_not_carried_out(ask, jobs, world):
    late = to_iso(world.clock.now() - timedelta(seconds=1))
    with pytest.raises(Misuse, match="came after its not_after"):
        await ask(doc.JobDocument, m.ABORT_JOB, pb.AbortRequest(job_id="leos", not_after=late))
    assert jobs.find("leos").record.state is JobState.QUEUED
    in_time = to_iso(world.clock.now() + timedelta(seconds=1))
    await ask(doc.JobDocument, m.ABORT_JOB, pb.AbortRequest(job_id="leos", not_after=in_time))


@pytest.mark.parametrize(
    "moment", ["soon", "2026-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "\x1b[2J"]
)
async def test_moment_that_is_none_is_misuse(ask, jobs, moment):
    with pytest.raises(Misuse, match="not_after is not a time") as found:
        await ask(doc.JobDocument, m.ABORT_JOB, pb.AbortRequest(job_id="leos", not_after=moment))
    assert str(found.value).isprintable()
    assert jobs.find("leos").record.state is JobState.QUEUED


async def test_reason_of_an_abort_is_one_bounded_line(ask, jobs):
    reason = "\x1b[2Jtypo\nsite-9 is next" + "x" * 10_000
    found = await ask(doc.JobDocument, m.ABORT_JOB, pb.AbortRequest(job_id="leos", reason=reason))
    assert (len(found.reason), found.reason[:10], found.reason.isprintable()) == (200, "?[2Jtypo s", True)


# ---- object rules ----------------------------------------------------------------------------

READ = {
    "ada": (ADA, True),
    "leo": (LEO, True),
    "mia": (MIA, True),
    "olga": (OLGA, True),
    "milo": (MILO, False),
}


@pytest.mark.parametrize("name", READ)
async def test_results_are_for_the_organisation_that_submitted_and_its_sites_admins(network, jobs, name):
    who, may = READ[name]
    connection = network.connect(who)
    request = pb.DownloadRequest(job_id="leos", name="record.json")
    if may:
        assert (await connection.unary(m.LIST_RESULTS, pb.Query(id="leos"))).json
        assert b"".join([chunk async for chunk in connection.download(m.DOWNLOAD_RESULT, request)])
        return
    with pytest.raises(PermissionRefused, match="belongs to another organisation"):
        await connection.unary(m.LIST_RESULTS, pb.Query(id="leos"))
    with pytest.raises(PermissionRefused, match="belongs to another organisation"):
        [chunk async for chunk in connection.download(m.DOWNLOAD_RESULT, request)]


@pytest.mark.parametrize("prefix", ["leo", "leos", "last"])
async def test_object_rule_holds_however_the_job_is_named(network, jobs, world, prefix):
    with pytest.raises(PermissionRefused):
        await network.connect(MILO).unary(m.LIST_RESULTS, pb.Query(id="leos" if prefix == "last" else prefix))


@pytest.mark.parametrize("id_", ["", "zzz", "le", "../leos", "x" * 100_000, "\x1b[2J", "leos\0"])
async def test_id_that_is_no_job_is_refused_in_one_printable_line(network, jobs, id_):
    connection = network.connect(ADA)
    for method in (m.SHOW_JOB, m.WHY_JOB, m.LIST_RESULTS):
        with pytest.raises((NotFound, Misuse)) as found:
            await connection.unary(method, pb.Query(id=id_))
        assert (str(found.value).isprintable(), len(str(found.value)) < 500) == (True, True)
    with pytest.raises((NotFound, Misuse)):
        await connection.unary(m.ABORT_JOB, pb.AbortRequest(job_id=id_))
    for method, request in (
        (m.WATCH_JOB, pb.Query(id=id_)),
        (m.JOB_LOGS, pb.LogsRequest(job_id=id_)),
        (m.DOWNLOAD_RESULT, pb.DownloadRequest(job_id=id_, name="record.json")),
    ):
        with pytest.raises((NotFound, Misuse)):
            [part async for part in connection.download(method, request)]


# ---- watching and logs -----------------------------------------------------------------------


async def test_watch_tells_each_round_once_and_ends_with_the_job(network, world, dial):
    one = dial()
    await one.open()
    run, workflow = await trained(world, one, spec=ALONE)

    async def watch():
        replies = network.connect(MIA).download(m.WATCH_JOB, pb.Query(id="0job"))
        return [read(doc.JobDocument, reply.json) async for reply in replies]

    watching = asyncio.create_task(watch())
    one.updates(run)
    await workflow.hears("answer")
    for number in range(3):
        workflow.say(close_round(number))
        await workflow.hears("saved")
    workflow.end()
    await world.reaches(run, JobState.FINISHING)
    one.say(stopped=pb.Stopped(job_id="0job", clean=True))
    async with asyncio.timeout(PATIENCE):
        told = await watching
    assert [record.round for document in told for record in document.rounds] == [0, 1, 2]
    assert told[-1].state == "failed"


async def test_watch_of_many_rounds_comes_in_parts(network, world):
    await world.put_job(state=JobState.COMPLETED, round=1200)
    world.jobs.load()
    world.jobs._rounds["0job"] = [
        RoundRecord(
            job_id="0job", round=number, started_at=None, finished_at=None, contributors=(), absent=(),
            refused=(), metrics={},
        )
        for number in range(1200)
    ]  # fmt: skip
    replies = [reply async for reply in network.connect(ADA).download(m.WATCH_JOB, pb.Query(id="0job"))]
    parts = [len(read(doc.JobDocument, reply.json).rounds) for reply in replies]
    assert parts == [500, 500, 200]


async def test_job_of_more_rounds_than_a_message_takes_is_shown_watched_and_aborted(ask, network, world):
    """300 sites and 200 rounds, say. What is shown are the newest; a watch brings all."""
    await world.put_job(round=200)
    world.jobs.load()
    lines = tuple(
        Contributor(site=f"site-{n}", samples=n, weight=1.0, bytes=n, seconds=1.5, metrics={"loss": 0.123456})
        for n in range(300)
    )
    world.jobs._rounds["0job"] = [
        RoundRecord(
            job_id="0job", round=number, started_at=None, finished_at=None, contributors=lines, absent=(),
            refused=(), metrics={},
        )
        for number in range(200)
    ]  # fmt: skip
    shown = [record.round for record in (await ask(doc.JobDocument, m.SHOW_JOB, pb.Query(id="0job"))).rounds]
    assert shown == list(range(shown[0], 200))
    assert 0 < shown[0] < 200
    request = pb.AbortRequest(job_id="0job")
    assert (await ask(doc.JobDocument, m.ABORT_JOB, request)).state in ("aborting", "aborted")
    replies = [reply async for reply in network.connect(ADA).download(m.WATCH_JOB, pb.Query(id="0job"))]
    told = [record.round for reply in replies for record in read(doc.JobDocument, reply.json).rounds]
    assert told == list(range(200))


async def test_logs_of_all_parties_or_of_one(network, jobs, world):
    for party in ("site-1", "site-2"):
        world.logs.append("leos", party, 0, party.encode())

    async def logs(**request):
        found = network.connect(ADA).download(m.JOB_LOGS, pb.LogsRequest(job_id="leos", **request))
        return [(part.site, part.offset, part.data) async for part in found]

    assert await logs() == [("site-1", 0, b"site-1"), ("site-2", 0, b"site-2")]
    assert await logs(site="site-2", offset=5) == [("site-2", 5, b"2")]
    assert await logs(offset=2**63) == []
    for party in ("site-3", "../leos", "workflow"):
        with pytest.raises(Misuse, match="is not a party of job leos") as found:
            await logs(site=party)
        assert found.value.hint == "one of: site-1, site-2, server"


async def test_follower_of_logs_is_let_go_when_the_job_ends(network, jobs, world):
    parts = network.connect(ADA).download(m.JOB_LOGS, pb.LogsRequest(job_id="leos", follow=True))
    waiting = asyncio.create_task(anext(parts, None))
    await asyncio.sleep(0)
    world.logs.append("leos", "site-1", 0, b"first")
    async with asyncio.timeout(PATIENCE):
        assert (await waiting).data == b"first"
        await jobs.abort(jobs.find("leos"), ADA, "")
        assert await anext(parts, None) is None


async def test_observer_sees_lists_and_no_more(network, jobs):
    connection = network.connect(OBI)
    for method in (m.STATUS, m.LIST_SITES, m.LIST_APPS, m.LIST_JOBS):
        assert (await connection.unary(method, pb.Query())).json
    with pytest.raises(PermissionRefused, match="these roles may: "):
        await connection.unary(m.SHOW_JOB, pb.Query(id="leos"))


@pytest.mark.parametrize("offset", [0, 3, 10**6, 2**63, 2**64 - 1])
async def test_results_are_read_from_any_offset(network, world, offset):
    blob = b"0123456789" * 10
    ref = BlobRef(digest=await world.blobs.put(blob), size=len(blob))
    await world.put_job(
        state=JobState.COMPLETED, spec=spec(), results={"small": inline(b"12345"), "big": ref}
    )
    world.jobs.load()
    world.logs.append("0job", "site-1", 0, b"log line")
    connection = network.connect(ADA)

    async def fetch(name):
        request = pb.DownloadRequest(job_id="0job", name=name, offset=offset)
        return b"".join([chunk async for chunk in connection.download(m.DOWNLOAD_RESULT, request)])

    assert await fetch("small") == b"12345"[offset:]
    assert await fetch("logs/site-1.log") == b"log line"[offset:]
    assert digest_of(blob) == ref.digest
    if offset <= len(blob):
        assert await fetch("big") == blob[offset:]
    else:
        with pytest.raises(ProtocolError, match="none at"):
            await fetch("big")
