# SPDX-License-Identifier: Apache-2.0
"""FLModel: a model, metrics and the round they belong to, as code written for FLARE passes them around."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

__all__ = ["FLModel", "FLModelConst", "MetaKey", "ParamsType"]

from flprov.flare.apis.fl_constant import FLMetaKey


class ParamsType(str, enum.Enum):  # noqa: UP042 - FLARE's users compare it with text
    """How `params` relate to the model that was received."""

    FULL = "FULL"  # new weights
    DIFF = "DIFF"  # new weights minus the received ones


class FLModelConst:
    """The names under which an FLModel's parts travel."""

    PARAMS_TYPE = "params_type"
    PARAMS = "params"
    OPTIMIZER_PARAMS = "optimizer_params"
    METRICS = "metrics"
    CURRENT_ROUND = "current_round"
    START_ROUND = "start_round"
    TOTAL_ROUNDS = "total_rounds"
    META = "meta"


class MetaKey(FLMetaKey):
    """Names in `meta`."""


class FLModel:
    """What a client receives and sends: positional order and attributes are FLARE's.

    Raises:
        ValueError: `params_type` is given without `params`, or is none of ParamsType.
        TypeError: `metrics` or `meta` is no dict, or a round is no whole number from 0 on.
    """

    def __init__(
        self,
        params_type: str | ParamsType | None = None,
        params: Any = None,  # noqa: ANN401 - arrays of any framework, by name
        optimizer_params: Any = None,  # noqa: ANN401
        metrics: Mapping[str, Any] | None = None,
        start_round: int | None = 0,
        current_round: int | None = None,
        total_rounds: int | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        if params_type is None:
            chosen = None if params is None else ParamsType.FULL
        else:
            chosen = ParamsType(params_type)
            if params is None:
                raise ValueError(f"params_type is {chosen.value}, but there are no params")
        for name, value in (("metrics", metrics), ("meta", meta)):
            if value is not None and not isinstance(value, dict):
                raise TypeError(f"{name} must be a dict, not a {type(value).__name__}")
        for name, number in (("start_round", start_round), ("current_round", current_round)):
            _verify_round(name, number)
        _verify_round("total_rounds", total_rounds)
        self.params_type = chosen
        self.params = params
        self.optimizer_params = optimizer_params
        self.metrics = metrics
        self.start_round = start_round
        self.current_round = current_round
        self.total_rounds = total_rounds
        self.meta: dict[str, Any] = {} if meta is None else dict(meta)

    def summary(self) -> dict[str, Any]:
        """What is in it, without the arrays: the number of params, metrics and meta, and the rounds."""
        counted = {name: len(value) for name, value in self._mappings().items() if value}
        rounds = {
            "params_type": self.params_type,
            "start_round": self.start_round,
            "current_round": self.current_round,
            "total_rounds": self.total_rounds,
        }
        return counted | {name: value for name, value in rounds.items() if value}

    def __repr__(self) -> str:
        return str(self.summary())

    def _mappings(self) -> dict[str, Mapping[str, Any]]:
        parts = {
            "params": self.params,
            "optimizer_params": self.optimizer_params,
            "metrics": self.metrics,
            "meta": self.meta,
        }
        return {name: value for name, value in parts.items() if isinstance(value, Mapping)}


def _verify_round(name: str, value: int | None) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise TypeError(f"{name} must be a whole number from 0 on, not {value!r}")
