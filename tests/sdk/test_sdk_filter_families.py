# SPDX-License-Identifier: Apache-2.0
"""The filters in hand-sized numbers, and what they promise: bounds, variances, budgets."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flprov.errors import ConfigError, JobFailed
from flprov.messages import Encoding, Precision, Site, Task, Update, UpdateKind
from flprov.sdk import (
    FILTERS,
    build_result_filters,
    build_task_filters,
    describe_filters,
    filter_result,
    filter_task,
    verify_filters,
)
from flprov.sdk.filters import gaussian_delta, gaussian_epsilon, gaussian_sigma
from flprov.sdk.filters.selection import _split
from flprov.wire import encode_tensors, numpy_dtype

SITE = Site(name="a", job_id="j", folder=Path("/nonexistent"))
MODEL = {"w": np.float32([1, 1, 1, 1]), "n": np.array([7])}
TASK = Task(name="train", params=MODEL, round=0, rounds=1, job_id="j")
DIFF = Update(
    params={"w": np.float32([3, -4, 0.5, 0]), "n": np.array([2])}, kind=UpdateKind.DIFF, metrics={"auc": 0.5}
)
FULL = Update(params={"w": MODEL["w"] + DIFF.params["w"], "n": np.array([9])})


def apply(row, update=DIFF, task=TASK, site=SITE):
    return filter_result(build_result_filters([row], "filters.result.site"), update, task, site)


def difference(values):
    return Update(params={"w": np.float32(values)}, kind=UpdateKind.DIFF)


# ---- bounds ----------------------------------------------------------------------------------------


def test_clip_bounds_each_number_of_the_difference():
    row = {"type": "clip", "limit": 2}
    assert apply(row).params["w"].tolist() == [2, -2, 0.5, 0]
    assert apply(row, FULL).params["w"].tolist() == [3, -1, 1.5, 1]
    assert apply(row).params["n"].tolist() == [2]


@pytest.mark.parametrize("type_", ["clip", "clip_norm", "percentile", "quantize"])
def test_an_update_without_real_numbers_passes_as_it_is(type_):
    rows = {"clip": {"limit": 1}, "clip_norm": {"max_norm": 1}, "percentile": {"keep": 0.5}}
    update = Update(params={"n": np.array([3]), "w": np.empty((0, 2), np.float32)}, kind=UpdateKind.DIFF)
    sent = apply({"type": type_, **rows.get(type_, {"to": "int8"})}, update)
    assert sent.params["n"].tolist() == [3]
    assert sent.params["w"].shape == (0, 2)


@pytest.mark.parametrize("type_", ["clip_norm", "percentile", "svt_privacy", "quantize"])
def test_what_is_not_finite_is_refused_with_the_tensor_named(type_):
    rows = {
        "clip_norm": {"max_norm": 1},
        "percentile": {"keep": 0.5},
        "svt_privacy": {"fraction": 0.5, "epsilon": 1, "gamma": 1, "tau": 0},
        "quantize": {"to": "int8"},
    }
    with pytest.raises(JobFailed, match=f"filter {type_}: tensor 'w' holds NaN or infinity"):
        apply({"type": type_, **rows[type_]}, difference([1, math.nan]))


# ---- noise -----------------------------------------------------------------------------------------


def test_the_analytic_gaussian_mechanism_needs_less_noise_than_the_classical_one():
    assert gaussian_sigma(1.0, 1e-5, 1.0) == pytest.approx(3.7306, abs=1e-4)
    assert gaussian_sigma(1.0, 1e-5, 1.0) < math.sqrt(2 * math.log(1.25e5))
    assert gaussian_sigma(1.0, 1e-5, 3.0) == pytest.approx(3 * gaussian_sigma(1.0, 1e-5, 1.0))


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1, 8, 50, 900])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.1])
def test_sigma_is_the_least_that_keeps_the_promise(epsilon, delta):
    sigma = gaussian_sigma(epsilon, delta, 1.0)
    assert gaussian_delta(1 / sigma, epsilon) <= delta
    assert gaussian_delta(1 / (sigma * 0.999), epsilon) > delta
    assert gaussian_epsilon(sigma, delta, 1.0) == pytest.approx(epsilon, rel=1e-6)


@pytest.mark.parametrize(("epsilon", "max_norm"), [(1, 1e308), (1, 8e307), (1e300, 1e-300)])
def test_noise_that_no_number_can_be_is_refused_at_once(epsilon, max_norm):
    row = {"type": "gaussian_noise", "epsilon": epsilon, "delta": 1e-5, "max_norm": max_norm}
    with pytest.raises(ConfigError, match=r"and max_norm .* take noise of (inf|0\.0)"):
        verify_filters([row], "filters.result.site")
    assert gaussian_epsilon(1e-200, 1e-5, 1.0) == math.inf


def test_delta_agrees_with_its_definition_by_integration():
    """delta = the integral of max(p - e^epsilon q) over N(mu, 1) and N(0, 1)."""
    x = np.linspace(-20, 20, 400_001)
    p, q = (np.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi) for mean in (0.7, 0.0))
    integral = np.maximum(p - math.exp(1.2) * q, 0).sum() * (x[1] - x[0])
    assert gaussian_delta(0.7, 1.2) == pytest.approx(integral, rel=1e-6)


def test_answers_add_up_as_one_with_less_noise():
    assert gaussian_epsilon(10.0, 1e-5, 1.0, answers=25) == pytest.approx(gaussian_epsilon(2.0, 1e-5, 1.0))
    once = gaussian_epsilon(10.0, 1e-5, 1.0)
    assert once < gaussian_epsilon(10.0, 1e-5, 1.0, answers=25) < 25 * once


def test_calibrated_noise_clips_blurs_and_says_nothing_in_integers():
    size = 200_000
    update = Update(
        params={"w": np.full(size, 5, np.float32), "n": np.array([2])}, kind=UpdateKind.DIFF, samples=3
    )
    row = {"type": "gaussian_noise", "epsilon": 4, "delta": 1e-6, "max_norm": 0.5, "seed": 1}
    noisy = apply(row, update)
    sigma = gaussian_sigma(4, 1e-6, 1.0)  # twice the norm: two updates are at most so far apart
    assert noisy.params["w"].std() == pytest.approx(sigma, rel=0.01)
    assert abs(noisy.params["w"].mean()) < 0.01
    assert noisy.params["n"].tolist() == [0]
    full = replace(update, kind=UpdateKind.FULL)
    task = replace(TASK, params={"w": np.full(size, 5, np.float32), "n": np.array([7])})
    noisy = apply(row, full, task)
    assert noisy.params["w"].mean() == pytest.approx(5, abs=0.01)
    assert noisy.params["n"].tolist() == [7]


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_normal(seed):
    noise = (
        apply({"type": "gaussian_noise", "sigma": 1, "seed": seed}, difference(np.zeros(100_000)))
        .params["w"]
        .astype(np.float64)
    )
    moments = [noise.mean(), noise.var(), (noise**3).mean(), (noise**4).mean()]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.06)
    within = [(np.abs(noise) < bound).mean() for bound in (1, 2, 3)]
    np.testing.assert_allclose(within, [0.6827, 0.9545, 0.9973], atol=0.006)
    assert abs(np.corrcoef(noise[:50_000], noise[50_000:])[0, 1]) < 0.02


# ---- percentile ------------------------------------------------------------------------------------


def test_percentile_keeps_the_largest_part_and_clips_it():
    assert apply({"type": "percentile", "keep": 0.5}).params["w"].tolist() == [3, -4, 0, 0]
    assert apply({"type": "percentile", "keep": 0.5, "gamma": 3.5}).params["w"].tolist() == [3, -3.5, 0, 0]
    assert apply({"type": "percentile", "keep": 0.25}, FULL).params["w"].tolist() == [1, -3, 1, 1]
    assert apply({"type": "percentile", "keep": 1}).params["w"].tolist() == [3, -4, 0.5, 0]


@pytest.mark.parametrize("keep", [0.001, 0.1, 0.37, 0.999])
@pytest.mark.parametrize("dtype", ["F16", "F32", "F64"])
def test_percentile_agrees_with_sorting(keep, dtype):
    values = np.random.default_rng(3).normal(size=150_001).astype(numpy_dtype(dtype))
    sent = apply({"type": "percentile", "keep": keep}, Update(params={"w": values}, kind=UpdateKind.DIFF))
    ranked = np.sort(np.abs(values))[::-1]
    cutoff = ranked[math.ceil(keep * values.size) - 1]
    np.testing.assert_array_equal(sent.params["w"], np.where(np.abs(values) >= cutoff, values, 0))


def test_what_is_mostly_zero_travels_small():
    values = difference(np.random.default_rng(1).normal(size=20_000))
    sent = apply({"type": "percentile", "keep": 0.1}, values)
    assert sent.encoding == {"w": Encoding(sparse=True)}
    assert len(encode_tensors(sent.params, {}, sent.encoding)) < 0.21 * values.params["w"].nbytes
    both = apply({"type": "quantize", "to": "int8"}, sent)
    assert len(encode_tensors(both.params, {}, both.encoding)) < 0.14 * values.params["w"].nbytes


# ---- sparse vector ---------------------------------------------------------------------------------

SVT = {"type": "svt_privacy", "fraction": 0.1, "epsilon": 1e9, "gamma": 1, "tau": 0.5, "seed": 1}


def test_svt_without_noise_to_speak_of_sends_what_is_above_the_threshold():
    values = np.zeros(100)
    values[[3, 50, 97]] = [0.7, -0.8, 2.0]
    sent = apply(SVT, difference(values)).params["w"]
    assert np.flatnonzero(sent).tolist() == [3, 50, 97]
    np.testing.assert_allclose(sent[[3, 50, 97]], [0.7, -0.8, 1.0], atol=1e-4)


def test_svt_stops_at_its_share_and_chooses_without_looking():
    values = np.full(1000, 0.9)
    chosen = [
        np.flatnonzero(apply(SVT | {"seed": seed}, difference(values)).params["w"]) for seed in range(200)
    ]
    assert {len(places) for places in chosen} == {100}
    often = np.bincount(np.concatenate(chosen), minlength=1000)
    assert abs(often[:500].sum() - 10_000) < 500  # no part of the model is before another
    assert often.max() < 50


def test_svt_takes_the_noise_that_the_paper_asks_for():
    """Below the threshold the queries' noise alone decides; what it lets pass has the noise of the values."""
    count, most, epsilon = 20_000, 2000, 20_000.0
    row = SVT | {"epsilon": epsilon, "tau": 1.0}
    passed = np.concatenate(
        [apply(row | {"seed": seed}, difference(np.full(count, 0.2))).params["w"] != 0 for seed in range(10)]
    )
    first, second, third = _split(epsilon, most)
    assert first + second + third == pytest.approx(epsilon)
    assert second / first == pytest.approx((2 * most) ** (2 / 3))
    scale = 2 * most / second
    assert passed.mean() == pytest.approx(math.exp(-0.8 / scale) / 2, rel=0.1)
    sent = apply(SVT | {"epsilon": epsilon, "tau": 0.0, "seed": 2}, difference(np.full(count, 0.2)))
    noise = sent.params["w"][sent.params["w"] != 0] - 0.2
    inside = np.abs(noise) < 0.5  # beyond, it is clipped to gamma
    expected = -np.expm1(-0.5 / (2 * most / third))
    assert inside.mean() == pytest.approx(expected, abs=0.05)


