# SPDX-License-Identifier: Apache-2.0
"""Local corrections, in numpy and in torch: what is added, what is counted, what is refused."""

import numpy as np
import pytest
import torch

from flprov.errors import Misuse
from flprov.messages import Task
from flprov.sdk import Correction
from flprov.wire import numpy_dtype


def make_task(*, params=None, scalars=None, extra=None):
    params = {"w": np.float32([1.0, 2.0])} if params is None else params
    return Task(
        name="train", params=params, round=0, rounds=1, job_id="j", scalars=scalars or {}, extra=extra or {}
    )


def test_without_a_workflow_that_asks_gradients_stay_as_they_are():
    correction = Correction(make_task())
    gradients = {"w": np.float32([0.5, 0.5])}
    found = correction.apply(gradients, {"w": np.float32([9, 9])}, lr=0.1)
    assert found["w"].tolist() == [0.5, 0.5]
    assert correction.metrics == {}


def test_fedprox_adds_mu_times_the_distance():
    correction = Correction(make_task(scalars={"mu": 0.5}))
    found = correction.apply({"w": np.float32([0, 1])}, {"w": np.float32([3, 2])}, lr=0.1)
    assert found["w"].tolist() == [1.0, 1.0]
    assert found["w"].dtype == np.float32


def test_the_distance_is_from_the_start_also_where_a_trainer_steps_in_place():
    task = make_task(scalars={"mu": 1.0})
    correction, weights = Correction(task), task.params
    for expected in ([0, 0], [-1, -1], [-2, -2]):
        assert correction.apply({"w": np.zeros(2)}, weights, lr=1.0)["w"].tolist() == expected
        weights["w"][...] -= 1


def test_the_distance_is_taken_of_a_model_in_bfloat16_too():
    travelled = np.array([[0x3F80], [0x4000]], np.uint16).view(
        numpy_dtype("BF16")
    )  # 1 and 2, as a task has it
    correction = Correction(make_task(params={"w": travelled}, scalars={"mu": 0.5}))
    found = correction.apply({"w": np.float32([[0], [0]])}, {"w": np.float32([[2], [4]])}, lr=0.1)["w"]
    assert found.dtype == np.float32
    assert found.tolist() == [[0.5], [1.0]]


def test_without_a_model_the_distance_is_from_where_the_trainer_began():
    correction = Correction(make_task(params={}, scalars={"mu": 2.0}))
    weights = {"w": np.array([5.0])}
    assert correction.apply({"w": np.zeros(1)}, weights, lr=1.0)["w"].tolist() == [0.0]
    weights["w"] += 1
    assert correction.apply({"w": np.zeros(1)}, weights, lr=1.0)["w"].tolist() == [2.0]


def test_scaffold_adds_what_it_was_sent_and_counts_the_steps():
    correction = Correction(make_task(extra={"w": np.float32([0.25, -1])}))
    for lr in (0.1, 0.1, 0.05):
        found = correction.apply({"w": np.ones(2)}, {"w": np.zeros(2)}, lr=lr)
    assert found["w"].tolist() == [1.25, 0.0]
    assert correction.metrics == {"step_sum": pytest.approx(0.25)}


@pytest.mark.parametrize("lr", [0.0, -0.1, float("nan"), float("inf")])
def test_the_learning_rate_must_be_one(lr):
    with pytest.raises(Misuse, match="learning rate"):
        Correction(make_task()).apply({"w": np.ones(2)}, {"w": np.ones(2)}, lr=lr)


def test_names_that_are_not_in_the_model_are_refused():
    with pytest.raises(Misuse, match=r"'module\.w' is not"):
        Correction(make_task()).apply({"module.w": np.ones(2)}, {"module.w": np.ones(2)}, lr=0.1)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([3.0, 2.0]))
        self.head = torch.nn.Parameter(torch.tensor([1.0]))  # not in the job's model
        self.frozen = torch.nn.Parameter(torch.tensor([1.0]), requires_grad=False)


def test_a_torch_module_is_corrected_in_place():
    net = Net()
    (net.w.sum() + net.head.sum()).backward()
    correction = Correction(make_task(scalars={"mu": 0.5}, extra={"w": np.float32([0.0, 10.0])}))
    correction.apply_to(net, lr=0.1)
    assert net.w.grad.tolist() == [2.0, 11.0]  # 1 + 0.5 (3 - 1), 1 + 0.5 (2 - 2) + 10
    assert net.frozen.grad is None


def test_torch_takes_the_same_way_as_numpy():
    """Steps of FedProx by torch and by numpy end at the same weights."""
    task = make_task(params={"w": np.float32([3.0, 2.0])}, scalars={"mu": 0.3})
    net, by_torch, by_numpy = Net(), Correction(task), Correction(task)
    optimizer = torch.optim.SGD([net.w], lr=0.1)
    w = np.float32([3.0, 2.0])
    for _ in range(20):
        optimizer.zero_grad()
        (net.w**2).sum().backward()
        by_torch.apply_to(net, lr=0.1)
        optimizer.step()
        w = w - np.float32(0.1) * by_numpy.apply({"w": 2 * w}, {"w": w}, lr=0.1)["w"]
    np.testing.assert_allclose(net.w.detach().numpy(), w, rtol=1e-6)
    assert task.params["w"].tolist() == [3.0, 2.0]


def test_a_wrapped_module_is_refused_with_the_way_out():
    net = torch.nn.Sequential(Net())
    net[0].w.sum().backward()
    with pytest.raises(Misuse, match=r"'0\.w' is not") as refused:
        Correction(make_task()).apply_to(net, lr=0.1)
    assert "state_dict" in refused.value.hint


def test_gradients_in_half_precision_stay_so():
    net = Net().to(torch.bfloat16)
    net.w.sum().backward()
    Correction(make_task(scalars={"mu": 0.5}, extra={"w": np.ones(2)})).apply_to(net, lr=0.1)
    assert net.w.grad.dtype == torch.bfloat16
    assert net.w.grad.tolist() == [3.0, 2.0]
