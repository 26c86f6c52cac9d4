# SPDX-License-Identifier: Apache-2.0
"""Forty real agents on one real server, which is killed: all come back, and the next job has them all.

With the parts of benchmarks/herd.py, which does the same with a thousand and takes the times.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from herd import ROUNDS_APP, Herd, herd

SITES = 40


@pytest.mark.network
def test_a_herd_comes_back_after_sigkill_and_works_on(tmp_path: Path) -> None:
    with herd(tmp_path, SITES, droves=1) as made:
        made.up()
        assert _contributors(made, "rounds=1") == {SITES}
        made.kill_server()
        killed = time.time()
        made.start_server()
        assert made.wait_connected(killed) < 10
        assert _contributors(made, "rounds=1") == {SITES}
        assert made.memory().rss < 150


def _contributors(made: Herd, setting: str) -> set[int]:
    """How many sites each round of a job has had."""
    job = made.run(ROUNDS_APP, "--set", setting)
    assert job["state"] == "completed"
    return {len(record["contributors"]) for record in job["rounds"]}
