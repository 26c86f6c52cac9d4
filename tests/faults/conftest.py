# SPDX-License-Identifier: Apache-2.0
"""The fault campaign's modules, and one history that was recorded of a network with kills in it."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
for place in (ROOT / "tests" / "network", ROOT / "benchmarks"):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

from faults.apps import write_steps  # noqa: E402
from faults.history import Expectation, History  # noqa: E402
from faults.rig import Rig  # noqa: E402


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> History:
    """Two jobs over three sites: one with the server and an agent killed, one that is aborted."""
    folder = tmp_path_factory.mktemp("recorded")
    chance = random.Random(1)
    with Rig(folder, "recorded") as rig:
        app = write_steps(folder / "steps", rounds=4, seconds=0.1)
        calm = rig.submit(app, "calm")
        assert rig.wait(calm) == "completed"
        model = rig.take_result(calm)
        hit = rig.submit(app, "hit")
        rig.strike("agent", chance)
        rig.strike("server", chance)
        assert rig.wait(hit) == "completed"
        rig.take_result(hit)
        gone = rig.submit(write_steps(folder / "long", rounds=500), "gone")
        rig.insist(lambda admin: next(j for j in admin.watch(gone) if j.rounds_done >= 1))
        assert rig.abort(gone)
        assert rig.wait(gone) == "aborted"
        rig.look_until_clean()
        for job in (calm, hit):
            rig.expect(job, Expectation(rounds=4, model=model, contributors=tuple(rig.sites), quorum=3))
        rig.expect(gone, Expectation(states=("aborted",)))
        return rig.history()
