# SPDX-License-Identifier: Apache-2.0
"""FLModel to Shareable and back, as FLARE's learners and executors do it."""

from __future__ import annotations

import numpy as np

from flprov.flare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import Shareable
from flprov.flare.app_common.abstract.fl_model import FLModel, ParamsType
from flprov.flare.app_common.app_constant import AppConstants

_KINDS = {ParamsType.FULL: DataKind.WEIGHTS, ParamsType.DIFF: DataKind.WEIGHT_DIFF}


class FLModelUtils:
    """Three functions, where FLARE has them."""

    @staticmethod
    def to_shareable(fl_model: FLModel) -> Shareable:
        """A DXO of its params, or of its metrics where it has no params.

        Raises:
            ValueError: it has neither.
        """
        meta = dict(fl_model.meta)
        if fl_model.params is not None:
            if fl_model.metrics is not None:
                meta = {MetaKey.INITIAL_METRICS: fl_model.metrics, **meta}
            kind = _KINDS[ParamsType(fl_model.params_type or ParamsType.FULL)]
            found = DXO(kind, data=dict(fl_model.params), meta=meta).to_shareable()
        elif fl_model.metrics is not None:
            found = DXO(DataKind.METRICS, data=dict(fl_model.metrics), meta=meta).to_shareable()
        else:
            raise ValueError("an FLModel without params and metrics says nothing")
        for key, value in (
            (AppConstants.START_ROUND, fl_model.start_round),
            (AppConstants.CURRENT_ROUND, fl_model.current_round),
            (AppConstants.NUM_ROUNDS, fl_model.total_rounds),
            (AppConstants.VALIDATE_TYPE, meta.get(MetaKey.VALIDATE_TYPE)),
        ):
            if value is not None:
                found.set_header(key, value)
        return found

    @staticmethod
    def from_shareable(shareable: Shareable, fl_ctx: FLContext | None = None) -> FLModel:  # noqa: ARG004
        """Params, or metrics, with the rounds of the headers; of "submit_model" the name that is asked for.

        Raises:
            ValueError: it holds neither.
        """
        if name := shareable.get_header(AppConstants.SUBMIT_MODEL_NAME):
            found = FLModel(meta={MetaKey.SUBMIT_MODEL_NAME: name})
        else:
            found = _from_dxo(from_shareable(shareable))
        if (validate := shareable.get_header(AppConstants.VALIDATE_TYPE)) is not None:
            found.meta[MetaKey.VALIDATE_TYPE] = validate
        found.start_round = shareable.get_header(AppConstants.START_ROUND)
        found.current_round = shareable.get_header(AppConstants.CURRENT_ROUND)
        found.total_rounds = shareable.get_header(AppConstants.NUM_ROUNDS)
        return found

    @staticmethod
    def update_model(model: FLModel, model_update: FLModel, replace_meta: bool = True) -> FLModel:
        """`model` with the weights, or plus the difference, of `model_update`, and its metrics.

        Raises:
            RuntimeError: `model` is a difference itself, or `model_update` has no params.
            KeyError: a difference of a weight that `model` does not have.
        """
        if model.params_type is ParamsType.DIFF or model_update.params is None:
            raise RuntimeError("a model can be updated by weights or differences only, and is no difference")
        model.meta = dict(model_update.meta) if replace_meta else model.meta | model_update.meta
        model.metrics = model_update.metrics
        if model_update.params_type is not ParamsType.DIFF:
            model.params, model.params_type = model_update.params, ParamsType.FULL
            return model
        new = dict(model.params or {})
        for name, difference in model_update.params.items():
            changed = new[name] + difference
            like = getattr(new[name], "dtype", None)
            new[name] = changed.astype(like) if isinstance(changed, np.ndarray | np.generic) else changed
        model.params = new
        return model


def _from_dxo(dxo: DXO) -> FLModel:
    if dxo.data_kind == DataKind.METRICS:
        return FLModel(metrics=dxo.data, meta=dxo.meta)
    kind = ParamsType.DIFF if dxo.data_kind == DataKind.WEIGHT_DIFF else ParamsType.FULL
    metrics = dxo.meta.get(MetaKey.INITIAL_METRICS)
    if metrics is not None and not isinstance(metrics, dict):
        metrics = {"initial_metrics": metrics}
    return FLModel(kind, dxo.data, metrics=metrics, meta=dxo.meta)
