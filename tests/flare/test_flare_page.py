# SPDX-License-Identifier: Apache-2.0
"""The code that docs/flare.md shows, run: executors and controllers over sites that are functions."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest
from flare_sites import FlareSites, run_controller

from flprov.flare.bridge.exchange import to_shareable
from flprov.flare.migration.code import migrate_code
from flprov.jobs import load_job
from flprov.messages import Site, Task
from flprov.sdk import build_executor, load_entry

PAGE = Path(__file__).parents[2] / "docs" / "flare.md"
FILES = re.findall(r"\*\*`([\w/.]+)`\*\*\n\n```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """shown("flare_executor") -> the folder of an app of the page, on sys.path."""
    for name, text in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def enter(name):
        monkeypatch.syspath_prepend(str(tmp_path / name))
        return tmp_path / name

    yield enter
    for name, _ in FILES:
        sys.modules.pop(Path(name).stem, None)


def test_the_page_shows_two_apps():
    assert {Path(name).parts[0] for name, _ in FILES} == {"flare_executor", "flare_controller"}


def test_the_executor_of_the_page_trains_and_validates(shown, tmp_path):
    app = shown("flare_executor")
    spec = load_job(app)
    trainer = build_executor(load_entry(spec.tasks["train"], "tasks.train"), spec.args, "tasks.train")
    model = importlib.import_module("trainer").initial()
    site = Site(name="site-1", job_id="job", folder=tmp_path)
    update = trainer(Task(name="train", params=model, round=0, rounds=2, job_id="job"), site)
    assert (update.params["w"].tolist(), update.weight) == ([0.5] * 3, 10.0)
    measured = trainer(Task(name="evaluate", params=model, round=0, rounds=2, job_id="job"), site)
    assert measured.metrics == {"mean": 0.0}


def test_the_controller_of_the_page_takes_medians_and_its_factory_builds(shown, tmp_path):
    spec = load_job(shown("flare_controller"))
    controller = load_entry(spec.workflow.entry, "workflow.entry")()
    worker = importlib.import_module("worker")

    def work(name):
        executor = worker.Worker()
        site = Site(name=name, job_id="job", folder=tmp_path)

        def execute(task, shareable):
            update = executor(
                Task(name=task, params=shareable["DXO"]["data"], round=0, rounds=2, job_id="job"), site
            )
            return to_shareable(Task(name=task, params=update.params, round=0, rounds=2, job_id="job"))

        return execute

    sites = FlareSites({name: work(name) for name in ("a", "bb", "cccccc")})
    saved = run_controller(
        controller, sites, rounds=spec.workflow.rounds, model=worker.initial(), tasks=("train",)
    )
    assert [state.model["w"].tolist() for state in saved] == [[2.0, 2.0], [4.0, 4.0]]
    [factory] = [
        text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "parts" in text
    ]
    built = {}
    exec(compile(ast.parse(factory), "parts.py", "exec"), built)
    assert built["workflow"]().components()["aggregator"].exclude_vars == "bn"


def test_every_module_path_of_the_page_is_there():
    table = PAGE.read_text().partition("## Module paths")[2].partition("##")[0]
    paths = [path for path in re.findall(r"`([a-z_.]+\.[a-z_]+)`", table) if not path.endswith(".")]
    assert len(paths) > 20
    for path in paths:
        if path.partition(".")[0] in ("apis", "app_common", "app_opt", "fuel", "security"):
            importlib.import_module(f"flprov.flare.{path}")


def test_what_is_imported_from_flare_in_its_own_examples_is_there():
    """The lines of FLARE's documented examples of executors, controllers, filters and learners."""
    lines = [
        "from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable",
        "from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode",
        "from nvflare.apis.shareable import ReservedHeaderKey, Shareable, make_reply",
        "from nvflare.apis.controller_spec import ClientTask, SendOrder, Task, TaskCompletionStatus",
        "from nvflare.apis.impl.controller import Client, ClientTask, Controller, Task",
        "from nvflare.apis.dxo_filter import DXOFilter",
        "from nvflare.apis.filter import ContentBlockedException, Filter",
        "from nvflare.app_common.app_constant import AlgorithmConstants, AppConstants, ValidateType",
        "from nvflare.app_common.abstract.fl_model import FLModel, ParamsType",
        "from nvflare.app_common.abstract.learner_spec import Learner",
        "from nvflare.app_common.abstract.model_learner import ModelLearner",
        "from nvflare.app_common.utils.fl_model_utils import FLModelUtils",
        "from nvflare.security.logging import secure_format_exception, secure_format_traceback",
        "from nvflare.app_common.aggregators.model_aggregator import ModelAggregator",
        "from nvflare.app_common.utils.math_utils import parse_compare_criteria, parse_compare_operator",
        "from nvflare.app_common.workflows.base_fedavg import BaseFedAvg",
        "from nvflare.app_common.workflows.fedavg import FedAvg",
        "from nvflare.app_common.workflows.model_controller import ModelController",
        "from nvflare.app_common.workflows.scatter_and_gather import ScatterAndGather",
        "from nvflare.app_opt.pt.decomposers import TensorDecomposer",
        "from nvflare.app_opt.pt.fedproxloss import PTFedProxLoss",
        "from nvflare.app_opt.pt.scaffold import PTScaffoldHelper, get_lr_values",
        "from nvflare.app_opt.tracking.tb.tb_writer import TBWriter",
        "from nvflare.fuel.utils import fobs",
        "import nvflare.client as flare",
    ]
    assert migrate_code("\n".join(lines)).notes == ()
