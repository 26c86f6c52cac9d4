# SPDX-License-Identifier: Apache-2.0
"""Which tensors of a model an algorithm steers, and which are only averaged.

A server that sees names and numbers cannot tell a parameter from a buffer. The running statistics of
batch normalisation are estimates, not weights: a step along their "gradient" could make a variance
negative. So they are averaged, as FedAvg would; integer tensors (`num_batches_tracked`) never are.
"""

from __future__ import annotations

import fnmatch

from flprov.messages import Tensors
from flprov.sdk.floats import is_float

RUNNING_STATISTICS = "*running_mean,*running_var"  # as torch names them


def steered_names(model: Tensors, average: str) -> list[str]:
    """The floating-point tensors whose names match none of the patterns in `average` (with * and ?)."""
    patterns = [part.strip() for part in average.split(",")]
    return [
        name
        for name, array in model.items()
        if is_float(array, name) and not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]
