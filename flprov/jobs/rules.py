# SPDX-License-Identifier: Apache-2.0
"""What a job may say: one list of rules for `job.yml`, for `--set`, and for what comes off the wire.

A JobSpec inside a submission was written by a person whom the site may not trust, with a program
that may not be ours; so the rules are on the value, not on the file that it came from. Nothing is
imported or run here.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from flprov._base import dataclass
from flprov.config import shown
from flprov.errors import ConfigError, Misuse
from flprov.jobs.filenames import PATH_BYTES, verify_path
from flprov.jobs.job import LATE, MODES, Filters, JobSpec, Membership, Resources, Workflow

if TYPE_CHECKING:
    from packaging.requirements import Requirement

LABEL = r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?"
LABEL_WORDS = "lower-case letters, digits, '-' and '_', at most 63, a letter or digit at both ends"
SITE = r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?"  # as in a certificate
MOST_ROUNDS = 1_000_000
MOST_ITEMS = 256  # in any one list or mapping of the file
MOST_SITES = 10_000
LONGEST_TEXT = 4096
DEPTH = 8  # of a value under `args`
YEAR = 365 * 86400  # seconds
MOST_PRIORITY = 100


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that a job may not say."""

    where: tuple[str, ...]  # the keys that lead to it: ("sites", "min")
    message: str  # a sentence that names the key
    item: str | None = None  # the text of the item, if the value is a list


Faults = Iterator[Fault]


def verify_spec(spec: JobSpec, files: Container[str] | None = None) -> JobSpec:
    """The job itself, if it keeps every rule; with `files`, also that what it names is among them.

    Raises:
        ConfigError: it does not; one problem for each rule that is broken.
    """
    faults = find_faults(spec, files)
    if faults:
        raise ConfigError([fault.message for fault in faults])
    return spec


def find_faults(spec: JobSpec, files: Container[str] | None = None) -> list[Fault]:
    """Everything that is wrong with a job. `files`: the names in its app, where they are known."""
    entries = _Entries(files, spec.needs)
    return [
        *_name_faults(spec),
        *_workflow_faults(spec.workflow, entries),
        *_model_faults(spec.model, entries),
        *_task_faults(spec.tasks, entries),
        *_args_faults(spec.args),
        *_label_faults(("data",), spec.data, LABEL, LABEL_WORDS),
        *_needs_faults(spec.needs),
        *_sites_faults(spec.sites),
        *_resource_faults(spec.resources),
        *_filter_faults(spec.filters, entries),
        *_range(("priority",), spec.priority, -MOST_PRIORITY, MOST_PRIORITY),
    ]


def _fault(where: tuple[str, ...], what: str, item: str | None = None) -> Fault:
    return Fault(where=where, message=f"{shown('.'.join(where), 120)} {what}", item=item)


def _range(where: tuple[str, ...], value: float, least: float, most: float, unit: str = "") -> Faults:
    if not least <= value <= most:  # also true of NaN
        found = f"{value:,}" if abs(value) < 2**63 else "a number beyond 64 bits"
        yield _fault(where, f"must be between {least:,} and {most:,}{unit}, not {found}")


def _name_faults(spec: JobSpec) -> Faults:
    if not re.fullmatch(LABEL, spec.name):
        yield _fault(("name",), f"must be {LABEL_WORDS}, not {shown(spec.name)}")


# ---- what names code or a file in the app --------------------------------------------------


class _Entries:
    """Checks `module:attribute` and file names against what the app holds and needs."""

    def __init__(self, files: Container[str] | None, needs: Iterable[str]) -> None:
        self._files = files
        self._packages = {"flprov", *_packages(needs)}

    def code(self, where: tuple[str, ...], text: str) -> Faults:
        """`module:attribute`, the module in the app, or in a package that the job needs."""
        module, colon, attribute = text.partition(":")
        parts = module.split(".")
        if not colon or not all(map(_is_identifier, [*parts, attribute])):
            yield _fault(where, f"must be module:attribute (as in model:Net), not {shown(text)}")
        elif self._files is not None and not self._has_module(parts):
            path = "/".join(parts) + ".py"
            hint = f"no {path} in the app, and {parts[0]!r} is not a package under 'needs'"
            yield _fault(where, f"names the module {module!r}: {hint}")

    def file(self, where: tuple[str, ...], text: str) -> Faults:
        """A file of the app."""
        try:
            verify_path(text)
        except Misuse as error:
            yield _fault(where, f"must name a file of the app: {error}")
            return
        if self._files is not None and text not in self._files:
            yield _fault(where, f"names {shown(text)}, which is not in the app")

    def _has_module(self, parts: list[str]) -> bool:
        assert self._files is not None
        path = "/".join(parts)
        short = len(path) < PATH_BYTES  # no app has longer names, and no file system takes them
        inside = short and (f"{path}.py" in self._files or f"{path}/__init__.py" in self._files)
        return inside or (bool(self._packages) and _canonical(parts[0]) in self._packages)


