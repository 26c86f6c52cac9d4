# SPDX-License-Identifier: Apache-2.0
"""The end of a job is proven by everybody who took part, or the record names who has not."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from server_fakes import FailingStore
from server_parties import SITES, job_record, site, spec
from server_world import hello

from flprov.jobs import JobState
from flprov.server.jobs.events import SiteStopped
from flprov.server.jobs.ledger import JobLedger
from flprov.server.jobs.sites import JobSites
from flprov.server.jobs.stopping import Stopping
from flprov.server.sessions import Session, Sessions
from flprov.testing.clock import FakeClock
from flprov.wire import pb


class FakeWorkflow:
    """Its processes end, save those in `left`."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.left: tuple[int, ...] = ()

    async def send(self, message: pb.ToWorker) -> None:
        self.calls.append(message.quit.reason)

    async def stop(self, grace: float) -> tuple[int, ...]:
        self.calls.append(grace)
        return self.left


class Held:
    """A job that is being aborted at three sites; `here` are connected, `members` had been ready."""

    def __init__(self, here=SITES, members=SITES, **changes) -> None:
        self.clock = FakeClock()
        self.store = FailingStore(clock=self.clock)
        record = job_record(
            "a" * 64,
            state=JobState.ABORTING,
            reason="by ada",
            members=members,
            unconfirmed=members,
            spec=spec(grace=3.0),
            **changes,
        )
        self.ledger = JobLedger(record, store=self.store, clock=self.clock, on_change=lambda _: None)
        sessions = Sessions()
        for name in here:
            sessions.add(Session(site(name), hello(name), since=self.clock.now()))
        self.sites = JobSites(self.ledger, sessions, self.clock)
        self.workflow = FakeWorkflow()
        self.stopping = Stopping(self.ledger, self.sites, self.workflow, self.clock)

    @property
    def unconfirmed(self) -> tuple[str, ...]:
        return self.ledger.record.unconfirmed

    async def proves(self, *names: str, clean: bool = True) -> None:
        for name in names:
            await self.stopping.sites_stopped([SiteStopped(site=name, clean=clean, reason="")])


async def test_done_when_every_site_and_the_workflow_have_proven_it():
    held = Held()
    held.stopping.begin()
    await held.proves("site-1", "site-2")
    held.stopping.workflow_ended(())
    assert not held.stopping.done
    await held.proves("site-3")
    assert held.stopping.done
    assert held.unconfirmed == ()


async def test_site_that_has_proven_it_has_room_again_also_when_it_goes_or_the_server_is_started_again():
    held = Held()
    held.stopping.begin()
    await held.proves("site-1")
    held.sites.went("site-1")
    held.sites.came("site-1")
    assert (held.sites.parts["site-1"].state, held.sites.parts["site-1"].reason) == ("stopped", "")
    after = JobSites(held.ledger, Sessions(), held.clock)  # what another server knows of it
    for sites in (held.sites, after):
        assert [name for name in SITES if sites.holds(name)] == ["site-2", "site-3"]


async def test_not_done_without_the_workflow():
    held = Held(here=())
    held.stopping.begin()
    assert not held.stopping.done
    held.stopping.workflow_ended(())
    assert held.stopping.done


def test_sites_have_the_jobs_grace_and_ten_seconds():
    held = Held()
    assert held.stopping.begin() == held.clock.now() + timedelta(seconds=13)


async def test_members_that_are_away_are_named_at_once_and_not_waited_for():
    held = Held(here=("site-1",), members=("site-1", "site-2"))
    held.stopping.begin()
    assert held.unconfirmed == ("site-1", "site-2")  # site-3 never had anything of the job
    await held.proves("site-1")
    held.stopping.workflow_ended(())
    assert held.stopping.done
    assert held.unconfirmed == ("site-2",)


def test_site_that_refused_the_job_has_nothing_to_prove():
    held = Held(refusals={"site-1": "no", "site-2": "no"})
    assert held.ledger.record.holders == ("site-3",)


async def test_unclean_word_names_the_site():
    held = Held()
    held.stopping.begin()
    await held.proves("site-1", "site-3")
    left = "processes 7 could not be killed"
    await held.stopping.sites_stopped([SiteStopped(site="site-2", clean=False, reason=left)])
    held.stopping.workflow_ended(())
    assert held.stopping.done
    assert held.unconfirmed == ("site-2",)
    assert held.sites.parts["site-2"].reason == "processes 7 could not be killed"


async def test_unclean_and_later_clean_is_confirmed_with_a_row():
    held = Held()
    held.stopping.begin()
    await held.proves("site-2", clean=False)
    await held.proves("site-2")
    assert held.unconfirmed == ("site-1", "site-3")
    assert held.store.get("job", "0job")["unconfirmed"] == ["site-1", "site-3"]
    assert [row.object for row in held.store.told("job.stopped")] == ["0job/site-2"]


async def test_proof_that_is_repeated_is_one_row():
    held = Held()
    held.stopping.begin()
    for _ in range(100):
        await held.proves("site-1")
    assert held.store.head == 1
    assert held.ledger.record.holders == ("site-2", "site-3")


async def test_proofs_that_come_together_are_one_commit_with_a_row_each():
    held = Held()
    held.stopping.begin()
    told: list[str] = []
    held.store.listen(lambda head: told.append(f"up to row {head}"))
    await held.stopping.sites_stopped([SiteStopped(site=name, clean=True, reason="") for name in SITES])
    await asyncio.sleep(0)
    assert told == ["up to row 3"]  # of each commit its listeners hear once
    assert [log.row.who for log in held.store.rows()] == list(SITES)
    assert held.unconfirmed == ()


async def test_giving_up_names_all_that_are_still_asked():
    held = Held()
    held.stopping.begin()
    await held.proves("site-2")
    held.stopping.give_up()
    assert held.unconfirmed == ("site-1", "site-3")
    held.stopping.give_up("site-1")
    assert held.unconfirmed == ("site-1", "site-3")


def test_giving_up_who_was_not_asked_names_nobody():
    held = Held(here=("site-1",), members=("site-1",))
    held.stopping.begin()
    held.stopping.give_up("site-2")
    assert held.unconfirmed == ("site-1",)


@pytest.mark.parametrize("left", [(), (7, 8)])
async def test_workflow_is_asked_and_then_killed(left):
    held = Held()
    held.workflow.left = left
    assert await held.stopping.end_workflow() == left
    assert held.workflow.calls == ["by ada", 3.0]
    held.stopping.workflow_ended(left)
    messages = [cause.message for cause in held.ledger.record.causes]
    assert messages == (["processes 7, 8 could not be killed"] if left else [])
