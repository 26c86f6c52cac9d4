# SPDX-License-Identifier: Apache-2.0
"""Draft: the job.yml that a conversion is writing, with a note for whatever does not go over."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_LABEL = re.compile(r"[^a-z0-9_-]+")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_ENTRY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


@dataclass
class Draft:
    """Filled in by the converters, one after the other."""

    name: str
    workflow: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    tasks: dict[str, str] = field(default_factory=dict)
    args: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    sites: dict[str, Any] = field(default_factory=dict)
    resources: dict[str, Any] = field(default_factory=dict)
    filters: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # written beside the job's own code
    notes: list[str] = field(default_factory=list)

    def note(self, words: str) -> None:
        """Say once what does not go over, or goes over changed."""
        if words not in self.notes:
            self.notes.append(words)

    def add_args(self, args: Mapping[str, Any], whose: str) -> None:
        """Take constructor arguments into `args`, which all tasks share."""
        for name, value in args.items():
            if not _IDENTIFIER.fullmatch(name):
                self.note(f"{whose}: the argument {name!r} is no name for a parameter and was left out")
            elif name in self.args and self.args[name] != value:
                self.note(f"{whose}: its {name} is {value!r}, but args.{name} is {self.args[name]!r} already")
            else:
                self.args[name] = value

    def render(self, source: str) -> str:
        """The text of job.yml."""
        lines = [f"# From the NVIDIA FLARE job {source}; MIGRATION.md says what did not come along.", ""]
        lines.append(f"name: {_flow(self.name)}")
        lines.append(f"workflow: {_flow(self.workflow)}")
        if self.model:
            lines.append(f"model: {_flow(self.model)}")
        lines.append("tasks:" if self.tasks else "tasks: {}")
        lines += [f"  {_flow(task)}: {_flow(code)}" for task, code in self.tasks.items()]
        if self.args:
            lines.append("args:")
            lines += [f"  {name}: {_flow(value)}" for name, value in self.args.items()]
        for key, value in (("needs", list(self.needs)), ("sites", self.sites), ("resources", self.resources)):
            if value:
                lines.append(f"{key}: {_flow(value)}")
        if any(self.filters.values()):
            lines.append("filters:")
            for direction in ("task", "result"):
                places = {
                    side: rows for (way, side), rows in self.filters.items() if way == direction and rows
                }
                if places:
                    lines.append(f"  {direction}:")
                    for side, rows in places.items():
                        lines.append(f"    {side}:")
                        lines += [f"      - {_flow(row)}" for row in rows]
        return "\n".join(lines) + "\n"


def label(name: str) -> str:
    """A name as job.yml takes it."""
    found = _LABEL.sub("-", name.lower()).strip("-_")[:63].strip("-_")
    return found or "job"


def as_entry(path: str) -> str | None:
    """`module.Class` as `module:Class`; None when it is not a dotted path of Python names."""
    if not _ENTRY.fullmatch(path):
        return None
    module, _, name = path.rpartition(".")
    return f"{module}:{name}"


def last_name(config: Mapping[str, Any]) -> str:
    """The name of the class that a component's `path`, `class_path` or `name` means."""
    return str(path_of(config)).rpartition(".")[2]


def path_of(config: Mapping[str, Any]) -> str:
    """Its path, or name."""
    return str(config.get("path") or config.get("class_path") or config.get("name") or "")


def is_flares(config: Mapping[str, Any]) -> bool:
    """Whether a component is of a class of FLARE's own: by its path, or by a name without one."""
    path = path_of(config)
    return path.startswith("nvflare.") or "." not in path


def args_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Its args."""
    found = config.get("args")
    return dict(found) if isinstance(found, Mapping) else {}


def rows_of(config: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    """The objects in a list of a configuration."""
    found = (config or {}).get(key)
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []


def _flow(value: object) -> str:
    """JSON, which is YAML too; short names without quotes, for the eye."""
    if isinstance(value, str) and re.fullmatch(
        r"[A-Za-z_][\w.]*(:[A-Za-z_]\w*)?|[\w/]+\.py", value, re.ASCII
    ):
        plain = value.lower() not in ("y", "n", "yes", "no", "on", "off", "true", "false", "null")
        return value if plain and ":" not in value else json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return json.dumps(value, ensure_ascii=True)
