# SPDX-License-Identifier: Apache-2.0
"""The filters that job.yml lists, checked and in order.

The `type` of an entry is the name of one of ours, or `module:function` for the app's own; the other
keys are its options. An app's own is `(Update, site) -> Update` for results and `(Task, site) -> Task`
for tasks. An update without tensors passes ours as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flprov.errors import ConfigError, JobFailed
from flprov.messages import Site, Task, Update
from flprov.sdk.entries import is_entry, load_entry
from flprov.sdk.filters import clip_norm, exclude, gaussian_noise
from flprov.sdk.options import read_options, suggest

TaskFilter = Callable[[Task, Site], object]  # it should give a Task; an app's own may not
ResultFilter = Callable[[Update, Task, Site], object]

RESULT_FILTERS: Mapping[str, Callable[..., Update]] = {
    "clip_norm": clip_norm,
    "exclude": exclude,
    "gaussian_noise": gaussian_noise,
}


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
    if not is_entry(kind):
        what = "works on results only" if kind in RESULT_FILTERS else "is no filter"
        raise ConfigError(f"{where}: {kind!r} {what}; a task's filter is a module:function of the app")
    function, options = _load_own(kind, row, where)
    return lambda task, site: function(task, site, **options)


def _result_filter(row: Mapping[str, object], where: str) -> ResultFilter:
    kind = str(row.get("type"))
    if is_entry(kind):
        function, options = _load_own(kind, row, where)
        return lambda update, _, site: function(update, site, **options)
    ours = RESULT_FILTERS.get(kind)
    if ours is None:
        raise ConfigError(f"{where}: no filter {kind!r}{suggest(kind, RESULT_FILTERS)}")
    chosen = read_options(ours, _options(row), where, given=3)
    return lambda update, task, site: ours(update, task, site, **chosen) if update.params else update


def _load_own(
    entry: str, row: Mapping[str, object], where: str
) -> tuple[Callable[..., object], Mapping[str, object]]:
    function = load_entry(entry, where)
    if not callable(function):
        raise ConfigError(f"{where}: {entry} is not a function")
    return function, read_options(function, _options(row), where, given=2)


def _options(row: Mapping[str, object]) -> Mapping[str, object]:
    return {key: value for key, value in row.items() if key != "type"}
