# SPDX-License-Identifier: Apache-2.0
"""The calls of FLARE's client API over `flprov.client`, which does the work.

What differs: `ctx`, `rank`, `config_file` and `timeout` are taken and not needed; a script has one session,
and waits as long as the job goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flprov.client as fl
from flprov.errors import Misuse
from flprov.flare.apis.fl_constant import FLMetaKey
from flprov.flare.app_common.abstract.fl_model import FLModel, ParamsType
from flprov.flare.app_common.utils.fl_model_utils import FLModelUtils
from flprov.flare.bridge.exchange import MARK, read_weight, to_shareable, to_update
from flprov.messages import Task, UpdateKind
from flprov.workers import current_session

_TASKS = {"train": "train", "validate": "evaluate", "evaluate": "evaluate", "submit_model": "submit_model"}


def init(rank: str | int | None = None, config_file: str | None = None) -> None:  # noqa: ARG001 - FLARE's
    """Begin. Raises Misuse outside a job."""
    fl.init()


def is_running(ctx: object = None) -> bool:  # noqa: ARG001
    """Wait for the next task; False when there will be none."""
    return fl.is_running()


def receive(timeout: float | None = None, ctx: object = None) -> FLModel | None:  # noqa: ARG001
    """The model of the open task; None when the job is over. What the workflow adds is in `meta`."""
    model = fl.receive()
    if model is None:
        return None
    if (task := _controllers_task()) is not None:
        return _from_controller(task, model.params)
    return FLModel(
        params_type=ParamsType.FULL,
        params=dict(model.params),
        current_round=model.round,
        total_rounds=model.rounds,
        meta={FLMetaKey.JOB_ID: fl.job_id(), FLMetaKey.SITE_NAME: fl.site_name(), **model.scalars},
    )


def send(model: FLModel, clear_cache: bool = True, ctx: object = None) -> None:  # noqa: ARG001
    """Answer the open task.

    The weight in the mean is `meta["NUM_STEPS_CURRENT_ROUND"]`, as in FLARE; without it sites count alike.

    Raises:
        TypeError: it is no FLModel.
        Misuse: the task does not take this, or a metric is not a number.
    """
    if not isinstance(model, FLModel):
        raise TypeError(f"send takes an FLModel, not a {type(model).__name__}")
    if (task := _controllers_task()) is not None:
        update = to_update(FLModelUtils.to_shareable(model), task, "the script")
        fl.send(
            fl.Model(
                params=update.params,
                kind=update.kind,
                samples=update.samples,
                weight=update.weight,
                metrics=update.metrics,
            )
        )
        return
    kind = UpdateKind.DIFF if model.params_type is ParamsType.DIFF else UpdateKind.FULL
    metrics = {str(name): _number(name, value) for name, value in (model.metrics or {}).items()}
    fl.send(
        fl.Model(
            params={} if model.params is None else model.params,
            kind=kind,
            metrics=metrics,
            **read_weight(model.meta, default=1.0),
        )
    )


def _controllers_task() -> Task | None:
    """The open task, if a Controller of `flprov.flare` has sent it: what it sends is a Shareable."""
    session = current_session()
    opened = None if session is None else session.open
    return opened.task if opened is not None and MARK in opened.task.scalars else None


def _from_controller(task: Task, params: Any) -> FLModel:  # noqa: ANN401 - a mapping to arrays or tensors
    """Args: params: of the task, in the script's own format."""
    found = FLModelUtils.from_shareable(to_shareable(task))
    if task.params:
        found.params = dict(params)
    found.meta = {FLMetaKey.JOB_ID: fl.job_id(), FLMetaKey.SITE_NAME: fl.site_name(), **found.meta}
    return found


def log(key: str, value: Any, data_type: object = None, ctx: object = None, **kwargs: Any) -> bool:  # noqa: ANN401, ARG001 - FLARE's
    """Show a number, or several in a mapping, while the round goes on.

    Only numbers travel: False when something of it was none.
    """
    step = kwargs.get("global_step")
    values = value if isinstance(value, Mapping) else {key: value}
    found = {str(name): _read_number(one) for name, one in values.items()}
    numbers = {name: number for name, number in found.items() if number is not None}
    if numbers:
        fl.log(numbers, step=step)
    return len(numbers) == len(values)


def system_info(ctx: object = None) -> dict[str, str]:  # noqa: ARG001
    """`site_name` and `job_id`."""
    return {"site_name": fl.site_name(), "job_id": fl.job_id()}


def get_config(ctx: object = None) -> dict[str, Any]:  # noqa: ARG001
    """What FLARE's executor would have written for the script: the task's names and where it runs."""
    exchange = {
        "train_with_eval": False,
        "exchange_format": "raw",
        "transfer_type": "FULL",
        "train_task_name": "train",
        "eval_task_name": "evaluate",
        "submit_model_task_name": "submit_model",
    }
    return {"SITE_NAME": fl.site_name(), "JOB_ID": fl.job_id(), "TASK_EXCHANGE": exchange}


def get_job_id(ctx: object = None) -> str:  # noqa: ARG001
    """The job's id."""
    return fl.job_id()


def get_site_name(ctx: object = None) -> str:  # noqa: ARG001
    """The name of the site that the script runs at."""
    return fl.site_name()


def get_task_name(ctx: object = None) -> str:  # noqa: ARG001
    """The name of the open task; empty when there is none."""
    return fl.task_name()


def is_train(ctx: object = None) -> bool:  # noqa: ARG001
    """Whether the open task is "train"."""
    return _TASKS.get(fl.task_name()) == "train"


def is_evaluate(ctx: object = None) -> bool:  # noqa: ARG001
    """Whether the open task is "evaluate", or FLARE's "validate"."""
    return _TASKS.get(fl.task_name()) == "evaluate"


def is_submit_model(ctx: object = None) -> bool:  # noqa: ARG001
    """Whether the open task is "submit_model"."""
    return _TASKS.get(fl.task_name()) == "submit_model"


def clear(ctx: object = None) -> None:
    """Nothing: what was received goes when it is sent."""


def shutdown(ctx: object = None) -> None:
    """Nothing: a script ends by ending."""


def _read_number(value: Any) -> float | None:  # noqa: ANN401 - whatever a script logs
    """None: it is none. An array of one number is that number, as in TensorBoard."""
    if isinstance(value, str | bytes):
        return None
    try:
        return float(value.item() if getattr(value, "size", 0) == 1 else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # RuntimeError: torch, of many
        return None


def _number(name: object, value: Any) -> float:  # noqa: ANN401 - a float, or what torch or numpy have for one
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Misuse(f"metric {name!r} is {value!r}, which is not a number") from error
