# SPDX-License-Identifier: Apache-2.0
"""Exchange: our tasks and updates to FLARE's Shareables, and back, at both ends.

Two kinds of tasks reach an Executor. Those of flprov's own workflows have a model and scalars; their
answer is an update like everybody's. Those of a FLARE-shaped Controller carry a whole Shareable: its
weights travel as the task's model, checked as ever, the rest in the scalar `MARK` and in `extra`.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flprov.errors import JobFailed, Misuse
from flprov.flare.apis.dxo import DXO, DataKind, MetaKey, from_shareable, get_leaf_dxos
from flprov.flare.apis.fl_constant import ReturnCode
from flprov.flare.apis.shareable import ReservedHeaderKey, Shareable
from flprov.flare.app_common.app_constant import AppConstants, ValidateType
from flprov.flare.bridge.codec import decode_value, encode_value, pack_value, unpack_value
from flprov.messages import Scalar, Task, Tensors, Update, UpdateKind
from flprov.sdk import as_tensors, is_torch

MARK = "flare"  # the scalar with the rest of a Shareable; its presence marks a FLARE controller's task
_KINDS = {DataKind.WEIGHTS: UpdateKind.FULL, DataKind.WEIGHT_DIFF: UpdateKind.DIFF}
_INITIAL = MetaKey.INITIAL_METRICS
_STEPS = MetaKey.NUM_STEPS_CURRENT_ROUND
_OWN_META = (_STEPS, _INITIAL, MetaKey.FILTER_HISTORY, MetaKey.PROCESSED_KEYS, MetaKey.PROCESSED_ALGORITHM)
_FAILURE = re.compile(r"\b\w+ answered task '[^']*' with ([A-Z_]{2,40})\b")
_log = logging.getLogger("flprov.flare")


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A Shareable of a controller as `Sites.start` takes it."""

    model: Tensors
    extra: Tensors
    scalars: Mapping[str, Scalar]

    def same_as(self, other: Parcel) -> bool:
        """Whether both are the same arrays with the same words: then one goes to several sites."""

        def arrays(one: Tensors) -> dict[str, int]:
            return {name: id(array) for name, array in one.items()}

        return (self.scalars, arrays(self.model), arrays(self.extra)) == (
            other.scalars,
            arrays(other.model),
            arrays(other.extra),
        )


# ---- at the site ---------------------------------------------------------------------------


def task_name(task: Task) -> str:
    """What FLARE calls it: `evaluate` of our workflows is `validate` there."""
    plain = task.name == "evaluate" and MARK not in task.scalars
    return AppConstants.TASK_VALIDATION if plain else task.name


def to_shareable(task: Task) -> Shareable:
    """What an Executor is given."""
    if MARK in task.scalars:
        found = decode_value(str(task.scalars[MARK]), task.extra)
        if not isinstance(found, Shareable):
            raise JobFailed(
                f"task {task.name!r} says that FLARE's controller sent it, but holds no Shareable"
            )
        if task.params:
            found[AppConstants.DXO]["data"] = dict(task.params)
        return found
    found = DXO(DataKind.WEIGHTS, data=dict(task.params)).to_shareable()
    headers = _Headers(task.scalars, found[ReservedHeaderKey.HEADERS])
    headers |= {
        ReservedHeaderKey.TASK_NAME: task_name(task),
        AppConstants.START_ROUND: 0,
        AppConstants.CURRENT_ROUND: task.round,
        AppConstants.NUM_ROUNDS: task.rounds,
    }
    if task_name(task) == AppConstants.TASK_VALIDATION:
        headers[AppConstants.VALIDATE_TYPE] = ValidateType.MODEL_VALIDATE
    found[ReservedHeaderKey.HEADERS] = headers
    found.add_cookie(AppConstants.CONTRIBUTION_ROUND, task.round)
    return found


class _Headers(dict[str, Any]):
    """Headers, with the task's scalars behind them.

    They are read when they are asked for, so that a workflow that requires a scalar (`mu`) can tell
    whether the trainer has looked at it.
    """

    def __init__(self, scalars: Mapping[str, Scalar], headers: Mapping[str, Any]) -> None:
        super().__init__(headers)
        self._scalars = scalars

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401 - as dict's
        return super().get(key, default) if key in self else self._scalars.get(key, default)

    def __missing__(self, key: str) -> Any:  # noqa: ANN401
        return self._scalars[key]


