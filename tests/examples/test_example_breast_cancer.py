# SPDX-License-Identifier: Apache-2.0
"""examples/breast_cancer: who has which biopsies, and that the script learns from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from app_runner import run_script

Load = Callable[[str], ModuleType]


@pytest.fixture
def biopsies(load_example: Load) -> ModuleType:
    return load_example("breast_cancer/biopsies")


@pytest.mark.parametrize(
    ("name", "number"), [("site-1", 1), ("site-12", 12), ("hospital-a", 1), ("hospital-c", 3), ("x", 24)]
)
def test_number_comes_from_the_end_of_the_name(biopsies: ModuleType, name: str, number: int) -> None:
    assert biopsies.site_number(name) == number


def test_site_number_zero_is_refused(biopsies: ModuleType) -> None:
    with pytest.raises(ValueError, match="site-0"):
        biopsies.site_number("site-0")


def test_sites_have_uneven_and_disjoint_parts(biopsies: ModuleType) -> None:
    rows = []
    for site in ("hospital-a", "hospital-b", "hospital-c", "site-4"):
        parts = biopsies.load_parts(site)
        rows.append([len(part.labels) for part in parts])
    assert [sum(counts) for counts in rows] == [284, 95, 47, 29]
    assert all(test >= training // 4 for training, test in rows)


def test_no_biopsy_is_at_two_sites(biopsies: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = biopsies.load_breast_cancer()
    everything.target = everything.target * 0 + range(len(everything.target))  # a number for each biopsy
    monkeypatch.setattr(biopsies, "load_breast_cancer", lambda: everything)
    seen = [int(n) for k in range(1, 9) for part in biopsies.load_parts(f"site-{k}") for n in part.labels]
    assert len(seen) == len(set(seen)) == 569 * 8 // 9


def test_site_for_which_nothing_is_left_is_told_so(biopsies: ModuleType) -> None:
    with pytest.raises(ValueError, match="used up"):
        biopsies.load_parts("site-30")


def test_same_site_gets_the_same_part_again(biopsies: ModuleType) -> None:
    first, second = (biopsies.load_parts("site-2")[0].measurements for _ in range(2))
    assert bool((first == second).all())


@pytest.mark.usefixtures("own_modules")
def test_script_learns_round_by_round(tmp_path: Path) -> None:
    updates = run_script(
        "breast_cancer", tmp_path, site="hospital-a", tasks=["evaluate", *["train", "evaluate"] * 4]
    )
    measured = [update.metrics for update in updates if "accuracy" in update.metrics]
    trained = [update for update in updates if "train_loss" in update.metrics]
    assert [update.samples for update in trained] == [213] * 4
    losses = [metrics["loss"] for metrics in measured]
    assert losses == sorted(losses, reverse=True)
    assert measured[0]["accuracy"] < 0.8 < 0.9 < measured[-1]["accuracy"]
