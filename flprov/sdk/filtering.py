# SPDX-License-Identifier: Apache-2.0
"""The filters that job.yml or a site's policy.yml lists, checked and in order.

The `type` of an entry is the name of one of ours, or `module:function` for the app's own; the other
keys are its options. An app's own is `(Update, site) -> Update` for results and `(Task, site) -> Task`
for tasks, or a class whose instances are. An update without tensors passes ours as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from flprov.errors import ConfigError, JobFailed
from flprov.messages import Site, Task, Update, UpdateKind
from flprov.sdk.entries import is_entry, load_entry
from flprov.sdk.filters import FILTERS, Filter
from flprov.sdk.options import read_options, suggest

TaskFilter = Callable[[Task, Site], object]  # it should give a Task; an app's own may not
ResultFilter = Callable[[Update, Task, Site], object]


def build_task_filters(rows: Sequence[Mapping[str, object]], where: str) -> list[TaskFilter]:
    """The filters that job.yml lists at `where`, e.g. "filters.task.site".

    Raises:
        ConfigError: an entry names no filter that works on tasks, or gives it options it does not take.
    """
    return [_task_filter(row, f"{where}[{number}]") for number, row in enumerate(rows)]


def build_result_filters(rows: Sequence[Mapping[str, object]], where: str) -> list[ResultFilter]:
    """The filters that job.yml lists at `where`, e.g. "filters.result.site".

    Raises:
        ConfigError: an entry names no filter, or gives it options it does not take.
    """
    return [_result_filter(row, f"{where}[{number}]") for number, row in enumerate(rows)]


def verify_filters(rows: Sequence[Mapping[str, object]], where: str) -> None:
    """Check what can be checked before a job starts: names and options of ours. The app's own is not loaded.

    Raises:
        ConfigError: every mistake of the list at `where`, e.g. "filters.task.site".
    """
    problems: list[str] = []
    for number, row in enumerate(rows):
        kind, here = str(row.get("type")), f"{where}[{number}]"
        if is_entry(kind):
            continue
        try:
            ours, _ = _load_ours(kind, row, here)
            if where.startswith("filters.task"):
                _verify_on_tasks(kind, ours, here)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def describe_filters(rows: Sequence[Mapping[str, object]], where: str, answers: int) -> list[str]:
    """What each of these filters does, in a sentence; of the private ones, what `answers` of them cost.

    Raises:
        ConfigError: as `build_result_filters`.
    """
    found = []
    for number, row in enumerate(rows):
        kind, here = str(row.get("type")), f"{where}[{number}]"
        if is_entry(kind):
            found.append(f"{kind}: the app's own")
        else:
            ours, options = _load_ours(kind, row, here)
            found.append(f"{kind}: {ours.describe(max(1, answers), **options)}")
    return found


def filter_task(filters: Sequence[TaskFilter], task: Task, site: Site) -> Task:
    """`task` after all filters. Raises JobFailed when one gives something else than a Task."""
    for one in filters:
        filtered = one(task, site)
        if not isinstance(filtered, Task):
            raise JobFailed(f"a task filter returned a {type(filtered).__name__}, not a Task")
        task = filtered
    return task


def filter_result(filters: Sequence[ResultFilter], update: Update, task: Task, site: Site) -> Update:
    """`update` after all filters. Raises JobFailed when one gives something else than an Update."""
    for one in filters:
        filtered = one(update, task, site)
        if not isinstance(filtered, Update):
            raise JobFailed(f"a result filter returned a {type(filtered).__name__}, not an Update")
        update = filtered
    return update


def _task_filter(row: Mapping[str, object], where: str) -> TaskFilter:
    kind = str(row.get("type"))
    if is_entry(kind):
        function, options = _load_own(kind, row, where)
        return lambda task, site: function(task, site, **options)
    ours, options = _load_ours(kind, row, where)
    _verify_on_tasks(kind, ours, where)

    def on_model(task: Task, site: Site) -> Task:
        """The model is taken as a difference from nothing: what is looked at are its numbers."""
        if not task.params:
            return task
        model = Update(params=task.params, kind=UpdateKind.DIFF, encoding=task.encoding)
        filtered = ours.apply(model, task, site, **options)
        for name, value in filtered.metrics.items():
            print(f"flprov: model of task {task.name!r}, round {task.round}: {name} {value:.3g}")
        # A task's model travels whole where it is sparse: nothing at the site would bound its size.
        dense = {name: replace(one, sparse=False) for name, one in filtered.encoding.items()}
        return replace(task, params=filtered.params, encoding=dense)

    return on_model


def _result_filter(row: Mapping[str, object], where: str) -> ResultFilter:
    kind = str(row.get("type"))
    if is_entry(kind):
        function, options = _load_own(kind, row, where)
        return lambda update, _, site: function(update, site, **options)
    ours, chosen = _load_ours(kind, row, where)
    return lambda update, task, site: ours.apply(update, task, site, **chosen) if update.params else update


def _verify_on_tasks(kind: str, ours: Filter, where: str) -> None:
    if not ours.on_tasks:
        known = ", ".join(name for name, one in FILTERS.items() if one.on_tasks)
        raise ConfigError(f"{where}: {kind!r} works on results only; on a task's model work {known}")


def _load_ours(kind: str, row: Mapping[str, object], where: str) -> tuple[Filter, Mapping[str, object]]:
    ours = FILTERS.get(kind)
    if ours is None:
        raise ConfigError(f"{where}: no filter {kind!r}{suggest(kind, FILTERS)}")
    options = read_options(ours.apply, _options(row), where, given=3)
    try:
        ours.describe(1, **options)
    except ConfigError as error:
        raise ConfigError(f"{where}: {kind}: {error}") from None
    return ours, options


def _load_own(
    entry: str, row: Mapping[str, object], where: str
) -> tuple[Callable[..., object], Mapping[str, object]]:
    target = load_entry(entry, where)
    if isinstance(target, type):  # one object for all tasks, made with the options
        made = target(**read_options(target, _options(row), where))
        if not callable(made):
            raise ConfigError(f"{where}: {entry} has no __call__(update or task, site)")
        return made, {}
    if not callable(target):
        raise ConfigError(f"{where}: {entry} is not a function")
    return target, read_options(target, _options(row), where, given=2)


def _options(row: Mapping[str, object]) -> Mapping[str, object]:
    return {key: value for key, value in row.items() if key != "type"}
