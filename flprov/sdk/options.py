# SPDX-License-Identifier: Apache-2.0
"""Options from job.yml to a callable's keyword arguments, strictly."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping

from flprov._base import from_document
from flprov.errors import ConfigError


def read_options(
    target: Callable[..., object], options: Mapping[str, object], where: str, *, given: int = 0
) -> dict[str, object]:
    """`options` as keyword arguments for `target`, checked against its names and annotations.

    Args:
        target: a function or a class; its parameters are the options it knows.
        options: what job.yml says.
        where: where it says so, e.g. "filters.result.site[0]".
        given: how many leading parameters the caller fills in itself.

    Raises:
        ConfigError: unknown and missing options and wrong types, all of them.
    """
    parameters = list(inspect.signature(target).parameters.values())[given:]
    known = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    found: dict[str, object] = {}
    problems = []
    hints = _hints(target)
    for name, value in options.items():
        if name not in known and not takes_any:
            problems.append(f"{where}: unknown option {name!r}{suggest(name, known)}")
            continue
        try:
            found[name] = from_document(hints.get(name, object), value, f"{where}.{name}")
        except ValueError as error:
            problems.append(str(error))
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in options:
            problems.append(f"{where}.{name} is missing")
    if problems:
        raise ConfigError(problems)
    return found


def suggest(word: str, choices: typing.Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or the choices when none is near."""
    from flprov.config import nearest  # late: it is only needed for an error

    names = sorted(choices)
    near = nearest(word, names)
    if near:
        return f" (did you mean {near!r}?)"
    return f" (there are: {', '.join(names)})" if names else " (there are none)"


def _hints(target: Callable[..., object]) -> dict[str, type[object]]:
    """The annotations of `target`; none where a job's own code has some that do not resolve."""
    function = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}
