# SPDX-License-Identifier: Apache-2.0
"""A task as it reaches a worker, and what an answer to it must be."""

from __future__ import annotations

import hashlib
import operator
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from flprov._base import from_document, parse_json
from flprov.errors import Misuse, ProtocolError, UpdateRefused
from flprov.jobs import JobSpec
from flprov.messages import Scalar, Task, Update, UpdateKind
from flprov.sdk import Correction
from flprov.wire import format_kinds, pb, verify_numbers

N = TypeVar("N", int, float)


@dataclass(kw_only=True)
class OpenTask:
    """A task that waits for its answer."""

    order: pb.TaskOrder
    task: Task
    asked: Task | None = None  # as `task`, with tensors that no trainer has in its hands
    format: str = ""  # "pt" when its tensors are torch's
    began: float = field(default_factory=time.monotonic)
    taken: bool = False  # whether the script has received it
    steps: int = 0  # how often it has reported progress
    takes: tuple[UpdateKind, ...] = ()  # the kinds that its trainer may send; none: metrics only
    looked: set[str] = field(default_factory=set)  # which scalars and extra tensors were read
    correction: Correction | None = None  # once the script corrects its gradients

    def __str__(self) -> str:
        return f"task {self.task.name!r} of round {self.task.round}"


def read_spec(document: bytes) -> JobSpec:
    """The job in a start message. Raises ProtocolError."""
    try:
        return from_document(JobSpec, parse_json(document))
    except ValueError as error:
        raise ProtocolError(f"the job that the parent sent cannot be read: {error}") from error


def read_task(order: pb.TaskOrder, spec: JobSpec, site: str) -> Task:
    """The task in `order`, without its tensors. Raises ProtocolError."""
    try:
        scalars = from_document(dict[str, Scalar], parse_json(order.scalars or b"{}"), "scalars")
    except ValueError as error:
        raise ProtocolError(f"the scalars of task {order.name!r} cannot be read: {error}") from error
    return Task(
        name=order.name,
        params={},
        round=order.round,
        rounds=order.rounds,
        job_id=order.job_id,
        args=spec.args,
        scalars=scalars,
        seed=_seed(spec.workflow.seed, site, order.round, order.name),
    )


def _seed(seed: int, site: str, number: int, name: str) -> int:
    """What the random numbers of one task start from."""
    text = f"{seed}/{site}/{number}/{name}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")


def verify_answer(update: Update, opened: OpenTask, max_weight: float | None = None) -> Update:
    """`update` with plain numbers, if it is what the task takes; the parent checks the tensors.

    Raises:
        Misuse: it is of another kind, or one of its numbers is none; the message names it.
    """
    taken = opened.takes
    if taken and update.kind not in taken:
        raise Misuse(f"{opened} takes {format_kinds(taken)}, the update is of kind {update.kind.value}")
    if taken and not update.params:
        raise Misuse(f"{opened} takes weights, the update has none", hint="send them as `params`")
    if update.params and not taken:
        raise Misuse(f"{opened} takes metrics only, the update has tensors", hint="leave out `params`")
    samples = _number("samples", operator.index, update.samples)
    weight = None if update.weight is None else _number("weight", float, update.weight)
    metrics = {str(name): _number(f"metric {name!r}", float, value) for name, value in update.metrics.items()}
    try:
        verify_numbers(samples, weight, metrics, max_weight)
    except UpdateRefused as error:
        raise Misuse(str(error)) from error
    return replace(update, samples=samples, weight=weight, metrics=metrics)


def _number(what: str, convert: Callable[[Any], N], value: Any) -> N:  # noqa: ANN401 - job code gave it
    try:
        return convert(value)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: torch, of many numbers at once
        raise Misuse(f"{what} is {value!r}, which is not a number that fits") from error
