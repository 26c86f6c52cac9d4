# SPDX-License-Identifier: Apache-2.0
"""A job's record changes on disk first, with its row, or not at all."""

from __future__ import annotations

import pytest
from server_fakes import FailingStore
from server_parties import job_record, spec

from flprov._base import from_document, to_document
from flprov.errors import LocalError
from flprov.jobs import JobState, Membership
from flprov.server.jobs.ledger import JobLedger
from flprov.server.records import JobRecord
from flprov.store import Delete, Put, Row
from flprov.testing.clock import FakeClock


class Held:
    """A ledger and what it stands on."""

    def __init__(self, **changes) -> None:
        self.clock = FakeClock()
        self.store = FailingStore(clock=self.clock)
        self.told: list[str] = []
        record = job_record("a" * 64, **changes)
        self.ledger = JobLedger(record, store=self.store, clock=self.clock, on_change=self.told.append)


async def test_step_is_on_disk_with_its_row_before_it_shows():
    held = Held()
    seen = []
    held.ledger._on_change = lambda job_id: seen.append(held.store.get("job", job_id)["state"])
    await held.ledger.step(JobState.DEPLOYING, "", "job.deploy", who="server", started_at=held.clock.now())
    assert seen == ["deploying"]
    assert held.ledger.record.state is JobState.DEPLOYING
    assert held.ledger.record.started_at == held.clock.now()
    [row] = held.store.rows()
    assert (row.row.what, row.row.object, row.row.outcome) == ("job.deploy", "0job", "deploying")


async def test_record_survives_the_disk_unchanged():
    membership = Membership(min=1, required=("site-1",), absence_seconds=2.5)
    held = Held(spec=spec(sites=membership, args={"lr": 0.1, "layers": [1, 2]}))
    await held.ledger.save(None, causes=held.ledger.causes("site-1", "job-failed", "boom", "trace"))
    assert from_document(JobRecord, held.store.get("job", "0job")) == held.ledger.record


async def test_failed_commit_changes_nothing_and_tells_nobody():
    held = Held()
    before = held.ledger.record
    held.store.full = True
    with pytest.raises(LocalError, match="disk is full"):
        await held.ledger.step(JobState.DEPLOYING, "", "job.deploy")
    with pytest.raises(LocalError):
        await held.ledger.save(None, Put("round", "x", {}), reason="never")
    assert held.ledger.record is before
    assert (held.told, held.store.head, held.store.get("round", "x")) == ([], 0, None)


async def test_step_that_the_table_forbids_is_not_written():
    held = Held(state=JobState.COMPLETED)
    with pytest.raises(LocalError, match="cannot go from completed to running"):
        await held.ledger.step(JobState.RUNNING, "", "job.run")
    assert (held.store.head, held.ledger.record.state) == (0, JobState.COMPLETED)


@pytest.mark.parametrize("state", [JobState.ABORTING, JobState.ABORTED])
async def test_abort_has_the_reserve_of_a_full_disk(state):
    held = Held(state=JobState.QUEUED if state is JobState.ABORTING else JobState.ABORTING)
    held.store.full = True
    await held.ledger.step(state, "by ada", "job.abort", who="ada")
    assert held.store.get("job", "0job")["state"] == state.value


async def test_what_else_belongs_to_a_change_goes_in_its_transaction():
    held = Held()
    await held.store.commit([Put("update", "u", {})], None)
    row = Row(who="server", what="round.close", object="0job/000000")
    await held.ledger.save(row, Put("round", "0job/000000", {"round": 0}), Delete("update", "u"), round=1)
    assert held.store.get("update", "u") is None
    assert held.store.get("round", "0job/000000") == {"round": 0}
    assert held.store.get("job", "0job")["round"] == 1


async def test_note_shows_and_is_not_written():
    held = Held()
    held.ledger.note(reason="waiting for site-1")
    assert held.ledger.record.reason == "waiting for site-1"
    assert (held.told, held.store.get("job", "0job")) == (["0job"], None)


async def test_note_of_the_same_wakes_nobody():
    held = Held()
    held.ledger.note(reason="")
    assert held.told == []


async def test_first_cause_stays_first_and_there_are_never_more_than_fifty():
    held = Held()
    for number in range(60):
        await held.ledger.save(None, causes=held.ledger.causes("site-1", "job-failed", f"cause {number}"))
    messages = [cause.message for cause in held.ledger.record.causes]
    assert messages == [f"cause {number}" for number in range(50)]


async def test_job_without_a_minimum_needs_every_site():
    assert job_record("a", spec=spec(sites=Membership())).quorum == 3
    assert job_record("a", spec=spec(sites=Membership(min=1))).quorum == 1
    assert to_document(job_record("a"))["state"] == "queued"
