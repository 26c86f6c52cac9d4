# SPDX-License-Identifier: Apache-2.0
"""Federated statistics against numpy over the pooled table, and what a site must not give away."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from resuming import run_workflow, verify_resumes
from site_answers import OPEN, ask_site

from flprov.errors import ConfigError, JobFailed, Misuse
from flprov.messages import Site, StatisticsRules, Task, Update
from flprov.sdk import build_controller, read_state, summarise
from flprov.sdk.summaries import HIDDEN, group, hide_small, widen_range

SMALL = {"min_count": 1, "max_bins_percent": 100.0, "extremes": "exact", "bins": 4}


def run(data, options=SMALL, *, rules=OPEN, ranges=None, change=None, **where):
    """statistics.json of sites with these data."""

    def answer(ask, site):
        own = rules.get(site, OPEN) if isinstance(rules, dict) else rules
        update = ask_site(ask, site, data[site], own, ranges)
        return update if change is None else change(ask, site, update)

    workflow = build_controller("federated_statistics", None, options)
    port = run_workflow(workflow, answer, names=list(data), tasks=("statistics",), **where)
    return read_state(port.saved[-1]).results["statistics.json"]


def draws(seed, sizes, scale=1.0, offset=0.0):
    source = np.random.default_rng(seed)
    return {site: {"x": source.normal(offset, scale, size)} for site, size in sizes.items()}


HAND = {"a": {"x": [1.0, 2.0, 3.0, 3.0]}, "b": {"x": [7.0, 7.0, math.nan, 7.0, 5.0]}}


def test_eight_numbers_at_two_sites_by_hand():
    found = run(HAND)["datasets"]["data"]["x"]
    assert (found["count"], found["failures"], found["sum"], found["mean"]) == (8, 1, 35.0, 4.375)
    # squares of -3.375, -2.375, twice -1.375, thrice 2.625 and 0.625: 41.875, over 7
    assert found["stddev"] == pytest.approx(math.sqrt(41.875 / 7), rel=1e-15)
    assert (found["min"], found["max"]) == (1.0, 7.0)
    assert found["histogram"] == {
        "edges": [1.0, 2.5, 4.0, 5.5, 7.0],
        "counts": [2, 2, 1, 3],
        "below": 0,
        "above": 0,
        "withheld": 0,
    }
    assert found["quantiles"] == {"0.25": 2.75, "0.5": 4.0, "0.75": 7.0}  # as numpy.quantile says
    assert found["sites"]["a"]["mean"] == 2.25
    assert found["sites"]["b"]["quantiles"]["0.5"] == 7.0


@pytest.mark.parametrize("seed", range(5))
def test_all_sites_together_are_the_pooled_table(seed):
    data = draws(seed, {"a": 1000, "b": 37, "c": 401}, scale=3.0, offset=-7.0)
    found = run(data, {**SMALL, "bins": 13})["datasets"]["data"]["x"]
    pooled = np.concatenate([columns["x"] for columns in data.values()])
    assert found["count"] == pooled.size
    assert found["mean"] == pytest.approx(pooled.mean(), rel=1e-14)
    assert found["stddev"] == pytest.approx(pooled.std(ddof=1), rel=1e-13)
    assert (found["min"], found["max"]) == (pooled.min(), pooled.max())
    counts, edges = np.histogram(pooled, bins=13)
    assert found["histogram"]["counts"] == counts.tolist()
    assert found["histogram"]["edges"] == pytest.approx(edges.tolist(), rel=1e-12)


def test_a_small_spread_around_a_large_mean_is_not_lost():
    data = draws(3, {"a": 500, "b": 500}, scale=1e-3, offset=1e9)
    pooled = np.concatenate([columns["x"] for columns in data.values()])
    found = run(data)["datasets"]["data"]["x"]
    exact = float(np.std((pooled - 1e9), ddof=1))
    assert found["stddev"] == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_the_rank_of_a_quantile_is_within_the_error_that_is_stated(seed):
    sizes = {"a": 900, "b": 60, "c": 333}
    data = draws(seed, sizes)
    levels = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)
    options = {"quantiles": ", ".join(str(level) for level in levels)}
    found = run(data, options, rules=StatisticsRules())["datasets"]["data"]["x"]
    pooled = np.sort(np.concatenate([columns["x"] for columns in data.values()]))
    error = found["quantile_rank_error"]
    assert error < 0.05
    for level in levels:
        rank = np.searchsorted(pooled, found["quantiles"][f"{level:g}"]) / pooled.size
        assert abs(rank - level) <= error


def test_several_datasets_and_features_are_kept_apart():
    data = {
        "a": {"train": {"x": [1.0, 2.0], "a/b": [0.0, 4.0]}, "test": {"x": [9.0] * 4}},
        "b": {"train": {"x": [3.0], "a/b": [2.0]}, "test": {"x": [9.0] * 4}},
    }
    found = run(data)["datasets"]
    assert found["train"]["x"]["sites"]["b"]["stddev"] is None  # one value has none
    assert found["train"]["x"]["mean"] == 2.0
    assert found["train"]["a/b"]["mean"] == 2.0
    assert found["test"]["x"]["stddev"] == 0.0
    assert found["test"]["x"]["histogram"]["counts"] == [0, 0, 8, 0]  # a range of one value is made wider
    assert sum(found["test"]["x"]["sites"]["a"]["histogram"]["counts"]) == 4


def test_a_feature_with_too_few_values_at_a_site_leaves_nothing_but_its_name():
    sent = []

    def note(ask, site, update):
        sent.extend((site, name, array.tolist()) for name, array in update.params.items() if "rare" in name)
        return update

    data = {
        "a": {"x": range(20), "rare": [1.0] * 9 + [math.nan] * 11},
        "b": {"x": range(20), "rare": range(20)},
    }
    found = run(data, {**SMALL, "min_count": 10}, change=note)["datasets"]["data"]["rare"]
    assert (found["withheld"], found["count"], set(found["sites"])) == (["a"], 20, {"b"})
    assert {row[1:] for row in [(s, n, tuple(v)) for s, n, v in sent if s == "a"]} == {
        ("data/rare/withheld", (1,))
    }


def test_a_feature_that_nobody_may_speak_of_has_no_numbers():
    found = run({"a": {"x": [1.0]}, "b": {"x": [2.0]}}, {**SMALL, "min_count": 2})["datasets"]["data"]["x"]
    assert found == {"count": 0, "sites": {}, "withheld": ["a", "b"]}


@pytest.mark.parametrize(
    ("job", "site", "allowed"),
    [(5, 1, True), (1, 5, True), (6, 1, False), (1, 6, False)],
)
def test_the_stricter_count_of_job_and_site_holds(job, site, allowed):
    rules = StatisticsRules(min_count=site, max_bins_percent=100.0, extremes="exact")
    found = run({"a": {"x": range(5)}}, {**SMALL, "min_count": job}, rules=rules)["datasets"]["data"]["x"]
    assert bool(found["count"]) is allowed


@pytest.mark.parametrize(("job", "site"), [(10.0, 100.0), (100.0, 10.0)])
def test_more_bins_than_allowed_give_no_histogram(job, site):
    rules = StatisticsRules(min_count=1, max_bins_percent=site, extremes="exact")
    options = {**SMALL, "max_bins_percent": job}
    assert run({"a": {"x": range(39)}}, options, rules=rules)["datasets"]["data"]["x"]["histogram"] is None
    assert run({"a": {"x": range(40)}}, options, rules=rules)["datasets"]["data"]["x"]["histogram"]


def test_a_large_constant_whose_range_has_no_room_for_the_bins_gives_no_histogram():
    found = run({"a": {"x": [1.7e15] * 300}}, {**SMALL, "bins": 20})["datasets"]["data"]["x"]
    assert (found["mean"], found["stddev"], found["histogram"]) == (1.7e15, 0.0, None)


def test_values_of_a_site_without_histogram_count_as_withheld():
    rules = {"b": StatisticsRules(min_count=1, max_bins_percent=1.0, extremes="exact")}
    found = run({"a": {"x": range(40)}, "b": {"x": range(40)}}, rules=rules)["datasets"]["data"]["x"]
    assert (sum(found["histogram"]["counts"]), found["histogram"]["withheld"]) == (40, 40)


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ([0, 5, 9], [0, 5, 9]),
        ([2, 0, 3, 9], [HIDDEN, 0, HIDDEN, 9]),  # five in two bins
        ([4, 0, 7, 9], [HIDDEN, 0, HIDDEN, 9]),  # one alone follows from the total: the next goes too
        ([1, 1, 1, 6, 9], [HIDDEN, HIDDEN, HIDDEN, HIDDEN, 9]),  # three in all are too few
        ([3, 0, 0], [HIDDEN, 0, 0]),
    ],
)
def test_small_bins_are_hidden_and_do_not_follow_from_the_total(counts, shown):
    assert hide_small(np.array(counts), 5).tolist() == shown


def test_hidden_bins_are_counted_as_withheld():
    data = {"a": {"x": [0.0] * 8 + [1.0] * 2 + [2.0] * 6 + [3.0] * 7}}
    found = run(data, {**SMALL, "min_count": 5})["datasets"]["data"]["x"]["histogram"]
    assert (found["counts"], found["withheld"]) == ([8, 0, 0, 7], 8)


def test_no_group_of_a_quantile_is_smaller_than_the_rule():
    for size in (10, 19, 20, 99, 1000):
        _, sizes = group(np.arange(size, dtype=np.float64), 10, 100.0)
        assert (sizes.sum(), sizes.min() >= 10) == (size, True)


def test_noise_moves_extremes_outwards_and_never_averages_away():
    values = np.linspace(10.0, 20.0, 50)
    low, high = widen_range(values, "noise")
    assert 7.0 <= low <= 9.0
    assert 21.0 <= high <= 23.0
    assert widen_range(values, "noise").tolist() == [low, high]
    assert widen_range(values + 1, "noise").tolist() != [low + 1, high + 1]


def test_a_site_that_never_tells_extremes_leaves_all_without_them():
    rules = {"b": StatisticsRules(min_count=1, max_bins_percent=100.0, extremes="never")}
    found = run({"a": {"x": range(40)}, "b": {"x": range(40)}}, rules=rules)["datasets"]["data"]["x"]
    assert (found["min"], found["max"], found["histogram"]) == (None, None, None)
    assert found["quantiles"]["0.5"] == 19.5
    assert found["sites"]["a"]["max"] == 39.0


def test_the_order_of_the_values_draws_no_other_noise():
    values = np.random.default_rng(1).normal(0, 1, 50)
    shuffled = np.random.default_rng(2).permutation(values)
    assert widen_range(values, "noise").tolist() == widen_range(shuffled, "noise").tolist()


def test_how_few_rows_a_site_has_is_not_told():
    found = run({"a": {"x": list(range(50))}, "b": {"x": [1.0, 2.0, 3.0]}}, {"bins": 4})
    assert found["sites"] == {"a": 50, "b": 0}


def test_numbers_so_large_that_their_sum_overflows_leave_their_site_out():
    def change(ask, site, update):
        if site in ("b", "c") and ask.round == 0:
            return Update(params={**update.params, "data/x/sum": np.array([1.7e308])}, samples=5)
        return update

    data = {site: {"x": [1.0, 2.0, 3.0]} for site in "abc"}
    found = run(data, change=change)
    assert set(found["sites"]) == {"a"}
    assert "beyond 1e+100" in found["absent"]["b"]


def test_a_fixed_range_needs_no_extremes_and_counts_what_is_outside():
    rules = StatisticsRules(min_count=1, max_bins_percent=100.0, extremes="never")
    found = run({"a": {"x": range(10)}}, rules=rules, ranges={"x": (2.0, 6.0)})["datasets"]["data"]["x"]
    assert found["histogram"] == {
        "edges": [2.0, 3.0, 4.0, 5.0, 6.0],
        "counts": [1, 1, 1, 2],
        "below": 2,
        "above": 3,
        "withheld": 0,
    }


def test_a_site_with_another_fixed_range_than_most_is_left_out():
    def own(ask, site, update):
        return ask_site(ask, site, three[site], ranges={"x": (0.0, 9.0 if site == "a" else 8.0)})

    three = {**HAND, "c": HAND["a"]}
    found = run(three, change=own)
    assert found["absent"] == {"a": "a has another range for 'data/x' than most sites"}
    assert sorted(found["sites"]) == ["b", "c"]
    assert found["datasets"]["data"]["x"]["histogram"]["edges"][-1] == 8.0


def test_a_site_that_is_gone_in_the_second_pass_is_left_out_altogether():
    def leave(ask, site, update):
        return "power cut" if (site, ask.round) == ("b", 1) else update

    found = run(HAND, change=leave)
    assert found["absent"] == {"b": "power cut"}
    assert (found["datasets"]["data"]["x"]["count"], found["datasets"]["data"]["x"]["mean"]) == (4, 2.25)


def spoil(number, name, array):
    """A change of one tensor of site b in one pass."""

    def change(ask, site, update):
        if (site, ask.round) != ("b", number - 1):
            return update
        return Update(params={**update.params, name: np.array(array)}, samples=2)

    return change


@pytest.mark.parametrize(
    ("number", "name", "array", "says"),
    [
        (1, "data/x/sum", [math.nan], "'sum' of feature 'x' of b holds NaN"),
        (1, "data/x/count", [0], "'count' of feature 'x' of b is out of its range"),
        (1, "data/x/count", [2**60], "'count' of feature 'x' of b is out of its range"),
        (1, "data/x/count", [1.0], "'count' of feature 'x' of b is float64"),
        (1, "data/x/count", [1, 1], r"'count' of feature 'x' of b is int64\[2\]"),
        (1, "data/x/range", [3.0, 1.0], "'range' of feature 'x' of b ends before it begins"),
        (1, "data/x/secret", [3.0], "'secret' of feature 'x' of b is not asked for"),
        (1, "data/y/sum", [3.0], "'count' of feature 'y' of b is missing"),
        (1, "stray", [3.0], "b sent 'stray'"),
        (1, "a\n/x/sum", [3.0], "b sent "),
        (2, "data/x/deviations", [1.0, -1.0], "'deviations' of feature 'x' of b is out"),
        (2, "data/x/histogram", [0, 0, 0, -2, 0, 0], "'histogram' of feature 'x' of b is out"),
        (2, "data/x/histogram", [0, 0, 0], r"'histogram' of feature 'x' of b is int64\[3\]"),
        (2, "data/x/histogram", [0, 9, 9, 9, 9, 0], "b counts 'data/x' otherwise"),
        (2, "data/x/group_counts", [1, 1, 1, 9], "b counts 'data/x' otherwise"),
        (2, "data/x/groups", [1.0, 2.0], "'groups' of feature 'x' of b are not as many"),
    ],
)
def test_a_site_whose_numbers_do_not_fit_is_left_out_with_the_reason(number, name, array, says):
    found = run(HAND, change=spoil(number, name, array))
    assert re.search(says, found["absent"]["b"])
    x = found["datasets"]["data"]["x"]
    assert (x["count"], x["mean"], list(x["sites"])) == (4, 2.25, ["a"])


@pytest.mark.parametrize("number", [1, 2])
def test_a_site_that_names_more_features_than_there_is_room_for_is_left_out(monkeypatch, number):
    def crowd(ask, site, update):
        if site == "b" and ask.scalars["pass"] == number:
            more = {f"data/y{count}/withheld": np.ones(1, np.int64) for count in range(3)}
            return Update(params={**update.params, **more}, samples=5)
        return update

    monkeypatch.setattr("flprov.sdk.workflows.columns._MOST_COLUMNS", 4)
    found = run({**HAND, "c": {"x": [1.0], "z": [2.0]}}, change=crowd)
    assert list(found["sites"]) == ["a", "c"]
    assert found["absent"] == {"b": "b names 3 features that no other site has; the limit is 4 in all"}


def test_where_no_site_sends_statistics_the_job_ends_and_says_why():
    def spoil_all(ask, site, update):
        return Update(params={"stray": np.zeros(1)})

    with pytest.raises(JobFailed, match="no update of this round can be used: a sent 'stray'"):
        run(HAND, change=spoil_all)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bins": 0}, "workflow.bins is 0"),
        ({"min_count": 0}, "workflow.min_count is 0"),
        ({"max_bins_percent": 0.0}, "workflow.max_bins_percent"),
        ({"extremes": "loud"}, "workflow.extremes is 'loud'"),
        ({"quantiles": "0.5, 2"}, "workflow.quantiles"),
        ({"quantiles": "half"}, "workflow.quantiles"),
    ],
)
def test_options_that_make_no_sense_are_named(options, says):
    with pytest.raises(ConfigError, match=says):
        build_controller("federated_statistics", None, options)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "no features"),
        ({"x": ["tall", "small"]}, "'x' is no column of numbers"),
        ({"x": [[1.0, 2.0]]}, "'x' has 2 dimensions"),
        ({"a/b": {"x": [1.0]}}, "no name for a data set"),
    ],
)
def test_what_is_no_table_is_a_mistake_of_the_app(data, says):
    with pytest.raises(Misuse, match=says):
        run({"a": data})


def test_summarise_in_another_workflow_says_where_it_belongs():
    task = Task(name="train", params={}, round=0, rounds=1, job_id="job")
    place = Site(name="a", job_id="job", folder=Path("/nowhere"))
    with pytest.raises(Misuse, match="does not say how to summarise") as caught:
        summarise(task, place, {"x": [1.0]})
    assert "federated_statistics" in caught.value.hint


def test_killed_statistics_are_resumed_with_the_same_bytes():
    data = draws(1, {"a": 50, "b": 60})
    workflow = build_controller("federated_statistics", None, {})
    verify_resumes(
        workflow,
        lambda ask, site: ask_site(ask, site, data[site], StatisticsRules()),
        names=["b", "a"],
        tasks=("statistics",),
    )
