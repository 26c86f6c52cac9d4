# SPDX-License-Identifier: Apache-2.0
"""One round's broadcasts and answers, against a workflow process that only listens."""

from __future__ import annotations

import pytest
from server_parties import SITES, inline, job_record, tensors, update_record
from server_world import broadcast, close_round

from flprov.errors import ProtocolError
from flprov.server.jobs.gather import Asked
from flprov.server.jobs.rounds import Rounds
from flprov.server.records import BlobRef, StateRef
from flprov.testing.clock import FakeClock
from flprov.wire import pb
from flprov.wire.documents import Missing

STATE = StateRef(inline="00", size=1)


class FakeWorkflow:
    """Takes tensors out by value and keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[pb.SiteAnswer] = []

    async def take_out(self, part: pb.Payload) -> BlobRef:
        if part.digest:
            return BlobRef(digest=part.digest, size=part.size)
        return inline(part.inline)

    def hand_in(self, ref: BlobRef) -> pb.Payload:
        return pb.Payload(inline=bytes.fromhex(ref.inline), size=ref.size)

    async def send(self, message: pb.ToWorker) -> None:
        self.sent.append(message.answer)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def workflow() -> FakeWorkflow:
    return FakeWorkflow()


@pytest.fixture
def rounds(workflow, clock) -> Rounds:
    return Rounds(job_record("a" * 64), workflow, clock, {})


def frame(*args, **changes) -> pb.Broadcast:
    return broadcast(*args, **changes).broadcast


async def answered(rounds, *names, task="train/0/0", **changes):
    gather = rounds.gathers.get(task)
    for name in names:
        gather.take(update_record(name, task, **changes))
        await rounds.pass_on(gather, name)


async def test_order_is_what_the_workflow_broadcast(rounds):
    gather = await rounds.begin(frame(3, scalars=b'{"lr": 0.1}', rounds=9), {})
    order = rounds.order(gather, "site-1")
    assert (order.job_id, order.task_id, order.name, order.round, order.rounds) == (
        "0job",
        "train/3/0",
        "train",
        3,
        9,
    )
    assert (order.expects, order.scalars, order.model.inline) == ("full,diff", b'{"lr": 0.1}', tensors(0, 0))
    assert rounds.total == 9


async def test_broadcast_to_nobody_in_particular_is_to_every_site(rounds):
    gather = await rounds.begin(frame(), {})
    assert gather.asked.sites == SITES


async def test_model_that_is_a_blob_goes_to_the_sites_by_its_digest(rounds):
    gather = await rounds.begin(frame(model=pb.Payload(digest="d" * 64, size=5)), {})
    order = rounds.order(gather, "site-2")
    assert (order.model.digest, order.model.size) == ("d" * 64, 5)
    assert rounds.given("site-2") == {"d" * 64}


async def test_sites_that_refused_the_job_are_out_from_the_start(rounds, workflow):
    gather = await rounds.begin(frame(), {"site-2": "no policy"})
    assert gather.open == ("site-1", "site-3")
    [answer] = workflow.sent
    assert (answer.site, answer.absent.message, answer.last) == (
        "site-2",
        "refused the job: no policy",
        False,
    )


async def test_last_answer_says_that_it_is_the_last(rounds, workflow):
    await rounds.begin(frame(), {})
    await answered(rounds, "site-3", "site-1")
    rounds.gathers.newest.fail("site-2", "boom")
    await rounds.pass_on(rounds.gathers.newest, "site-2")
    assert [(answer.site, answer.last) for answer in workflow.sent] == [
        ("site-3", False),
        ("site-1", False),
        ("site-2", True),
    ]
    assert workflow.sent[2].absent.message == "boom"


async def test_answer_carries_what_the_site_said(rounds, workflow):
    await rounds.begin(frame(), {})
    await answered(rounds, "site-1", weight=2.5, samples=2**53)
    update = workflow.sent[0].update
    assert (update.weight, update.samples, update.kind, update.seconds) == (2.5, 2**53, "full", 1.5)


async def test_known_updates_answer_a_repeated_broadcast_and_others_do_not(workflow, clock):
    known = [update_record("site-1", "train/0/0"), update_record("site-2", "train/0/1")]
    rounds = Rounds(job_record("a" * 64), workflow, clock, {update.key: update for update in known})
    gather = await rounds.begin(frame(), {})
    assert (set(gather.taken), gather.open) == ({"site-1"}, ("site-2", "site-3"))
    assert rounds.holds("train/0/1", "site-2")
    assert [answer.site for answer in workflow.sent] == ["site-1"]


async def test_known_update_beats_a_later_refusal(workflow, clock):
    known = update_record("site-1", "train/0/0")
    rounds = Rounds(job_record("a" * 64), workflow, clock, {known.key: known})
    gather = await rounds.begin(frame(), {"site-1": "policy changed"})
    assert (set(gather.taken), gather.absent) == ({"site-1"}, {})


async def test_only_the_open_task_of_an_open_site_is_awaited(rounds):
    assert rounds.awaited("train/0/0", "site-1") is None
    await rounds.begin(frame(sites=("site-1", "site-2")), {})
    await answered(rounds, "site-1")
    awaited = {
        (task, name) for task in ("train/0/0", "train/1/0") for name in SITES if rounds.awaited(task, name)
    }
    assert awaited == {("train/0/0", "site-2")}


async def test_a_site_gets_its_second_task_once_it_has_answered_the_first(rounds):
    await rounds.begin(frame(sites=("site-1",)), {})
    text = r"'evaluate/0/0' to site-1, which has not answered task 'train/0/0'"
    with pytest.raises(ProtocolError, match=text):
        await rounds.begin(frame(name="evaluate"), {})
    await answered(rounds, "site-1")
    await rounds.begin(frame(name="evaluate"), {})
    assert rounds.gathers.newest.asked.name == "evaluate"
    assert rounds.holds("train/0/0", "site-1")


async def test_broadcast_to_a_stranger_opens_nothing(rounds):
    with pytest.raises(ProtocolError, match="site-9, which is not a site of this job"):
        await rounds.begin(frame(sites=("site-1", "site-9")), {})
    assert rounds.gathers.newest is None


@pytest.mark.parametrize("changes", [{"scalars": b"x" * 65_537}, {"name": "n" * 101}])
async def test_task_that_is_larger_than_a_message_to_a_site_may_be_opens_nothing(rounds, changes):
    with pytest.raises(ProtocolError, match="larger than a message may be"):
        await rounds.begin(frame(**changes), {})
    assert rounds.gathers.newest is None


async def test_nothing_to_judge_between_broadcasts(rounds):
    assert rounds.gathers.unsettled == ()


async def test_record_of_a_round_of_two_broadcasts_has_one_line_per_site(rounds, clock):
    await rounds.begin(frame(sites=("site-1", "site-2")), {})
    clock.advance(5)
    await answered(rounds, "site-2", "site-1", metrics={"loss": 1.0}, seconds=2.0)
    await rounds.begin(frame(name="evaluate", sites=("site-1", "site-2")), {})
    await answered(rounds, "site-1", task="evaluate/0/0", metrics={"acc": 0.5}, seconds=1.0, samples=3)
    rounds.gathers.newest.refuse("site-2", "metric 'acc' is nan")
    record = rounds.summary(close_round(0, acc=0.5).close, STATE)
    assert (record.key, record.metrics) == ("0job/000000", {"acc": 0.5})
    assert (record.finished_at - record.started_at).total_seconds() == 5
    one, two = record.contributors
    assert (one.site, one.samples, one.metrics, one.seconds) == ("site-1", 10, {"loss": 1.0, "acc": 0.5}, 3.0)
    assert one.bytes == 2 * len(tensors(1, 2))
    assert (two.site, two.metrics) == ("site-2", {"loss": 1.0})
    assert record.refused == (Missing(site="site-2", reason="metric 'acc' is nan"),)


async def test_weight_defaults_to_the_samples(rounds):
    await rounds.begin(frame(), {})
    await answered(rounds, "site-1", samples=7)
    await answered(rounds, "site-2", samples=7, weight=0.0)
    lines = rounds.summary(close_round().close, STATE).contributors
    assert [line.weight for line in lines] == [7.0, 0.0]


async def test_missing_sites_are_sorted_and_told_apart(rounds):
    await rounds.begin(frame(), {"site-3": "no"})
    rounds.gathers.newest.fail("site-1", "boom")
    rounds.gathers.newest.refuse("site-2", "NaN")
    record = rounds.summary(close_round().close, STATE)
    assert [line.site for line in record.absent] == ["site-1", "site-3"]
    assert [line.site for line in record.refused] == ["site-2"]


async def test_next_round_starts_empty(rounds):
    await rounds.begin(frame(), {})
    await answered(rounds, "site-1")
    rounds.note_sent("site-2", "b" * 64)
    rounds.drop()
    assert (rounds.gathers.newest, rounds.updates(), rounds.blobs()) == (None, [], set())
    assert not rounds.sent_by("site-2", "b" * 64)


# ---- blobs -----------------------------------------------------------------------------------


async def test_round_needs_its_models_its_updates_and_what_was_sent_for_it(workflow, clock):
    known = update_record("site-3", "train/0/7", tensors=BlobRef(digest="k" * 64, size=1))
    rounds = Rounds(job_record("a" * 64), workflow, clock, {known.key: known})
    assert rounds.blobs() == {"k" * 64}
    await rounds.begin(frame(model=pb.Payload(digest="m" * 64, size=1)), {})
    await answered(rounds, "site-1", tensors=BlobRef(digest="u" * 64, size=1))
    rounds.note_sent("site-2", "s" * 64)
    assert rounds.blobs() == {letter * 64 for letter in "kmus"}


async def test_blob_need_not_come_twice_from_the_site_that_sent_it_nor_if_the_site_was_given_it(rounds):
    await rounds.begin(frame(model=pb.Payload(digest="m" * 64, size=1)), {})
    rounds.note_sent("site-1", "s" * 64)
    await answered(rounds, "site-2", tensors=BlobRef(digest="u" * 64, size=1))
    have = {
        (name, letter) for name in SITES for letter in "msux" if rounds.verify_may_send(name, letter * 64)
    }
    assert have == {(name, "m") for name in SITES} | {("site-1", "s"), ("site-2", "u")}


async def test_a_round_of_one_task_for_each_site_is_not_gone_through_for_each(rounds, monkeypatch):
    given, calls = Asked.given, []
    monkeypatch.setattr(Asked, "given", lambda self, site: calls.append(site) or given(self, site))
    monkeypatch.setattr(Rounds, "updates", lambda _: pytest.fail("every update was looked at"))
    model = pb.Payload(digest="m" * 64, size=1)
    for name in SITES:
        await rounds.begin(frame(task_id=name, sites=(name,), model=model), {})
        await answered(rounds, name, task=name, tensors=BlobRef(digest="u" * 64, size=1))
        assert rounds.verify_may_send(name, "u" * 64)
    assert calls == list(SITES)
    rounds.drop()
    assert calls == [*SITES, *SITES]
    assert all(rounds.verify_had(name, "m" * 64) for name in SITES)


async def test_site_sends_only_so_many_blobs_a_round(rounds):
    """One for each broadcast, and some to spare."""
    await rounds.begin(frame(), {})
    for number in range(65):
        assert not rounds.verify_may_send("site-1", f"{number:064x}")
    with pytest.raises(ProtocolError, match="site-1 has announced 65 blobs in one round of job 0job"):
        rounds.verify_may_send("site-1", "f" * 64)
    assert not rounds.verify_may_send("site-1", f"{5:064x}")  # again is not more
    assert not rounds.verify_may_send("site-2", "f" * 64)
    rounds.drop()
    rounds.verify_may_send("site-1", "f" * 64)
