# SPDX-License-Identifier: Apache-2.0
"""Jobs: what `job.yml` says, bundles of code, submissions, states, the scheduler.

Nothing here talks to anybody or runs job code; the only side effects are files.
"""

from flprov.jobs.archive import BundleLimits
from flprov.jobs.bundle import Bundle, build_bundle, list_bundle, read_bundle_spec, unpack_bundle
from flprov.jobs.ids import match_prefix, new_job_id
from flprov.jobs.job import Filters, JobSpec, Membership, Resources, Workflow
from flprov.jobs.needs import check_needs
from flprov.jobs.overrides import override
from flprov.jobs.reading import load_job
from flprov.jobs.room import Capacity, GPURoom, Lease
from flprov.jobs.rules import verify_spec
from flprov.jobs.scheduler import JobView, Plan, SiteView, Snapshot, Start, schedule
from flprov.jobs.states import TRANSITIONS, JobState, verify_step
from flprov.jobs.submission import Submission, decode_submission

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
