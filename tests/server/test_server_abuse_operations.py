# SPDX-License-Identifier: Apache-2.0
"""Sites and people who lie to the operations of a server: numbers, floods, signatures for something else."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from server_fakes import PATIENCE
from server_network import ALONE, settle, trained
from server_parties import ADA, signed, submission, vitals
from test_server_witnesses import vouch

from flprov._base import SystemClock, canonical_json, from_iso
from flprov.errors import Misuse
from flprov.rpc import methods as m
from flprov.server.log.receipts import digest_at
from flprov.server.operations.metrics import _gpus
from flprov.server.sessions import _BEATS_AT_ONCE
from flprov.server.sights.sites import site_documents
from flprov.store import Row, RowFilter, open_store
from flprov.wire import pb
from flprov.wire.documents import GPU, SiteRoom

FAR = 2**64 - 1


async def read(network, method: m.Method, **words: object) -> int:
    connection = network.connect(ADA)
    try:
        async with asyncio.timeout(PATIENCE):
            return len([r async for r in connection.download(method, pb.EventsRequest(**words))])
    finally:
        await connection.close()


# ---- the log -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [m.WATCH_EVENTS, m.READ_AUDIT])
@pytest.mark.parametrize("start", [2**63, FAR])
async def test_no_log_has_a_row_beyond_what_a_store_can_count(network, method, start):
    with pytest.raises(Misuse, match="no log has a row"):
        await read(network, method, start=start)
    assert await read(network, m.EXPORT_LOG, start=start) == 0


async def test_the_last_day_of_all_is_a_time_that_can_be_asked_for(tmp_path):
    store = open_store(tmp_path, clock=SystemClock())
    await store.commit([], Row(who="server", what="job.start", object="0job"))
    last = from_iso("9999-12-31T23:59:59.999999Z")
    assert await store.find(RowFilter(since=last)) == []
    assert len(await store.find(RowFilter(until=last))) == 1
    assert digest_at(store, FAR) == ""
    await store.close()
    with pytest.raises(ValueError, match="beyond all calendars"):
        from_iso("0001-01-01T00:00:00+14:00")


async def test_site_that_was_not_asked_vouches_for_nothing(dial, network, world, early_kit):
    one, now = dial(), world.clock.now()
    await one.open()
    for number in range(50):
        one.say(witness=vouch(early_kit("site-1"), FAR, f"{number:064x}", at=now))
    one.say(progress=pb.Progress(job_id="x"))
    one.beat(vitals(python="heard"))
    await settle(lambda: (v := world.sessions.get("site-1").vitals) is not None and v.python == "heard")
    assert len(network.log.witnesses.document().disputes) == 1
    [row] = world.store.told("log.conflict")
    assert "or the site says what is not so" in row.reason


# ---- machines ----------------------------------------------------------------------------------


async def test_time_before_all_calendars_ends_the_stream_with_a_reason(dial, caplog):
    one = dial()
    await one.open()
    found = json.loads(canonical_json(vitals()))
    one.beat(json.dumps(found | {"at": "0001-01-01T00:00:00+14:00"}).encode())
    assert "cannot be read" in await one.ended()
    assert "broke here" not in caplog.text


async def test_names_of_fields_that_a_site_chose_drive_no_terminal(dial, world):
    one = dial()
    await one.open()
    one.beat(vitals(room=SiteRoom(cpus=1, memory=1, disk=1, lost={"\x1b[2J\u202e" + "x" * 900: "0job"})))
    await settle(lambda: (v := world.sessions.get("site-1").vitals) is not None and v.room is not None)
    [name] = world.sessions.get("site-1").vitals.room.lost
    assert name.startswith("?[2J?x")
    assert len(name) == 500


async def test_hello_s_words_are_short_and_harmless(dial, world):
    await dial().open(manifest="\x1b[2J" * 1000, started_at="x" * 1_000_000)
    found = world.sessions.get("site-1").hello
    assert (len(found.manifest), len(found.started_at), "\x1b" in found.manifest) == (64, 64, False)


async def test_site_makes_no_series_without_end(dial, world, network):
    gpu = GPU(
        index=0,
        uuid="u",
        name="n",
        driver="d",
        memory_total=1,
        memory_used=0,
        utilization=1.0,
        temperature=1.0,
    )
    one = dial()
    await one.open()
    one.beat(
        vitals(
            gpus=tuple(replace(gpu, index=index) for index in (0, 0, 1, 63, 64, *range(10**6, 10**6 + 100)))
        )
    )
    await settle(lambda: bool((v := world.sessions.get("site-1").vitals) and v.gpus))
    families = list(_gpus(site_documents(network.scene)))
    assert [[sample.labels["gpu"] for sample in family.samples] for family in families] == [
        ["0", "1", "63"]
    ] * 3


async def test_heartbeats_without_end_cost_no_plans_without_end(dial, world):
    one = dial()
    await one.open()
    woken = 0
    wake = world.jobs.scheduler.wake

    def count() -> None:
        nonlocal woken
        woken += 1
        wake()

    world.jobs.scheduler.wake = count
    for number in range(3 * _BEATS_AT_ONCE):
        one.beat(vitals(room=SiteRoom(cpus=number, memory=1, disk=1)))
    one.hang_up()
    await one.ended()
    assert 0 < woken <= _BEATS_AT_ONCE + 2  # and its coming and going
    again = dial()
    await again.open()
    await settle(lambda: world.sessions.get("site-1").vitals is not None)


# ---- jobs --------------------------------------------------------------------------------------


async def test_site_has_no_room_only_for_jobs_that_are_its_own(dial, world):
    one = dial()
    await one.open()
    run, _ = await trained(world, one, spec=ALONE)
    full = pb.Failure(code="no-room", message="x" * 2000)
    for number in range(500):
        one.say(deployed=pb.Deployed(job_id=f"job-{number}", refused=full))
    one.say(deployed=pb.Deployed(job_id=run.record.id, refused=full))
    waits = world.jobs.scheduler._waits._waits
    await settle(lambda: "site-1" in waits)
    assert list(waits["site-1"]) == [run.record.id]


def test_log_full_of_holes_is_no_flood_of_files(world):
    offset = 0
    for _ in range(500):
        offset = world.logs.append("0job", "site-1", offset + 1, b"x", first=offset + 1)
    files = list(world.logs.path("0job", "site-1").parent.iterdir())
    assert len(files) <= 66
    assert world.logs.size("0job", "site-1") == offset == 1000


async def test_what_was_signed_for_a_plan_makes_no_job(network, world, early_kit):
    leo = early_kit("leo")
    world.jobs.load()
    wish = submission(leo, world.app.digest, plan=True)
    connection = network.connect(leo.identity)
    with pytest.raises(Misuse, match="signed for a plan only"):
        await connection.unary(m.SUBMIT_JOB, signed(leo, wish), 5.0)
    await connection.close()
    assert world.jobs.all() == []