def test_svt_says_nothing_in_integers_and_stays_within_gamma():
    update = replace(DIFF, params={"w": np.full(1000, 5, np.float32), "n": np.array([2])})
    sent = apply(SVT | {"epsilon": 1.0}, update)
    assert sent.params["n"].tolist() == [0]
    assert np.abs(sent.params["w"]).max() <= 1


# ---- rounding --------------------------------------------------------------------------------------


def test_quantize_states_its_error():
    update = difference([1.27, 0.004, -1.0, 0.126])
    sent = apply({"type": "quantize", "to": "int8"}, update)
    gap = np.abs(sent.params["w"] - update.params["w"])
    assert sent.metrics["quantize_max_error"] == pytest.approx(gap.max())
    assert sent.metrics["quantize_max_error"] <= 0.0051
    norm = np.linalg.norm(gap.astype(float)) / np.linalg.norm(update.params["w"].astype(float))
    assert sent.metrics["quantize_relative_error"] == pytest.approx(norm)
    assert sent.encoding == {"w": Encoding(precision=Precision.INT8)}
    assert sent.kind is UpdateKind.DIFF


def test_quantize_of_full_weights_rounds_the_weights():
    sent = apply({"type": "quantize", "to": "fp16"}, replace(FULL, params={"w": np.float32([0.1] * 4)}))
    assert sent.params["w"].tolist() == [float(np.float16(0.1))] * 4
    assert sent.params["w"].dtype == np.float32


