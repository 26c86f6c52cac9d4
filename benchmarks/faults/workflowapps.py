# SPDX-License-Identifier: Apache-2.0
"""One small app for each workflow of the registry, whose every number follows from all that a site was sent.

A bit of state that is lost on the way shows in the result. Sites sleep in each task, so that it is hit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flprov.sdk import WORKFLOWS

_MODEL = """
import numpy as np


def initial():
    return {
        "layer.weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        "norm.running_var": np.float32([1.0, 0.5]),
        "norm.num_batches_tracked": np.array([5]),
    }
"""

# What each task's function has before it.
_HEAD = """
import hashlib
import time

import numpy as np
from flprov.messages import Update, UpdateKind

SAMPLES = {{"site-1": 10, "site-2": 30, "site-3": 7}}


def draw(task, site):
    \"\"\"A source of numbers that follows from all that came with the task.\"\"\"
    time.sleep({seconds})
    digest = hashlib.sha256(f"{{task.seed}}/{{sorted(task.scalars.items())}}".encode())
    for tensors in ({model}, task.extra):
        for name, array in sorted(tensors.items()):
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return np.random.default_rng(list(digest.digest()))
"""

_WEIGHTS = """

def train(task, site):
    source = draw(task, site)
    new = {
        name: (array + source.normal(0, 0.1, array.shape)).astype(array.dtype)
        for name, array in task.params.items()
    }
    metrics = {"loss": float(source.random()), "step_sum": 0.5}
    return Update(params=new, samples=SAMPLES[site.name], metrics=metrics)


def evaluate(task, site):
    time.sleep(0.02)
    error = float(np.abs(task.params["layer.weight"].astype(np.float64)).sum())
    return Update(samples=SAMPLES[site.name], metrics={"error": error})
"""

_STATISTICS = """
from flprov.sdk import summarise


def describe(task, site):
    draw(task, site)
    values = np.random.default_rng(len(site.name) + SAMPLES[site.name]).normal(size=400)
    return summarise(task, site, {"x": values, "y": values**2})
"""

_TREES = """
import json


def stump(left, right):
    return {
        "base_weights": [0.0, left, right], "categories": [], "categories_nodes": [],
        "categories_segments": [], "categories_sizes": [], "default_left": [0, 0, 0], "id": 0,
        "left_children": [1, -1, -1], "loss_changes": [1.0, 0.0, 0.0], "parents": [2147483647, 0, 0],
        "right_children": [2, -1, -1], "split_conditions": [1.0, left, right], "split_indices": [1, 0, 0],
        "split_type": [0, 0, 0], "sum_hessian": [4.0, 2.0, 2.0],
        "tree_param": {"num_deleted": "0", "num_feature": "2", "num_nodes": "3", "size_leaf_vector": "1"},
    }


def train(task, site):
    left, right = draw(task, site).normal(size=2).tolist()
    model = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": "1"},
        "iteration_indptr": [0, 1], "tree_info": [0], "trees": [stump(left, right)],
    }
    parameters = {
        "base_score": "[5E-1]", "boost_from_average": "0", "num_class": "0", "num_feature": "2",
        "num_target": "1",
    }
    learner = {
        "attributes": {}, "feature_names": [], "feature_types": [],
        "gradient_booster": {"model": model, "name": "gbtree"}, "learner_model_param": parameters,
        "objective": {"name": "reg:squarederror", "reg_loss_param": {"scale_pos_weight": "1"}},
    }
    data = np.frombuffer(json.dumps({"learner": learner, "version": [3, 2, 0]}).encode(), dtype=np.uint8)
    return Update(params={"booster": data}, kind=UpdateKind.OPAQUE, samples=SAMPLES[site.name])
"""


@dataclass(frozen=True, kw_only=True)
class WorkflowApp:
    """How one workflow is run here."""

    type: str
    options: Mapping[str, object] = field(default_factory=dict)
    rounds: int = 4
    tasks: tuple[str, ...] = ("train", "evaluate")
    code: str = _WEIGHTS
    model: bool = True
    blur: float = 0.0  # by how much a number of the result may differ; 0: not by a bit

    @property
    def name(self) -> str:
        """The type, and what tells it from others of the same."""
        return "-".join([self.type, *(str(value) for value in self.options.values())])

    def write(self, folder: Path, seconds: float) -> Path:
        """The app, whose tasks take at least so long."""
        folder.mkdir(parents=True)
        tasks = ", ".join(
            f"{name}: 'train:{'describe' if name == 'statistics' else name}'" for name in self.tasks
        )
        options = "".join(f", {key}: {value}" for key, value in self.options.items())
        lines = [
            f"name: {self.name.replace('.', '-').replace('_', '-')}",
            f"workflow: {{type: {self.type}, rounds: {self.rounds}, seed: 7{options}}}",
            f"tasks: {{{tasks}}}",
            "sites: {absence: 60s}",
            "resources: {grace: 1s}",
            *(["model: model:initial"] if self.model else []),
        ]
        (folder / "job.yml").write_text("\n".join(lines) + "\n")
        (folder / "model.py").write_text(_MODEL)
        # What is decrypted has an error that is another one every time: nothing may follow from its bits.
        model = "{}" if self.blur else "task.params"
        (folder / "train.py").write_text(_HEAD.format(seconds=seconds, model=model) + self.code)
        return folder


APPS = (
    WorkflowApp(type="fedavg", options={"fraction": 0.7, "best": "error", "mode": "min"}),
    WorkflowApp(type="fedprox", options={"mu": 0.1}),
    *(WorkflowApp(type="fedopt", options={"optimizer": name}) for name in ("sgd", "adam", "yogi", "adagrad")),
    WorkflowApp(type="scaffold"),
    WorkflowApp(type="cyclic", options={"order": "random"}),
    WorkflowApp(type="fedavg_he", blur=2e-5),
    WorkflowApp(type="xgboost_bagging", tasks=("train",), code=_TREES, model=False),
    WorkflowApp(type="federated_statistics", rounds=2, tasks=("statistics",), code=_STATISTICS, model=False),
    WorkflowApp(type="federated_evaluation", rounds=1),
    WorkflowApp(type="cross_site_evaluation", rounds=2),
)
assert {app.type for app in APPS} == set(WORKFLOWS), "every workflow has to be here"
