# SPDX-License-Identifier: Apache-2.0
"""Function style: `train(task: Task, site: Site) -> Update`, or a class whose instances are called so."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from flprov.errors import ConfigError, JobFailed
from flprov.messages import Site, Task, Update

Executor = Callable[..., object]


def build_executor(target: object, args: Mapping[str, object], where: str) -> Executor:
    """What to call with each task: `target`, with those of job.yml's `args` that it names.

    A function takes them as keyword arguments behind task and site; a class takes them in its
    constructor, once, and its instance is called with task and site.

    Args:
        target: what the entry point names.
        args: `args` of job.yml; whatever `target` does not name is left out, as tasks share them.
        where: where job.yml names it, e.g. "tasks.train".

    Raises:
        ConfigError: it cannot be called so, or takes an argument that `args` does not give.
    """
    if isinstance(target, type):
        instance = target(**_choose(target, args, where, given=0))
        if not callable(instance):
            raise ConfigError(f"{where}: {target.__name__} has no __call__(task, site)")
        made: Executor = instance
        return made
    if not callable(target):
        raise ConfigError(f"{where}: a {type(target).__name__} is not something to call")
    chosen = _choose(target, args, where, given=2)
    function: Executor = target
    return lambda task, site: function(task, site, **chosen)


def run_executor(executor: Executor, task: Task, site: Site, where: str) -> Update:
    """Call `executor`; what it raises passes through.

    Raises:
        JobFailed: it returned something else than an Update.
    """
    update = executor(task, site)
    if not isinstance(update, Update):
        raise JobFailed(
            f"{where} returned a {type(update).__name__} for task {task.name!r}",
            hint="return flprov.sdk.Update(params=..., samples=...)",
        )
    return update


def _choose(
    target: Callable[..., object], args: Mapping[str, object], where: str, *, given: int
) -> Mapping[str, object]:
    parameters = list(inspect.signature(target).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return args
    in_order = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_all = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(in_order) < given and not takes_all:
        raise ConfigError(f"{where}: it takes {len(in_order)} arguments; it is called with task and site")
    wanted = [*in_order[given:], *(p for p in parameters if p.kind is p.KEYWORD_ONLY)]
    missing = [p.name for p in wanted if p.default is p.empty and p.name not in args]
    if missing:
        raise ConfigError(f"{where} needs {missing[0]!r}, which `args` in job.yml does not give")
    return {p.name: args[p.name] for p in wanted if p.name in args}
