# SPDX-License-Identifier: Apache-2.0
"""Refused calls are rows: one per identity, method and minute, and one more with a count."""

from __future__ import annotations

import pytest
from server_fakes import FailingStore
from server_parties import LEA, LEO

from flprov.errors import IdentityRefused, PermissionRefused
from flprov.pki import Identity, Kind
from flprov.server.log import Denials
from flprov.server.log.refusals import Refusals
from flprov.testing.clock import FakeClock

ABORT, SUBMIT = "/flprov.v1.Admin/AbortJob", "/flprov.v1.Admin/SubmitJob"
CONTROL = "/flprov.v1.Site/Control"
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
    assert row.data == {}


async def test_flood_of_one_minute_is_a_row_and_a_count_per_identity_and_method(denials, store, clock):
    for _ in range(500):
        for caller in (LEA, LEO, None):
            for method in (ABORT, SUBMIT):
                denials.note(caller, method, NO)
    clock.advance(59)
    denials.note(LEA, ABORT, NO)
    await denials.close()
    kinds = [(who, what) for who in (LEA.uri, LEO.uri, "unknown") for what in (ABORT, SUBMIT)]
    first = [(row.who, row.object) for row in store.told("call") if not row.data]
    assert sorted(first) == sorted(kinds)
    counts = {(row.who, row.object): row.data["more"] for row in store.told("call") if row.data}
    assert counts == dict.fromkeys(kinds, 499) | {(LEA.uri, ABORT): 500}


async def test_count_is_written_when_the_minute_ends_and_reads_as_one(denials, store, clock):
    clock.advance(12)
    for _ in range(4211):
        denials.note(LEA, ABORT, NO)
    await clock.elapse(47)
    assert len(store.told("call")) == 1
    await clock.elapse(1)
    first, rest = store.told("call")
    assert (rest.who, rest.object, rest.outcome, rest.data) == (LEA.uri, ABORT, "denied", {"more": 4210})
    assert rest.reason == "and 4,210 more within a minute; the last: no"
    assert first.reason == "no"
    await clock.elapse(120)
    assert len(store.told("call")) == 2  # and said once
    await denials.close()


async def test_next_minute_has_its_own_row(denials, store, clock):
    denials.note(LEA, ABORT, NO)
    clock.advance(60)
    denials.note(LEA, ABORT, NO)
    await denials.close()
    assert [row.data for row in store.told("call")] == [{}, {}]


async def test_methods_that_do_not_exist_are_one_and_bounded(denials, store):
    """A stranger to the table may invent as many names as it likes."""
    for number in range(2000):
        denials.note(LEA, f"/flprov.v1.Admin/Invented{number}" + "x" * 10_000, NO)
    await denials.close()
    first, rest = store.told("call")
    assert len(first.object) <= 200
    assert rest.data == {"more": 1999}


async def test_flood_of_many_identities_takes_bounded_memory_and_loses_no_count(denials, store, clock):
    for number in range(5000):
        denials.note(LEA.__class__(**vars(LEA) | {"name": f"lea-{number}"}), ABORT, NO)
    assert len(denials._coalescer._kinds) <= 1001
    assert len(denials.refused()) == 100
    await denials.close()
    rows = store.told("call")
    assert sum(row.data.get("more", 1) for row in rows) == 5000
    assert [row.reason for row in rows if row.data] == [
        "and 4,000 more within a minute; the last: of more callers than are counted apart"
    ]


async def test_endless_reason_is_cut(denials, store):
    for _ in range(2):
        denials.note(LEA, ABORT, PermissionRefused("x" * 100_000))
    await denials.close()
    assert [len(row.reason) for row in store.told("call")] == [500, 500]


async def test_denial_that_cannot_be_written_hurts_nobody(denials, store, caplog):
    store.full = True
    denials.note(LEA, ABORT, NO)
    denials.note(LEA, ABORT, NO)
    await denials.close()
    assert "a denial could not be recorded" in caplog.text
    assert "a count could not be recorded" in caplog.text


# ---- the list ------------------------------------------------------------------------------


def site(name: str, org: str = "org-a", kind: Kind = Kind.SITE) -> Identity:
    return Identity(trust_domain="heart.example", kind=kind, org=org, name=name)


ORGS = {"hospital-a": "org-a", "hospital-b": "org-b", "lab-1": "org-c", "lab-2": "org-c"}


@pytest.mark.parametrize(
    ("caller", "looks_like"),
    [
        (site("hospital-a"), "hospital-a"),
        (site("hospital-a", "org-z"), "hospital-a"),  # the name, whoever it says it belongs to
        (site("hospital-aa", "org-z"), "hospital-a"),
        (site("berlin", "org-b"), "hospital-b"),  # the only one of its organisation
        (site("berlin", "org-c"), ""),  # which of the two?
        (site("berlin", "org-z"), ""),
        (LEA, ""),  # a person is no site
        (None, ""),
    ],
    ids=str,
)
def test_refused_caller_is_shown_with_the_site_that_it_looks_like(clock, caller, looks_like):
    refusals = Refusals(clock, lambda: ORGS)
    refusals.note(caller, CONTROL, NO)
    [found] = refusals.documents()
    assert found.looks_like == looks_like
    assert found.who == (caller.uri if caller else "unknown")


def test_list_counts_and_has_the_newest_first(clock):
    refusals = Refusals(clock, lambda: ORGS)
    start = clock.now()
    refusals.note(site("hospital-a"), CONTROL, IdentityRefused("locked"))
    refusals.note(LEA, ABORT, NO)
    clock.advance(30)
    refusals.note(site("hospital-a"), CONTROL, IdentityRefused("revoked"))
    first, second = refusals.documents()
    assert (first.what, first.count, first.first, first.last) == (CONTROL, 2, start, clock.now())
    assert first.reason == "revoked"
    assert (second.who, second.count) == (LEA.uri, 1)


def test_certificate_that_was_refused_as_a_whole_shows_what_it_claims_and_proves_nothing(clock):
    refusals = Refusals(clock, lambda: ORGS)
    for minutes in range(3):  # the words change with the time; it is one caller all the same
        why = f"the certificate of spiffe://heart.example/site/org-a/hospital-a expired 0 h {minutes} min ago"
        refusals.note(None, CONTROL, IdentityRefused(why))
    [found] = refusals.documents()
    assert (found.who, found.count, found.looks_like) == ("unknown", 3, "hospital-a")
    assert found.claims == "spiffe://heart.example/site/org-a/hospital-a"