# ---- a task's model, and job.yml -------------------------------------------------------------------


def test_some_work_on_a_task_s_model(capsys):
    rows = [
        {"type": "exclude", "names": ["n"]},
        {"type": "clip", "limit": 0.7},
        {"type": "quantize", "to": "int8"},
    ]
    task = filter_task(build_task_filters(rows, "filters.task.server"), TASK, SITE)
    np.testing.assert_allclose(task.params["w"], [0.7] * 4, rtol=1e-4)
    assert task.params["n"].tolist() == [0]
    assert task.encoding["w"] == Encoding(precision=Precision.INT8)
    assert not task.encoding["n"].sparse
    assert "quantize_max_error" in capsys.readouterr().out


@pytest.mark.parametrize("kind", sorted(name for name, one in FILTERS.items() if not one.on_tasks))
def test_others_do_not(kind):
    rows = [{"type": kind, **GOOD[kind]}]
    with pytest.raises(ConfigError, match=f"{kind}' works on results only"):
        build_task_filters(rows, "filters.task.server")


GOOD = {
    "clip": {"limit": 1},
    "clip_norm": {"max_norm": 1},
    "exclude": {"names": ["w"]},
    "gaussian_noise": {"epsilon": 1, "delta": 1e-5, "max_norm": 1},
    "percentile": {"keep": 0.1},
    "quantize": {"to": "int8"},
    "svt_privacy": {"fraction": 0.1, "epsilon": 1, "gamma": 1, "tau": 0.1},
}


