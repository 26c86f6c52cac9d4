# SPDX-License-Identifier: Apache-2.0
"""What an unquoted word in YAML means here, and durations and sizes.

YAML 1.1 turns `no` into False, `12:30:45` into 45045, `017` into 15 and `1e5` into text; YAML 1.2
does otherwise. Here a plain word is a boolean, a number or nothing only in its one obvious
spelling (JSON's, RFC 8259 section 6); whatever else either YAML would turn into something other
than text has to be quoted.
"""

from __future__ import annotations

import enum
import re
from datetime import timedelta
from typing import Any

import yaml


class Meaning(enum.Enum):
    """What a scalar stands for."""

    TEXT = "text"  # quoted, or a plain word that no YAML reads as anything else
    NULL = "nothing"  # empty, `null` or `~`
    FLAG = "true or false"  # `true`, `false`
    INTEGER = "a whole number"  # `12`, `-3`
    NUMBER = "a number"  # `0.5`, `1e-3`
    AMBIGUOUS = "ambiguous"  # `no`, `017`, `1_000`, `12:30:45`, `.inf`, `2024-01-31`, `+1`, `TRUE`


_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_OCTAL_OF_12 = re.compile(r"[-+]?0o[0-7]+")
_TEXT_TAG = "tag:yaml.org,2002:str"
_RESOLVER: Any = yaml.resolver.Resolver()  # untyped in types-PyYAML


def meaning_of(text: str, *, plain: bool) -> Meaning:
    """What the scalar `text` stands for; `plain` says that it has no quotes."""
    if not plain:
        return Meaning.TEXT
    if text in ("", "~", "null"):
        return Meaning.NULL
    if text in ("true", "false"):
        return Meaning.FLAG
    if _INTEGER.fullmatch(text):
        return Meaning.INTEGER
    if _NUMBER.fullmatch(text):
        return Meaning.NUMBER
    if _OCTAL_OF_12.fullmatch(text) or _resolved(text) != _TEXT_TAG:
        return Meaning.AMBIGUOUS
    return Meaning.TEXT


def _resolved(text: str) -> str:
    """The tag that YAML 1.1 gives to a plain scalar; long ones are text (and slow to match)."""
    if len(text) > 100:
        return _TEXT_TAG
    return str(_RESOLVER.resolve(yaml.ScalarNode, text, (True, False)))


_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_CENTURY = timedelta(days=36525)  # keeps `now + duration` inside datetime's range


def parse_duration(text: str) -> timedelta:
    """`500ms`, `1s`, `10m`, `1.5h`, `90d` as a timedelta.

    Raises:
        ValueError: it is none of these; the message says what is.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"a duration is a number with a unit (500ms, 1s, 10m, 24h, 90d), not {text[:40]!r}")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > _CENTURY.total_seconds():
        raise ValueError(f"{text} is longer than a hundred years")
    return timedelta(seconds=seconds)


_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,6})?) ?([A-Za-z]{0,3})")
_BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def parse_size(text: str | int) -> int:
    """`512MiB`, `1GiB`, `10GB` or a number of bytes, in bytes.

    Raises:
        ValueError: it is none of these; the message says what is.
    """
    match = _SIZE.fullmatch(str(text))
    unit = (match[2] or "B") if match else ""
    if match is None or unit not in _BYTES or (unit == "B" and "." in match[1]):
        raise ValueError(
            f"a size is bytes or a number with a unit (512MiB, 1GiB, 10GB), not {str(text)[:40]!r}"
        )
    whole, _, fraction = match[1].partition(".")
    size: int = (int(whole + fraction) * _BYTES[unit]) // 10 ** len(fraction)
    if size >= 2**63:
        raise ValueError(f"{text} is more than any machine has")
    return size
