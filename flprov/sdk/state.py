# SPDX-License-Identifier: Apache-2.0
"""State: all that a workflow carries from one round to the next.

The runtime saves it at each round boundary and hands it back after a crash. It travels as one
safetensors file: the tensors of `model` and `tensors` under those prefixes, the rest as metadata. A large
model, and the best one, are files of their own beside it, which tasks and results name as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flprov._base import canonical_json, from_document, parse_json
from flprov.errors import Misuse, StateDamaged
from flprov.messages import Scalar, Tensors
from flprov.sdk.arrays import as_tensors
from flprov.wire import encode_tensors, read_metadata, read_tensors

_NUMBERS = "flprov.state"  # the key of the metadata that holds round, scalars and metrics


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which round was the best so far, by the metric that job.yml names."""

    metric: str
    mode: str  # max | min: which value is better
    value: float
    round: int  # 0-based
    judged: int  # the last round that was looked at
    waited: int = 0  # how many were looked at since, and were not better


@dataclass(frozen=True, kw_only=True)
class Best(Choice):
    """The best round so far, with its model."""

    model: Tensors = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class State:
    """A workflow between two rounds. Whatever is not in here is forgotten when a process ends."""

    round: int = 0  # how many rounds are done; the 0-based number of the next
    model: Tensors = field(default_factory=dict)
    tensors: Tensors = field(default_factory=dict)  # what else the algorithm remembers, e.g. momentum
    scalars: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the last round
    results: Mapping[str, object] = field(default_factory=dict)  # file name -> JSON, beside the model
    best: Best | None = None  # filled in by the runtime, if job.yml names a metric

    def next(
        self,
        *,
        model: Tensors | None = None,
        metrics: Mapping[str, float] | None = None,
        tensors: Tensors | None = None,
        scalars: Mapping[str, Scalar] | None = None,
        results: Mapping[str, object] | None = None,
    ) -> State:
        """The state after one more round; what is not given stays as it is, metrics start empty.

        Tensors may be whatever `as_tensors` takes, and numbers those of numpy, torch or JAX.

        Raises:
            Misuse: a tensor is no array of numbers, or a metric no number; the message names it.
        """
        return replace(
            self,
            round=self.round + 1,
            model=self.model if model is None else _arrays(model),
            metrics={} if metrics is None else {n: _number(n, value) for n, value in metrics.items()},
            tensors=self.tensors if tensors is None else _arrays(tensors),
            scalars=self.scalars if scalars is None else {n: _plain(value) for n, value in scalars.items()},
            results=self.results if results is None else results,
        )


def _arrays(given: Tensors) -> Tensors:
    """What is arrays already stays the mapping that it is: it may know which file holds it."""
    return given if all(isinstance(array, np.ndarray) for array in given.values()) else as_tensors(given)


def _number(name: str, value: Any) -> float:  # noqa: ANN401 - see _plain
    number = _plain(value)
    if not isinstance(number, int | float):
        raise Misuse(f"the metric {name!r} is {value!r}, which is not a number", hint='metrics={"auc": 0.9}')
    return number


def _plain(value: Any) -> Any:  # noqa: ANN401 - numpy, torch and JAX have numbers of their own
    """A number of numpy, torch or JAX as Python's; everything else as it is."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    round: int
    scalars: Mapping[str, Scalar]
    metrics: Mapping[str, float]
    results: Mapping[str, object] = field(default_factory=dict)
    best: Choice | None = None


def flatten_state(state: State, *, apart: Collection[str] = ()) -> tuple[Tensors, Mapping[str, str]]:
    """The tensors and the metadata of the safetensors file that `read_state` reads.

    Args:
        state: what is saved.
        apart: "model", "best" or both, where those are files of their own.

    Raises:
        Misuse: a scalar or metric is not finite.
    """
    parts = {"model": state.model, "tensors": state.tensors, "best": state.best.model if state.best else {}}
    tensors = {
        f"{part}/{name}": array
        for part, held in parts.items()
        if part not in apart
        for name, array in held.items()
    }
    best = None
    if state.best is not None:
        best = Choice(**{name.name: getattr(state.best, name.name) for name in fields(Choice)})
    numbers = _Numbers(
        round=state.round, scalars=state.scalars, metrics=state.metrics, results=state.results, best=best
    )
    try:
        return tensors, {_NUMBERS: canonical_json(numbers).decode()}
    except (TypeError, ValueError) as error:
        raise Misuse(f"the scalars, metrics or results of a state cannot be saved: {error}") from error


def encode_state(state: State) -> bytes:
    """The bytes of that file. The same state always gives the same bytes.

    Raises:
        Misuse: a scalar or metric is not finite, or a tensor's dtype cannot travel.
    """
    return encode_tensors(*flatten_state(state))


def read_state(source: Path | bytes, *, model: Tensors | None = None, best: Tensors | None = None) -> State:
    """The state in a file, its tensors mapped, or in bytes.

    Args:
        source: what was made of `flatten_state`.
        model: its model, if that is a file of its own.
        best: the best one, likewise.

    Raises:
        StateDamaged: a tensor file, but not a state's.
        ProtocolError: no tensor file.
    """
    text = read_metadata(source).get(_NUMBERS, "")
    try:
        numbers = from_document(_Numbers, parse_json(text), "state")
    except ValueError as error:
        raise StateDamaged(f"what should be the state of a workflow is not: {error}") from error
    parts: dict[str, dict[str, NDArray[np.generic]]] = {"model": {}, "tensors": {}, "best": {}}
    for name, array in read_tensors(source).items():
        part, _, own = name.partition("/")
        if part not in parts:
            raise StateDamaged(f"the state of a workflow holds the stray tensor {name!r}")
        parts[part][own] = array
    chosen = numbers.best
    return State(
        round=numbers.round,
        model=parts["model"] if model is None else model,
        tensors=parts["tensors"],
        scalars=numbers.scalars,
        metrics=numbers.metrics,
        results=numbers.results,
        best=None if chosen is None else Best(**vars(chosen), model=parts["best"] if best is None else best),
    )
