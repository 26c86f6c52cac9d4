# SPDX-License-Identifier: Apache-2.0
"""`filters`, `statistics` and `tasks` of policy.yml: what is read, and mistakes with line and nearest key."""

import inspect
from pathlib import Path

import pytest

from flprov.errors import ConfigError
from flprov.messages import StatisticsRules
from flprov.policy import load_policy
from flprov.policy.filterrules import FORMS, ON_TASKS, Number
from flprov.sdk import FILTERS, build_result_filters, build_task_filters


def read(tmp_path: Path, text: str):
    path = tmp_path / "policy.yml"
    path.write_text(text)
    return load_policy(path)


def test_without_the_keys_nothing_is_filtered_and_the_rules_are_the_usual_ones(tmp_path: Path):
    policy = read(tmp_path, "allow: {people: [ada]}\n")
    assert (policy.filters.task, policy.filters.result) == ((), ())
    assert (policy.statistics, policy.refused_tasks) == (StatisticsRules(), frozenset())
    assert policy.filters.in_words == ""
    assert load_policy(tmp_path / "none.yml").statistics == StatisticsRules()


def test_what_is_said_is_read(tmp_path: Path):
    policy = read(
        tmp_path,
        "filters:\n"
        "  task: [{type: exclude, names: [head.*]}]\n"
        "  result:\n"
        "    - {type: gaussian_noise, epsilon: 2, delta: 0.00001, max_norm: 1}\n"
        "    - {type: quantize, to: int8, block: 64}\n"
        "statistics: {min_count: 30, max_bins_percent: 5, extremes: never}\n"
        "tasks: {refuse: [submit_model]}\n",
    )
    assert policy.filters.task == ({"type": "exclude", "names": ("head.*",), "required": False},)
    assert policy.filters.result == (
        {"type": "gaussian_noise", "epsilon": 2, "delta": 1e-5, "max_norm": 1},
        {"type": "quantize", "to": "int8", "block": 64},
    )
    assert policy.statistics == StatisticsRules(min_count=30, max_bins_percent=5.0, extremes="never")
    assert policy.refused_tasks == {"submit_model"}
    assert policy.filters.in_words == (
        "models that come pass exclude; updates that leave pass gaussian_noise, quantize"
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{type: clip_nrm, max_norm: 1}", "not 'clip_nrm' (did you mean 'clip_norm'?)"),
        ("{max_norm: 1}", "an item without 'type'"),
        ("{type: percentile, keep: 1, gama: 1}", "unknown key 'gama' (did you mean 'gamma'?)"),
        ("{type: clip_norm}", "key 'max_norm' is missing"),
        ("{type: clip_norm, max_norm: 0}", "'max_norm' must be above 0, not 0"),
        ("{type: clip_norm, max_norm: -1}", "'max_norm' must be above 0, not -1"),
        ("{type: gaussian_noise, sigma: -1}", "'sigma' must be at least 0, not -1"),
        ("{type: clip_norm, max_norm: '1'}", "number"),
        ("{type: gaussian_noise, sigma: 1, seed: 7}", "unknown key 'seed'"),
        ("{type: gaussian_noise, epsilon: 1}", "sigma, or epsilon, delta and max_norm together"),
        ("{type: gaussian_noise, epsilon: 1, delta: 1, max_norm: 1}", "'delta' must be below 1"),
        ("{type: percentile, keep: 2}", "'keep' must be at most 1"),
        ("{type: quantize, to: int9}", "must be one of fp16, int8"),
        ("{type: quantize, to: fp16, block: 64}", "'block' stands with int8 only"),
        ("{type: exclude, names: []}", "'names' must name at least one tensor"),
        (
            "{type: svt_privacy, fraction: 0.1, epsilon: 1, gamma: 0.1, tau: 1}",
            "'tau' must not be above 'gamma'",
        ),
        ("{type: 'train:filter'}", "must be one of clip"),
    ],
)
def test_a_mistake_is_said_once_with_its_line(tmp_path: Path, row: str, said: str):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"allow: {{people: [ada]}}\nfilters:\n  result:\n    - {row}\n")
    assert len(caught.value.problems) == 1
    assert "policy.yml:4: " in caught.value.problems[0]
    assert said in caught.value.problems[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("filters: {results: []}", "unknown key 'results' (did you mean 'result'?)"),
        ("filters: {task: [{type: clip_norm, max_norm: 1}]}", "must be one of clip, exclude, quantize"),
        ("statistics: {min_count: 0}", "must be at least 1"),
        ("statistics: {max_bins_percent: 0}", "must be above 0"),
        ("statistics: {extremes: maybe}", "must be one of exact, noise, never"),
        ("tasks: {refuse: ['']}", "refuse"),
        ("tasks: {refuze: [a]}", "unknown key 'refuze' (did you mean 'refuse'?)"),
    ],
)
def test_mistakes_elsewhere_are_said_too(tmp_path: Path, text: str, said: str):
    with pytest.raises(ConfigError, match=r"policy\.yml:1: ") as caught:
        read(tmp_path, text + "\n")
    assert said in str(caught.value)


# ---- alike with the filters themselves -------------------------------------------------------------


def test_every_filter_can_be_named_with_the_options_it_takes():
    assert FORMS.keys() == FILTERS.keys()
    assert set(ON_TASKS) == {name for name, one in FILTERS.items() if one.on_tasks}
    for name, options in FORMS.items():
        known = {
            option: parameter.default is parameter.empty
            for option, parameter in list(inspect.signature(FILTERS[name].apply).parameters.items())[3:]
        }
        known.pop("seed", None)  # it would undo the noise
        known.pop("required", None)  # the policy's own
        assert options.keys() == known.keys()
        required = {
            option for option, form in options.items() if not isinstance(form, Number) or form.required
        }
        assert required - {"block"} == {option for option, needed in known.items() if needed}


def test_what_the_policy_takes_the_filters_take(tmp_path: Path):
    rows = (
        "[{type: clip, limit: 1}, {type: clip_norm, max_norm: 1}, {type: exclude, names: [w]},"
        " {type: gaussian_noise, sigma: 0}, {type: gaussian_noise, epsilon: 1, delta: 0.5, max_norm: 1},"
        " {type: percentile, keep: 1}, {type: percentile, keep: 0.1, gamma: 1}, {type: quantize, to: fp16},"
        " {type: quantize, to: int8, block: 16},"
        " {type: svt_privacy, fraction: 1, epsilon: 1, gamma: 1, tau: 0}]"
    )
    tasks = "[{type: clip, limit: 1}, {type: exclude, names: [w]}, {type: quantize, to: int8}]"
    policy = read(tmp_path, f"filters:\n  result: {rows}\n  task: {tasks}\n")
    assert len(build_result_filters(policy.filters.result, "policy.yml")) == 10
    assert len(build_task_filters(policy.filters.task, "policy.yml")) == 3
