# SPDX-License-Identifier: Apache-2.0
"""fedavg_he through the real server, agents and confined workers: the weights of fedavg."""

from pathlib import Path

import numpy as np
import pytest

from flprov.simulator import Simulation, simulate
from flprov.wire import read_tensors

pytest.importorskip("tenseal")

JOB = """\
name: halves
workflow: {type: fedavg, rounds: 2}
tasks: {train: app.py, evaluate: "app:measure"}
model: start.safetensors
sites: {min: 3}
"""
# Goes half of the way to the site's own number, and shows what it got.
CODE = """\
import numpy as np
import flprov.client as fl
from flprov.sdk import Update

def measure(task, site):
    return Update(samples=1, metrics={"w": float(task.params["w"].mean())})

if __name__ == "__main__":
    number = int(fl.site_name()[-1])
    while fl.is_running():
        model = fl.receive()
        assert model.params["w"].dtype == np.float32 and sorted(model.params) == ["n", "w"]
        new = {"w": model.params["w"] / 2 + number, "n": model.params["n"] + number}
        fl.send(fl.Model(params=new, samples=100 * number, metrics={"loss": number}))
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    from flprov.wire import write_tensors

    folder = tmp_path_factory.mktemp("halves")
    (folder / "job.yml").write_text(JOB)
    (folder / "app.py").write_text(CODE)
    start = np.linspace(-1, 1, 5000, dtype=np.float32).reshape(50, 100)
    write_tensors(folder / "start.safetensors", {"w": start, "n": np.array([7])})
    return folder


def run(app: Path, output: Path, workflow: str):
    settings = {"workflow.type": workflow, "workflow.best": "w"}
    job, _ = simulate(Simulation(app=app, sites=3, output=output, settings=settings))
    assert (job.state, job.reason) == ("completed", "")
    return read_tensors(output / "model.safetensors"), read_tensors(output / "best.safetensors")


def test_the_weights_are_those_of_fedavg_and_the_log_says_what_it_cost(app, tmp_path):
    clear, best = run(app, tmp_path / "clear", "fedavg")
    found, found_best = run(app, tmp_path / "encrypted", "fedavg_he")
    assert found["w"].dtype == np.float32
    assert 0 < np.abs(found["w"] - clear["w"]).max() < 1e-4
    assert np.abs(found_best["w"] - best["w"]).max() < 1e-4
    assert found["n"].tolist() == clear["n"].tolist() == [13]  # of the site with the largest share, twice
    log = (tmp_path / "encrypted" / "logs" / "server.log").read_text()
    assert "homomorphic encryption: 8,192 numbers in 2 ciphertexts; in a round of 3 sites" in log
