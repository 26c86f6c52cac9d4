# SPDX-License-Identifier: Apache-2.0
"""PTModelPersistenceFormatManager: what FLARE's examples write with `torch.save`, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flprov.errors import Misuse
from flprov.flare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable

_MODEL, _CONF = "model", "train_conf"


class PTModelPersistenceFormatManager:
    """Weights with the configuration that they were trained with.

    Args:
        data: a state_dict, or what `to_persistence_dict` gave.
        default_train_conf: where `data` has none.
    """

    def __init__(self, data: Mapping[str, Any], default_train_conf: Mapping[str, Any] | None = None) -> None:
        if not isinstance(data, Mapping):
            raise Misuse(f"a state_dict was expected, not a {type(data).__name__}")
        whole = isinstance(data.get(_MODEL), Mapping)
        self.var_dict: dict[str, Any] = dict(data[_MODEL] if whole else data)
        self.train_conf = (data.get(_CONF) if whole else None) or default_train_conf
        self.meta: dict[str, Any] = {}

    def to_model_learnable(self, exclude_vars: str | None = None) -> ModelLearnable:
        """The weights as numpy arrays, but for those whose names the regular expression finds."""
        left = re.compile(exclude_vars) if exclude_vars else None
        weights = {name: w for name, w in self.var_dict.items() if left is None or not left.search(name)}
        return make_model_learnable({name: _to_numpy(w) for name, w in weights.items()}, dict(self.meta))

    def to_persistence_dict(self) -> dict[str, Any]:
        """What to save."""
        return {_MODEL: self.var_dict} | ({_CONF: self.train_conf} if self.train_conf else {})

    def update(self, ml: ModelLearnable) -> None:
        """Take new weights, in the precision and on the device of the old ones."""
        self.meta = dict(ml.get(ModelLearnableKey.META) or {})
        for name, value in ml[ModelLearnableKey.WEIGHTS].items():
            make = getattr(self.var_dict.get(name), "new_tensor", None)
            self.var_dict[name] = value if make is None else make(value)


def _to_numpy(value: Any) -> Any:  # noqa: ANN401 - a tensor of torch, or an array
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value
