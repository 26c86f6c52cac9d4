# SPDX-License-Identifier: Apache-2.0
"""The SDK: controllers, executors, filters and aggregation, with numpy arrays for tensors.

A controller is one `run(sites, state)`; an executor is `train(task, site) -> Update`. Scripts use
`flprov.client` instead. `from_state_dict` and `to_state_dict` are the way from torch and back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names
from flprov.messages import Scalar, Site, Task, Tensors, Update, UpdateKind

if TYPE_CHECKING:
    from flprov.sdk.aggregation import mean_metrics, weighted_mean
    from flprov.sdk.arrays import as_tensors, is_torch
    from flprov.sdk.correction import Correction
    from flprov.sdk.curves import read_step, read_values
    from flprov.sdk.entries import is_entry, load_entry, pick_attribute, split_entry
    from flprov.sdk.envelopes import Envelope, NoEnvelope, find_envelope
    from flprov.sdk.filtering import (
        ResultFilter,
        TaskFilter,
        build_result_filters,
        build_task_filters,
        describe_filters,
        filter_result,
        filter_task,
        verify_filters,
    )
    from flprov.sdk.filters import FILTERS
    from flprov.sdk.functions import Executor, build_executor, run_executor
    from flprov.sdk.gathering import Answer, Ask, Gathering, Port
    from flprov.sdk.he.opening import open_result
    from flprov.sdk.models import TORCH, load_model
    from flprov.sdk.results import ResultArrays, Results, results_in
    from flprov.sdk.runtime_tasks import RUNTIME_TASKS, is_runtime_task, run_runtime_task, verify_agreed
    from flprov.sdk.selection import Selection
    from flprov.sdk.sites import Sites
    from flprov.sdk.state import Best, State, encode_state, flatten_state, read_state
    from flprov.sdk.summaries import summarise
    from flprov.sdk.torch_tensors import from_state_dict, to_state_dict
    from flprov.sdk.workflows.fedavg import FedAvg
    from flprov.sdk.workflows.registry import (
        BESIDE,
        OPAQUE,
        WORKFLOWS,
        Controller,
        build_controller,
        verify_workflow,
    )

__all__ = [
    "BESIDE",
    "FILTERS",
    "OPAQUE",
    "RUNTIME_TASKS",
    "TORCH",
    "WORKFLOWS",
    "Answer",
    "Ask",
    "Best",
    "Controller",
    "Correction",
    "Envelope",
    "Executor",
    "FedAvg",
    "Gathering",
    "NoEnvelope",
    "Port",
    "ResultArrays",
    "ResultFilter",
    "Results",
    "Scalar",
    "Selection",
    "Site",
    "Sites",
    "State",
    "Task",
    "TaskFilter",
    "Tensors",
    "Update",
    "UpdateKind",
    "as_tensors",
    "build_controller",
    "build_executor",
    "build_result_filters",
    "build_task_filters",
    "describe_filters",
    "encode_state",
    "filter_result",
    "filter_task",
    "find_envelope",
    "flatten_state",
    "from_state_dict",
    "is_entry",
    "is_runtime_task",
    "is_torch",
    "load_entry",
    "load_model",
    "mean_metrics",
    "open_result",
    "pick_attribute",
    "read_state",
    "read_step",
    "read_values",
    "results_in",
    "run_executor",
    "run_runtime_task",
    "split_entry",
    "summarise",
    "to_state_dict",
    "verify_agreed",
    "verify_filters",
    "verify_workflow",
    "weighted_mean",
]

# Most of it comes with numpy, and a command that only looks at what a job names does not need that.
__getattr__ = lazy_names(
    __name__,
    {
        "Answer": "gathering",
        "Ask": "gathering",
        "BESIDE": "workflows.registry",
        "Best": "state",
        "Controller": "workflows.registry",
        "Correction": "correction",
        "Envelope": "envelopes",
        "Executor": "functions",
        "FILTERS": "filters",
        "FedAvg": "workflows.fedavg",
        "Gathering": "gathering",
        "NoEnvelope": "envelopes",
        "OPAQUE": "workflows.registry",
        "Port": "gathering",
        "RUNTIME_TASKS": "runtime_tasks",
        "ResultArrays": "results",
        "ResultFilter": "filtering",
        "Results": "results",
        "Selection": "selection",
        "Sites": "sites",
        "State": "state",
        "TORCH": "models",
        "TaskFilter": "filtering",
        "WORKFLOWS": "workflows.registry",
        "as_tensors": "arrays",
        "build_controller": "workflows.registry",
        "build_executor": "functions",
        "build_result_filters": "filtering",
        "build_task_filters": "filtering",
        "describe_filters": "filtering",
        "encode_state": "state",
        "filter_result": "filtering",
        "filter_task": "filtering",
        "find_envelope": "envelopes",
        "flatten_state": "state",
        "from_state_dict": "torch_tensors",
        "is_entry": "entries",
        "is_runtime_task": "runtime_tasks",
        "is_torch": "arrays",
        "load_entry": "entries",
        "load_model": "models",
        "mean_metrics": "aggregation",
        "open_result": "he.opening",
        "pick_attribute": "entries",
        "read_state": "state",
        "read_step": "curves",
        "read_values": "curves",
        "results_in": "results",
        "run_executor": "functions",
        "run_runtime_task": "runtime_tasks",
        "split_entry": "entries",
        "summarise": "summaries",
        "to_state_dict": "torch_tensors",
        "verify_agreed": "runtime_tasks",
        "verify_filters": "filtering",
        "verify_workflow": "workflows.registry",
        "weighted_mean": "aggregation",
    },
)
