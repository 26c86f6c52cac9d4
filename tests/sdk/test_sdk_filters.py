# SPDX-License-Identifier: Apache-2.0
"""Filters: what they change, what they leave alone, how job.yml names them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flprov.errors import ConfigError, JobFailed, Misuse
from flprov.messages import Site, Task, Update, UpdateKind
from flprov.sdk import build_result_filters, build_task_filters, filter_result, filter_task
from flprov.wire import numpy_dtype

SITE = Site(name="a", job_id="j", folder=Path())
MODEL = {"w": np.float32([1.0, 1.0]), "b": np.float64(2.0).reshape(()), "n": np.array([7])}
TASK = Task(name="train", params=MODEL, round=0, rounds=1, job_id="j")
FULL = Update(params={"w": np.float32([4.0, 5.0]), "b": np.array(2.0), "n": np.array([9])}, samples=5)
DIFF = Update(
    params={"w": np.float32([3.0, 4.0]), "b": np.array(0.0), "n": np.array([2])}, kind=UpdateKind.DIFF
)


def apply(row, update, task=TASK, site=SITE):
    return filter_result(build_result_filters([row], "filters.result.site"), update, task, site)


def test_clip_norm_scales_a_difference_down_to_its_norm():
    clipped = apply({"type": "clip_norm", "max_norm": 1.0}, DIFF)  # the norm of (3, 4) is 5
    np.testing.assert_allclose(clipped.params["w"], [0.6, 0.8], rtol=1e-7)
    assert clipped.kind is UpdateKind.DIFF


def test_clip_norm_of_weights_looks_at_their_difference_from_the_model():
    clipped = apply({"type": "clip_norm", "max_norm": 1.0}, FULL)
    np.testing.assert_allclose(clipped.params["w"], [1.6, 1.8], rtol=1e-7)
    assert clipped.params["b"] == 2.0
    assert clipped.kind is UpdateKind.FULL
    assert clipped.samples == 5


def test_clip_norm_leaves_a_small_update_and_all_integers_alone():
    assert apply({"type": "clip_norm", "max_norm": 5.0}, DIFF) is DIFF
    assert apply({"type": "clip_norm", "max_norm": 1}, DIFF).params["n"].tolist() == [2]


def test_filters_do_not_write_into_the_updates_own_arrays():
    before = FULL.params["w"].copy()
    apply({"type": "clip_norm", "max_norm": 0.1}, FULL)
    apply({"type": "gaussian_noise", "sigma": 1.0}, FULL)
    apply({"type": "exclude", "names": ["w"]}, FULL)
    np.testing.assert_array_equal(FULL.params["w"], before)


def test_clip_norm_of_weights_without_a_model_is_an_error_and_not_a_guess():
    with pytest.raises(JobFailed, match="clip_norm compares") as caught:
        apply({"type": "clip_norm", "max_norm": 1.0}, FULL, replace(TASK, params={}))
    assert "model" in caught.value.hint


def test_noise_has_its_sigma_and_leaves_integers_alone():
    update = Update(params={"w": np.zeros(100_000, np.float32), "n": np.array([3])})
    noisy = apply({"type": "gaussian_noise", "sigma": 0.5, "seed": 1}, update)
    assert abs(float(noisy.params["w"].std()) - 0.5) < 0.01
    assert abs(float(noisy.params["w"].mean())) < 0.01
    assert noisy.params["n"].tolist() == [3]


def test_seeded_noise_differs_by_site_and_round_and_repeats():
    row = {"type": "gaussian_noise", "sigma": 1.0, "seed": 1}

    def noise(site, number):
        found = apply(row, FULL, replace(TASK, round=number), replace(SITE, name=site))
        return found.params["w"].tobytes()

    assert noise("a", 0) == noise("a", 0)
    assert len({noise("a", 0), noise("b", 0), noise("a", 1)}) == 3


def test_noise_without_a_seed_never_repeats():
    row = {"type": "gaussian_noise", "sigma": 1.0}
    assert apply(row, FULL).params["w"].tobytes() != apply(row, FULL).params["w"].tobytes()


def test_noise_reaches_bfloat16():
    update = Update(params={"w": np.zeros(8, numpy_dtype("BF16"))})
    noisy = apply({"type": "gaussian_noise", "sigma": 1.0, "seed": 1}, update)
    assert noisy.params["w"].dtype == numpy_dtype("BF16")
    assert np.count_nonzero(noisy.params["w"].view(np.uint16)) == 8


def test_excluded_tensors_carry_nothing_of_the_site():
    kept = apply({"type": "exclude", "names": ["w", "n*"]}, FULL)
    assert kept.params["w"].tolist() == [1.0, 1.0]
    assert kept.params["n"].tolist() == [7]
    zeroed = apply({"type": "exclude", "names": ["w"]}, DIFF)
    assert zeroed.params["w"].tolist() == [0.0, 0.0]
    assert set(zeroed.params) == set(DIFF.params)


def test_excluding_what_is_not_there_is_an_error():
    with pytest.raises(JobFailed, match=r"no tensor matches 'ww'.*'w'"):
        apply({"type": "exclude", "names": ["ww"]}, FULL)


@pytest.mark.parametrize(
    "row",
    [
        {"type": "clip_norm", "max_norm": 1.0},
        {"type": "gaussian_noise", "sigma": 1.0},
        {"type": "exclude", "names": ["w"]},
    ],
)
def test_an_update_without_tensors_passes_and_an_opaque_one_does_not(row):
    empty = Update(metrics={"auc": 0.5})
    assert apply(row, empty) is empty
    with pytest.raises(JobFailed, match="opaque"):
        apply(row, replace(FULL, kind=UpdateKind.OPAQUE))


def test_what_has_no_arithmetic_is_refused_by_name():
    update = Update(params={"w8": np.zeros(2, numpy_dtype("F8_E5M2"))})
    with pytest.raises(Misuse, match="'w8'"):
        apply({"type": "gaussian_noise", "sigma": 1.0}, update)


def test_filters_run_in_the_order_of_the_file():
    rows = [{"type": "clip_norm", "max_norm": 1.0}, {"type": "exclude", "names": ["w"]}]
    chain = build_result_filters(rows, "filters.result.site")
    assert filter_result(chain, DIFF, TASK, SITE).params["w"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"type": "clip_nrm"},
            r"filters\.result\.site\[0\]: no filter 'clip_nrm' \(did you mean 'clip_norm'\?\)",
        ),
        ({}, "no filter"),
        ({"type": "clip_norm", "max_nrom": 1.0}, "unknown option 'max_nrom'.*'max_norm'"),
        ({"type": "clip_norm"}, "max_norm is missing"),
        ({"type": "clip_norm", "max_norm": "1"}, r"\.max_norm: expected float, found str"),
        ({"type": "clip_norm", "max_norm": True}, r"\.max_norm: expected float"),
        ({"type": "exclude", "names": "w"}, r"\.names: expected list"),
        ({"type": "gaussian_noise", "sigma": 1.0, "task": 1}, "unknown option 'task'"),
    ],
)
def test_a_filter_that_job_yml_gets_wrong_is_named(row, message):
    with pytest.raises(ConfigError, match=message):
        build_result_filters([row], "filters.result.site")


@pytest.mark.parametrize(
    "row", [{"type": "clip_norm", "max_norm": 0.0}, {"type": "gaussian_noise", "sigma": -1.0}]
)
def test_options_out_of_range_are_refused(row):
    with pytest.raises(ConfigError, match=row["type"]):
        apply(row, FULL)


@pytest.fixture
def app(tmp_path, monkeypatch):
    (tmp_path / "my_filters.py").write_text(
        "from dataclasses import replace\n"
        "def double(update, site, factor=2):\n"
        "    return replace(update, samples=update.samples * factor)\n"
        "def rename(task, site):\n"
        "    return replace(task, name=f'{task.name} at {site.name}')\n"
        "def forget(update, site):\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_an_apps_own_filters_are_called_with_site_and_options(app):
    assert apply({"type": "my_filters:double"}, FULL).samples == 10
    assert apply({"type": "my_filters:double", "factor": 3}, FULL).samples == 15
    chain = build_task_filters([{"type": "my_filters:rename"}], "filters.task.site")
    assert filter_task(chain, TASK, SITE).name == "train at a"


def test_an_own_filter_must_give_something_back(app):
    with pytest.raises(JobFailed, match="NoneType, not an Update"):
        apply({"type": "my_filters:forget"}, FULL)
    chain = build_task_filters([{"type": "my_filters:forget"}], "filters.task.site")
    with pytest.raises(JobFailed, match="NoneType, not a Task"):
        filter_task(chain, TASK, SITE)


def test_an_own_filter_with_a_wrong_option_is_named(app):
    with pytest.raises(ConfigError, match=r"unknown option 'facter'.*'factor'"):
        build_result_filters([{"type": "my_filters:double", "facter": 3}], "filters.result.site")


def test_ours_do_not_work_on_tasks():
    with pytest.raises(ConfigError, match="'clip_norm' works on results only"):
        build_task_filters([{"type": "clip_norm", "max_norm": 1.0}], "filters.task.server")
