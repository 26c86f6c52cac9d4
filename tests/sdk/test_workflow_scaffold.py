# SPDX-License-Identifier: Apache-2.0
"""SCAFFOLD by hand, against the paper's algorithm with sites that remember, and what it refuses."""

import numpy as np
import pytest
from ports import FakePort

from flprov.errors import JobFailed
from flprov.messages import Task, Update, UpdateKind
from flprov.sdk import Correction, Sites, State, build_controller, read_state

OPTIMUM = {"a": 4.0, "b": -2.0, "c": 1.0}  # of each site's loss, (w - optimum)² · curvature / 2
CURVATURE = {"a": 1.0, "b": 3.0, "c": 0.5}
STEPS, ETA = 4, 0.1


def gradient(site, w):
    return CURVATURE[site] * (w - OPTIMUM[site])


def answer(ask, site):
    """A trainer as one writes it with `Correction`."""
    extra = ask.extra_of.get(site, ask.extra)
    correction = Correction(Task(name="train", params=ask.model, round=0, rounds=1, job_id="j", extra=extra))
    w = {"w": ask.model["w"].copy()}
    for _ in range(STEPS):
        found = correction.apply({"w": gradient(site, w["w"])}, w, lr=ETA)
        w = {"w": w["w"] - ETA * found["w"]}
    if site == "b":
        change = {"w": w["w"] - ask.model["w"]}
        return Update(params=change, kind=UpdateKind.DIFF, samples=30, metrics=correction.metrics)
    return Update(params=w, samples=10, metrics={"loss": 1.0, **correction.metrics})


def run(options, *, names=("a", "b"), total=5, answer=answer, state=None):
    port = FakePort(answer)
    sites = Sites(port, names=names, tasks=["train"], total=total, seed=3)
    build_controller("scaffold", None, options).run(sites, state or State(model={"w": np.array([0.0])}))
    return port


def by_the_paper(names, asked, lr=1.0):
    """Algorithm 1, option II, with clients that keep their own c(i)."""
    x, c, own = np.zeros(1), np.zeros(1), {site: np.zeros(1) for site in names}
    found = []
    for chosen in asked:
        moved, changed = [], []
        for site in chosen:
            y = x.copy()
            for _ in range(STEPS):
                y = y - ETA * (gradient(site, y) - own[site] + c)
            new = own[site] - c + (x - y) / (STEPS * ETA)
            moved.append(y - x)
            changed.append(new - own[site])
            own[site] = new
        x = x + lr * np.mean(moved, axis=0)
        c = c + len(chosen) / len(names) * np.mean(changed, axis=0)
        found.append((x, c, dict(own)))
    return found


@pytest.mark.parametrize("options", [{}, {"lr": 0.5}, {"fraction": 0.5}])
def test_the_server_that_remembers_for_the_sites_gives_the_papers_numbers(options):
    names = ("a", "b", "c")
    port = run(options, names=names)
    expected = by_the_paper(names, [ask.to for ask in port.asks], lr=options.get("lr", 1.0))
    for data, (x, c, own) in zip(port.saved, expected, strict=True):
        state = read_state(data)
        np.testing.assert_allclose(state.model["w"], x, rtol=1e-12)
        np.testing.assert_allclose(state.tensors["all/w"], c, atol=1e-14)
        for site in names:
            np.testing.assert_allclose(state.tensors[f"site/{site}/w"], own[site], atol=1e-14)
    if "fraction" in options:
        assert len({ask.to for ask in port.asks}) > 1


def test_one_round_by_hand():
    def one_step(ask, site):
        w = ask.model["w"] - 0.5 * gradient(site, ask.model["w"])
        return Update(params={"w": w}, samples=1, metrics={"step_sum": 0.5})

    state = read_state(run({}, total=1, answer=one_step).saved[0])
    # from 0: a has the gradient -4 and goes to 2, b has 6 and goes to -3
    assert state.model["w"].tolist() == [-0.5]
    assert state.tensors["site/a/w"].tolist() == [-4.0]
    assert state.tensors["site/b/w"].tolist() == [6.0]
    assert state.tensors["all/w"].tolist() == [1.0]


def test_each_site_gets_the_difference_from_its_own_variate():
    port = run({}, total=2)
    state = read_state(port.saved[0])
    first, second = port.asks
    assert {site: sent["w"].tolist() for site, sent in first.extra_of.items()} == {"a": [0.0], "b": [0.0]}
    for site, sent in second.extra_of.items():
        assert sent["w"] == pytest.approx(state.tensors["all/w"] - state.tensors[f"site/{site}/w"])
    assert second.requires == ("extra",)


