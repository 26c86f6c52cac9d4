# SPDX-License-Identifier: Apache-2.0
"""Workflows: what `workflow` in job.yml can name, and how a controller is made of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Protocol

from flprov.errors import ConfigError
from flprov.sdk.entries import load_entry
from flprov.sdk.options import read_options, suggest

if TYPE_CHECKING:
    from flprov.sdk.sites import Sites
    from flprov.sdk.state import State


class Controller(Protocol):
    """An algorithm beside the server."""

    def run(self, sites: Sites, state: State) -> None:
        """Do the rounds that are left, from `state` on: `for state in sites.rounds(state)`."""
        ...


# Each is imported when a job names it.
WORKFLOWS: Mapping[str, str] = {
    "cross_site_evaluation": "flprov.sdk.workflows.cross_site_evaluation:CrossSiteEvaluation",
    "cyclic": "flprov.sdk.workflows.cyclic:Cyclic",
    "fedavg": "flprov.sdk.workflows.fedavg:FedAvg",
    "fedavg_he": "flprov.sdk.workflows.fedavg_he:FedAvgHE",
    "federated_evaluation": "flprov.sdk.workflows.federated_evaluation:FederatedEvaluation",
    "federated_statistics": "flprov.sdk.workflows.federated_statistics:FederatedStatistics",
    "fedopt": "flprov.sdk.workflows.fedopt:FedOpt",
    "fedprox": "flprov.sdk.workflows.fedprox:FedProx",
    "scaffold": "flprov.sdk.workflows.scaffold:Scaffold",
    "xgboost_bagging": "flprov.sdk.workflows.xgboost_bagging:XGBoostBagging",
}

# What the sites of some answer with, which is not weights: no filter of tensors can be applied to it.
OPAQUE: Mapping[str, str] = {
    "fedavg_he": "ciphertexts",
    "federated_statistics": "statistics",
    "xgboost_bagging": "trees",
}

# What some send to the sites beside the model: no filter of models can be applied to it.
BESIDE: Mapping[str, str] = {
    "fedavg_he": "sealed keys",
    "federated_statistics": "means and ranges",
    "scaffold": "control variates",
}

# The tasks that a workflow asks for, where it is not `train`: of each tuple one.
_TASKS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "cross_site_evaluation": (("train", "submit_model"), ("evaluate",)),
    "federated_evaluation": (("evaluate",),),
    "federated_statistics": (("statistics",),),
}

# The others take no options, too: they need not be imported, with numpy, to see that.
DEMANDING = frozenset({"fedprox"})

_MODEL = frozenset({"federated_evaluation", "scaffold"})  # they cannot start from nothing


def build_controller(kind: str | None, entry: str | None, options: Mapping[str, object]) -> Controller:
    """The controller that job.yml asks for: one of ours by `kind`, or the app's own by `entry`.

    Raises:
        ConfigError: there is no such workflow, or it does not take these options.
    """
    if entry is None:
        _verify_known(kind)
    maker = load_entry(entry or WORKFLOWS[kind or ""], "workflow.entry")
    if not callable(maker):
        raise ConfigError(f"workflow.entry: {entry} is not a class")
    controller = maker(**read_options(maker, options, "workflow"))
    if not callable(getattr(controller, "run", None)):
        raise ConfigError(f"workflow.entry: {entry} has no method run(sites, state)")
    return controller  # type: ignore[no-any-return]  # it has run; the rest shows when it runs


def _verify_known(kind: str | None) -> None:
    if kind not in WORKFLOWS:
        raise ConfigError(f"workflow.type: no workflow {kind!r}{suggest(kind or '', WORKFLOWS)}")


def verify_workflow(
    kind: str | None, options: Mapping[str, object], *, tasks: Collection[str], model: str | None
) -> None:
    """Check before a job starts that it has what its workflow needs; a `kind` of None is the app's own.

    Args:
        kind: one of ours.
        options: what job.yml says below `workflow`.
        tasks: the names that job.yml has below `tasks`.
        model: what it starts from.

    Raises:
        ConfigError: there is no such workflow, an option is wrong, or a task or the model is missing; the
            message says what to write.
    """
    if kind is None:
        return
    _verify_known(kind)
    if options or kind in DEMANDING:
        build_controller(kind, None, options)
    problems = [
        f"workflow.type {kind} needs a task {' or '.join(map(repr, names))}, and 'tasks' has"
        f" {', '.join(sorted(tasks))}: add the line `  {names[0]}: module:function` below it"
        for names in _TASKS.get(kind, (("train",),))
        if not set(names) & set(tasks)
    ]
    if model is None and kind in _MODEL:
        problems.append(
            f"workflow.type {kind} needs a model to start from: add the line `model: module:Class`,"
            " or the name of a .safetensors file of the app"
        )
    if problems:
        raise ConfigError(problems)
