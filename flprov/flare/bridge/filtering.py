# SPDX-License-Identifier: Apache-2.0
"""FLARE's filters over our tasks and updates."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flprov.errors import JobFailed
from flprov.flare.apis.dxo import DXO, from_shareable
from flprov.flare.apis.fl_constant import ReturnCode
from flprov.flare.apis.shareable import Shareable
from flprov.flare.bridge.codec import pack_value
from flprov.flare.bridge.exchange import (
    MARK,
    from_update,
    in_precision_of,
    to_parcel,
    to_shareable,
    to_update,
)
from flprov.flare.bridge.parts import Parts, find_workspace
from flprov.messages import Site, Task, Update, UpdateKind
from flprov.sdk import as_tensors

if TYPE_CHECKING:
    from flprov.flare.apis.filter import Filter


def apply_filter(one: Filter, value: Task | Update, site: Site) -> Task | Update:
    """What `one.process` makes of a task or an update.

    Raises:
        JobFailed: it gives no Shareable, another return code than OK, or no weights for weights.
    """
    parts = Parts(identity=site.name, job_id=site.job_id, workspace=find_workspace(site.folder))
    parts.add("filter", one)
    before = to_shareable(value) if isinstance(value, Task) else from_update(value)
    after = one.process(before, parts.new_context())
    if not isinstance(after, Shareable):
        raise JobFailed(f"{one.name}.process returned a {type(after).__name__}, not a Shareable")
    if after.get_return_code() != ReturnCode.OK:
        raise JobFailed(f"{one.name}.process answered with {after.get_return_code()}")
    return _task(value, after) if isinstance(value, Task) else _update(one, value, after, site)


def _task(task: Task, filtered: Shareable) -> Task:
    if MARK not in task.scalars:
        return replace(task, params=in_precision_of(as_tensors(_dxo(filtered).data), task.params))
    parcel = to_parcel(filtered, filtered.get_peer_props() or {})
    model = in_precision_of(parcel.model, task.params)
    return replace(task, params=model, extra=parcel.extra, scalars={**task.scalars, **parcel.scalars})


def _update(one: Filter, update: Update, filtered: Shareable, site: Site) -> Update:
    if update.kind is UpdateKind.OPAQUE:
        return replace(update, params=pack_value(filtered, f"what {one.name} gave"))
    marked = {MARK: ""} if update.params else {}
    as_task = Task(name="", params=update.params, round=0, rounds=0, job_id=site.job_id, scalars=marked)
    made = to_update(_dxo(filtered).to_shareable(), as_task, one.name)
    if made.kind is not update.kind or bool(made.params) != bool(update.params):
        raise JobFailed(f"{one.name} made {made.kind.value} of an update that was {update.kind.value}")
    weight = update.weight if made.weight is None else made.weight
    return replace(update, params=made.params, metrics=made.metrics, weight=weight)


def _dxo(filtered: Shareable) -> DXO:
    try:
        return from_shareable(filtered)
    except ValueError as error:
        raise JobFailed(f"a filter has taken the DXO out of a Shareable: {error}") from error
