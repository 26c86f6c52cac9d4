# SPDX-License-Identifier: Apache-2.0
"""FullModelShareableGenerator: the whole model goes out; weights or their difference come back."""

from __future__ import annotations

import numpy as np

from flprov.errors import JobFailed
from flprov.flare.apis.dxo import DataKind, from_shareable
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import Shareable
from flprov.flare.app_common.abstract.learnable import Learnable
from flprov.flare.app_common.abstract.model import (
    ModelLearnable,
    ModelLearnableKey,
    make_model_learnable,
    model_learnable_to_dxo,
)
from flprov.flare.app_common.abstract.shareable_generator import ShareableGenerator
from flprov.flare.app_common.app_constant import AppConstants


class FullModelShareableGenerator(ShareableGenerator):
    """A difference is added to GLOBAL_MODEL of the context."""

    def learnable_to_shareable(self, model: Learnable, fl_ctx: FLContext) -> Shareable:  # noqa: ARG002
        """A DXO of the weights."""
        if not isinstance(model, ModelLearnable):
            raise JobFailed(f"a ModelLearnable was to be sent, not a {type(model).__name__}")
        return model_learnable_to_dxo(model).to_shareable()

    def shareable_to_learnable(self, shareable: Shareable, fl_ctx: FLContext) -> ModelLearnable:
        """The model that weights are, or that a difference leads to.

        Raises:
            JobFailed: neither of them, or a difference without GLOBAL_MODEL.
        """
        dxo = from_shareable(shareable)
        if dxo.data_kind == DataKind.WEIGHTS:
            return make_model_learnable(dxo.data, dxo.meta)
        base = fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)
        if dxo.data_kind != DataKind.WEIGHT_DIFF or not isinstance(base, ModelLearnable):
            raise JobFailed(f"no model can be made of {dxo.data_kind} without AppConstants.GLOBAL_MODEL")
        weights = dict(base[ModelLearnableKey.WEIGHTS])
        for name, difference in dxo.data.items():
            like = np.asarray(weights[name])
            weights[name] = np.asarray(like + np.asarray(difference)).astype(like.dtype)
        return make_model_learnable(weights, base[ModelLearnableKey.META])
