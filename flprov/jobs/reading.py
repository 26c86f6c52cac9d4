# SPDX-License-Identifier: Apache-2.0
"""From `job.yml` to a JobSpec: types here, by the strict loader; rules in `rules`."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import cast

from flprov.config import Section, open_config
from flprov.errors import NotFound
from flprov.jobs.job import (
    ABSENCE_SECONDS,
    GRACE_SECONDS,
    LATE,
    MEMORY,
    ROUNDS,
    WORKFLOW,
    Filters,
    JobSpec,
    Membership,
    Resources,
    Workflow,
)
from flprov.jobs.rules import FILTER_PLACES, Fault, find_faults
from flprov.messages import Scalar

JOB_FILE = "job.yml"
_STAND_IN = "x"  # for a required value whose problem is noted already
_OF_EVERY_WORKFLOW = ("type", "entry", "rounds", "seed", "best", "mode", "patience", "min_delta")
_NO_TASKS: Mapping[str, str] = {"train": "flprov:train"}  # likewise


def load_job(folder: Path) -> JobSpec:
    """The job that `folder/job.yml` describes, with every default filled in.

    Raises:
        NotFound: the folder or its job.yml is not there.
        ConfigError: every mistake in it, each with its line.
    """
    path = folder / JOB_FILE
    if not path.exists():
        there = "has no job.yml" if folder.is_dir() else "is not a folder"
        raise NotFound(f"{folder} {there}", hint="an app is a folder with a job.yml; see docs/job-yml.md")
    return read_job(path, _FolderFiles(folder))


def read_job(path: Path, files: Container[str] | None, *, text: bytes | None = None) -> JobSpec:
    """The job that a job.yml describes; `files` are the names in its app, if known.

    Args:
        path: where it is; only a name for messages when `text` is given.
        files: what entries and scripts are looked up in.
        text: its content, when it is not to be read from `path`.

    Raises:
        ConfigError: every mistake in it, each with its line.
    """
    with open_config(path, text=text) as top:
        reader = _Reader(top)
        spec = reader.read()
        for fault in find_faults(spec, files):
            reader.report(fault)
    return spec


class _FolderFiles(Container[str]):
    """The files under a folder, asked for one by one: an app may hold thousands."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (self._folder / name).is_file()


class _Reader:
    """Reads the types of one job.yml and remembers which section each key stands in."""

    def __init__(self, top: Section) -> None:
        self._top = top
        self._sections: dict[tuple[str, ...], Section] = {(): top}

    def read(self) -> JobSpec:
        top = self._top
        return JobSpec(
            name=top.text("name") or _STAND_IN,
            workflow=self._workflow(),
            model=top.text("model", None),
            tasks=self._tasks(),
            args=top.values("args", {}),
            data=top.texts("data", ()),
            needs=top.texts("needs", ()),
            sites=self._sites(),
            resources=self._resources(),
            filters=self._filters(),
            priority=top.integer("priority", 0),
        )

    def report(self, fault: Fault) -> None:
        """Note a broken rule at the line of the key that breaks it."""
        for depth in reversed(range(len(fault.where) + 1)):
            section = self._sections.get(fault.where[:depth])
            if section is not None:
                rest = fault.where[depth:]
                section.problem(rest[0] if rest else None, fault.message, item=fault.item)
                return

    def _section(self, *where: str) -> Section | None:
        parent = self._sections.get(where[:-1])
        section = parent.section(where[-1], required=False) if parent else None
        if section is not None:
            self._sections[where] = section
        return section

    def _workflow(self) -> Workflow:
        section = self._section("workflow")
        if section is None:
            return Workflow()
        kind, entry = section.text("type", None), section.text("entry", None)
        rounds = section.integer("rounds", ROUNDS)
        keys = section.keys()
        plain = Workflow()
        seed = section.integer("seed", plain.seed)
        best, mode = section.text("best", None), section.text("mode", plain.mode)
        patience = section.integer("patience", plain.patience)
        min_delta = section.number("min_delta", plain.min_delta)
        others = [key for key in keys if key not in _OF_EVERY_WORKFLOW]
        options = {key: cast("Scalar", section.value(key)) for key in others}
        if kind is None and not section.has("entry"):
            kind = WORKFLOW
        return Workflow(
            type=kind,
            entry=entry,
            rounds=rounds,
            seed=seed,
            best=best,
            mode=mode,
            patience=patience,
            min_delta=min_delta,
            options=options,
        )

    def _tasks(self) -> Mapping[str, str]:
        value = self._top.value("tasks")
        if isinstance(value, dict):
            return self._task_table(value)
        if isinstance(value, str):
            return {"train": value}
        if self._top.has("tasks"):
            self._top.problem("tasks", "'tasks' must be a script, or a mapping from task to code")
        return _NO_TASKS

    def _task_table(self, value: Mapping[str, object]) -> Mapping[str, str]:
        section = self._section("tasks")
        assert section is not None  # its value is a mapping
        for key in section.keys():  # noqa: SIM118
            section.has(key)
        found = {}
        for key, code in value.items():
            if isinstance(code, str):
                found[key] = code
            else:
                section.problem(key, f"'tasks.{key}' must be a script, module:function or module:Class")
        return _NO_TASKS if section.keys() and not found else found

    def _sites(self) -> Membership:
        section = self._section("sites")
        if section is None:
            return Membership()
        absence = section.duration("absence", None)
        return Membership(
            min=section.integer("min", None),
            required=section.texts("required", ()),
            absence_seconds=ABSENCE_SECONDS if absence is None else absence.total_seconds(),
            max_weight=section.number("max_weight", None),
            late=section.text("late", LATE[0]),
        )

    def _resources(self) -> Resources:
        section = self._section("resources")
        if section is None:
            return Resources()
        grace = section.duration("grace", None)
        return Resources(
            gpus=section.integer("gpus", 0),
            gpu_memory=section.size("gpu_memory", 0),
            cpus=section.integer("cpus", 1),
            memory=section.size("memory", MEMORY),
            disk=section.size("disk", 0),
            grace_seconds=GRACE_SECONDS if grace is None else grace.total_seconds(),
        )

    def _filters(self) -> Filters:
        self._section("filters")
        for direction in dict.fromkeys(place[0] for place in FILTER_PLACES):
            self._section("filters", direction)
        chains = {f"{direction}_{side}": self._chain(direction, side) for direction, side in FILTER_PLACES}
        return Filters(**chains)

    def _chain(self, direction: str, side: str) -> tuple[Mapping[str, object], ...]:
        parent = self._sections.get(("filters", direction))
        if parent is None:
            return ()
        chain = []
        for number, section in enumerate(parent.sections(side, required=False)):
            self._sections["filters", direction, side, str(number)] = section
            section.has("type")  # so that a missing one is asked for by name
            keys = section.keys()
            chain.append({key: section.value(key) for key in keys})
        return tuple(chain)
