# SPDX-License-Identifier: Apache-2.0
"""What the first line of a job's series file says: the run's parameters, for who compares runs."""

from __future__ import annotations

import json
from collections.abc import Mapping

from flprov._base import to_iso
from flprov.server.records import JobRecord
from flprov.wire import SeriesJob

_MOST_PARAMS = 100
_LONGEST = 250  # characters of a value


def series_head(job: JobRecord) -> SeriesJob:
    """The job and what its `args` and its workflow were given."""
    workflow = job.spec.workflow
    params: Mapping[str, object] = {
        "app": job.app[:12],
        "workflow": workflow.type or workflow.entry,
        "rounds": workflow.rounds,
        "seed": workflow.seed,
        **{f"workflow.{name}": value for name, value in sorted(workflow.options.items())},
        **{f"args.{name}": value for name, value in sorted(job.spec.args.items())},
    }
    return SeriesJob(
        job_id=job.id,
        name=job.name,
        submitted_by=job.submitted_by,
        submitted_at=to_iso(job.submitted_at),
        sites=job.targets,
        params={name[:_LONGEST]: _text(value) for name, value in list(params.items())[:_MOST_PARAMS]},
    )


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text[:_LONGEST]