def test_it_goes_where_fedavg_drifts_away_from():
    """Two sites that pull apart with different strength, and many local steps: the fixed point of FedAvg
    is not the minimum of the mean loss, that of SCAFFOLD is."""
    minimum = sum(CURVATURE[s] * OPTIMUM[s] for s in "ab") / sum(CURVATURE[s] for s in "ab")
    found = read_state(run({}, total=60).saved[-1]).model["w"][0]
    assert found == pytest.approx(minimum, abs=1e-6)
    port = FakePort(lambda ask, site: answer(ask, site))
    sites = Sites(port, names=["a", "b"], tasks=["train"], total=60)
    build_controller("fedopt", None, {"momentum": 0.0}).run(sites, State(model={"w": np.array([0.0])}))
    assert abs(read_state(port.saved[-1]).model["w"][0] - minimum) > 0.05


def test_weighted_it_finds_the_minimum_of_the_weighted_loss():
    weights = {"a": 10 * CURVATURE["a"], "b": 30 * CURVATURE["b"]}
    minimum = sum(weights[s] * OPTIMUM[s] for s in "ab") / sum(weights.values())
    found = read_state(run({"weighted": True}, total=200).saved[-1]).model["w"][0]
    assert found == pytest.approx(minimum, abs=1e-6)


def test_a_site_that_is_absent_keeps_its_variate():
    def sometimes(ask, site):
        return "no power" if (site, ask.round) == ("b", 1) else answer(ask, site)

    port = run({}, total=2, answer=sometimes)
    first, second = map(read_state, port.saved)
    assert first.tensors["site/b/w"].tolist() == second.tensors["site/b/w"].tolist() != [0.0]
    assert second.tensors["all/w"] == pytest.approx(
        (second.tensors["site/a/w"] + second.tensors["site/b/w"]) / 2
    )


def test_the_sum_of_steps_is_no_metric_of_the_round():
    assert read_state(run({}, total=1).saved[0]).metrics == {"loss": 1.0}


@pytest.mark.parametrize("bad", [None, 0.0, -0.1])
def test_an_update_without_a_sound_sum_of_steps_is_refused_and_the_round_goes_on(bad):
    def forgetful(ask, site):
        update = answer(ask, site)
        metrics = {} if bad is None else {"step_sum": bad}
        return Update(params=update.params, samples=1, metrics=metrics) if site == "a" else update

    port = run({}, total=1, answer=forgetful)
    [(task, site, reason)] = port.refused
    assert (task, site) == ("0/train/0", "a")
    assert "step_sum" in reason
    assert read_state(port.saved[0]).tensors["site/a/w"].tolist() == [0.0]
    alone = run({}, total=1, answer=lambda ask, site: "gone" if site == "a" else answer(ask, site))
    assert port.saved == alone.saved


def test_an_update_whose_control_variate_has_no_room_is_refused_and_the_round_goes_on():
    def tiny(ask, site):
        update = answer(ask, site)
        return (
            Update(params=update.params, samples=1, metrics={"step_sum": 1e-310}) if site == "a" else update
        )

    port = run({}, total=1, answer=tiny)
    ((_, site, reason),) = port.refused
    assert (site, "control variate's tensor 'w' leaves the range of float64" in reason) == ("a", True)
    state = read_state(port.saved[0])
    assert state.tensors["site/a/w"].tolist() == [0.0] != state.tensors["site/b/w"].tolist()


def test_when_no_update_has_a_sum_of_steps_it_says_what_to_call():
    with pytest.raises(JobFailed, match="no update of this round can be used: a sent no metric 'step_sum'"):
        run({}, answer=lambda ask, site: Update(params=ask.model, samples=1))


def test_statistics_of_batch_normalisation_have_no_variate():
    def with_buffer(ask, site):
        w = {"w": ask.model["w"]}
        update = Update(params={**w, "n.running_mean": np.array([SHARE[site]])}, samples=1)
        return Update(params=update.params, samples=1, metrics={"step_sum": 1.0})

    model = {"w": np.zeros(1), "n.running_mean": np.zeros(1)}
    state = read_state(run({"lr": 0.5}, total=1, answer=with_buffer, state=State(model=model)).saved[0])
    assert state.model["n.running_mean"].tolist() == [2.0]
    assert sorted(state.tensors) == ["all/w", "site/a/w", "site/b/w"]


SHARE = {"a": 1.0, "b": 3.0}


def test_without_a_model_it_says_what_to_do():
    with pytest.raises(JobFailed, match="no model"):
        run({}, state=State())
