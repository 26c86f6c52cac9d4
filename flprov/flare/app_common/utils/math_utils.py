# SPDX-License-Identifier: Apache-2.0
"""Conditions in words: "accuracy >= 80"."""

from __future__ import annotations

import operator
from collections.abc import Callable

operator_mapping: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}


def parse_compare_operator(compare_expr: str) -> tuple[str, Callable[[float, float], bool]]:
    """`"accuracy >="` as name and function. Raises ValueError."""
    key, symbol = _split(compare_expr, 2, "<key> <op>")
    return key, _find(symbol)


def parse_compare_criteria(compare_expr: str) -> tuple[str, float, Callable[[float, float], bool]]:
    """`"accuracy >= 80"` as name, number and function.

    Raises:
        ValueError: it is not a name, one of `>= <= > < =` and a number, with single blanks between.
    """
    key, symbol, target = _split(compare_expr, 3, "<key> <op> <value>")
    try:
        return key, float(target), _find(symbol)
    except ValueError as error:
        raise ValueError(f"{compare_expr!r}: {error}") from None


def _split(text: str, count: int, form: str) -> list[str]:
    words = text.split(" ") if isinstance(text, str) else []
    if len(words) != count or not all(words):
        raise ValueError(f"{text!r} is not of the form {form!r}")
    return words


def _find(symbol: str) -> Callable[[float, float], bool]:
    if symbol not in operator_mapping:
        raise ValueError(f"{symbol!r} is none of {', '.join(operator_mapping)}")
    return operator_mapping[symbol]
