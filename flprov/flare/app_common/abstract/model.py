# SPDX-License-Identifier: Apache-2.0
"""ModelLearnable: weights and their meta in one dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flprov.flare.apis.dxo import DXO, DataKind
from flprov.flare.app_common.abstract.learnable import Learnable

__all__ = [
    "Learnable",
    "ModelLearnable",
    "ModelLearnableKey",
    "make_model_learnable",
    "model_learnable_to_dxo",
    "validate_model_learnable",
]


class ModelLearnableKey:
    """Its two keys."""

    WEIGHTS = "weights"
    META = "meta"


class ModelLearnable(Learnable):
    """Arrays by name under "weights", anything under "meta"."""

    def is_empty(self) -> bool:
        """Whether it has no weights."""
        return not self.get(ModelLearnableKey.WEIGHTS)


def make_model_learnable(weights: Mapping[str, Any], meta_props: Mapping[str, Any]) -> ModelLearnable:
    """One of these weights."""
    return ModelLearnable({ModelLearnableKey.WEIGHTS: weights, ModelLearnableKey.META: meta_props})


def validate_model_learnable(model_learnable: object) -> str:
    """What is wrong with it; empty when nothing is."""
    if not isinstance(model_learnable, ModelLearnable):
        return f"a ModelLearnable was expected, not a {type(model_learnable).__name__}"
    missing = [
        key for key in (ModelLearnableKey.WEIGHTS, ModelLearnableKey.META) if key not in model_learnable
    ]
    return f"the ModelLearnable has no {' and no '.join(missing)}" if missing else ""


def model_learnable_to_dxo(ml: ModelLearnable) -> DXO:
    """Its weights as a DXO. Raises ValueError when it is none."""
    if problem := validate_model_learnable(ml):
        raise ValueError(problem)
    return DXO(DataKind.WEIGHTS, data=ml[ModelLearnableKey.WEIGHTS], meta=ml[ModelLearnableKey.META])
