# SPDX-License-Identifier: Apache-2.0
"""config_fed_server.json and meta.json to `workflow`, `model`, `sites` and `filters`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flprov.flare.migration.code import is_ours, migrate_path
from flprov.flare.migration.draft import Draft, args_of, as_entry, is_flares, last_name, path_of, rows_of
from flprov.flare.migration.reading import FlareJob
from flprov.flare.migration.words import (
    ADAPTED_ARGS,
    ADAPTERS,
    COMPONENTS,
    EVALUATIONS,
    META_LEFT_OUT,
    META_TAKEN,
    NOT_NEEDED,
    WORKFLOWS,
)

_FACTORY = "flare_workflow"
_MODEL = "flare_model"
_TAKEN = {"num_rounds", "min_clients"}


def convert_server(job: FlareJob, draft: Draft) -> None:
    """Fill in what the server's side says."""
    _take_meta(job.meta, draft)
    components = {
        str(row.get("id", number)): row for number, row in enumerate(rows_of(job.server.server, "components"))
    }
    rows = [row for row in rows_of(job.server.server, "workflows") if last_name(row) not in NOT_NEEDED]
    training = [row for row in rows if WORKFLOWS.get(last_name(row)) not in EVALUATIONS]
    chosen = (training or rows)[:1]
    for row in rows:
        if row not in chosen:
            kind = WORKFLOWS.get(last_name(row), "its own")
            draft.note(
                f"workflow {last_name(row)}: a job has one workflow; submit the app again for this one"
                f" (workflow: {{type: {kind}}})"
            )
    if not chosen:
        draft.note("config_fed_server.json names no workflow; fedavg was written")
        draft.workflow = {"type": "fedavg"}
    else:
        _take_workflow(chosen[0], components, draft)
    _take_components(components, draft)
    given = args_of(chosen[0]).get("initial_model") if chosen else None
    _take_model(components, {**(job.server.server or {}), "initial_model": given}, draft)


def _take_meta(meta: Mapping[str, Any], draft: Draft) -> None:
    least, required = meta.get("min_clients"), meta.get("mandatory_clients")
    if isinstance(least, int) and least > 0:
        draft.sites["min"] = least
    if isinstance(required, list) and required:
        draft.sites["required"] = [str(name) for name in required]
    gpus = [
        found.get("num_of_gpus") or found.get("num_gpus")
        for found in (meta.get("resource_spec") or {}).values()
        if isinstance(found, Mapping)
    ]
    counts = [count for count in gpus if isinstance(count, int)]
    if counts:
        draft.resources["gpus"] = max(counts)
    for key in meta:
        if key not in META_TAKEN:
            draft.note(f"meta.json: left out {key}: {META_LEFT_OUT.get(key, 'it has no counterpart')}")


def _take_workflow(row: Mapping[str, Any], components: Mapping[str, Mapping[str, Any]], draft: Draft) -> None:
    name, args = last_name(row), args_of(row)
    rounds = args.get("num_rounds")
    least = args.get("min_clients") or args.get("num_clients")
    if isinstance(least, int) and least > 0:
        draft.sites["min"] = max(least, draft.sites.get("min", 0))
    if not is_flares(row):
        _take_own_workflow(row, components, draft)
        return
    if name in ADAPTERS and (kept := _what_needs_adapter(args, components)):
        draft.note(f"workflow {name}: FLARE's own, as it has {', '.join(kept)}; check {ADAPTERS[name]}")
        taken = {key: value for key, value in args.items() if key not in ("initial_model", "model")}
        _take_own_workflow({"path": migrate_path(ADAPTERS[name]), "args": taken}, components, draft)
        return
    kind = WORKFLOWS.get(name)
    if kind is None:
        draft.note(f"workflow {path_of(row)} has no counterpart; fedavg was written in its place: check it")
        kind = "fedavg"
    draft.workflow = {"type": kind}
    if isinstance(rounds, int):
        draft.workflow["rounds"] = rounds
    optimizer = next(
        (r for r in components.values() if last_name(r) == "PTFedOptModelShareableGenerator"), None
    )
    if kind == "fedopt" or optimizer is not None:
        _take_optimizer(args if optimizer is None else args_of(optimizer), draft)
    for key in ("wait_time_after_min_received", "train_timeout"):
        if args.get(key):
            draft.note(f"{name}.{key}: how long a site may be away is sites.absence in job.yml")


