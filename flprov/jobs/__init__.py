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
    from flprov.jobs.bundle import (
        Bundle,
        build_bundle,
        list_bundle,
        list_models,
        read_bundle_spec,
        unpack_bundle,
    )
    from flprov.jobs.capacity import capacity_of, site_disk
    from flprov.jobs.cost import ENCRYPTED, beside_size, describe_cost, state_size, update_size
    from flprov.jobs.filenames import verify_path
    from flprov.jobs.ids import match_prefix, new_job_id
    from flprov.jobs.needs import check_needs, job_needs
    from flprov.jobs.overrides import override
    from flprov.jobs.quota import Quota, Quotas, Usage
    from flprov.jobs.reading import load_job
    from flprov.jobs.room import (
        Capacity,
        GPURoom,
        Lease,
        choose_gpus,
        find_room,
        find_shortage,
        show_size,
    )
    from flprov.jobs.rules import verify_spec
    from flprov.jobs.scheduler import READY, JobView, Plan, Planning, SiteView, Snapshot, Start, schedule
    from flprov.jobs.submission import Origin, Submission, decode_submission

__all__ = [
    "ENCRYPTED",
    "READY",
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
    "Planning",
    "Quota",
    "Quotas",
    "Resources",
    "SiteView",
    "Snapshot",
    "Start",
    "Submission",
    "Usage",
    "Workflow",
    "beside_size",
    "build_bundle",
    "capacity_of",
    "check_needs",
    "choose_gpus",
    "decode_submission",
    "describe_cost",
    "find_room",
    "find_shortage",
    "job_needs",
    "list_bundle",
    "list_models",
    "load_job",
    "match_prefix",
    "new_job_id",
    "override",
    "read_bundle_spec",
    "schedule",
    "show_size",
    "site_disk",
    "state_size",
    "unpack_bundle",
    "update_size",
    "verify_path",
    "verify_spec",
    "verify_step",
]

_MODULES = {
    "READY": "scheduler",
    "Bundle": "bundle",
    "BundleLimits": "archive",
    "Capacity": "room",
    "GPURoom": "room",
    "JobView": "scheduler",
    "Lease": "room",
    "Origin": "submission",
    "Plan": "scheduler",
    "Planning": "scheduler",
    "Quota": "quota",
    "Quotas": "quota",
    "SiteView": "scheduler",
    "Snapshot": "scheduler",
    "Start": "scheduler",
    "Submission": "submission",
    "Usage": "quota",
    "build_bundle": "bundle",
    "capacity_of": "capacity",
    "check_needs": "needs",
    "ENCRYPTED": "cost",
    "beside_size": "cost",
    "describe_cost": "cost",
    "job_needs": "needs",
    "state_size": "cost",
    "update_size": "cost",
    "choose_gpus": "room",
    "decode_submission": "submission",
    "find_room": "room",
    "find_shortage": "room",
    "list_bundle": "bundle",
    "list_models": "bundle",
    "load_job": "reading",
    "match_prefix": "ids",
    "new_job_id": "ids",
    "override": "overrides",
    "read_bundle_spec": "bundle",
    "schedule": "scheduler",
    "show_size": "room",
    "site_disk": "capacity",
    "unpack_bundle": "bundle",
    "verify_path": "filenames",
    "verify_spec": "rules",
}

__getattr__ = lazy_names(__name__, _MODULES)
