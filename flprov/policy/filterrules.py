# SPDX-License-Identifier: Apache-2.0
"""`filters` and `statistics` in policy.yml: what the site's agent does to every task and update of a job.

filters:
  result:                          # in this order, to every update, before it leaves
    - {type: gaussian_noise, epsilon: 2, delta: 1e-5, max_norm: 1}
  task: [{type: clip, limit: 100}]   # to every model, before job code sees it
statistics: {min_count: 10, max_bins_percent: 10, extremes: noise}
tasks: {refuse: [submit_model]}    # names of tasks that this site does not do

Only our own filters, by name, and without a `seed`, which would undo the noise. `flprov.sdk.filters` has
them; here is what their options may be, so that a mistake is found when the file is read, with its line. A
test keeps the two alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flprov.config import Section
from flprov.messages import StatisticsRules

Row = Mapping[str, object]
EXTREMES = ("exact", "noise", "never")
_TASK_NAME = re.compile(r"[!-~]{1,100}")


@dataclass(frozen=True, kw_only=True)
class Number:
    """An option that is a number: above 0, or also 0."""

    required: bool = True
    zero: bool = False
    most: float | None = None
    open: bool = False  # `most` itself is too much


@dataclass(frozen=True, kw_only=True)
class Block:
    """How many numbers share a scale."""


@dataclass(frozen=True, kw_only=True)
class Word:
    """One of a few."""

    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Names:
    """Patterns of tensors' names."""


Option = Number | Block | Word | Names

FORMS: Mapping[str, Mapping[str, Option]] = {
    "clip": {"limit": Number()},
    "clip_norm": {"max_norm": Number()},
    "exclude": {"names": Names()},
    "gaussian_noise": {
        "sigma": Number(required=False, zero=True),
        "epsilon": Number(required=False),
        "delta": Number(required=False, most=1, open=True),
        "max_norm": Number(required=False),
    },
    "percentile": {"keep": Number(most=1), "gamma": Number(required=False)},
    "quantize": {"to": Word(words=("fp16", "int8")), "block": Block()},
    "svt_privacy": {
        "fraction": Number(most=1),
        "epsilon": Number(),
        "gamma": Number(),
        "tau": Number(zero=True),
    },
}
ON_TASKS = ("clip", "exclude", "quantize")


@dataclass(frozen=True, kw_only=True)
class FilterRules:
    """What happens to tensors at this site, whatever the job says: rows of `type` and options, in order."""

    task: tuple[Row, ...] = ()
    result: tuple[Row, ...] = ()

    @property
    def are_private(self) -> bool:
        """Whether a filter of updates promises an epsilon, which holds for so many answers and no more."""
        return any(row["type"] == "svt_privacy" or "epsilon" in row for row in self.result)

    @property
    def in_words(self) -> str:
        """Which filters what passes; empty when there are none."""
        return "; ".join(
            f"{what} pass {', '.join(str(row['type']) for row in rows)}"
            for what, rows in (("models that come", self.task), ("updates that leave", self.result))
            if rows
        )


def read_filter_rules(section: Section | None) -> FilterRules:
    """The rules in that part of the file; none when there is none."""
    if section is None:
        return FilterRules()
    return FilterRules(
        task=tuple(_read_row(row, ON_TASKS) for row in section.sections("task", required=False)),
        result=tuple(_read_row(row, tuple(FORMS)) for row in section.sections("result", required=False)),
    )


def read_statistics_rules(section: Section | None) -> StatisticsRules:
    """The rules in that part of the file; the default ones when there is none."""
    default = StatisticsRules()
    if section is None:
        return default
    percent = section.number("max_bins_percent", default.max_bins_percent, maximum=100)
    if percent <= 0:
        section.problem("max_bins_percent", f"'max_bins_percent' must be above 0, not {percent:g}")
    return StatisticsRules(
        min_count=section.integer("min_count", default.min_count, minimum=1),
        max_bins_percent=percent,
        extremes=section.choice("extremes", EXTREMES, default.extremes),
    )


def read_refused_tasks(section: Section | None) -> frozenset[str]:
    """The names under `tasks: {refuse: [...]}`."""
    if section is None:
        return frozenset()
    return frozenset(section.texts("refuse", (), pattern=_TASK_NAME.pattern, what="the name of a task"))


def _read_row(row: Section, kinds: tuple[str, ...]) -> Row:
    kind = row.choice("type", kinds, None)
    if kind is None:
        if not row.has("type"):
            row.problem(None, "an item without 'type', which names the filter")
        for key in row.keys():  # noqa: SIM118 - a Section is not a mapping
            row.has(key)  # of which filter these are the options is not known
        return {}
    found: dict[str, object] = {"type": kind}
    for name, option in FORMS[kind].items():
        value = _read_option(row, name, option)
        if value is not None:
            found[name] = value
    if kind == "exclude":
        found["required"] = False  # the same line serves jobs that have no such tensors
    if kind == "gaussian_noise":
        _verify_noise(row)
    if kind == "svt_privacy" and {"tau", "gamma"} <= found.keys():
        _verify_threshold(row, found)
    if kind == "quantize" and "block" in found and found.get("to") != "int8":
        row.problem("block", "'block' stands with int8 only")
    return found


def _read_option(row: Section, name: str, option: Option) -> object:
    match option:
        case Number():
            return _read_number(row, name, option)
        case Word():
            return row.choice(name, option.words)
        case Block():
            return row.integer(name, None, minimum=16, maximum=1 << 16)
        case Names():
            names = row.texts(name)
            if not names and row.has(name):
                row.problem(name, f"{name!r} must name at least one tensor")
            return names


def _read_number(row: Section, name: str, option: Number) -> float | None:
    if option.required and not row.has(name):
        row.number(name)  # says that it is missing
        return None
    value = row.number(name, None, minimum=0 if option.zero else None)
    if value is None:
        return None
    if value <= 0 and not option.zero:
        row.problem(name, f"{name!r} must be above 0, not {value:g}")
    if option.most is not None and (value > option.most or (option.open and value == option.most)):
        row.problem(name, f"{name!r} must be {'below' if option.open else 'at most'} {option.most:g}")
    return value


def _verify_noise(row: Section) -> None:
    private = [name for name in ("epsilon", "delta", "max_norm") if row.has(name)]
    if (row.has("sigma") and private) or (not row.has("sigma") and len(private) < 3):
        row.problem("type", "gaussian_noise takes sigma, or epsilon, delta and max_norm together")


def _verify_threshold(row: Section, found: Row) -> None:
    tau, gamma = found["tau"], found["gamma"]
    if isinstance(tau, int | float) and isinstance(gamma, int | float) and tau > gamma:
        row.problem("tau", "'tau' must not be above 'gamma'")
