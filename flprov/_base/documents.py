# SPDX-License-Identifier: Apache-2.0
"""Frozen dataclasses to JSON documents and back, strictly.

The one codec behind everything that flprov writes as JSON: records, signed statements, the
documents of `--json`. Times are ISO 8601 UTC, enums their values, tuples lists.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar, Union

from flprov._base.clock import from_iso, to_iso

T = TypeVar("T")


def to_document(value: object) -> Any:  # noqa: ANN401 - a JSON value is any of six types
    """The JSON value of a dataclass, enum, time, mapping, sequence or scalar."""
    kind: Any = type(value)
    if kind in _PLAIN:
        return value
    names = _names(kind)
    if names is not None:  # a record is turned into JSON at every step of a job: this is the path
        return {
            name: item if type(item := getattr(value, name)) in _PLAIN else to_document(item)
            for name in names
        }
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return to_iso(value)
    if isinstance(value, Mapping):
        return {str(key): to_document(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [to_document(item) for item in items]
    if isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form")


_PLAIN = frozenset({str, bool, int, float, type(None)})


@functools.cache
def _names(kind: type[Any]) -> tuple[str, ...] | None:
    """The fields of a dataclass; None: it is another type."""
    if not dataclasses.is_dataclass(kind):
        return None
    return tuple(field.name for field in dataclasses.fields(kind))


def from_document(kind: type[T], document: object, where: str = "") -> T:
    """The value of type `kind` that `to_document` turned into `document`.

    Unknown fields are passed over, so that a newer peer may add some; a missing field takes its
    default.

    Raises:
        ValueError: a field is missing or has another type; the message names it.
    """
    try:
        return typing.cast(T, _reader(kind)(document))
    except _Misfit as error:
        name = where or getattr(kind, "__name__", str(kind))
        raise ValueError(f"{name}{error.path}{error.problem}") from None


_Read = Callable[[Any], Any]


class _Misfit(ValueError):
    """A value that is not what its type says. The path to it grows on the way out, when it is needed."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.path = ""
        self.problem = problem

    def inside(self, step: str) -> _Misfit:
        self.path = step + self.path
        return self


def _reader(kind: Any) -> _Read:  # noqa: ANN401
    """What reads values of this type: looked at once, and not again for each of a thousand records."""
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        return _union_reader(kind)
    if origin in (list, tuple, frozenset):
        return _sequence_reader(kind, origin)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return functools.partial(_read_mapping, _reader(typing.get_args(kind)[1]))
    if kind is Any or kind is object:
        return lambda value: value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return functools.partial(_read_dataclass, kind)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return functools.partial(_read_enum, kind)
    return _read_time if kind is datetime else functools.partial(_read_scalar, kind)


def _union_reader(kind: Any) -> _Read:  # noqa: ANN401
    choices = typing.get_args(kind)
    optional = type(None) in choices
    readers = [_reader(choice) for choice in choices if choice is not type(None)]

    def read(value: Any) -> Any:  # noqa: ANN401
        if value is None and optional:
            return None
        failures = []
        for reader in readers:
            try:
                return reader(value)
            except ValueError as error:
                failures.append(error)
        raise failures[0]

    return read


def _read_mapping(read: _Read, value: Any) -> Any:  # noqa: ANN401
    _expect(isinstance(value, dict), dict, value)
    found = {}
    for key, child in value.items():
        try:
            found[key] = read(child)
        except _Misfit as error:
            raise error.inside(f".{key}") from None
    return found


def _sequence_reader(kind: Any, origin: Any) -> _Read:  # noqa: ANN401
    args = typing.get_args(kind)
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        return functools.partial(_read_fixed, tuple(_reader(arg) for arg in args))
    item = _reader(args[0])

    def read(value: Any) -> Any:  # noqa: ANN401
        _expect(isinstance(value, list | tuple), list, value)
        return origin(_read_items(itertools.repeat(item), value))

    return read


def _read_fixed(readers: Sequence[_Read], value: Any) -> tuple[Any, ...]:  # noqa: ANN401
    _expect(isinstance(value, list | tuple), list, value)
    if len(value) != len(readers):
        raise _Misfit(f": expected {len(readers)} items, found {len(value)}")
    return tuple(_read_items(readers, value))


def _read_items(readers: Iterable[_Read], values: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    try:
        for read, value in zip(readers, values, strict=False):  # of the readers there may be no end
            found.append(read(value))
    except _Misfit as error:
        raise error.inside(f"[{len(found)}]") from None
    return found


@functools.cache
def _fields(kind: type) -> tuple[tuple[str, _Read, bool], ...]:
    """Of each field: its name, what reads it, and whether it has to be there."""
    hints = typing.get_type_hints(kind)
    return tuple(
        (
            field.name,
            _reader(hints[field.name]),
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
    )


def _read_dataclass(kind: type, value: Any) -> Any:  # noqa: ANN401
    _expect(isinstance(value, dict), dict, value)
    found = {}
    for name, read, required in _fields(kind):
        if name in value:
            try:
                found[name] = read(value[name])
            except _Misfit as error:
                raise error.inside(f".{name}") from None
        elif required:
            raise _Misfit(" is missing").inside(f".{name}")
    return kind(**found)


def _read_enum(kind: type[enum.Enum], value: Any) -> Any:  # noqa: ANN401
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(str(member.value) for member in kind)
        raise _Misfit(f": {value!r} is not one of {names}") from None


def _read_time(value: Any) -> datetime:  # noqa: ANN401
    _expect(isinstance(value, str), str, value)
    return from_iso(value)


def _read_scalar(kind: type, value: Any) -> Any:  # noqa: ANN401
    if type(value) is kind:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return _read_whole(value)
    _expect(isinstance(value, kind) and not (kind is int and isinstance(value, bool)), kind, value)
    return value


def _read_whole(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise _Misfit(": a number larger than any here") from None


def _expect(holds: bool, kind: Any, value: Any) -> None:  # noqa: ANN401
    if not holds:
        raise _Misfit(f": expected {kind.__name__}, found {type(value).__name__}")


def canonical_json(value: object) -> bytes:
    """The one spelling of a document: sorted keys, no spaces, UTF-8, no NaN (RFC 8785's intent)."""
    return _CANONICAL.encode(to_document(value)).encode()


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def parse_json(data: bytes | str) -> Any:  # noqa: ANN401
    """JSON from outside, in UTF-8. Raises ValueError; duplicate keys, NaN and infinity are refused.

    So is half of a surrogate pair, which can be spelled as an escape: no text that holds one can be written.
    """

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

    text = data if isinstance(data, str) else data.decode("utf-8-sig")
    try:
        found = json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_float=number)
        if "\\u" in text or not text.isascii():
            _CANONICAL.encode(found).encode()
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair is no text") from None
    return found
