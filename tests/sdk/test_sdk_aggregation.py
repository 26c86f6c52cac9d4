# SPDX-License-Identifier: Apache-2.0
"""The mean of updates, in numbers that can be checked by hand."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch

from flprov.errors import JobFailed, Misuse, UpdateRefused
from flprov.messages import Update, UpdateKind
from flprov.sdk import mean_metrics, weighted_mean
from flprov.wire import encode_tensors, numpy_dtype, read_tensors, write_tensors


def full(site, samples=1, **tensors):
    return Update(site=site, samples=samples, params={k: np.asarray(v) for k, v in tensors.items()})


def diff(site, samples=1, **tensors):
    params = {k: np.asarray(v) for k, v in tensors.items()}
    return Update(site=site, samples=samples, params=params, kind=UpdateKind.DIFF)


def test_samples_weigh():
    mean = weighted_mean([full("a", 1, w=[0.0, 4.0]), full("b", 3, w=[4.0, 0.0])])
    assert mean["w"].tolist() == [3.0, 1.0]


def test_weight_takes_the_place_of_samples():
    a = Update(site="a", samples=1000, weight=1.0, params={"w": np.array([0.0])})
    b = Update(site="b", samples=0, weight=3.0, params={"w": np.array([4.0])})
    assert weighted_mean([a, b])["w"].tolist() == [3.0]


def test_a_site_with_weight_zero_does_not_count():
    mean = weighted_mean([full("a", 2, w=[1.0]), full("b", 0, w=[100.0])])
    assert mean["w"].tolist() == [1.0]


def test_differences_are_added_to_the_model():
    base = {"w": np.array([10.0, 20.0])}
    mean = weighted_mean([diff("a", 1, w=[2.0, 0.0]), diff("b", 1, w=[4.0, -2.0])], base)
    assert mean["w"].tolist() == [13.0, 19.0]


def test_full_updates_and_differences_can_be_mixed():
    base = {"w": np.array([10.0])}
    mean = weighted_mean([full("a", 1, w=[14.0]), diff("b", 3, w=[2.0])], base)
    assert mean["w"].tolist() == [12.5]  # (14 + 3 * 12) / 4


def test_names_shapes_and_dtypes_stay():
    tensors = {"s": np.float32(3), "m": np.ones((2, 3), np.float16), "z": np.zeros((0, 2), np.float32)}
    mean = weighted_mean([full("a", **tensors), full("b", **tensors)])
    assert {k: (v.shape, v.dtype) for k, v in mean.items()} == {
        "s": ((), np.float32),
        "m": ((2, 3), np.float16),
        "z": ((0, 2), np.float32),
    }


def test_equal_updates_give_exactly_themselves():
    w = np.random.default_rng(1).standard_normal(1001).astype(np.float32)
    mean = weighted_mean([full(s, n, w=w) for s, n in [("a", 303), ("b", 294), ("c", 123)]])
    assert mean["w"].tobytes() == w.tobytes()


def test_float32_is_summed_in_float64():
    big, small = np.float32([1e8]), np.float32([1.0])
    mean = weighted_mean([full("a", w=big), full("b", w=small), full("c", w=-big), full("d", w=small)])
    assert mean["w"].tolist() == [0.5]  # float32 would lose both ones


def test_integers_are_never_averaged_but_taken_from_the_heaviest_site():
    mean = weighted_mean(
        [full("a", 1, w=[0.0], n=10), full("b", 3, w=[0.0], n=13), full("c", 2, w=[0.0], n=99)]
    )
    assert mean["n"] == 13
    assert mean["n"].dtype == np.int64


def test_among_equally_heavy_sites_the_first_by_name_gives_the_integers():
    updates = [full("c", 2, n=[3], w=[0.0]), full("b", 2, n=[2], w=[0.0]), full("d", 1, n=[4], w=[0.0])]
    for order in itertools.permutations(updates):
        assert weighted_mean(order)["n"].tolist() == [2]


def test_differences_of_integers_are_added_to_the_model_and_wrap():
    base = {"n": np.array([250, 5], np.uint8), "flag": np.array([True, False])}
    new = {"n": np.array([4, 3], np.uint8), "flag": np.array([True, True])}
    change = {"n": new["n"] - base["n"], "flag": new["flag"] ^ base["flag"]}
    mean = weighted_mean([diff("a", 1, **change)], base)
    assert mean["n"].tolist() == [4, 3]
    assert mean["flag"].tolist() == [True, True]


def test_bits_do_not_depend_on_the_order_of_arrival():
    source = np.random.default_rng(2)
    updates = [
        full(site, int(source.integers(1, 500)), w=source.standard_normal(40_001).astype(np.float32))
        for site in "abcde"
    ]
    results = {encode_tensors(weighted_mean(order)) for order in itertools.permutations(updates, 5)}
    assert len(results) == 1


def test_pieces_join_without_a_seam():
    source = np.random.default_rng(3)
    a, b = source.standard_normal((2, 200_003))
    mean = weighted_mean([full("a", 1, w=a), full("b", 2, w=b)])["w"]
    np.testing.assert_allclose(mean, (a + 2 * b) / 3, rtol=1e-15, atol=1e-15)


def test_bfloat16_is_averaged_like_torch_rounds_it():
    a = torch.tensor([1.0, 3.0, -1.5, 1.0078125, 0.0])
    b = torch.tensor([2.0, 3.0078125, 2.5, 1.015625, -0.0])

    def bits(tensor):
        return tensor.to(torch.bfloat16).view(torch.int16).numpy().view(numpy_dtype("BF16"))

    mean = weighted_mean([full("a", w=bits(a)), full("b", w=bits(b))])["w"]
    expected = ((a.to(torch.bfloat16).double() + b.to(torch.bfloat16).double()) / 2).to(torch.bfloat16)
    assert mean.dtype == numpy_dtype("BF16")
    assert mean.tobytes() == expected.view(torch.int16).numpy().tobytes()


def test_every_bfloat16_keeps_its_bits_through_a_mean_with_itself():
    every = np.arange(1 << 16, dtype=np.uint16)
    finite = every[(every & 0x7F80) != 0x7F80].view(numpy_dtype("BF16"))
    mean = weighted_mean([full("a", 3, w=finite), full("b", 4, w=finite)])["w"]
    minus_zero = finite.view(np.uint16) == 0x8000  # a sum that starts at +0 forgets this sign
    assert (mean == finite)[~minus_zero].all()


def test_8_bit_floats_are_not_averaged_but_refused_by_name():
    w = np.zeros(2, numpy_dtype("F8_E4M3"))
    with pytest.raises(Misuse, match="'w' is F8_E4M3"):
        weighted_mean([full("a", w=w), full("b", w=w)])


def test_no_update_is_an_error():
    with pytest.raises(JobFailed, match="nothing to average"):
        weighted_mean([])


def test_a_total_weight_of_zero_is_an_error_with_a_hint():
    with pytest.raises(JobFailed, match=r"total weight of 0 \(from a, b\)") as caught:
        weighted_mean([full("a", 0, w=[1.0]), full("b", 0, w=[2.0])])
    assert "samples" in caught.value.hint


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_an_impossible_weight_is_refused_by_site(weight):
    update = Update(site="b", weight=weight, params={"w": np.zeros(1)})
    with pytest.raises(UpdateRefused, match="weight of b"):
        weighted_mean([full("a", w=[0.0]), update])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (full("b", w=[1.0]), "b lacks tensor 'v'"),
        (full("b", w=[1.0], v=[1.0], u=[1.0]), "a lacks tensor 'u'"),
        (full("b", w=[1.0, 2.0], v=[1.0]), "'w' of b"),
        (full("b", w=np.float32([1.0]), v=[1.0]), "'w' of b"),
        (Update(site="b", samples=1, kind=UpdateKind.OPAQUE), "b is opaque"),
    ],
)
def test_updates_that_do_not_match_are_refused_by_site_and_tensor(other, message):
    with pytest.raises(UpdateRefused, match=message):
        weighted_mean([full("a", w=[1.0], v=[1.0]), other])


def test_a_difference_without_its_model_is_refused():
    with pytest.raises(UpdateRefused, match="the model lacks tensor 'w'"):
        weighted_mean([diff("a", w=[1.0])])


def test_a_mean_beyond_its_dtype_is_refused_by_tensor():
    base = {"w": np.array([60_000.0], np.float16)}
    with pytest.raises(UpdateRefused, match="'w' leaves the range of float16"):
        weighted_mean([diff("a", w=np.array([60_000.0], np.float16))], base)


def test_extreme_numbers_and_weights_do_not_overflow_on_the_way():
    top = np.finfo(np.float64).max
    updates = [Update(site=s, weight=1e308, params={"w": np.array([top, -top])}) for s in "abc"]
    np.testing.assert_allclose(weighted_mean(updates)["w"], [top, -top])


def test_memory_does_not_grow_with_the_number_of_sites(tmp_path):
    size = 1 << 20
    updates = []
    for number in range(12):
        path = tmp_path / str(number)
        write_tensors(path, {"w": np.full(size, number, np.float32)})
        updates.append(Update(site=f"s{number:02}", samples=1, params=read_tensors(path)))
    tracemalloc.start()
    mean = weighted_mean(updates)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert mean["w"][0] == 5.5
    assert peak < 3 * 4 * size  # the result is 4 bytes each; 12 sites would be 48


def test_metrics_are_weighted_by_samples_over_the_sites_that_report_them():
    updates = [
        Update(site="a", samples=1, metrics={"loss": 1.0, "auc": 0.5}),
        Update(site="b", samples=3, weight=100.0, metrics={"loss": 3.0}),
    ]
    assert mean_metrics(updates) == {"auc": 0.5, "loss": 2.5}


def test_metrics_of_sites_without_samples_count_the_same():
    updates = [Update(site=s, metrics={"loss": v}) for s, v in [("a", 1.0), ("b", 2.0)]]
    assert mean_metrics(updates) == {"loss": 1.5}
    assert mean_metrics([]) == {}
