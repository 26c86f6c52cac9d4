# SPDX-License-Identifier: Apache-2.0
"""Jobs: what `job.yml` says, bundles of code, submissions, states, the scheduler.

Nothing here talks to anybody or runs job code; the only side effects are files.

A job's process needs only what a job says; the rest is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names
from flprov.jobs.job import Filters, JobSpec, Membership, Resources, Workflow
from flprov.jobs.states import TRANSITIONS, JobState, verify_step

if TYPE_CHECKING:
    from flprov.jobs.archive import BundleLimits
    from flprov.jobs.bundle import Bundle, build_bundle, list_bundle, read_bundle_spec, unpack_bundle
    from flprov.jobs.ids import match_prefix, new_job_id
    from flprov.jobs.needs import check_needs
    from flprov.jobs.overrides import override
    from flprov.jobs.reading import load_job
    from flprov.jobs.room import Capacity, GPURoom, Lease
    from flprov.jobs.rules import verify_spec
    from flprov.jobs.scheduler import JobView, Plan, SiteView, Snapshot, Start, schedule
    from flprov.jobs.submission import Origin, Submission, decode_submission

__all__ = [
    "TRANSITIONS",
    "Bundle",
    "BundleLimits",
    "Capacity",
    "Filters",
    "GPURoom",
    "JobSpec",
    "JobState",
    "JobView",
    "Lease",
    "Membership",
    "Origin",
    "Plan",
    "Resources",
    "SiteView",
    "Snapshot",
    "Start",
    "Submission",
    "Workflow",
    "build_bundle",
    "check_needs",
    "decode_submission",
    "list_bundle",
    "load_job",
    "match_prefix",
    "new_job_id",
    "override",
    "read_bundle_spec",
    "schedule",
    "unpack_bundle",
    "verify_spec",
    "verify_step",
]

_MODULES = {
    "Bundle": "bundle",
    "BundleLimits": "archive",
    "Capacity": "room",
    "GPURoom": "room",
    "JobView": "scheduler",
    "Lease": "room",
    "Plan": "scheduler",
    "SiteView": "scheduler",
    "Snapshot": "scheduler",
    "Start": "scheduler",
    "Origin": "submission",
    "Submission": "submission",
    "build_bundle": "bundle",
    "check_needs": "needs",
    "decode_submission": "submission",
    "list_bundle": "bundle",
    "load_job": "reading",
    "match_prefix": "ids",
    "new_job_id": "ids",
    "override": "overrides",
    "read_bundle_spec": "bundle",
    "schedule": "scheduler",
    "unpack_bundle": "bundle",
    "verify_spec": "rules",
}

__getattr__ = lazy_names(__name__, _MODULES)