def to_update(reply: object, task: Task, who: str) -> Update:
    """The update that an Executor's answer stands for.

    Raises:
        JobFailed: the answer has another return code than OK, or is no Shareable.
        Misuse: something in it is no number, or cannot travel.
    """
    if not isinstance(reply, Shareable):
        raise JobFailed(
            f"{who}.execute returned a {type(reply).__name__} for task {task.name!r}, not a Shareable"
        )
    if reply.get_return_code() != ReturnCode.OK:
        raise _failure(reply, task, who)
    try:
        dxo = from_shareable(reply)
    except ValueError:
        return Update(kind=UpdateKind.OPAQUE, params=pack_value(reply, f"the answer of {who}"))
    marked = MARK in task.scalars
    if marked and dxo.data_kind in _KINDS and not _fits_weights(dxo, task):
        return Update(kind=UpdateKind.OPAQUE, params=pack_value(reply, f"the answer of {who}"))
    if dxo.data_kind in _KINDS:
        return _weights(dxo, task, {}, prefix=marked)
    if not marked:
        if dxo.data_kind == DataKind.METRICS:
            return Update(metrics=_numbers(dxo.data), **read_weight(dxo.meta, default=None))
        if (combined := _combine(dxo, task)) is not None:
            return combined
    return Update(kind=UpdateKind.OPAQUE, params=pack_value(reply, f"the answer of {who}"))


def _fits_weights(dxo: DXO, task: Task) -> bool:
    """Whether what a FLARE controller's site answers can be an update like everybody's.

    Only that is checked and filtered on its way. FLARE's controllers also ask for weights that are no
    model's (histograms, say), and for arrays beside the weights.
    """
    own = [value for name, value in dxo.meta.items() if name not in _OWN_META]
    if any(isinstance(value, Mapping | list | tuple | np.ndarray) for value in own):
        return False
    if not all(is_torch(value) or isinstance(value, np.ndarray) for value in dxo.data.values()):
        return False
    if not task.params:
        return dxo.data_kind == DataKind.WEIGHTS and bool(dxo.data)  # it chooses the names
    shapes = {name: tuple(value.shape) for name, value in dxo.data.items()}
    return shapes == {name: array.shape for name, array in task.params.items()}


def _failure(reply: Shareable, task: Task, who: str) -> JobFailed:
    """With the traceback of what the executor has caught, so that `job why` names the line."""
    cause = reply.cause
    why = "" if cause is None else f": {type(cause).__name__}: {cause}"
    error = JobFailed(f"{who} answered task {task.name!r} with {reply.get_return_code()}{why}")
    if cause is not None:
        error.__cause__ = cause
        error = error.with_traceback(cause.__traceback__)
    return error


def _combine(dxo: DXO, task: Task) -> Update | None:
    """A collection of one set of weights and metrics, as one update; None when it is something else."""
    if dxo.data_kind != DataKind.COLLECTION:
        return None
    leaves = list(get_leaf_dxos(dxo)[0].values())
    weights = [leaf for leaf in leaves if leaf.data_kind in _KINDS]
    metrics = [leaf for leaf in leaves if leaf.data_kind == DataKind.METRICS]
    if len(weights) != 1 or len(weights) + len(metrics) != len(leaves):
        return None
    found: dict[str, float] = {}
    for leaf in metrics:
        found |= _numbers(leaf.data)
    return _weights(weights[0], task, found, prefix=False)


def _weights(dxo: DXO, task: Task, metrics: Mapping[str, float], *, prefix: bool) -> Update:
    """Args: prefix: keep `initial_metrics` apart from the rest, so that it can be put back."""
    found = dict(metrics)
    initial = dxo.meta.get(_INITIAL)
    if isinstance(initial, Mapping):
        found |= _numbers(
            {f"{_INITIAL}.{name}": value for name, value in initial.items()} if prefix else initial
        )
    elif initial is not None:
        found[_INITIAL] = _number(_INITIAL, initial)
    for name, value in dxo.meta.items():
        if name in _OWN_META:
            continue
        if isinstance(value, bool | int | float | np.number):
            found[name] = _number(name, value)
        else:
            _log.warning("meta %r of the weights is a %s and stays at the site", name, type(value).__name__)
    params = in_precision_of(as_tensors(dxo.data), task.params)
    kind = _KINDS[DataKind(dxo.data_kind)]
    return Update(params=params, kind=kind, metrics=found, **read_weight(dxo.meta, default=1.0))


