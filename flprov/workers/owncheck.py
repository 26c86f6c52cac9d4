# SPDX-License-Identifier: Apache-2.0
"""Checks of the updates of simulated sites, in the process that has made them: there they are still at hand.

Only where the process is its user's own. On a network an update is looked at by those whom it comes to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flprov.errors import FlprovError, UpdateRefused
from flprov.wire import TensorInfo, failure_of, pb, tensor_infos, verify_numbers, verify_update
from flprov.workers.payloads import open_payload


class OwnCheck:
    """Of the sites that live in one process; `folder` is its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._task_id = ""
        self._model: Mapping[str, TensorInfo] | None = None  # of this task

    def check(self, answer: pb.TaskAnswer, order: pb.TaskOrder, max_weight: float | None) -> None:
        """Let an update that does not fit its task be the refusal that a server would make of it."""
        if answer.WhichOneof("outcome") != "update":
            return
        update = answer.update
        file = self._folder / "out" / update.tensors.file if update.tensors.file else None
        try:
            weight = update.weight if update.HasField("weight") else None
            verify_numbers(update.samples, weight, update.metrics, max_weight)
            verify_update(self._model_of(order), file or update.tensors.inline, update.kind, order.expects)
        except (FlprovError, OSError) as error:
            if file is not None:
                file.unlink(missing_ok=True)
            known = error if isinstance(error, FlprovError) else UpdateRefused(str(error))
            answer.failure.CopyFrom(failure_of(known))

    def _model_of(self, order: pb.TaskOrder) -> Mapping[str, TensorInfo] | None:
        if order.task_id != self._task_id:
            self._model = tensor_infos(open_payload(order.model, self._folder)) if order.model.size else None
            self._task_id = order.task_id
        return self._model
