# SPDX-License-Identifier: Apache-2.0
"""What a job names of flprov: whether its workflow and its filters are there, and take what it gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flprov.jobs import JobSpec


def verify_use(spec: JobSpec) -> None:
    """Check that what a job uses of flprov is there and takes what the job gives it: workflow and filters.

    Raises:
        ConfigError: it is not, or it does not; the message says what to write.
    """
    from flprov.sdk import verify_workflow  # late: many commands need none of this

    workflow, filters = spec.workflow, spec.filters
    verify_workflow(workflow.type, workflow.options, tasks=spec.tasks, model=spec.model)
    listed = {
        "filters.task.server": filters.task_server,
        "filters.task.site": filters.task_site,
        "filters.result.site": filters.result_site,
        "filters.result.server": filters.result_server,
    }
    for where, rows in listed.items():
        if rows:
            from flprov.sdk import verify_filters  # late: with numpy, and most jobs have none

            verify_filters(rows, where)


def change_spec(spec: JobSpec, settings: Mapping[str, str] | None, min_sites: int | None) -> JobSpec:
    """The job with what `--set` and `--min-sites` say. Raises ConfigError, also for an unknown workflow."""
    from flprov.jobs import override  # late: many commands need none of this

    spec = override(spec, settings or {})
    verify_use(spec)
    return spec if min_sites is None else replace(spec, sites=replace(spec.sites, min=min_sites))
