# SPDX-License-Identifier: Apache-2.0
"""State dicts of torch modules, there and back."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from flprov.errors import Misuse
from flprov.messages import Update
from flprov.sdk import as_tensors, from_state_dict, to_state_dict, weighted_mean
from flprov.wire import encode_tensors, numpy_dtype, read_tensors, verify_update


def small_net():
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    net(torch.randn(8, 3))  # num_batches_tracked is 1, the running mean is not 0
    return net


def assert_equal(one, other):
    assert set(one) == set(other)
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert torch.equal(one[name], other[name]), name


def test_a_state_dict_comes_back_through_bytes():
    state = small_net().state_dict()
    back = to_state_dict(read_tensors(encode_tensors(from_state_dict(state))))
    assert_equal(back, state)
    small_net().load_state_dict(back)
    assert back["1.num_batches_tracked"].dtype == torch.int64
    assert back["1.num_batches_tracked"].shape == ()


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bfloat16,
        torch.float16,
        torch.float64,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.float8_e8m0fnu,
        torch.complex64,
        torch.bool,
        torch.int8,
        torch.uint16,
    ],
)
def test_every_dtype_comes_back_bit_by_bit(dtype):
    tensor = torch.tensor([[0.0, 1.0], [2.0, 4.0]]).to(dtype)
    back = to_state_dict(read_tensors(encode_tensors(from_state_dict({"x": tensor}))))["x"]
    assert back.dtype == dtype
    assert back.view(torch.uint8).tolist() == tensor.view(torch.uint8).tolist()


def test_a_scalar_bfloat16_stays_a_scalar():
    back = to_state_dict(from_state_dict({"x": torch.tensor(1.5, dtype=torch.bfloat16)}))["x"]
    assert back.shape == ()
    assert back.item() == 1.5


def test_parameters_transposed_and_conjugated_tensors_can_be_sent():
    views = {
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "conjugated": torch.tensor([1 + 2j], dtype=torch.complex64).conj(),
    }
    back = to_state_dict(read_tensors(encode_tensors(as_tensors(views))))
    assert back["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert back["conjugated"].tolist() == [1 - 2j]
    assert back["parameter"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "value",
    [
        torch.eye(2).to_sparse(),
        torch.empty(2, device="meta"),
        {"extra": "state"},
        torch.zeros(1, dtype=torch.complex128),
    ],
)
def test_what_is_no_dense_tensor_is_refused_by_name(value):
    with pytest.raises(Misuse, match="'odd'"):
        encode_tensors(from_state_dict({"odd": value}))


def test_read_only_arrays_are_copied():
    array = np.frombuffer(np.float32([1, 2]).tobytes(), np.float32)
    back = to_state_dict({"x": array})["x"]
    back += 1
    assert array.tolist() == [1, 2]


def test_the_mean_of_two_nets_loads_into_a_net():
    one, two = small_net(), small_net()
    with torch.no_grad():
        for parameter in two.parameters():
            parameter += 1.0
    two(torch.randn(8, 3))
    updates = [
        Update(site="a", samples=1, params=from_state_dict(one.state_dict())),
        Update(site="b", samples=3, params=from_state_dict(two.state_dict())),
    ]
    mean = to_state_dict(weighted_mean(updates))
    net = small_net()
    net.load_state_dict(mean)
    expected = (one.state_dict()["0.weight"].double() + 3 * two.state_dict()["0.weight"].double()) / 4
    assert torch.equal(net.state_dict()["0.weight"], expected.float())
    assert net.state_dict()["1.num_batches_tracked"] == 2  # the heavier site's, not 1.75


def test_a_nan_in_bfloat16_is_found_by_the_servers_check():
    from flprov.errors import UpdateRefused

    state = {"w": torch.tensor([0.0, float("nan")], dtype=torch.bfloat16)}
    with pytest.raises(UpdateRefused, match="'w'"):
        verify_update(None, encode_tensors(from_state_dict(state)), "full", "full")


def test_numbers_and_lists_become_arrays_and_the_rest_is_refused():
    assert as_tensors({"x": 3, "y": [1.5]})["y"].tolist() == [1.5]
    for value in (None, "text", object(), [[1], [1, 2]], np.array(["a"])):
        with pytest.raises(Misuse, match="'odd'"):
            as_tensors({"odd": value})
    with pytest.raises(Misuse, match="mapping"):
        as_tensors("weights")
    with pytest.raises(Misuse, match="name of a tensor"):
        as_tensors({1: np.zeros(1)})


def test_bit_patterns_reach_torch_as_what_they_are():
    ones = np.full(3, 0x3F80, np.uint16).view(numpy_dtype("BF16"))
    assert to_state_dict({"x": ones})["x"].tolist() == [1.0, 1.0, 1.0]


def test_the_sdk_does_not_import_torch():
    code = "import sys, flprov.sdk, flprov.client; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
