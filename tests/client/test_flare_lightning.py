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


NET = """
import lightning.pytorch as pl
import torch

class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def loss(self, batch):
        return ((self.layer(batch[0]) - 2 * batch[0]) ** 2).mean()

    def training_step(self, batch, number):
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("last", loss, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch, number):
        self.log("val", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)
"""
TRAIN = """
import lightning.pytorch as pl
import torch
import flprov.flare.client.lightning as flare
from net import Net

data = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(torch.linspace(0, 1, 8)[:, None]), batch_size=2
)
trainer = pl.Trainer(
    max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, log_every_n_steps=1,
    enable_progress_bar=False, enable_model_summary=False, accumulate_grad_batches=2,
)
model = Net()
flare.patch(trainer)
while flare.is_running():
    trainer.fit(model, data, data)
"""


@pytest.mark.slow
def test_each_value_is_streamed_once_with_the_step_that_it_is_of(tmp_path: Path):
    app = tmp_path / "app"
    app.mkdir()
    (app / "job.yml").write_text(
        "name: steps\nworkflow: {type: fedavg, rounds: 2}\nmodel: net:Net\ntasks: {train: train.py}\n"
    )
    (app / "net.py").write_text(NET)
    (app / "train.py").write_text(TRAIN)
    done, _ = simulate(Simulation(app=app, sites=1, output=tmp_path / "out"))
    assert done.state == "completed", done
    steps: dict[str, list[int]] = {}
    for text in (tmp_path / "out" / "series.jsonl").read_text().splitlines():
        line = json.loads(text)
        if line.get("origin") == "live":
            steps.setdefault(line["name"], []).append(line["step"])
    taken = [1, 2, 3, 4, 5, 6, 7, 8]  # 2 rounds of 2 epochs of 4 batches, 2 of them to a step
    ended = [2, 4, 6, 8]
    assert steps == {"last": taken, "loss_step": taken, "loss": ended, "loss_epoch": ended, "val": ended}


def test_only_a_trainer_is_patched_and_only_in_a_job():
    import flprov.flare.client.lightning as flare

    with pytest.raises(Misuse, match="not started by a flprov job"):
        flare.patch(object())
    with pytest.raises(Misuse, match="takes a Trainer"):
        flare._package(object())