def _is_identifier(word: str) -> bool:
    return word.isidentifier() and not keyword.iskeyword(word) and word.isascii() and len(word) <= 200


def _workflow_faults(workflow: Workflow, entries: _Entries) -> Faults:
    where = ("workflow",)
    yield from _range((*where, "rounds"), workflow.rounds, 1, MOST_ROUNDS)
    if (workflow.type is None) == (workflow.entry is None):
        yield _fault(where, "must have either 'type' (one of ours) or 'entry' (the app's own), not both")
    if workflow.type is not None and not re.fullmatch(LABEL, workflow.type):
        yield _fault((*where, "type"), f"must be {LABEL_WORDS}, not {shown(workflow.type)}")
    if workflow.entry is not None:
        yield from entries.code((*where, "entry"), workflow.entry)
    yield from _range((*where, "seed"), workflow.seed, 0, 2**32 - 1)
    yield from _range((*where, "patience"), workflow.patience, 0, MOST_ROUNDS)
    yield from _range((*where, "min_delta"), workflow.min_delta, 0, 1e9)
    if workflow.mode not in MODES:
        yield _fault((*where, "mode"), f"must be max or min, not {shown(workflow.mode)}")
    if workflow.best == "":
        yield _fault((*where, "best"), "is empty; it must be the name of a metric, or be left out")
    if workflow.patience and workflow.best is None:
        yield _fault((*where, "patience"), "needs 'best': the metric that has to become better")
    for key, value in workflow.options.items():
        if isinstance(value, bool | int | float | str):
            yield from _parameter_faults((*where, key), value, depth=0)
        else:
            yield _fault((*where, key), "must be a single value: text, a number, true or false")


def _model_faults(model: str | None, entries: _Entries) -> Faults:
    if model is None:
        return
    if ":" not in model and not model.endswith(".safetensors"):
        yield _fault(("model",), f"must be module:callable or a .safetensors file, not {shown(model)}")
    else:
        yield from (entries.code if ":" in model else entries.file)(("model",), model)


def _task_faults(tasks: Mapping[str, str], entries: _Entries) -> Faults:
    if not 1 <= len(tasks) <= MOST_ITEMS:
        yield _fault(("tasks",), f"must name between 1 and {MOST_ITEMS} tasks, not {len(tasks)}")
    for name, text in tasks.items():
        where = ("tasks", name)
        if not re.fullmatch(LABEL, name):
            yield _fault(where, f"is no name for a task: {LABEL_WORDS}")
        if ":" in text:
            yield from entries.code(where, text)
        elif text.endswith(".py"):
            yield from entries.file(where, text)
        else:
            what = "must be a script (train.py), module:function or module:Class"
            yield _fault(where, f"{what}, not {shown(text)}")


# ---- free values ---------------------------------------------------------------------------


def _args_faults(args: Mapping[str, object]) -> Faults:
    if len(args) > MOST_ITEMS:
        yield _fault(("args",), f"must not have more than {MOST_ITEMS} keys")
    for key, value in args.items():
        yield from _parameter_faults(("args", key), value, depth=DEPTH)


def _parameter_faults(where: tuple[str, ...], value: object, depth: int) -> Faults:
    """A key that becomes a parameter of a Python callable, and its value."""
    if not _is_identifier(where[-1]):
        yield _fault(where, "is no name for a parameter: letters, digits and '_', not starting with a digit")
    yield from _value_faults(where, value, depth)


def _value_faults(where: tuple[str, ...], value: object, depth: int) -> Faults:
    if isinstance(value, Mapping | list | tuple):
        if depth == 0:
            yield _fault(where, "is nested too deep")
            return
        if len(value) > MOST_ITEMS:
            yield _fault(where, f"must not have more than {MOST_ITEMS} items")
            return
        inner = value.values() if isinstance(value, Mapping) else value
        for item in inner:
            yield from _value_faults(where, item, depth - 1)
    elif isinstance(value, float) and not math.isfinite(value):
        yield _fault(where, "must be a finite number")
    elif isinstance(value, str) and len(value) > LONGEST_TEXT:
        yield _fault(where, f"must not be longer than {LONGEST_TEXT} characters")
    elif isinstance(value, int) and abs(value) >= 2**63:
        yield _fault(where, "must fit in 64 bits")


# ---- sites, resources, needs ---------------------------------------------------------------


def _label_faults(where: tuple[str, ...], labels: tuple[str, ...], pattern: str, words: str) -> Faults:
    if len(labels) > MOST_SITES:
        yield _fault(where, f"must not have more than {MOST_SITES} items")
    seen: set[str] = set()
    for label in labels:
        if not re.fullmatch(pattern, label):
            yield _fault(where, f"must be {words}, not {shown(label)}", label)
        if label in seen:
            yield _fault(where, f"names {shown(label)} twice", label)
        seen.add(label)


