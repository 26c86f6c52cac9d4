# SPDX-License-Identifier: Apache-2.0
"""How long: a number of seconds or days in an option."""

from __future__ import annotations

import math
from typing import Any

import click


class Span(click.FloatRange):
    """A number in a range. Not NaN, which click lets through every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's
        """The number."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number
