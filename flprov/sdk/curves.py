# SPDX-License-Identifier: Apache-2.0
"""What a script or a workflow logs: numbers by name, each with its place on the curve's axis."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Mapping
from typing import Any

from flprov.errors import Misuse


def read_values(values: Mapping[str, Any]) -> Mapping[str, float]:
    """Those that are finite; the others are only printed.

    Raises:
        Misuse: one is not a number.
    """
    numbers = {str(name): _number(str(name), value) for name, value in values.items()}
    finite = {name: number for name, number in numbers.items() if math.isfinite(number)}
    for name in numbers.keys() - finite.keys():
        print(f"flprov: {name} is {numbers[name]}", file=sys.stderr)
    return finite


def read_step(step: Any) -> int | None:  # noqa: ANN401 - see _number
    """A place on the curve's axis; None: what is logged is counted.

    Raises:
        Misuse: it is not a whole number from 0 on.
    """
    if step is None:
        return None
    try:
        number = operator.index(step)
    except TypeError:
        number = -1
    if not 0 <= number < 1 << 63:
        raise Misuse(f"step is {step!r}; it must be a whole number from 0 on")
    return number


def _number(name: str, value: Any) -> float:  # noqa: ANN401 - a float, or what torch, JAX or numpy have for one
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # RuntimeError: torch, of many
        raise Misuse(f"{name} is {value!r}, which is not a number", hint='log("loss", 0.3)') from error