def _sites_faults(sites: Membership) -> Faults:
    if sites.min is not None:
        yield from _range(("sites", "min"), sites.min, 1, MOST_SITES)
    yield from _label_faults(("sites", "required"), sites.required, SITE, "the name of a site")
    yield from _range(("sites", "absence"), sites.absence_seconds, 0, YEAR, " seconds")
    if sites.max_weight is not None and not 0 < sites.max_weight <= 2**53:
        yield _fault(("sites", "max_weight"), "must be above 0 and at most 2^53")
    if sites.late not in LATE:
        yield _fault(("sites", "late"), f"must be take or refuse, not {shown(sites.late)}")


def _resource_faults(resources: Resources) -> Faults:
    yield from _range(("resources", "gpus"), resources.gpus, 0, 1024)
    yield from _range(("resources", "gpu_memory"), resources.gpu_memory, 0, 2**50, " bytes")
    yield from _range(("resources", "cpus"), resources.cpus, 1, 65536)
    yield from _range(("resources", "memory"), resources.memory, 2**20, 2**50, " bytes")
    yield from _range(("resources", "disk"), resources.disk, 0, 2**50, " bytes")
    yield from _range(("resources", "grace"), resources.grace_seconds, 0, 3600, " seconds")
    if resources.gpu_memory > 0 and resources.gpus == 0:
        yield _fault(("resources", "gpu_memory"), "asks for memory on a GPU, but 'resources.gpus' is 0")


def _needs_faults(needs: tuple[str, ...]) -> Faults:
    where = ("needs",)
    if len(needs) > MOST_ITEMS:
        yield _fault(where, f"must not have more than {MOST_ITEMS} items")
    for text in needs:
        requirement = _requirement(text)
        if requirement is None:
            what = "must be a requirement as pip takes it (torch>=2.4)"
            yield _fault(where, f"{what}, not {shown(text)}", text)
            continue
        if requirement.url is not None:
            what = f"names a place to download from ({shown(text)}); nothing is installed"
            yield _fault(where, what, text)
        if not _is_decidable(requirement):
            yield _fault(where, f"has a condition that nobody can decide: {shown(text)}", text)


def _packages(needs: Iterable[str]) -> Iterator[str]:
    for text in needs:
        requirement = _requirement(text)
        if requirement is not None:  # else _needs_faults says so
            yield _canonical(requirement.name)


def _canonical(name: str) -> str:
    from packaging.utils import canonicalize_name  # late: few jobs name any

    return canonicalize_name(name)


def _requirement(text: str) -> Requirement | None:
    from packaging.requirements import InvalidRequirement, Requirement  # late, too

    try:
        return Requirement(text)
    except (InvalidRequirement, RecursionError):
        return None


def _is_decidable(requirement: Requirement) -> bool:
    """Whether its marker compares what can be compared; the grammar takes more than that."""
    from packaging.markers import UndefinedComparison, UndefinedEnvironmentName  # late, too

    try:
        if requirement.marker is not None:
            requirement.marker.evaluate()
    except (UndefinedComparison, UndefinedEnvironmentName):
        return False
    except ValueError:  # the version of this machine's kernel may be none: others look for themselves
        pass
    return True


# ---- filters -------------------------------------------------------------------------------

FILTER_PLACES: Mapping[tuple[str, str], Callable[[Filters], tuple[Mapping[str, object], ...]]] = {
    ("task", "server"): lambda filters: filters.task_server,
    ("task", "site"): lambda filters: filters.task_site,
    ("result", "site"): lambda filters: filters.result_site,
    ("result", "server"): lambda filters: filters.result_server,
}


def _filter_faults(filters: Filters, entries: _Entries) -> Faults:
    for (direction, side), pick in FILTER_PLACES.items():
        where = ("filters", direction, side)
        chain = pick(filters)
        if len(chain) > MOST_ITEMS:
            yield _fault(where, f"must not have more than {MOST_ITEMS} filters")
        for number, entry in enumerate(chain):
            yield from _one_filter_faults(where, number, entry, entries)


def _one_filter_faults(
    where: tuple[str, ...], number: int, entry: Mapping[str, object], entries: _Entries
) -> Faults:
    inner = (*where, str(number))
    kind = entry.get("type")
    if not isinstance(kind, str):
        yield _fault((*inner, "type"), "must name a filter: one of ours, or module:attribute of the app")
    elif ":" in kind:
        yield from entries.code((*inner, "type"), kind)
    elif not re.fullmatch(LABEL, kind):
        yield _fault((*inner, "type"), f"must be {LABEL_WORDS}, not {shown(kind)}")
    for key, value in entry.items():
        if key != "type":
            yield from _parameter_faults((*inner, key), value, depth=2)
