# SPDX-License-Identifier: Apache-2.0
"""Local corrections: what FedProx and SCAFFOLD have a trainer add to its gradients, and report.

    correction = Correction(task)
    ...                                                   # once for each step:
    gradients = correction.apply(gradients, weights, lr=0.1)
    ...
    return Update(params=weights, samples=n, metrics={"loss": loss, **correction.metrics})

Scripts of PyTorch call `flprov.client.correct_gradients` instead, which does all of it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flprov.errors import Misuse
from flprov.messages import Task
from flprov.sdk.floats import widen

Array = NDArray[Any]
STEP_SUM = "step_sum"  # the metric in which SCAFFOLD's server looks for the sum of the learning rates


class Correction:
    """The corrections of one task; under workflows that ask for none, it changes nothing.

    FedProx sends `mu`: mu · (w - w(t)) is added, the gradient of mu/2 · ||w - w(t)||², where w(t) is the
    model that the task carried (or, without one, what the trainer first stepped from). SCAFFOLD sends
    tensors as `extra`: they are c - c(i), and are added as they are.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._steps = 0.0
        self._origin: dict[str, Any] = {}  # name -> where the trainer began, as it holds its weights
        self._shift: dict[str, Any] = {}  # name -> what is added, likewise

    @property
    def metrics(self) -> dict[str, float]:
        """What an update has to report besides its own metrics: the sum of learning rates, for SCAFFOLD."""
        return {STEP_SUM: self._steps} if self._task.extra and self._steps else {}

    def apply(
        self, gradients: Mapping[str, Array], weights: Mapping[str, Array], *, lr: float
    ) -> dict[str, Array]:
        """The gradients to step along, for numpy and whatever calculates like it.

        Args:
            gradients: of the loss, as they were just computed.
            weights: where they were computed, by the names of the model.
            lr: the learning rate of the step that follows.

        Raises:
            Misuse: `lr` is not a number above 0, or none of these names is in the model.
        """
        mu = self._begin_step(gradients, lr)
        found = dict(gradients)
        for name, gradient in gradients.items():
            if mu:
                if name not in self._origin:
                    start = self._task.params.get(name)
                    first = weights[name] if start is None else start
                    self._origin[name] = _copy(first)  # a trainer may step in what it was given
                found[name] = found[name] + mu * (weights[name] - self._origin[name])
            if name in self._task.extra:
                found[name] = found[name] + self._task.extra[name]
            found[name] = found[name].astype(gradient.dtype, copy=False)
        return found

    def apply_to(self, net: Any, *, lr: float) -> None:  # noqa: ANN401 - a torch.nn.Module
        """Change the gradients that a torch module holds; parameters without one are passed over.

        Raises:
            Misuse: `lr` is not a number above 0, or no parameter has a name of the model.
        """
        from flprov.sdk.torch_tensors import to_torch

        parameters = {name: one for name, one in net.named_parameters() if one.grad is not None}
        mu = self._begin_step(parameters, lr)
        for name, one in parameters.items():
            here = one.detach()
            if mu:
                if name not in self._origin:
                    start = self._task.params.get(name)
                    first = here if start is None else to_torch(start)
                    self._origin[name] = first.to(here, copy=True)
                one.grad.add_(here - self._origin[name], alpha=mu)
            if name in self._task.extra:
                if name not in self._shift:
                    self._shift[name] = to_torch(self._task.extra[name]).to(one.grad)
                one.grad.add_(self._shift[name])

    def _begin_step(self, names: Collection[str], lr: float) -> float:
        """Count a step; gives `mu`."""
        if not (math.isfinite(lr) and lr > 0):
            raise Misuse(f"lr is {lr}; it must be the learning rate of the step, a number above 0")
        known = self._task.params or self._task.extra
        if known and names and not any(name in known for name in names):
            raise Misuse(
                f"none of the parameters is in the model that the task carried: {min(names)!r} is not",
                hint="give the module whose state_dict() is the job's model, not what wraps it",
            )
        self._steps += lr
        return float(self._task.scalars.get("mu", 0.0))


def _copy(array: Array) -> Array:
    """The same numbers, to calculate with: numpy cannot with the bfloat16 that a task's model may hold."""
    if not getattr(array.dtype, "names", None):
        return np.array(array)
    return widen(array.reshape(-1), np.empty(array.size)).astype(np.float32).reshape(array.shape)
