# SPDX-License-Identifier: Apache-2.0
"""Frozen dataclasses to JSON documents and back, strictly.

The one codec behind everything that flprov writes as JSON: records, signed statements, the
documents of `--json`. Times are ISO 8601 UTC, enums their values, tuples lists.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar, Union

from flprov._base.clock import from_iso, to_iso

T = TypeVar("T")


def to_document(value: object) -> Any:  # noqa: ANN401 - a JSON value is any of six types
    """The JSON value of a dataclass, enum, time, mapping, sequence or scalar."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_document(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return to_iso(value)
    if isinstance(value, Mapping):
        return {str(key): to_document(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [to_document(item) for item in items]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def from_document(kind: type[T], document: object, where: str = "") -> T:
    """The value of type `kind` that `to_document` turned into `document`.

    Unknown fields are passed over, so that a newer peer may add some; a missing field takes its
    default.

    Raises:
        ValueError: a field is missing or has another type; the message names it.
    """
    return typing.cast(T, _read(kind, document, where or getattr(kind, "__name__", str(kind))))


def _read(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        return _read_union(kind, value, where)
    if origin in (list, tuple, frozenset):
        return _read_sequence(kind, origin, value, where)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        _expect(isinstance(value, dict), dict, value, where)
        item = typing.get_args(kind)[1]
        return {key: _read(item, child, f"{where}.{key}") for key, child in value.items()}
    if kind is Any or kind is object:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _read_dataclass(kind, value, where)
    return _read_scalar(kind, value, where)


def _read_union(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401
    choices = typing.get_args(kind)
    if value is None and type(None) in choices:
        return None
    failures = []
    for choice in choices:
        if choice is type(None):
            continue
        try:
            return _read(choice, value, where)
        except ValueError as error:
            failures.append(str(error))
    raise ValueError(failures[0])


def _read_sequence(kind: Any, origin: Any, value: Any, where: str) -> Any:  # noqa: ANN401
    _expect(isinstance(value, list | tuple), list, value, where)
    args = typing.get_args(kind)
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        if len(value) != len(args):
            raise ValueError(f"{where}: expected {len(args)} items, found {len(value)}")
        pairs = zip(args, value, strict=True)
        return tuple(_read(arg, item, f"{where}[{n}]") for n, (arg, item) in enumerate(pairs))
    return origin(_read(args[0], item, f"{where}[{n}]") for n, item in enumerate(value))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read_dataclass(kind: type, value: Any, where: str) -> Any:  # noqa: ANN401
    _expect(isinstance(value, dict), dict, value, where)
    found = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            found[field.name] = _read(_hints(kind)[field.name], value[field.name], f"{where}.{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where}.{field.name} is missing")
    return kind(**found)


def _read_scalar(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            names = ", ".join(str(member.value) for member in kind)
            raise ValueError(f"{where}: {value!r} is not one of {names}") from None
    if kind is datetime:
        _expect(isinstance(value, str), str, value, where)
        return from_iso(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _expect(isinstance(value, kind) and not (kind is int and isinstance(value, bool)), kind, value, where)
    return value


def _expect(holds: bool, kind: Any, value: Any, where: str) -> None:  # noqa: ANN401
    if not holds:
        raise ValueError(f"{where}: expected {kind.__name__}, found {type(value).__name__}")


def canonical_json(value: object) -> bytes:
    """The one spelling of a document: sorted keys, no spaces, UTF-8, no NaN (RFC 8785's intent)."""
    text = json.dumps(
        to_document(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def parse_json(data: bytes | str) -> Any:  # noqa: ANN401
    """JSON from outside: duplicate keys, NaN and infinity are refused. Raises ValueError."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            raise ValueError("a key stands twice in one JSON object")
        return found

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text[:20]} is larger than any number here")
        return value

    def constant(name: str) -> Any:  # noqa: ANN401
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(data, object_pairs_hook=pairs, parse_constant=constant, parse_float=number)
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
