# SPDX-License-Identifier: Apache-2.0
"""config_fed_client.json to `tasks`, `args` and `filters`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from flprov.flare.migration.code import is_ours, migrate_path
from flprov.flare.migration.draft import Draft, args_of, as_entry, is_flares, last_name, path_of, rows_of
from flprov.flare.migration.reading import FlareJob
from flprov.flare.migration.words import COMPONENTS, FILTERS_LEFT_OUT, LEARNER_EXECUTORS, SCRIPT_EXECUTORS

_OPTION = re.compile(r"--([A-Za-z_][\w-]*)", re.ASCII)
_ASKED = {"fedavg": ("train", "evaluate"), "fedopt": ("train", "evaluate"), "scaffold": ("train", "evaluate")}


def convert_sites(job: FlareJob, draft: Draft) -> None:
    """Fill in what the sites' side says."""
    app = job.clients[0]
    for other in job.clients[1:]:
        if other.client != app.client or other.files != app.files:
            draft.note(
                f"sites {', '.join(other.sites)} ran another app ({other.name}) than {', '.join(app.sites)}"
                f" ({app.name}); every site runs {app.name} here: what differs belongs into args or site.yml"
            )
    components = {str(row.get("id", n)): row for n, row in enumerate(rows_of(app.client, "components"))}
    for row in rows_of(app.client, "executors"):
        executor = row.get("executor")
        names = row.get("tasks")
        if isinstance(executor, Mapping):
            tasks = [str(name) for name in names] if isinstance(names, list) else ["*"]
            _take_executor(tasks, executor, components, draft)
    _leave_out_evaluate(app.files, draft)
    if not draft.tasks:
        draft.note("no executor has a counterpart: write `tasks` into job.yml")
    _take_components(components, draft)
    for config, side in ((job.server.server, "server"), (app.client, "site")):
        for key, direction in (("task_data_filters", "task"), ("task_result_filters", "result")):
            for row in rows_of(config, key):
                for one in rows_of(row, "filters"):
                    _take_filter(one, direction, side, draft)


def _take_executor(
    tasks: list[str],
    executor: Mapping[str, Any],
    components: Mapping[str, Mapping[str, Any]],
    draft: Draft,
) -> None:
    name, args = last_name(executor), args_of(executor)
    if name in SCRIPT_EXECUTORS and is_flares(executor):
        code = _take_script(args, components, draft)
        known = {key for key in args if key in ("train_task_name", "evaluate_task_name")}
        for key in sorted(known):
            draft.note(f"{name}.{key}: tasks have the names that job.yml gives them")
    elif name in LEARNER_EXECUTORS and is_flares(executor):
        code = LEARNER_EXECUTORS[name]
        draft.add_args(args, name)
    elif is_flares(executor):
        ours = is_ours(path_of(executor))
        code = as_entry(migrate_path(path_of(executor))) if ours else None
        if code is None:
            draft.note(
                f"executor {path_of(executor)} has no counterpart: write a script or function for {tasks}"
            )
    else:
        code = as_entry(path_of(executor))
        draft.add_args(args, path_of(executor))
        if code is None:
            draft.note(f"executor {path_of(executor)!r} is no path of a class")
    if code is not None:
        for task in _task_names(tasks, draft):
            draft.tasks.setdefault(task, code)


def _leave_out_evaluate(files: Mapping[str, bytes], draft: Draft) -> None:
    """FLARE's training workflows never ask for it: a script that only trains would fail on it here."""
    script = draft.tasks.get("evaluate", "")
    if draft.workflow.get("type") in _ASKED and script in files and b"is_evaluate" not in files[script]:
        del draft.tasks["evaluate"]
        draft.note(
            f"task evaluate was left out, as {script} never looks at flare.is_evaluate(): the metrics of a"
            " round are those that training reports. With `evaluate` below `tasks` each new model is measured"
        )


