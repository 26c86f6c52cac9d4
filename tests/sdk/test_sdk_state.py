# SPDX-License-Identifier: Apache-2.0
"""The state that survives a crash."""

import dataclasses

import numpy as np
import pytest
import torch

from flprov.errors import Misuse, ProtocolError, StateDamaged
from flprov.sdk import State, encode_state, flatten_state, read_state
from flprov.wire import encode_tensors, write_tensors

STATE = State(
    round=3,
    model={"w": np.arange(4, dtype=np.float32)},
    tensors={"w": np.ones(2), "momentum/w": np.zeros((2, 2))},
    scalars={"lr": 0.1, "name": "x", "warm": True, "step": 2**60},
    metrics={"loss": 0.25},
)


def assert_same(one, other):
    assert encode_state(one) == encode_state(other)
    assert (one.round, one.scalars, one.metrics) == (other.round, other.scalars, other.metrics)
    assert set(one.tensors) == set(other.tensors)


def test_a_state_comes_back_from_bytes_and_from_a_file(tmp_path):
    assert_same(read_state(encode_state(STATE)), STATE)
    write_tensors(tmp_path / "state", *flatten_state(STATE))
    assert_same(read_state(tmp_path / "state"), STATE)


def test_scalars_keep_their_types():
    kinds = {name: type(value) for name, value in read_state(encode_state(STATE)).scalars.items()}
    assert kinds == {"lr": float, "name": str, "warm": bool, "step": int}


def test_model_and_other_tensors_may_share_names():
    found = read_state(encode_state(STATE))
    assert found.model["w"].tolist() == [0, 1, 2, 3]
    assert found.tensors["w"].tolist() == [1, 1]


def test_a_new_state_is_empty():
    assert_same(read_state(encode_state(State())), State())


def test_next_counts_the_round_and_keeps_what_is_not_given():
    after = STATE.next(model={"w": np.zeros(1)})
    assert after.round == 4
    assert after.model["w"].tolist() == [0]
    assert after.tensors is STATE.tensors
    assert after.scalars is STATE.scalars


NUMBERS = {"numpy": np.float32(0.5), "torch": torch.tensor(0.5), "an array": np.array(0.5), "python": 0.5}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_of_any_library_are_saved(kind):
    state = State().next(metrics={"auc": NUMBERS[kind]}, scalars={"lr": NUMBERS[kind], "note": "warm"})
    again = read_state(encode_state(state))
    assert again.metrics == {"auc": 0.5}
    assert again.scalars == {"lr": 0.5, "note": "warm"}


@pytest.mark.parametrize("tensor", [[1.0, 2.0], torch.tensor([1.0, 2.0]), (1.0, 2.0)], ids=str)
def test_tensors_of_any_library_are_saved(tensor):
    state = State().next(model={"w": tensor}, tensors={"momentum": tensor})
    again = read_state(encode_state(state))
    assert again.model["w"].tolist() == again.tensors["momentum"].tolist() == [1, 2]


def test_arrays_stay_the_mapping_that_they_are():
    model = {"w": np.ones(2)}
    assert State().next(model=model).model is model


@pytest.mark.parametrize("value", ["0.5", [0.5], None, np.ones(2), torch.ones(2)], ids=str)
def test_a_metric_that_is_no_number_is_refused_by_name(value):
    with pytest.raises(Misuse, match=r"the metric 'auc' is .* not a number"):
        State().next(metrics={"auc": value})


def test_a_tensor_that_is_none_is_refused_by_name():
    with pytest.raises(Misuse, match="'w'"):
        State().next(model={"w": object()})


def test_metrics_of_a_round_do_not_carry_over():
    assert STATE.next().metrics == {}


def test_a_state_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        STATE.round = 4


@pytest.mark.parametrize("scalars", [{"x": float("nan")}, {"x": object()}])
def test_what_cannot_be_saved_is_refused(scalars):
    with pytest.raises(Misuse, match="cannot be saved"):
        encode_state(State(scalars=scalars))


def test_a_file_of_something_else_is_no_state():
    with pytest.raises(StateDamaged):
        read_state(encode_tensors({"w": np.zeros(1)}))
    with pytest.raises(StateDamaged, match="stray tensor 'w'"):
        read_state(encode_tensors({"w": np.zeros(1)}, flatten_state(STATE)[1]))
    with pytest.raises(ProtocolError):
        read_state(b"")
