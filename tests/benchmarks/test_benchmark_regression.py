# SPDX-License-Identifier: Apache-2.0
"""benchmarks/regress.py: the data plane has not become slower or larger, and the judge can tell."""

from __future__ import annotations

import pytest
from regress import LIMITS, judge, measure, ratios

# As a quiet machine of two cores gave them; seconds, and MB.
RECORDED = {
    "round/100MB": 0.80, "round/empty": 0.005, "status": 0.25, "first": 0.45, "simulate": 1.0, "import": 0.18,
    "tls": 0.35, "commit": 0.0005, "trip": 0.0001,
    "memory/server": 130.0, "memory/server, job": 160.0, "memory/site": 120.0, "memory/site, job": 260.0,
}  # fmt: skip


def test_recorded_run_passes():
    assert judge(ratios(RECORDED)) == []


@pytest.mark.parametrize(
    ("key", "times"),
    [
        ("round/100MB", 3.0), ("round/empty", 5.0), ("status", 3.0), ("first", 4.0), ("simulate", 4.0),
        ("memory/server", 2.0), ("memory/server, job", 2.0), ("memory/site", 2.5), ("memory/site, job", 1.5),
    ],
)  # fmt: skip
def test_what_became_slower_or_larger_is_named_with_its_limit(key, times):
    (problem,) = judge(ratios(RECORDED | {key: RECORDED[key] * times}))
    (limit,) = [limit for limit in LIMITS if limit.name == key]
    assert problem.startswith(f"{key}: ")
    assert f"is more than {limit.most:g}" in problem


def test_machine_that_is_slower_in_everything_passes():
    slower = {key: value * (1 if key.startswith("memory/") else 10) for key, value in RECORDED.items()}
    assert judge(ratios(slower)) == []


def test_ratio_that_is_missing_is_no_pass():
    with pytest.raises(KeyError):
        judge({})


@pytest.mark.slow
@pytest.mark.network
def test_data_plane_keeps_to_its_limits(tmp_path):
    problems = judge(ratios(measure(tmp_path)))
    assert not problems, "\n".join(problems)
