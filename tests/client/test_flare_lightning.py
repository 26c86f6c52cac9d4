# SPDX-License-Identifier: Apache-2.0
"""The example for Lightning: it learns, validation judges the received model, what it logs is streamed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flprov.errors import Misuse
from flprov.simulator import Simulation, simulate

pytest.importorskip("lightning")
EXAMPLE = Path(__file__).parents[2] / "examples" / "lightning"


@pytest.mark.slow
def test_the_example_learns_the_line_and_streams_its_loss(tmp_path: Path):
    done, _ = simulate(Simulation(app=EXAMPLE, sites=2, output=tmp_path))
    assert done.state == "completed", done
    losses = [record.metrics["val_loss"] for record in done.rounds]
    assert losses[0] > 1 > losses[-1]
    told = [json.loads(line) for line in (tmp_path / "series.jsonl").read_text().splitlines()]
    live = [line for line in told if line.get("name") == "train_loss" and line["site"] == "site-1"]
    steps = [line["step"] for line in live]
    assert steps[-1] == 24  # 3 rounds of 2 epochs of 4 batches
    assert steps == sorted(steps)


def test_only_a_trainer_is_patched_and_only_in_a_job():
    import flprov.flare.client.lightning as flare

    with pytest.raises(Misuse, match="not started by a flprov job"):
        flare.patch(object())
    with pytest.raises(Misuse, match="takes a Trainer"):
        flare._package(object())
