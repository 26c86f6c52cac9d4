# SPDX-License-Identifier: Apache-2.0
"""benchmarks/regress.py: the data plane has not become slower or larger, and the judge can tell."""

from __future__ import annotations

import pytest
from regress import LIMITS, judge, measure, ratios

# As a quiet machine of two cores gave them; seconds, and MB.
RECORDED = {
    "round/100MB": 1.149, "round/empty": 0.00751, "status": 0.408, "first": 0.377, "simulate": 1.248,
    "import": 0.0903, "tls": 0.2324, "commit": 0.00048, "trip": 0.000052,
    "memory/server": 112.9, "memory/server, job": 160.9, "memory/site": 94.7, "memory/site, job": 257.3,
}  # fmt: skip


def test_recorded_run_passes():
    assert judge(ratios(RECORDED)) == []


@pytest.mark.parametrize(
    ("key", "times"),
    [
        ("round/100MB", 3.0), ("round/empty", 5.0), ("status", 3.0), ("first", 4.0), ("simulate", 4.0),
        ("memory/server", 2.5), ("memory/server, job", 2.0), ("memory/site", 3.0), ("memory/site, job", 1.5),
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
