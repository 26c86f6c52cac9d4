# SPDX-License-Identifier: Apache-2.0
"""`quantize`: numbers rounded so far that they travel in half or a quarter of the bytes.

What is rounded is what travels: the weights of a `full` update, the difference of a `diff` (which is much
the finer, as a difference is much smaller than what it is a difference of).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from flprov.errors import JobFailed
from flprov.messages import Encoding, Precision, Site, Task, Update
from flprov.sdk.filters.difference import float_names, pieces, room_for, verify_weights
from flprov.wire import round_into

WORST, RELATIVE = "quantize_max_error", "quantize_relative_error"


def quantize(
    update: Update,
    task: Task,  # noqa: ARG001 - as every filter
    site: Site,
    *,
    to: Precision,
    block: int = 0,
) -> Update:
    """Round every floating-point number to half precision (`fp16`), or to 8 bits and a scale (`int8`).

    fp16: to the nearest of IEEE 754's binary16; the error is at most 2^-11 of the number, or 2^-25 where
    that is more; beyond 65504 it is 65504. Only 32 and 64 bit tensors are touched.
    int8: q = round(x / s), s the scale of a tensor or of each `block` numbers of it, max|x| / 127 rounded
    up to 16 bits; the error is at most s / 2. 16 bit tensors are rounded once more, to their dtype.

    The update reports the largest error and the L2 norm of the errors over that of the numbers, as the
    metrics `quantize_max_error` and `quantize_relative_error`.
    """
    verify_weights(update, "quantize")
    names = float_names(update)
    rounded = dict(update.params) | room_for(update.params, names, site)
    marks = dict(update.encoding)
    for name in names:
        marks[name] = replace(marks.get(name, Encoding()), precision=to, block=block)
        round_into(update.params[name], rounded[name], marks[name])
    quantized = replace(update, params=rounded, encoding=marks)
    worst, errors, squares = 0.0, 0.0, 0.0
    before, after = pieces(update, None, "quantize"), pieces(quantized, None, "quantize")
    for old, new in zip(before, after, strict=True):
        gap = np.abs(new - old)
        worst = max(worst, float(gap.max(initial=0.0)))
        with np.errstate(over="ignore"):
            errors += float(np.square(gap).sum())
            squares += float(np.square(old).sum())
    relative = math.sqrt(errors / squares) if squares else 0.0
    if not math.isfinite(relative):
        raise JobFailed("filter quantize: the numbers are too large for their errors to be summed")
    return replace(quantized, metrics={**update.metrics, WORST: worst, RELATIVE: relative})