def in_precision_of(params: Tensors, model: Tensors) -> Tensors:
    """Floating-point numbers in the precision of the model: numpy widens where a job does not mind."""
    found = {}
    for name, array in params.items():
        like = model.get(name)
        narrow = like is not None and like.dtype != array.dtype and like.dtype.kind == array.dtype.kind == "f"
        found[name] = array.astype(like.dtype) if narrow and like is not None else array
    return found


def read_weight(meta: Mapping[str, Any], *, default: float | None) -> dict[str, Any]:
    """FLARE weighs by the number of steps; who does not say it counts as `default`. Raises Misuse."""
    steps = meta.get(_STEPS)
    if steps is None:
        return {"weight": default}
    weight = _number(_STEPS, steps)
    return {"weight": weight, "samples": int(weight) if weight.is_integer() and weight >= 0 else 0}


def _numbers(values: Mapping[str, Any], path: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values.items():
        where = f"{path}{name}"
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{where}.")
        else:
            found[where] = _number(where, value)
    return found


def _number(name: str, value: Any) -> float:  # noqa: ANN401 - what a job calls a metric
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Misuse(f"metric {name!r} is {value!r}, which is not a number") from error


# ---- beside the server ---------------------------------------------------------------------


def to_parcel(data: Shareable, public: Mapping[str, object]) -> Parcel:
    """A controller's Shareable, its weights as the model, with the public properties of its context.

    Raises:
        Misuse: something in it cannot travel.
    """
    content = data.get(AppConstants.DXO)
    model: Tensors = {}
    rest = Shareable(data)
    rest[ReservedHeaderKey.HEADERS] = {
        **data[ReservedHeaderKey.HEADERS],
        ReservedHeaderKey.PEER_PROPS: public,
    }
    if isinstance(content, Mapping) and content.get("kind") in _KINDS and content.get("data"):
        model = as_tensors(content["data"])
        rest[AppConstants.DXO] = {**content, "data": {}}
    text, extra = encode_value(rest, "the task's data")
    return Parcel(model=model, extra=extra, scalars={MARK: text})


def from_update(update: Update) -> Shareable:
    """A site's answer, as a controller's callbacks get it.

    Raises:
        ProtocolError: an opaque update that FLARE's code has not sent.
    """
    if update.kind is UpdateKind.OPAQUE:
        found = unpack_value(update.params)
        return found if isinstance(found, Shareable) else Shareable({"data": found})
    if not update.params:
        return DXO(DataKind.METRICS, data=dict(update.metrics)).to_shareable()
    meta: dict[str, Any] = {}
    initial: dict[str, float] = {}
    for name, value in update.metrics.items():
        kind, dot, rest = name.partition(".")
        if kind == _INITIAL and dot:
            initial[rest] = value
        else:
            meta[name] = _whole(value)
    if initial:
        meta[_INITIAL] = initial
    if math.isfinite(update.share):
        meta[_STEPS] = _whole(update.share)
    return DXO(_data_kind(update), data=dict(update.params), meta=meta).to_shareable()


def _whole(value: float) -> float:
    """Numbers of a meta travel as floats; what was a whole one may be an index."""
    return int(value) if value.is_integer() else value


def _data_kind(update: Update) -> DataKind:
    return next(kind for kind, ours in _KINDS.items() if ours is update.kind)


def from_reason(reason: str) -> Shareable:
    """What a controller gets from a site that has not done its task: the return code, if it gave one."""
    word = _FAILURE.search(reason)
    known = {value for key, value in vars(ReturnCode).items() if key.isupper()}
    code = word[1] if word and word[1] in known else ReturnCode.EXECUTION_EXCEPTION
    found = Shareable()
    found.set_return_code(code)
    found.set_header(ReservedHeaderKey.ERROR, reason)
    return found
