# SPDX-License-Identifier: Apache-2.0
"""The best round and the early end, for every workflow, also a custom one."""

import numpy as np
import pytest
from ports import FakePort, Killed

from flprov.errors import JobFailed, Misuse
from flprov.sdk import Selection, Sites, State, encode_state, read_state


def run(values, *, state=None, total=None, die_at=None, **rule):
    """Rounds of a workflow whose model is its round and whose accuracy is `values[round]`."""
    port = FakePort(lambda ask, site: "", die_at=die_at)
    rule = {"best": "accuracy", **rule}
    sites = Sites(port, names=["a"], tasks=["train"], total=total or len(values), selection=Selection(**rule))
    first = state or State()
    for state in sites.rounds(first):
        value = values[state.round]
        metrics = {"loss": 1.0} if value is None else {"accuracy": value}
        sites.commit(state.next(model={"w": np.array([state.round])}, metrics=metrics))
    return port


def last(port):
    return read_state(port.saved[-1])


def choice(port):
    best = last(port).best
    return best.round, best.value, best.model["w"].tolist()


@pytest.mark.parametrize(("mode", "expected"), [("max", (2, 0.8, [2])), ("min", (1, 0.2, [1]))])
def test_the_best_round_is_kept_with_its_model(mode, expected):
    assert choice(run([0.5, 0.2, 0.8, 0.8, 0.3], mode=mode)) == expected


def test_of_equal_values_the_first_stays():
    assert choice(run([0.5, 0.5, 0.5])) == (0, 0.5, [0])


def test_a_value_has_to_be_better_by_more_than_min_delta():
    assert choice(run([0.5, 0.625, 0.6875], min_delta=0.125)) == (2, 0.6875, [2])


def test_patience_ends_the_rounds_with_a_reason():
    rule = {"patience": 2}
    port = run([0.5, 0.7, 0.6, 0.7, 0.9], **rule)
    assert last(port).round == 4
    reason = Selection(best="accuracy", **rule).reason_to_end(last(port))
    assert reason == (
        "ended early, after 4 rounds: accuracy has not become better than the 0.7 of round 2 in 2 rounds"
    )


def test_patience_starts_again_with_each_better_value():
    assert last(run([0.1, 0.0, 0.2, 0.1, 0.3, 0.1], patience=2)).round == 6


def test_a_later_round_without_the_metric_is_not_judged():
    port = run([0.5, None, None, 0.4, None, 0.3, 0.9], patience=2)
    assert last(port).round == 6  # the two that were judged and not better: rounds 3 and 5


@pytest.mark.parametrize(
    ("best", "message"),
    [("accurcay", "did you mean 'accuracy'"), ("auc", r"no metric 'auc' .there are: accuracy")],
)
def test_a_metric_that_is_not_there_ends_the_first_round_with_the_names_there_are(best, message):
    with pytest.raises(JobFailed, match=message):
        run([0.5], best=best)


def test_a_job_that_ended_early_does_not_begin_again_when_it_is_resumed():
    port = run([0.5, 0.4, 0.9], patience=1)
    assert last(port).round == 2
    assert run([0.5, 0.4, 0.9], patience=1, state=last(port)).saved == []


@pytest.mark.parametrize("die_at", range(9))
def test_a_kill_at_any_step_does_not_show(die_at):
    values, rule = [0.5, 0.7, 0.6, 0.65, 0.9, 1.0], {"patience": 2}
    whole = run(values, **rule)
    port = FakePort(lambda ask, site: "", die_at=die_at)
    saved: list[bytes] = []
    try:
        sites = Sites(port, names=["a"], tasks=["t"], total=6, selection=Selection(best="accuracy", **rule))
        for state in sites.rounds(State()):
            sites.commit(
                state.next(model={"w": np.array([state.round])}, metrics={"accuracy": values[state.round]})
            )
    except Killed:
        resumed = run(values, state=last(port) if port.saved else None, total=6, **rule)
        saved = resumed.saved
    assert port.saved + saved == whole.saved


def test_another_rule_in_a_clone_begins_anew():
    state = last(run([0.9, 0.1]))
    assert choice(run([0, 0, 0.3], state=state, mode="min")) == (2, 0.3, [2])
    assert last(run([0, 0, 0.3], state=state, best=None)).best is None


def test_a_metric_that_is_not_finite_cannot_be_committed():
    with pytest.raises(Misuse, match="cannot be saved"):
        run([float("nan")])


def test_a_controller_can_ask_before_it_commits():
    port = FakePort(lambda ask, site: "")
    rule = Selection(best="accuracy", patience=1)
    sites = Sites(port, names=["a"], tasks=["t"], total=9, selection=rule)
    said = []
    for state in sites.rounds(State()):
        judged = sites.judge(state.next(model={"w": np.zeros(1)}, metrics={"accuracy": -float(state.round)}))
        said.append(sites.is_last(judged))
        assert sites.judge(judged) == judged
        sites.commit(judged)
    assert said == [False, True]


def test_a_state_with_a_best_round_survives_the_disk():
    state = last(run([0.5, 0.9]))
    again = read_state(encode_state(state))
    assert encode_state(again) == encode_state(state)
    assert again.best.model["w"].tolist() == [1]
    assert vars(again.best).keys() == vars(state.best).keys()
