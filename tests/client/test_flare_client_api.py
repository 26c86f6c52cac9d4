# SPDX-License-Identifier: Apache-2.0
"""A script like FLARE's hello-pt, run after `nvflare` became `flprov.flare` in its import lines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import flprov.flare.client as flare
from flprov.errors import Misuse
from flprov.flare.client import tracking
from flprov.simulator import Simulation, simulate
from flprov.wire import read_tensors

JOB = """
name: hello-pt
workflow: {type: fedavg, rounds: 2}
model: start:weights
tasks: {train: client.py, evaluate: client.py}
"""
START = "import numpy as np\n\ndef weights():\n    return {'w': np.zeros(2)}\n"
SCRIPT = """
import nvflare.client as flare
from nvflare.client.tracking import SummaryWriter

def main():
    flare.init()
    sys_info = flare.system_info()
    client_name = sys_info["site_name"]
    summary_writer = SummaryWriter()
    while flare.is_running():
        input_model = flare.receive()
        assert input_model.total_rounds == 2 and flare.get_job_id() == sys_info["job_id"]
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"accuracy": 0.5}))
            continue
        assert flare.is_train() and not flare.is_submit_model()
        number = 1 if client_name == "site-1" else 2
        for step in range(4):
            global_step = input_model.current_round * 4 + step
            summary_writer.add_scalar(tag="loss", scalar=1 / (step + 1), global_step=global_step)
        summary_writer.add_scalars("parts", {"a": 1.0, "b": 2.0}, 1)
        params = {name: value + number for name, value in input_model.params.items()}
        meta = {"NUM_STEPS_CURRENT_ROUND": 10 * number}
        flare.send(flare.FLModel(params=params, metrics={"accuracy": 0.1 * number}, meta=meta))

if __name__ == "__main__":
    main()
"""


def test_the_script_runs_after_its_import_lines_were_changed(tmp_path: Path):
    app = tmp_path / "app"
    app.mkdir()
    (app / "job.yml").write_text(JOB)
    (app / "start.py").write_text(START)
    (app / "client.py").write_text(re.sub(r"(?m)^(import|from) nvflare", r"\1 flprov.flare", SCRIPT))
    done, _ = simulate(Simulation(app=app, sites=2, output=tmp_path / "out"))
    assert done.state == "completed", done
    # Weighted by the steps: (1 * 10 + 2 * 20) / 30 in each of two rounds.
    assert read_tensors(tmp_path / "out" / "model.safetensors")["w"].tolist() == pytest.approx([10 / 3] * 2)
    told = [json.loads(line) for line in (tmp_path / "out" / "series.jsonl").read_text().splitlines()]
    live = [line for line in told if line.get("origin") == "live" and line["site"] == "site-2"]
    assert [line["step"] for line in live if line["name"] == "loss"] == [*range(8)]
    assert {line["name"] for line in live} == {"loss", "parts/a", "parts/b"}


ODD = """
import numpy as np
import flprov.flare.client as flare

flare.init()
while flare.is_running():
    model = flare.receive()
    assert flare.log("loss", np.ones(1)) and flare.log("loss", np.float32(2))
    assert not any(flare.log("many", value) for value in (np.ones(3), [1.0], None, "1", 1j))
    number = int(flare.get_site_name()[-1])
    meta = {"NUM_STEPS_CURRENT_ROUND": number - 0.5}
    flare.send(flare.FLModel(params={"w": model.params["w"] + number}, meta=meta))
"""


def test_steps_need_not_be_whole_and_what_is_no_number_is_not_logged(tmp_path: Path):
    app = tmp_path / "app"
    app.mkdir()
    (app / "job.yml").write_text(JOB.replace("rounds: 2", "rounds: 1").replace(", evaluate: client.py", ""))
    (app / "start.py").write_text(START)
    (app / "client.py").write_text(ODD)
    done, _ = simulate(Simulation(app=app, sites=2, output=tmp_path / "out"))
    assert done.state == "completed", done
    # (1 * 0.5 + 2 * 1.5) / 2
    assert read_tensors(tmp_path / "out" / "model.safetensors")["w"].tolist() == pytest.approx([1.75] * 2)
    told = [json.loads(line) for line in (tmp_path / "out" / "series.jsonl").read_text().splitlines()]
    live = [(line["name"], line["value"]) for line in told if line.get("origin") == "live"]
    assert sorted(live) == [("loss", 1.0)] * 2 + [("loss", 2.0)] * 2


@pytest.mark.parametrize(
    "call",
    [
        flare.init,
        flare.receive,
        flare.is_running,
        flare.system_info,
        flare.get_job_id,
        lambda: flare.send(flare.FLModel(params={})),
        lambda: tracking.SummaryWriter().add_scalar("loss", 1.0),
        lambda: tracking.MLflowWriter().log_metric("loss", 1.0),
        lambda: tracking.WandBWriter().log({"loss": 1.0}),
    ],
)
def test_outside_a_job_each_call_says_so(call):
    with pytest.raises(Misuse, match="not started by a flprov job"):
        call()


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="takes an FLModel"):
        flare.send({"w": 1})  # type: ignore[arg-type]
