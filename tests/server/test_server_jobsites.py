# SPDX-License-Identifier: Apache-2.0
"""A job's sites: how far each is, who is away, and that they are told."""

from __future__ import annotations

import pytest
from server_parties import SITES, job_record, site
from server_world import hello

from flprov.jobs import JobState
from flprov.server.jobs.ledger import JobLedger
from flprov.server.jobs.sites import JobSites
from flprov.server.sessions import Session, Sessions
from flprov.store import MemoryStore
from flprov.testing.clock import FakeClock
from flprov.wire import pb


class Held:
    """The sites of one job, two of which are connected."""

    def __init__(self, **changes) -> None:
        self.clock = FakeClock()
        self.changes: list[str] = []
        self.ledger = JobLedger(
            job_record("a" * 64, submission='{"x":1}', signature="0102", chain="PEM", **changes),
            store=MemoryStore(clock=self.clock),
            clock=self.clock,
            on_change=self.changes.append,
        )
        self.sessions = Sessions()
        self.live = {name: Session(site(name), hello(name), since=self.clock.now()) for name in SITES[:2]}
        for session in self.live.values():
            self.sessions.add(session)
        self.sites = JobSites(self.ledger, self.sessions, self.clock)

    def state(self, name: str) -> str:
        return self.sites.parts[name].state

    def queued(self, name: str) -> list[pb.ToSite]:
        queue = self.live[name]._outgoing
        return [queue.pop(0) for _ in range(len(queue))]


@pytest.fixture
def held() -> Held:
    return Held()


def test_site_that_is_told_to_deploy_is_deploying_and_one_that_is_away_is_absent(held):
    held.sites.deploy("site-1", held.sites.deployment(123))
    held.sites.deploy("site-3", held.sites.deployment(123))
    [message] = held.queued("site-1")
    assert (message.deploy.app_size, message.deploy.submission, message.deploy.signature) == (
        123,
        b'{"x":1}',
        b"\x01\x02",
    )
    assert (held.state("site-1"), held.state("site-3")) == ("deploying", "absent")
    assert held.sites.parts["site-3"].reason == "not connected"


def test_site_that_refused_is_not_told_again():
    held = Held(refusals={"site-1": "no policy"})
    held.sites.deploy("site-1", held.sites.deployment(1))
    assert (held.queued("site-1"), held.state("site-1")) == ([], "refused")


def test_each_step_of_a_site_has_its_time_and_is_shown(held):
    held.clock.advance(7)
    held.sites.set("site-1", "ready")
    assert held.sites.parts["site-1"].since == held.clock.now()
    assert held.changes == ["0job"]


def test_site_that_goes_is_away_since_now_if_it_was_ever_ready(held):
    held.ledger.note(members=("site-1",))
    held.clock.advance(3)
    held.sites.went("site-1")
    held.sites.went("site-2")
    assert held.sites.away == {"site-1": held.clock.now()}
    assert (held.state("site-1"), held.state("site-2")) == ("absent", "absent")
    held.sites.came("site-1")
    held.sites.came("site-2")
    assert held.sites.away == {}


def test_being_missed_twice_does_not_start_the_time_anew(held):
    held.sites.miss("site-3")
    first = held.clock.now()
    held.clock.advance(30)
    held.sites.miss("site-3")
    assert held.sites.away == {"site-3": first}


def test_after_a_restart_members_that_are_not_here_are_missed():
    held = Held(members=("site-1", "site-3"))
    held.sites.miss_all()
    assert held.sites.away == {"site-3": held.clock.now()}
    assert held.sites.granted == {"site-1", "site-3"}


@pytest.mark.parametrize(
    ("changes", "granted", "state", "holds"),
    [
        ({}, False, "waiting", False),
        ({}, True, "waiting", True),
        ({}, True, "training", True),
        ({}, True, "absent", True),
        ({}, True, "stopped", False),
        ({"refusals": {"site-1": "no"}}, True, "refused", False),
        ({"state": JobState.ABORTING}, True, "stopping", True),
        ({"state": JobState.ABORTED}, True, "stopping", False),
    ],
)
def test_job_holds_room_at_a_site_from_its_grant_to_its_proof(changes, granted, state, holds):
    held = Held(**changes)
    if granted:
        held.sites.granted.add("site-1")
    held.sites.set("site-1", state)
    assert held.sites.holds("site-1") is holds


def test_job_lacks_what_it_was_neither_given_nor_refused():
    held = Held(refusals={"site-2": "no"})
    held.sites.granted.add("site-1")
    assert held.sites.lacking == ("site-3",)


class Granted(set):
    """Notes how often it was copied."""

    copies = 0

    def __or__(self, other):
        self.copies += 1
        return super().__or__(other)


def test_what_a_job_lacks_is_found_in_one_go_over_its_sites(held):
    held.sites.granted = Granted()
    assert (held.sites.lacking, held.sites.granted.copies) == (SITES, 1)


def test_reasons_to_wait_are_kept_with_the_time_at_which_they_changed(held):
    held.sites.note_waiting({"site-1": "not connected yet"})
    since = held.sites.parts["site-1"].since
    held.clock.advance(60)
    held.sites.note_waiting({"site-1": "not connected yet", "site-2": "takes 1 job at once"})
    assert held.sites.parts["site-1"].since == since
    assert held.sites.parts["site-2"].since == held.clock.now()


def test_progress_is_of_sites_that_work(held):
    for name, state in (("site-1", "training"), ("site-2", "stopping")):
        held.sites.set(name, state)
        held.sites.note_progress(name, pb.Progress(step=120))
    assert held.sites.parts["site-1"].progress == "round 1, step 120, at 00:00:00 UTC"
    assert held.sites.parts["site-2"].progress == ""


def test_task_makes_a_site_train_if_it_arrives(held):
    for name in ("site-1", "site-3"):
        held.sites.order(name, pb.TaskOrder(job_id="0job", task_id="t"))
    assert (held.state("site-1"), held.state("site-3")) == ("training", "waiting")
    assert held.queued("site-1")[0].task.task_id == "t"


async def test_acknowledgement_says_why_an_update_was_not_taken(held):
    held.sites.acknowledge("site-1", "t")
    held.sites.acknowledge("site-1", "u", "NaN")
    taken, refused = (message.ack for message in held.queued("site-1"))
    assert (taken.job_id, taken.task_id, taken.HasField("refused")) == ("0job", "t", False)
    assert (refused.refused.code, refused.refused.message) == ("update-refused", "NaN")


def test_stop_gives_the_reason_and_the_grace(held):
    held.ledger.note(outcome="completed")
    assert held.sites.stop("site-1")
    held.ledger.note(reason="by ada")
    assert held.sites.stop("site-1")
    assert not held.sites.stop("site-3")
    first, second = (message.stop for message in held.queued("site-1"))
    assert (first.reason, second.reason, second.grace_seconds) == ("completed", "by ada", 0.0)


async def test_saved_round_is_told_to_those_that_are_here(held):
    held.sites.close_round(4, SITES)
    for name in held.live:
        [message] = held.queued(name)
        assert (message.closed.job_id, message.closed.round) == ("0job", 4)
