# SPDX-License-Identifier: Apache-2.0
"""What `server gc` throws away, what it never does, and the same by itself once a day."""

from __future__ import annotations

import asyncio
import errno
import os
from datetime import timedelta

import pytest
from server_fakes import PATIENCE
from server_network import ALONE, settle, trained
from server_parties import ADA, NOW, OLGA

from flprov._base import from_document, parse_json, to_document
from flprov.errors import LocalError, Misuse, PermissionRefused
from flprov.jobs import JobState
from flprov.rpc import methods as m
from flprov.server.jobs.checkpoints import Retention
from flprov.server.operations.cleaning import Cleaner
from flprov.server.records import RoundRecord, StateRef
from flprov.store import Put
from flprov.wire import documents as doc
from flprov.wire import pb

OLD = timedelta(days=100)


@pytest.fixture
def gc(network):
    connection = network.connect(ADA)

    async def ask(days: float = 0.0, **changes) -> doc.CleanDocument:
        request = pb.CleanRequest(older_than_seconds=days * 86400, **changes)
        return from_document(
            doc.CleanDocument, parse_json((await connection.unary(m.CLEAN, request, PATIENCE)).json)
        )

    return ask


def age(world, digest: str, by: timedelta = OLD) -> None:
    """As if a blob had come so long ago."""
    stamp = (world.clock.now() - by).timestamp()
    os.utime(world.blobs.path(digest), (stamp, stamp))


async def ended(world, id_: str, *, ago: timedelta = OLD, **changes):
    found = {"state": JobState.COMPLETED, "finished_at": world.clock.now() - ago} | changes
    return await world.put_job(id=id_, **found)


async def test_only_jobs_that_ended_long_enough_ago_go(world, gc):
    await ended(world, "old")
    await ended(world, "young", ago=timedelta(days=1))
    await ended(world, "unconfirmed", unconfirmed=("site-1",), state=JobState.ABORTED)
    await world.put_job(id="queued")
    world.jobs.load()
    assert [job.id for job in (await gc(90, dry_run=True)).jobs] == ["old", "unconfirmed"]
    done = await gc(90)
    assert [job.id for job in done.jobs] == ["old"]
    assert any("unconfirmed" in note and "site-1" in note for note in done.notes)
    assert {run.record.id for run in world.jobs.all()} == {"young", "unconfirmed", "queued"}
    [row] = world.store.told("job.delete")
    assert (row.object, row.who, row.reason) == ("old", ADA.uri, "it ended more than 90 days ago")
    [row] = world.store.told("server.gc")
    assert row.data["jobs"] == 1


async def test_without_an_age_and_retention_no_job_goes(world, gc):
    await ended(world, "old")
    world.jobs.load()
    assert (await gc()).jobs == ()
    assert world.jobs.get("old") is not None


async def test_dry_run_changes_nothing_and_writes_no_row(world, gc):
    await ended(world, "old")
    stray = await world.blobs.put(b"stray")
    world.jobs.load()
    stray = await world.blobs.put(b"stray")
    age(world, stray)
    found = await gc(90, dry_run=True, key="k")
    assert (found.dry_run, len(found.jobs), found.blobs, found.bytes) == (True, 1, 1, 5)
    assert world.jobs.get("old") is not None
    assert world.blobs.has(stray)
    assert world.store.told("server.gc") == []


async def test_blobs_that_nobody_names_go_and_those_that_a_live_job_needs_stay(world, dial, gc):
    one = dial()
    await one.open()
    run, _ = await trained(world, one, spec=ALONE)
    stray, fresh = await world.blobs.put(b"stray"), await world.blobs.put(b"fresh")
    update = await world.blobs.put(b"x" * 300_000)
    run.rounds.note_sent("site-1", update)
    for digest in (stray, update, world.app.digest):
        age(world, digest)
    age(world, fresh, timedelta(minutes=10))
    done = await gc()
    assert (done.blobs, done.bytes) == (1, 5)
    assert not world.blobs.has(stray)
    assert all(world.blobs.has(digest) for digest in (fresh, update, world.app.digest))


async def test_blob_that_is_brought_again_counts_as_young(world, gc):
    digest = await world.blobs.put(b"again")
    age(world, digest)
    await world.blobs.put(b"again")
    assert (await gc()).blobs == 0
    assert world.blobs.has(digest)


async def test_checkpoints_beyond_those_that_are_kept_go(world, network, gc):
    await ended(world, "old", ago=timedelta(0), round=4)
    states = [await world.blobs.put(f"state {n}".encode()) for n in range(4)]
    rounds = [round_record("old", n, StateRef(digest=digest, size=7)) for n, digest in enumerate(states)]
    await world.store.commit([Put("round", one.key, to_document(one)) for one in rounds], None)
    world.jobs.load()
    network.operations.cleaner._checkpoints = Retention(most=2)
    done = await gc()
    assert done.checkpoints == 2
    assert [world.blobs.has(digest) for digest in states] == [False, False, True, True]
    assert [record.state is None for record in world.jobs.rounds("old")] == [True, True, False, False]
    [row] = world.store.told("job.trim")
    assert (row.object, row.data) == ("old", {"checkpoints": 2})


