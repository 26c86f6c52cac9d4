# SPDX-License-Identifier: Apache-2.0
"""`--set KEY=VALUE`: change a job at submission, with the type of what is already there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any

from flprov._base import from_document, parse_json, to_document
from flprov.config import nearest, parse_duration, parse_size, shown
from flprov.errors import ConfigError
from flprov.jobs.job import JobSpec
from flprov.jobs.rules import find_faults

Parse = Callable[[str], object]


def override(spec: JobSpec, settings: Mapping[str, str]) -> JobSpec:
    """The job with some of its values replaced, as in `{"rounds": "3", "args.lr": "0.1"}`.

    Keys are those of job.yml joined by dots; `rounds` is short for `workflow.rounds`. A key under
    `args` or `workflow` must be there already, and keeps its type: a typing error that would
    become a silent new argument is a mistake here.

    Raises:
        ConfigError: unknown keys (with the nearest known one), values of the wrong type, and
            values that job.yml could not have; all of them.
    """
    document = to_document(spec)
    places = _places(document)
    problems = []
    for key, text in settings.items():
        if key not in places:
            problems.append(f"--set {key}={text}: {_unknown(key, places)}")
            continue
        path, parse = places[key]
        try:
            _put(document, path, parse(text))
        except ValueError as error:
            problems.append(f"--set {key}={text}: {error}")
    if problems:
        raise ConfigError(problems)
    changed = from_document(JobSpec, document)
    faults = [fault.message for fault in find_faults(changed)]
    if faults:
        raise ConfigError([f"--set: {message}" for message in faults])
    return changed


def _places(document: Mapping[str, Any]) -> dict[str, tuple[tuple[str, ...], Parse]]:
    """Every key that can be set: where it stands in the document and how its text is read."""
    whole = _json(int)
    places: dict[str, tuple[tuple[str, ...], Parse]] = {
        "name": (("name",), str),
        "model": (("model",), str),
        "data": (("data",), _names),
        "rounds": (("workflow", "rounds"), whole),
        "workflow.rounds": (("workflow", "rounds"), whole),
        "workflow.seed": (("workflow", "seed"), whole),
        "workflow.best": (("workflow", "best"), str),
        "workflow.mode": (("workflow", "mode"), str),
        "workflow.patience": (("workflow", "patience"), whole),
        "workflow.min_delta": (("workflow", "min_delta"), _json(float)),
        "sites.min": (("sites", "min"), whole),
        "sites.required": (("sites", "required"), _names),
        "sites.absence": (("sites", "absence_seconds"), _seconds),
        "sites.late": (("sites", "late"), str),
        "sites.max_weight": (("sites", "max_weight"), _json(float)),
        "priority": (("priority",), whole),
        "resources.gpus": (("resources", "gpus"), whole),
        "resources.gpu_memory": (("resources", "gpu_memory"), parse_size),
        "resources.cpus": (("resources", "cpus"), whole),
        "resources.memory": (("resources", "memory"), parse_size),
        "resources.disk": (("resources", "disk"), parse_size),
        "resources.grace": (("resources", "grace_seconds"), _seconds),
    }
    for key, value in document["workflow"]["options"].items():
        places[f"workflow.{key}"] = (("workflow", "options", key), _typed(value))
    kind = "entry" if document["workflow"]["type"] is None else "type"
    places[f"workflow.{kind}"] = (("workflow", kind), str)
    for key, value in document["args"].items():
        places[f"args.{key}"] = (("args", key), _typed(value))
    for key in document["tasks"]:
        places[f"tasks.{key}"] = (("tasks", key), str)
    return places


def _unknown(key: str, places: Mapping[str, object]) -> str:
    best = nearest(key, places)
    rest = f" (did you mean {best!r}?)" if best else f" (known: {', '.join(sorted(places))})"
    return f"this job has no {shown(key)}{rest}"


def _put(document: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text.strip() else []


def _seconds(text: str) -> float:
    return parse_duration(text).total_seconds()


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a JSON list",
    dict: "a JSON object",
}


def _typed(present: object) -> Parse:
    """Reads text as the type of a value that is there: text as it stands, the rest as JSON."""
    if isinstance(present, str):
        return str
    return _json(type(present), f", as {shown(str(present))} in job.yml is")


def _json(kind: type, why: str = "") -> Parse:
    """Reads JSON of this type; of any, where there is none."""

    def parse(text: str) -> object:
        try:
            value: object = parse_json(text)
        except ValueError:
            value = text
        if kind is NoneType:
            return value
        if kind is float and type(value) is int:
            try:
                value = float(value)
            except OverflowError:
                raise ValueError("is too large a number") from None
        if type(value) is not kind:
            raise ValueError(f"must be {_WORDS[kind]}{why}")
        return value

    return parse
