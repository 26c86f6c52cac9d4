# SPDX-License-Identifier: Apache-2.0
"""What a job leaves to download: the workflow's files, metrics, its record as it was signed, logs."""

from __future__ import annotations

import json

import pytest
from server_parties import NOW, inline

from flprov.blobs import digest_of
from flprov.errors import NotFound
from flprov.jobs import JobState
from flprov.server.jobs.results import Results
from flprov.server.records import BlobRef, RoundRecord
from flprov.wire.documents import Cause, Contributor, Missing

SUBMISSION = '{"app":"a","sites":["site-1"]}'
WEIGHTS = b"w" * 3_000_000


@pytest.fixture
async def results(world):
    """A job with two results, two rounds, a cause and one log."""
    blob = BlobRef(digest=await world.blobs.put(WEIGHTS), size=len(WEIGHTS))
    cause = Cause(at=NOW, party="site-2", code="job-failed", message="boom")
    await world.put_job(
        state=JobState.DEGRADED,
        submission=SUBMISSION,
        signature="abcd",
        chain="PEM",
        causes=(cause,),
        round=1,
        results={"model.safetensors": blob, "notes.txt": inline(b"short")},
    )
    world.jobs.load()
    line = Contributor(site="site-1", samples=5, weight=5.0, bytes=1, seconds=1.0, metrics={"loss": 0.25})
    world.jobs._rounds["0job"] = [
        RoundRecord(
            job_id="0job", round=0, started_at=NOW, finished_at=NOW, contributors=(line,),
            absent=(Missing(site="site-2", reason="boom"),), refused=(), metrics={"loss": 0.5},
        )
    ]  # fmt: skip
    world.logs.append("0job", "site-1", 0, b"one log")
    return Results(jobs=world.jobs, blobs=world.blobs, logs=world.logs)


@pytest.fixture
def run(world, results):
    return world.jobs.find("0job")


async def fetch(results, run, name, offset=0):
    return b"".join([chunk async for chunk in results.read(run, name, offset)])


async def test_list_names_every_file_with_its_size_and_digest_where_it_is_fixed(results, run):
    found = {file.name: file for file in results.list(run).files}
    assert set(found) == {"model.safetensors", "notes.txt", "metrics.json", "record.json", "logs/site-1.log"}
    assert (found["model.safetensors"].size, found["model.safetensors"].digest) == (
        len(WEIGHTS),
        digest_of(WEIGHTS),
    )
    assert (found["notes.txt"].size, found["notes.txt"].digest) == (5, digest_of(b"short"))
    assert (found["logs/site-1.log"].size, found["logs/site-1.log"].digest) == (7, "")


async def test_every_file_that_is_listed_can_be_read_and_has_its_size(results, run):
    for file in results.list(run).files:
        data = await fetch(results, run, file.name)
        assert len(data) == file.size, file.name
        assert file.digest in ("", digest_of(data))
        assert await fetch(results, run, file.name, 3) == data[3:]


async def test_large_result_comes_in_chunks(results, run):
    sizes = [len(chunk) async for chunk in results.read(run, "model.safetensors", 0)]
    assert (max(sizes), sum(sizes)) == (1 << 20, len(WEIGHTS))


async def test_metrics_are_per_round_and_site(results, run):
    found = json.loads(await fetch(results, run, "metrics.json"))
    assert found["rounds"] == [
        {"round": 0, "metrics": {"loss": 0.5}, "sites": {"site-1": {"samples": 5, "metrics": {"loss": 0.25}}}}
    ]


async def test_record_holds_the_submission_as_it_was_signed(results, run):
    found = json.loads(await fetch(results, run, "record.json"))
    assert (found["submission"], found["signature"], found["certificates"]) == (
        json.loads(SUBMISSION),
        "abcd",
        "PEM",
    )
    assert found["job"]["rounds"][0]["absent"] == [{"site": "site-2", "reason": "boom"}]
    assert found["causes"][0]["message"] == "boom"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "model",
        "logs/site-2.log",
        "logs/../record.json",
        "../log",
        "/etc/passwd",
        "x" * 100_000,
        "\x1b[2J",
    ],
)
async def test_file_that_the_job_does_not_have_is_not_found(results, run, name):
    with pytest.raises(NotFound, match="job 0job has no file") as found:
        await fetch(results, run, name)
    assert (str(found.value).isprintable(), len(str(found.value)) < 300) == (True, True)


async def test_log_that_is_missing_is_not_listed_and_the_workflows_is_called_server(results, run, world):
    path = world.logs.path("0job", "server")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"workflow")
    assert "logs/server.log" in {file.name for file in results.list(run).files}
    assert await fetch(results, run, "logs/server.log") == b"workflow"
