# SPDX-License-Identifier: Apache-2.0
"""Refused calls are rows: one per identity, method and minute."""

from __future__ import annotations

import pytest
from server_fakes import FailingStore
from server_parties import LEA, LEO

from flprov.errors import PermissionRefused
from flprov.server.log import Denials
from flprov.testing.clock import FakeClock

ABORT, SUBMIT = "/flprov.v1.Admin/AbortJob", "/flprov.v1.Admin/SubmitJob"
NO = PermissionRefused("no")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock) -> FailingStore:
    return FailingStore(clock=clock)


@pytest.fixture
def denials(store, clock) -> Denials:
    return Denials(store, clock)


async def test_denial_says_who_what_and_why(denials, store):
    denials.note(LEA, ABORT, PermissionRefused("job 0job is leo's"))
    await denials.close()
    [row] = store.told("call")
    assert (row.who, row.object, row.outcome, row.reason) == (LEA.uri, ABORT, "denied", "job 0job is leo's")


async def test_flood_of_one_minute_is_one_row_per_identity_and_method(denials, store, clock):
    for _ in range(500):
        for caller in (LEA, LEO, None):
            for method in (ABORT, SUBMIT):
                denials.note(caller, method, NO)
    clock.advance(59)
    denials.note(LEA, ABORT, NO)
    await denials.close()
    found = [(row.who, row.object) for row in store.told("call")]
    assert sorted(found) == sorted(
        (who, what) for who in (LEA.uri, LEO.uri, "unknown") for what in (ABORT, SUBMIT)
    )


async def test_next_minute_has_its_own_row(denials, store, clock):
    denials.note(LEA, ABORT, NO)
    clock.advance(60)
    denials.note(LEA, ABORT, NO)
    await denials.close()
    assert len(store.told("call")) == 2


async def test_methods_that_do_not_exist_are_one_and_bounded(denials, store):
    """A stranger to the table may invent as many names as it likes."""
    for number in range(2000):
        denials.note(LEA, f"/flprov.v1.Admin/Invented{number}" + "x" * 10_000, NO)
    await denials.close()
    [row] = store.told("call")
    assert len(row.object) <= 200


async def test_endless_reason_is_cut(denials, store):
    denials.note(LEA, ABORT, PermissionRefused("x" * 100_000))
    await denials.close()
    assert len(store.told("call")[0].reason) == 500


async def test_denial_that_cannot_be_written_hurts_nobody(denials, store, caplog):
    store.full = True
    denials.note(LEA, ABORT, NO)
    await denials.close()
    assert "a denial could not be recorded" in caplog.text