def test_each_says_what_it_does():
    assert GOOD.keys() == FILTERS.keys()
    rows = [{"type": kind, **options} for kind, options in GOOD.items()]
    lines = describe_filters(rows, "filters.result.site", 10)
    assert len(lines) == len(rows)
    assert any("(1, 1e-05)-differentially private, 10 answers together are (" in line for line in lines)
    assert any("1-differentially private, 10 answers together are 10" in line for line in lines)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"type": "clip", "limit": 0}, "limit is 0.0"),
        ({"type": "clip_norm", "max_norm": -1}, "max_norm is -1"),
        ({"type": "exclude", "names": []}, "names is empty"),
        ({"type": "gaussian_noise"}, "either sigma must be given"),
        ({"type": "gaussian_noise", "sigma": 1, "epsilon": 1}, "stands without epsilon"),
        ({"type": "gaussian_noise", "epsilon": 1, "delta": 1, "max_norm": 1}, "delta between 0 and 1"),
        ({"type": "percentile", "keep": 0}, "keep is 0"),
        ({"type": "quantize", "to": "int4"}, "int4"),
        ({"type": "quantize", "to": "fp16", "block": 64}, "int8 only"),
        ({"type": "quantize", "to": "int8", "block": 3}, "block is 3"),
        ({"type": "svt_privacy", "fraction": 0.1, "epsilon": 0, "gamma": 1, "tau": 0}, "epsilon is 0"),
        ({"type": "svt_privacy", "fraction": 0.1, "epsilon": 1, "gamma": 1, "tau": 2}, "tau is 2"),
    ],
)
def test_options_out_of_range_are_found_before_the_first_task(row, said):
    with pytest.raises(ConfigError, match=said):
        build_result_filters([row], "filters.result.site")


def test_a_large_update_is_filtered_in_files_without_names(tmp_path):
    update = difference(np.ones(1_000_000))
    site = replace(SITE, folder=tmp_path)
    sent = apply({"type": "clip", "limit": 0.5}, update, site=site)
    assert sent.params["w"][-1] == 0.5
    assert sent.params["w"].base is not None
    assert list(tmp_path.iterdir()) == []
