# SPDX-License-Identifier: Apache-2.0
"""FedOpt against Algorithm 2 as it stands in the paper, against torch's optimisers, and by hand."""

import numpy as np
import pytest
import torch
from ports import FakePort

from flprov.errors import JobFailed
from flprov.messages import Update, UpdateKind
from flprov.sdk import Sites, State, build_controller, read_state

ROUNDS = 6
WEIGHTS = {"a": 1, "b": 3}
START = np.array([2.0, -1.0, 0.5])
DELTAS = np.random.default_rng(5).normal(0, 0.3, (ROUNDS, 3))  # the mean difference of each round
TAU = 1e-3


def run(options, *, start=START, deltas=DELTAS, total=ROUNDS):
    """The models after each round, when the sites' mean difference is `deltas[round]`."""

    def answer(ask, site):
        shift = {"a": 0.3, "b": -0.1}[site]  # 1 * 0.3 - 3 * 0.1 = 0
        change = (deltas[ask.round] + shift).astype(ask.model["w"].dtype)
        if site == "a":
            return Update(params={"w": change}, kind=UpdateKind.DIFF, samples=1)
        return Update(params={"w": ask.model["w"] + change}, samples=3)

    port = FakePort(answer)
    sites = Sites(port, names=["a", "b"], tasks=["train"], total=total)
    build_controller("fedopt", None, options).run(sites, State(model={"w": np.array(start)}))
    return [read_state(data) for data in port.saved]


def models(states):
    return np.array([state.model["w"] for state in states])


def algorithm_2(kind, lr, beta1, beta2, tau):
    """Reddi et al., Algorithm 2, line by line, with v(-1) = tau²."""
    x, m, v = START.copy(), 0.0, np.full(3, tau**2)
    found = []
    for delta in DELTAS:
        m = beta1 * m + (1 - beta1) * delta
        if kind == "adagrad":
            v = v + delta**2
        elif kind == "yogi":
            v = v - (1 - beta2) * delta**2 * np.sign(v - delta**2)
        else:
            v = beta2 * v + (1 - beta2) * delta**2
        x = x + lr * m / (np.sqrt(v) + tau)
        found.append(x)
    return np.array(found)


def by_torch(make):
    """What torch's optimiser makes of the same differences, taken as negative gradients."""
    w = torch.tensor(START, requires_grad=True)
    optimizer = make([w])
    found = []
    for delta in DELTAS:
        w.grad = torch.tensor(-delta)
        optimizer.step()
        found.append(w.detach().numpy().copy())
    return np.array(found)


@pytest.mark.parametrize(
    ("kind", "beta1", "beta2"),
    [
        ("adagrad", 0.0, 0.0),
        ("adagrad", 0.5, 0.0),
        ("adam", 0.9, 0.99),
        ("adam", 0.0, 0.5),
        ("yogi", 0.9, 0.99),
        ("yogi", 0.3, 0.5),
    ],
)
def test_the_adaptive_optimisers_are_algorithm_2(kind, beta1, beta2):
    options = {"optimizer": kind, "lr": 0.1, "beta1": beta1, "tau": TAU}
    if kind != "adagrad":
        options["beta2"] = beta2
    expected = algorithm_2(kind, 0.1, beta1, beta2, TAU)
    np.testing.assert_allclose(models(run(options)), expected, rtol=1e-12)


@pytest.mark.parametrize(("lr", "momentum"), [(1.0, 0.9), (0.3, 0.5), (1.0, 0.0)])
def test_sgd_is_torchs_sgd(lr, momentum):
    expected = by_torch(lambda w: torch.optim.SGD(w, lr=lr, momentum=momentum))
    found = run({"optimizer": "sgd", "lr": lr, "momentum": momentum})
    np.testing.assert_allclose(models(found), expected, rtol=1e-12)


def test_adagrad_is_torchs_adagrad_that_begins_at_tau_squared():
    expected = by_torch(lambda w: torch.optim.Adagrad(w, lr=0.1, eps=TAU, initial_accumulator_value=TAU**2))
    found = run({"optimizer": "adagrad", "lr": 0.1, "tau": TAU})
    np.testing.assert_allclose(models(found), expected, rtol=1e-12)


def test_adam_is_torchs_adam_less_the_correction_of_the_bias():
    """torch divides m by 1 - beta1^t and v by 1 - beta2^t. Undone in its lr and eps, the steps are the
    same, but for what is left of v(-1) = tau², which torch begins with 0."""
    beta1, beta2, lr, tau = 0.9, 0.99, 0.01, 1e-7
    w = torch.tensor(START, requires_grad=True)
    optimizer = torch.optim.Adam([w], betas=(beta1, beta2))
    expected = []
    for t, delta in enumerate(DELTAS, 1):
        root = (1 - beta2**t) ** 0.5
        optimizer.param_groups[0].update(lr=lr * (1 - beta1**t) / root, eps=tau / root)
        w.grad = torch.tensor(-delta)
        optimizer.step()
        expected.append(w.detach().numpy().copy())
    found = run({"optimizer": "adam", "lr": lr, "beta1": beta1, "beta2": beta2, "tau": tau})
    np.testing.assert_allclose(models(found), np.array(expected), rtol=1e-9)
    plain = by_torch(lambda w: torch.optim.Adam(w, lr=lr, betas=(beta1, beta2), eps=tau))
    assert np.abs(models(found) - plain).max() > 1e-3  # so the correction is truly not there