async def test_job_that_is_deleted_while_others_are_cleaned_up_does_not_come_back(world, network, gc):
    for name in ("one", "two"):
        await ended(world, name, ago=timedelta(0), round=4)
        rounds = [round_record(name, n, StateRef(digest=f"{n:064x}", size=7)) for n in range(4)]
        await world.store.commit([Put("round", one.key, to_document(one)) for one in rounds], None)
    world.jobs.load()
    cleaner = network.operations.cleaner
    cleaner._checkpoints = Retention(most=2)
    find = cleaner._find

    async def find_slowly(age):
        found = await find(age)
        await world.jobs.delete(world.jobs.find("two"), ADA.uri, "")
        return found

    cleaner._find = find_slowly
    await gc()
    assert {value["job_id"] for value in world.store.load("round").values()} == {"one"}


def round_record(job: str, number: int, state: StateRef) -> RoundRecord:
    return RoundRecord(
        job_id=job,
        round=number,
        started_at=NOW,
        finished_at=NOW,
        contributors=(),
        absent=(),
        refused=(),
        metrics={},
        state=state,
    )


async def test_uploads_that_were_given_up_go(world, gc):
    upload = world.blobs.upload("ab" * 32, 100, owner="somebody")
    await upload.write(b"x" * 10)
    upload.close()
    del upload
    [partial] = (world.folder / "blobs" / "partial").glob("*.part")
    stamp = (world.clock.now() - OLD).timestamp()
    os.utime(partial, (stamp, stamp))
    done = await gc()
    assert (done.uploads, done.bytes) == (1, 10)
    assert not partial.exists()


async def test_same_command_twice_deletes_once(world, gc):
    await ended(world, "old")
    world.jobs.load()
    assert len((await gc(90, key="k")).jobs) == 1
    again = await gc(90, key="k")
    assert (again.jobs, again.notes) == ((), ("this command was carried out before: nothing was done",))


@pytest.mark.parametrize("days", [-1.0, 1e-9, float("nan"), float("inf"), 1e9])
async def test_age_that_is_none_is_misuse(gc, days):
    with pytest.raises(Misuse, match="cannot be asked for"):
        await gc(days)


async def test_only_a_project_admin_cleans_up(network):
    with pytest.raises(PermissionRefused):
        await network.connect(OLGA).unary(m.CLEAN, pb.CleanRequest(), PATIENCE)


# ---- by itself ---------------------------------------------------------------------------------


async def test_retention_cleans_once_a_day_also_over_restarts(world, network):
    cleaner = Cleaner(
        network.operations.parts, world.blobs, checkpoints=Retention(), keep_jobs=timedelta(days=90)
    )
    await ended(world, "one")
    await ended(world, "two", ago=timedelta(days=89, hours=12))
    world.jobs.load()
    running = asyncio.create_task(cleaner.run())
    await settle(lambda: world.store.get("server", "cleaned") is not None)
    assert world.jobs.get("one") is None
    assert world.jobs.get("two") is not None
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    again = asyncio.create_task(cleaner.run())  # the next start: it is not a day yet
    world.clock.advance(23 * 3600)
    await asyncio.sleep(0.01)
    assert world.jobs.get("two") is not None
    world.clock.advance(2 * 3600)
    await settle(lambda: world.jobs.get("two") is None)
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)
    assert [row.who for row in world.store.told("job.delete")] == ["server", "server"]


@pytest.mark.parametrize("error", [LocalError("disk I/O error"), OSError(errno.EIO, "Input/output error")])
async def test_disk_that_cannot_be_read_for_a_moment_does_not_end_it(world, network, monkeypatch, error):
    cleaner = Cleaner(
        network.operations.parts, world.blobs, checkpoints=Retention(), keep_jobs=timedelta(days=90)
    )
    await ended(world, "one")
    world.jobs.load()

    def refuse(*_args, **_kwargs):
        raise error

    where = (world.store, "get") if isinstance(error, LocalError) else (world.blobs, "digests")
    monkeypatch.setattr(*where, refuse)
    running = asyncio.create_task(cleaner.run())
    await asyncio.sleep(0.05)
    monkeypatch.undo()
    await world.clock.elapse(3600)
    await settle(lambda: world.jobs.get("one") is None)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_without_retention_nothing_runs_by_itself(world, network):
    cleaner = Cleaner(network.operations.parts, world.blobs, checkpoints=Retention(), keep_jobs=None)
    await asyncio.wait_for(cleaner.run(), PATIENCE)