def _task_names(tasks: list[str], draft: Draft) -> list[str]:
    """What our workflow calls them; a controller of the job's own calls them what it likes."""
    kind = draft.workflow.get("type")
    if kind is None:
        found = ["train", "validate", "submit_model"] if "*" in tasks else tasks
    else:
        found = (
            ["train", "evaluate"] if "*" in tasks else ["evaluate" if t == "validate" else t for t in tasks]
        )
        asked = _ASKED.get(str(kind))
        for task in found:
            if asked and task not in asked:
                draft.note(f"task {task}: {kind} never asks for it")
        found = [task for task in found if not asked or task in asked]
    bad = [task for task in found if not re.fullmatch(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", task)]
    for task in bad:
        draft.note(f"task {task!r}: a task's name is lower-case letters, digits, '-' and '_'; rename it")
    return [task for task in found if task not in bad]


def _take_script(
    args: Mapping[str, Any], components: Mapping[str, Mapping[str, Any]], draft: Draft
) -> str | None:
    """The script of an executor, its command line as `args`."""
    path, line = args.get("task_script_path") or args.get("script_path"), args.get("task_script_args", "")
    launcher = components.get(str(args.get("launcher_id", "launcher")), {})
    command = args.get("command") or args_of(launcher).get("script")
    try:
        words = shlex.split(str(line or ""))
        if not path and isinstance(command, str):
            command_words = shlex.split(command)
            at = next((n for n, word in enumerate(command_words) if word.endswith(".py")), None)
            if at is not None:
                path, words = command_words[at], command_words[at + 1 :]
    except ValueError as error:
        draft.note(f"the command line {line or command!r} cannot be read: {error}")
        words = []
    if not isinstance(path, str) or not path.endswith(".py"):
        draft.note("an executor for scripts names no script: write `tasks` into job.yml")
        return None
    script = PurePosixPath(path)
    if script.is_absolute() or ".." in script.parts:
        draft.note(f"the script {path!r} lies outside the app; the file of that name in custom/ was written")
        script = PurePosixPath(script.name)
    if script.parts[0] == "custom":
        script = PurePosixPath(*script.parts[1:])
    draft.add_args(_options(words, draft), str(script))
    return str(script)


def _options(words: list[str], draft: Draft) -> dict[str, Any]:
    """`--epochs 1 --fast` as `{epochs: 1, fast: true}`."""
    found: dict[str, Any] = {}
    left: list[str] = []
    position = 0
    while position < len(words):
        option = _OPTION.fullmatch(words[position].partition("=")[0])
        value: Any = words[position].partition("=")[2]
        if option is None:
            left.append(words[position])
        elif value:
            found[option[1]] = _typed(value)
        elif position + 1 < len(words) and not _OPTION.match(words[position + 1]):
            position += 1
            found[option[1]] = _typed(words[position])
        else:
            found[option[1]] = True
        position += 1
    if left:
        draft.note(f"command line: {' '.join(left)!r} is no --name value, which is what args become")
    for name in [name for name in found if "-" in name]:
        draft.note(
            f"command line: --{name} cannot be a key of args; let the script take --{name.replace('-', '_')}"
        )
        del found[name]
    return found


def _typed(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if abs(number) < float("inf") and number == number and "_" not in text else text
    return text


def _take_components(components: Mapping[str, Mapping[str, Any]], draft: Draft) -> None:
    """Components of the job's own are found by an Executor as before; FLARE's are the runtime's."""
    kept: dict[str, Any] = {}
    for component_id, row in components.items():
        path = path_of(row)
        if not is_flares(row) and as_entry(path):
            kept[component_id] = {"path": path, "args": args_of(row)}
        elif COMPONENTS.get(last_name(row)):
            draft.note(
                f"component {component_id} ({last_name(row)}) was left out: {COMPONENTS[last_name(row)]}"
            )
        elif last_name(row) not in COMPONENTS:
            draft.note(f"component {component_id} ({path}) has no counterpart")
    if not kept:
        return
    if any(code.endswith(".py") for code in draft.tasks.values()):
        draft.note(f"components {', '.join(kept)}: a script makes what it needs by itself")
    else:
        draft.args["components"] = kept


def _take_filter(row: Mapping[str, Any], direction: str, side: str, draft: Draft) -> None:
    name, args = last_name(row), args_of(row)
    where = f"filter {name} ({direction} at the {side})"
    made: dict[str, Any] | None = None
    if not is_flares(row):
        entry = as_entry(path_of(row))
        made = None if entry is None else {"type": entry, **args}
    elif name == "SVTPrivacy":
        defaults = {"fraction": 0.1, "epsilon": 0.1, "gamma": 1e-5, "tau": 1e-6}
        made = {"type": "svt_privacy", **{k: float(args.get(k, v)) for k, v in defaults.items()}}
        draft.note(f"{where}: svt_privacy has no noise_var; its epsilon is that of everything that is sent")
    elif name == "PercentilePrivacy":
        keep = 1 - float(args.get("percentile", 10)) / 100
        made = {"type": "percentile", "keep": round(keep, 6), "gamma": float(args.get("gamma", 0.01))}
    elif name == "ExcludeVars":
        made = _exclude(args, where, draft)
    if made is None:
        draft.note(f"{where} was left out: {FILTERS_LEFT_OUT.get(name, 'it has no counterpart')}")
    else:
        draft.filters.setdefault((direction, side), []).append(made)


def _exclude(args: Mapping[str, Any], where: str, draft: Draft) -> dict[str, Any] | None:
    names = args.get("exclude_vars")
    if isinstance(names, list) and names:
        return {"type": "exclude", "names": [str(name) for name in names]}
    if isinstance(names, str) and re.fullmatch(r"[\w.]+", names):
        draft.note(f"{where}: the pattern {names!r} became '*{names}*', with * and ? as in file names")
        return {"type": "exclude", "names": [f"*{names}*"]}
    draft.note(f"{where}: the regular expression {names!r} has to be said with * and ? as in file names")
    return None
