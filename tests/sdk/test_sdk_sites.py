# SPDX-License-Identifier: Apache-2.0
"""What a controller may do with its sites, and when."""

import numpy as np
import pytest
from ports import FakePort

from flprov.errors import JobFailed, Misuse, NotFound
from flprov.messages import Update, UpdateKind
from flprov.sdk import Sites, State

MODEL = {"w": np.zeros(2)}


def make(answer=None, *, total=2, tasks=("train", "evaluate"), names=("b", "a")):
    port = FakePort(answer or (lambda ask, site: Update(params=MODEL, samples=1)))
    return Sites(port, names=names, tasks=tasks, total=total), port


def each_round(sites, body):
    for state in sites.rounds(State()):
        body(state)


def test_rounds_run_from_the_states_round_to_the_total():
    sites, _ = make(total=5)
    seen = []
    for state in sites.rounds(State(round=3)):
        seen.append(state.round)
        sites.commit(state.next())
    assert seen == [3, 4]


def test_a_finished_state_has_no_rounds_left():
    sites, port = make(total=5)
    assert list(sites.rounds(State(round=5))) == []
    assert port.saved == []


def test_each_round_starts_with_what_the_last_committed():
    sites, _ = make(total=3)
    for state in sites.rounds(State(scalars={"sum": 0})):
        last = state.next(scalars={"sum": state.scalars["sum"] + state.round})
        sites.commit(last)
    assert last.scalars == {"sum": 3}


def test_a_round_without_a_commit_is_an_error():
    sites, _ = make()
    with pytest.raises(JobFailed, match="round 0 of the workflow ended without sites"):
        each_round(sites, lambda state: None)


def test_a_second_commit_in_a_round_is_an_error():
    sites, _ = make()
    with pytest.raises(Misuse, match="once"):
        each_round(sites, lambda state: [sites.commit(state.next()), sites.commit(state.next())])


@pytest.mark.parametrize("skip", [0, 2])
def test_a_commit_must_be_of_the_next_state(skip):
    sites, _ = make()
    with pytest.raises(Misuse, match=f"round 0 was committed with a state of round {skip}"):
        each_round(sites, lambda state: sites.commit(State(round=skip)))


def test_nothing_is_broadcast_or_committed_outside_a_round():
    sites, port = make(total=1)
    with pytest.raises(Misuse, match="outside a round"):
        sites.train(MODEL)
    with pytest.raises(Misuse):
        sites.commit(State().next())
    with pytest.raises(Misuse, match="outside a round"):
        each_round(sites, lambda state: [sites.commit(state.next()), sites.train(MODEL)])
    assert port.asks == []


def test_updates_come_in_the_order_of_the_sites_names():
    sites, _ = make(names=("c", "a", "b"))
    for state in sites.rounds(State(round=1)):
        assert [update.site for update in sites.train(MODEL)] == ["a", "b", "c"]
        sites.commit(state.next())
    assert sites.names == ("a", "b", "c")


def test_a_task_carries_model_round_and_scalars():
    sites, port = make(total=7)
    for state in sites.rounds(State(round=6)):
        sites.train(MODEL, scalars={"lr": 0.1, "final": True})
        sites.commit(state.next())
    (ask,) = port.asks
    assert (ask.name, ask.round, ask.rounds, ask.to) == ("train", 6, 7, ("a", "b"))
    assert ask.model is MODEL
    assert ask.scalars == {"lr": 0.1, "final": True}
    assert ask.expects == (UpdateKind.FULL, UpdateKind.DIFF)


def test_task_ids_are_the_same_when_a_round_is_run_again():
    def run():
        sites, port = make(total=2)
        for state in sites.rounds(State(round=1)):
            sites.train(MODEL)
            sites.evaluate(MODEL)
            sites.train(MODEL)
            sites.commit(state.next())
        return [ask.task_id for ask in port.asks]

    assert run() == ["1/train/0", "1/evaluate/0", "1/train/1"]
    assert run() == run()


def test_evaluate_takes_no_tensors():
    sites, port = make(lambda ask, site: Update(metrics={"auc": 0.5}), total=1)
    for state in sites.rounds(State()):
        sites.evaluate(MODEL)
        sites.commit(state.next())
    assert port.asks[0].expects == ()


def test_without_a_model_differences_are_not_taken():
    sites, port = make(total=1)
    for state in sites.rounds(State()):
        sites.train({})
        sites.commit(state.next())
    assert port.asks[0].expects == (UpdateKind.FULL,)
    with pytest.raises(Misuse, match="no model to differ from"):
        each_round(sites, lambda state: sites.broadcast("train", {}, expects=[UpdateKind.DIFF]))


def test_a_broadcast_may_go_to_some_sites():
    sites, port = make(total=1, names=("a", "b", "c"))
    for state in sites.rounds(State()):
        sites.broadcast("train", MODEL, to=["c", "a"])
        sites.commit(state.next())
    assert port.asks[0].to == ("a", "c")


def test_unknown_tasks_and_sites_are_named():
    sites, _ = make()
    with pytest.raises(NotFound, match=r"'tarin'; job.yml names evaluate, train"):
        each_round(sites, lambda state: sites.broadcast("tarin", MODEL))
    with pytest.raises(NotFound, match="'z', which is no site"):
        each_round(sites, lambda state: sites.broadcast("train", MODEL, to=["z"]))
    assert sites.has("train")
    assert not sites.has("tarin")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1], None])
def test_a_scalar_must_be_a_finite_number_or_a_text(value):
    sites, _ = make()
    with pytest.raises(Misuse, match="scalar 'lr'"):
        each_round(sites, lambda state: sites.train(MODEL, scalars={"lr": value}))


def test_absent_sites_and_their_reasons_are_of_the_last_broadcast():
    def answer(ask, site):
        return "gone since 12:00" if (site, ask.round) == ("b", 0) else Update(params=MODEL)

    sites, _ = make(answer)
    seen = []
    for state in sites.rounds(State()):
        sites.train(MODEL)
        seen.append(sites.absent)
        sites.commit(state.next())
    assert seen == [{"b": "gone since 12:00"}, {}]


def test_when_nobody_answers_the_reasons_are_told():
    sites, _ = make(lambda ask, site: f"{site} is off")
    with pytest.raises(
        JobFailed, match=r"no site answered task 'train' of round 0 .a: a is off; b: b is off"
    ):
        each_round(sites, lambda state: sites.train(MODEL))


def test_log_reaches_the_port():
    sites, port = make()
    sites.log("spread", np.float32(0.5), step=3)
    assert port.logged == [({"spread": 0.5}, 3)]


def test_what_no_curve_can_show_is_refused_or_only_printed(capsys):
    sites, port = make()
    with pytest.raises(Misuse, match="step is -5; it must be a whole number from 0 on"):
        sites.log("spread", 0.5, step=-5)
    with pytest.raises(Misuse, match="spread is 'wide', which is not a number"):
        sites.log("spread", "wide")
    with pytest.raises(Misuse, match="which is not a number"):
        sites.log("spread", 10**400)
    sites.log("spread", float("nan"))
    assert capsys.readouterr().err == "flprov: spread is nan\n"
    assert port.logged == []
