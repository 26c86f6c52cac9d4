# SPDX-License-Identifier: Apache-2.0
"""Code of FLARE's shape in real processes: the page's apps, and jobs that from-flare has converted."""

import re
from pathlib import Path

import pytest
from flare_jobs import LIBRARY, WRITTEN, flare_job

from flprov.flare import convert_job, write_migration
from flprov.simulator import Simulation, simulate

PAGE = Path(__file__).parents[2] / "docs" / "flare.md"
SCRIPT = """
import nvflare.client as flare
from nvflare.client.tracking import SummaryWriter

flare.init()
writer = SummaryWriter()
while flare.is_running():
    model = flare.receive()
    assert model.total_rounds == 4, model
    value = float(model.params["numpy_key"][0][0])
    writer.add_scalar("value", value, global_step=model.current_round)
    flare.send(flare.FLModel(
        params={"numpy_key": model.params["numpy_key"] + 1},
        metrics={"acc": value / 10, "round": model.current_round},
        meta={"NUM_STEPS_CURRENT_ROUND": 2},
    ))
"""
NUMPY = {"id": "persistor", "path": "nvflare.app_common.np.np_model_persistor.NPModelPersistor", "args": {}}


def run(app, output):
    done, files = simulate(Simulation(app=app, sites=2, output=output))
    assert done.state == "completed", done
    return done, files


def convert(folder, **parts):
    found = convert_job(flare_job(folder / "job", **parts))
    assert write_migration(found, folder / "app") == ()
    return found, folder / "app"


@pytest.mark.parametrize("name", ["flare_executor", "flare_controller"])
def test_the_apps_of_the_page_run(tmp_path, name):
    for path, text in re.findall(r"\*\*`([\w/.]+)`\*\*\n\n```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    run(tmp_path / name, tmp_path / "out")


def test_a_controller_with_early_stopping_and_a_client_script_meet(tmp_path):
    """A ModelController of the job's own sends FLModels, a script of the client API answers them."""
    args = {"num_clients": 2, "num_rounds": 4, "stop_cond": "acc >= 0.25"}
    found, app = convert(
        tmp_path,
        server={
            "components": [NUMPY],
            "workflows": [{"id": "w", "path": "hello_early_stopping.EarlyStopping", "args": args}],
        },
        client={
            "executors": [
                {
                    "tasks": ["train"],
                    "executor": {
                        "path": f"{LIBRARY}.executors.client_api_executor.ClientAPIExecutor",
                        "args": {"task_script_path": "train.py"},
                    },
                }
            ]
        },
        code={
            "train.py": SCRIPT,
            "hello_early_stopping.py": (WRITTEN / "hello_early_stopping.py").read_text(),
        },
    )
    assert found.notes == ()
    done, _ = run(app, tmp_path / "out")
    assert {one.rounds for one in done.contributions} == {3}, done  # 0.1, 0.2, 0.3


def test_hello_numpy_runs_with_an_aggregator_of_its_own(tmp_path):
    """FLARE's hello-numpy-sag, whose aggregator weighs sites."""
    aggregator = {
        "id": "aggregator",
        "path": f"{LIBRARY}.aggregators.intime_accumulate_model_aggregator"
        ".InTimeAccumulateWeightedAggregator",
        "args": {"expected_data_kind": "WEIGHTS", "aggregation_weights": {"site-1": 1.0, "site-2": 3.0}},
    }
    executor = {"path": "nvflare.app_common.np.np_trainer.NPTrainer", "args": {}}
    found, app = convert(
        tmp_path,
        server={"components": [NUMPY, aggregator]},
        client={"executors": [{"tasks": ["train"], "executor": executor}]},
        code={},
    )
    assert len(found.notes) == 1
    assert "ScatterAndGather: FLARE's own, as it has aggregator" in found.notes[0]
    run(app, tmp_path / "out")