def _what_needs_adapter(args: Mapping[str, Any], components: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a workflow of ours would leave out: components of the job's own, and arguments."""
    used = (args.get("aggregator_id"), args.get("shareable_generator_id"), args.get("persistor_id"))
    found = {str(key): components[str(key)] for key in used if str(key) in components}
    own = [key for key, row in found.items() if not is_flares(row) or _is_special(row)]
    return own + [key for key in ADAPTED_ARGS if args.get(key)]


def _is_special(row: Mapping[str, Any]) -> bool:
    """Whether a component of FLARE's does something else than the runtime's own."""
    args = args_of(row)
    weights = args.get("aggregation_weights")
    uneven = isinstance(weights, Mapping) and len(set(weights.values())) > 1
    return is_ours(path_of(row)) and bool(uneven or args.get("exclude_vars"))


def _take_optimizer(args: Mapping[str, Any], draft: Draft) -> None:
    found = args.get("optimizer_args")
    optimizer = found if isinstance(found, Mapping) else {}
    name = last_name(optimizer).lower()
    draft.workflow["type"] = "fedopt"
    if name in ("sgd", "adam", "adagrad"):
        draft.workflow["optimizer"] = name
    elif name:
        draft.note(
            f"the server's optimizer {path_of(optimizer)} is no sgd, adam, yogi or adagrad; sgd was written"
        )
    inner = args_of(optimizer)
    for key in ("lr", "momentum") if name == "sgd" else ("lr",):
        if isinstance(inner.get(key), int | float):
            draft.workflow[key] = float(inner[key])
    if name == "adam":
        draft.note(
            "fedopt's adam is the paper's (tau in place of eps, no correction of the bias), not torch's"
        )
    if args.get("lr_scheduler_args"):
        draft.note("lr_scheduler_args: fedopt keeps its learning rate")


def _take_own_workflow(
    row: Mapping[str, Any], components: Mapping[str, Mapping[str, Any]], draft: Draft
) -> None:
    """A controller of the job's: by itself, or through a factory when it uses components of the job's."""
    entry, args = as_entry(path_of(row)), args_of(row)
    if entry is None:
        draft.note(f"workflow {path_of(row)!r} is no path of a class; fedavg was written in its place")
        draft.workflow = {"type": "fedavg"}
        return
    own = {
        key: component
        for key, component in components.items()
        if not is_flares(component) or _is_special(component)
    }
    plain = all(isinstance(value, str | int | float | bool) for value in args.values())
    rounds = args.get("num_rounds")
    draft.workflow = {"rounds": rounds if isinstance(rounds, int) else 1}
    if not isinstance(rounds, int):
        draft.note("the controller says no num_rounds; workflow.rounds is 1: set it to what it counts")
    if plain and not own:
        draft.workflow = {"entry": entry, **draft.workflow, **args}
        return
    draft.workflow = {"entry": f"{_FACTORY}:workflow", **draft.workflow}
    draft.files[f"{_FACTORY}.py"] = _factory(entry, args, own, draft)


def _factory(
    entry: str, args: Mapping[str, Any], components: Mapping[str, Mapping[str, Any]], draft: Draft
) -> str:
    module, _, name = entry.partition(":")
    lines = [
        '"""The workflow of this job with its components, as config_fed_server.json put them together."""',
        "",
        f"import {module}",
        "",
    ]
    body = [f"    controller = {module}.{name}(**{_python(args)})"]
    for component_id, component in components.items():
        path = as_entry(migrate_path(path_of(component)))
        if path is None:
            draft.note(f"component {component_id}: {path_of(component)!r} is no path of a class")
            continue
        there, _, kind = path.partition(":")
        lines.insert(3, f"import {there}")
        made = f"{there}.{kind}(**{_python(args_of(component))})"
        body.append(f"    controller.add_component({json.dumps(component_id)}, {made})")
    lines = [*lines[:2], *sorted(set(lines[2:]) - {""}), "", ""]
    return "\n".join([*lines, "def workflow():", *body, "    return controller", ""])


def _python(value: object) -> str:
    """A JSON value as Python writes it."""
    return repr(value)


def _take_components(components: Mapping[str, Mapping[str, Any]], draft: Draft) -> None:
    for component_id, row in components.items():
        name = last_name(row)
        if name in ("IntimeModelSelector", "IntimeModelSelectionHandler", "SimpleModelSelector"):
            args = args_of(row)
            draft.workflow.setdefault("best", str(args.get("key_metric", "val_accuracy")))
            if args.get("negate_key_metric"):
                draft.workflow["mode"] = "min"
        elif is_flares(row) and name not in COMPONENTS and "args" in row and "Persistor" not in name:
            draft.note(f"component {component_id} ({path_of(row)}) has no counterpart")
        elif COMPONENTS.get(name):
            draft.note(f"component {component_id} ({name}) was left out: {COMPONENTS[name]}")
        if name == "InTimeAccumulateWeightedAggregator":
            _note_means(component_id, args_of(row), draft)


def _note_means(component_id: str, args: Mapping[str, Any], draft: Draft) -> None:
    """What FLARE's aggregator can do, and no mean of ours."""
    if args.get("weigh_by_local_iter", True) is False:
        draft.note(
            f"{component_id}.weigh_by_local_iter: updates that are multiplied by their steps already are not"
            " taken; where sites are to count alike, send no NUM_STEPS_CURRENT_ROUND"
        )
    if isinstance(args.get("expected_data_kind"), Mapping):
        draft.note(
            f"{component_id}.expected_data_kind: of a collection, one set of weights and metrics are averaged"
        )


def _take_model(components: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any], draft: Draft) -> None:
    persistors = [row for row in components.values() if "Persistor" in last_name(row)]
    if not persistors and config.get("initial_model"):  # of FedAvg's own
        persistors = [{"name": "PTFileModelPersistor", "args": {"model": config["initial_model"]}}]
    if not persistors:
        draft.note(
            "no persistor names a model: without `model` the first round averages what the sites start with"
        )
        return
    row = persistors[0]
    if last_name(row) == "NPModelPersistor":
        _take_numpy_model(row, draft)
        return
    if not is_flares(row) and draft.files.get(f"{_FACTORY}.py"):
        return  # it makes the model itself, as a component of the workflow
    if not is_flares(row):
        draft.note(f"persistor {path_of(row)}: name the model that it makes under `model` in job.yml")
        return
    model = args_of(row).get("model", config.get("model_class_path"))
    if isinstance(model, str) and model in components:
        model = components[model]
    path = path_of(model) if isinstance(model, Mapping) else str(model or "")
    entry = as_entry(migrate_path(path))
    if entry is None:
        draft.note(f"persistor {last_name(row)} names no class of a model: write `model` into job.yml")
        return
    args = args_of(model) if isinstance(model, Mapping) else {}
    if not args:
        draft.model = entry
        return
    module, _, name = entry.partition(":")
    draft.model = f"{_MODEL}:model"
    draft.files[f"{_MODEL}.py"] = (
        '"""The model with the arguments that config_fed_server.json gave it."""\n\n'
        f"import {module}\n\n\ndef model():\n    return {module}.{name}(**{_python(args)})\n"
    )


def _take_numpy_model(row: Mapping[str, Any], draft: Draft) -> None:
    """The array that FLARE's persistor for numpy starts from, as its default if the job does not say it."""
    values = args_of(row).get("model") or [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    draft.model = f"{_MODEL}:model"
    draft.files[f"{_MODEL}.py"] = (
        '"""The model that config_fed_server.json gave NPModelPersistor."""\n\nimport numpy as np\n\n\n'
        f'def model():\n    return {{"numpy_key": np.array({_python(values)}, dtype=np.float32)}}\n'
    )
    if args_of(row).get("source_ckpt_file_full_name"):
        draft.note("NPModelPersistor: load its checkpoint in the function model() of flare_model.py")