def test_one_step_of_adam_by_hand():
    # D = 1: m = 0.1, v = 0.99 * 1e-6 + 0.01 = 0.01000099, x = 2 + 0.01 * 0.1 / (0.1000049.. + 0.001)
    [state] = run({"optimizer": "adam"}, start=[2.0], deltas=np.array([[1.0]]), total=1)
    assert state.tensors["m/w"] == pytest.approx([0.1])
    assert state.tensors["v/w"] == pytest.approx([0.01000099])
    assert state.model["w"] == pytest.approx([2.0098999], abs=1e-6)


def test_two_steps_with_momentum_by_hand():
    states = run({"momentum": 0.5}, start=[0.0], deltas=np.array([[1.0], [1.0]]), total=2)
    assert models(states)[:, 0] == pytest.approx([1.0, 2.5])  # 1, then 1 + (1 + 0.5)


def test_sgd_with_lr_1_and_no_momentum_is_fedavg_and_remembers_nothing():
    states = run({"lr": 1.0, "momentum": 0.0}, start=np.float32(START))
    port = FakePort(
        lambda ask, site: Update(
            params={"w": (ask.model["w"] + DELTAS[ask.round]).astype(np.float32)}, samples=1
        )
    )
    sites = Sites(port, names=["a"], tasks=["train"], total=ROUNDS)
    build_controller("fedavg", None, {}).run(sites, State(model={"w": np.float32(START)}))
    np.testing.assert_allclose(models(states), models(map(read_state, port.saved)), atol=1e-6)
    assert states[-1].tensors == {}


@pytest.mark.parametrize(("dtype", "kept"), [("<f4", "<f4"), ("<f8", "<f8"), ("<f2", "<f4")])
def test_the_model_keeps_its_dtype_and_moments_have_at_least_float32(dtype, kept):
    states = run({"optimizer": "adam"}, start=START.astype(dtype))
    assert states[-1].model["w"].dtype == dtype
    assert {array.dtype.str for array in states[-1].tensors.values()} == {kept}


def test_statistics_of_batch_normalisation_and_counters_are_not_optimised():
    def answer(ask, site):
        new = {"bn.running_var": np.float32([4.0]), "bn.num_batches_tracked": np.array([9]), "w": np.ones(1)}
        return Update(params=new, samples=WEIGHTS[site])

    model = {"bn.running_var": np.float32([1.0]), "bn.num_batches_tracked": np.array([2]), "w": np.zeros(1)}
    for average, variance in [("*running_mean,*running_var", 4.0), ("", 1.3)]:
        port = FakePort(answer)
        controller = build_controller("fedopt", None, {"lr": 0.1, "momentum": 0.0, "average": average})
        controller.run(Sites(port, names=["a", "b"], tasks=["train"], total=1), State(model=model))
        state = read_state(port.saved[0])
        assert state.model["bn.running_var"] == pytest.approx(variance)
        assert state.model["bn.num_batches_tracked"].tolist() == [9]
        assert state.model["w"] == pytest.approx(0.1)
        assert state.model.keys() == model.keys()


def test_without_a_model_the_first_round_averages():
    port = FakePort(lambda ask, site: Update(params={"w": np.array([1.0 + ask.round])}, samples=1))
    sites = Sites(port, names=["a"], tasks=["train"], total=2)
    build_controller("fedopt", None, {"lr": 0.5, "momentum": 0.0}).run(sites, State())
    assert models(map(read_state, port.saved))[:, 0].tolist() == [1.0, 1.5]


def test_a_run_that_leaves_the_range_of_its_numbers_says_so():
    with pytest.raises(JobFailed, match="tensor 'w' leaves the range of float32"):
        run({"lr": 1e39}, start=np.float32(START))


def test_a_mean_difference_keeps_the_digits_that_the_weights_have_lost():
    """Differences far below the weights: the mean of the weights would round them away."""

    def answer(ask, site):
        return Update(params={"w": np.float32([1e-4 * WEIGHTS[site]])}, kind=UpdateKind.DIFF, samples=1)

    port = FakePort(answer)
    sites = Sites(port, names=["a", "b"], tasks=["train"], total=1)
    state = State(model={"w": np.float32([4096.0])})
    build_controller("fedopt", None, {"optimizer": "adagrad", "tau": 1e-6, "lr": 1.0}).run(sites, state)
    saved = read_state(port.saved[0])
    assert saved.tensors["m/w"] == pytest.approx(2e-4)
    assert saved.model["w"] == pytest.approx(4097.0, abs=0.01)
