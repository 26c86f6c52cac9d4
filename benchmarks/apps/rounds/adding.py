# SPDX-License-Identifier: Apache-2.0
"""A task that adds a number to all those of the model, and says when it began."""

import time

import numpy as np

from flprov.sdk import Site, Task, Update

_weights: dict[str, np.ndarray] = {}  # a trainer's own: a network keeps its memory from round to round


def train(task: Task, _site: Site, *, size: int = 0, torch: bool = False, keep: bool = True) -> Update:
    """All tensors, changed; `began` is the time of day in seconds at which this began.

    Args:
        size: bytes of the model, in ten tensors of float32; 0: one tensor of ten numbers.
        torch: import it first.
        keep: the arrays that are returned, for the next round.
    """
    if torch:
        import torch as _imported  # noqa: F401
    began = time.time()
    model = task.params or {
        f"layer{number}": np.zeros(size // 40 or 10, dtype=np.float32) for number in range(10 if size else 1)
    }
    step = np.float32(np.random.default_rng().random())  # no two sites send the same bytes
    kept = _weights if keep else {}
    params = {name: np.add(tensor, step, out=kept.get(name)) for name, tensor in model.items()}
    kept |= params
    return Update(params=params, samples=1, metrics={"began": began})
