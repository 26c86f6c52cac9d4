# SPDX-License-Identifier: Apache-2.0
"""FLARE job folders, written as its tools and examples write them."""

import json
import re
from pathlib import Path

WRITTEN = Path(__file__).parent / "written_for_flare"
LIBRARY = "nvflare.app_common"
AVERAGING = {
    "id": "scatter_and_gather",
    "path": f"{LIBRARY}.workflows.scatter_and_gather.ScatterAndGather",
    "args": {
        "min_clients": 2,
        "num_rounds": 2,
        "start_round": 0,
        "wait_time_after_min_received": 0,
        "aggregator_id": "aggregator",
        "persistor_id": "persistor",
        "shareable_generator_id": "shareable_generator",
        "train_task_name": "train",
        "train_timeout": 0,
    },
}
COMPONENTS = [
    {
        "id": "persistor",
        "path": "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor",
        "args": {"model": {"path": "hello_network.SimpleNetwork"}},
    },
    {
        "id": "shareable_generator",
        "path": f"{LIBRARY}.shareablegenerators.full_model_shareable_generator.FullModelShareableGenerator",
        "args": {},
    },
    {
        "id": "aggregator",
        "path": f"{LIBRARY}.aggregators.intime_accumulate_model_aggregator"
        ".InTimeAccumulateWeightedAggregator",
        "args": {"expected_data_kind": "WEIGHT_DIFF"},
    },
]
EXECUTORS = [
    {
        "tasks": ["train", "validate", "submit_model"],
        "executor": {"path": "hello_trainer.HelloTrainer", "args": {"lr": 0.05, "epochs": "{epochs}"}},
    }
]


def migrate(folder):
    """The files of WRITTEN in `folder`, as the page says: sed on import lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in WRITTEN.glob("*.py"):
        text = re.sub(r"(?m)^(\s*(?:from|import)\s+)nvflare\b", r"\1flprov.flare", path.read_text())
        (folder / path.name).write_text(text)
    return folder


def flare_job(folder, *, server=None, client=None, meta=None, code=None):
    """A job folder; what is given replaces keys of the usual one."""
    config = folder / "app" / "config"
    config.mkdir(parents=True)
    custom = folder / "app" / "custom"
    custom.mkdir()
    for path in WRITTEN.glob("*.py") if code is None else ():
        (custom / path.name).write_text(path.read_text())
    for name, text in (code or {}).items():
        (custom / name).parent.mkdir(parents=True, exist_ok=True)
        (custom / name).write_text(text)
    usual_meta = {"name": "hello-pt", "min_clients": 2, "deploy_map": {"app": ["@ALL"]}, "resource_spec": {}}
    usual_server = {
        "format_version": 2,
        "task_data_filters": [],
        "task_result_filters": [],
        "workflows": [AVERAGING],
        "components": COMPONENTS,
    }
    usual_client = {
        "format_version": 2,
        "epochs": 2,
        "executors": EXECUTORS,
        "task_data_filters": [],
        "task_result_filters": [],
        "components": [],
    }
    (folder / "meta.json").write_text(json.dumps(usual_meta | (meta or {})))
    (config / "config_fed_server.json").write_text(json.dumps(usual_server | (server or {})))
    (config / "config_fed_client.json").write_text(json.dumps(usual_client | (client or {})))
    return folder
