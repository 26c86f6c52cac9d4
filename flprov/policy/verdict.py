# SPDX-License-Identifier: Apache-2.0
"""Whether this site runs that job: policy and plain values in, nothing or PolicyRefused out."""

from __future__ import annotations

from flprov.errors import NoRoom, PolicyRefused
from flprov.pki import Identity, Kind, Role
from flprov.policy.policy import Ceilings, SitePolicy

# As for SubmitJob in the table of methods. It is said again here because a server that is broken
# into does not keep to its own table, and an observer's signature must not start a job either.
_MAY_SUBMIT = frozenset({Role.PROJECT_ADMIN, Role.LEAD})


def judge(
    policy: SitePolicy, *, identity: Identity, gpus: int, cpus: int, memory: int, jobs_here: int
) -> None:
    """Let a job pass or refuse it.

    Args:
        policy: the site's.
        identity: who signed the submission.
        gpus: what the job asks for, per site.
        cpus: likewise.
        memory: likewise, in bytes.
        jobs_here: jobs that run at this site now, without this one.

    Raises:
        PolicyRefused: the message names the rule and what was found, the hint whom to ask.
        NoRoom: as many jobs as may be run here now.
    """
    _verify_allowed(policy, identity)
    _verify_ceilings(policy, gpus=gpus, cpus=cpus, memory=memory, jobs_here=jobs_here)


def _verify_allowed(policy: SitePolicy, identity: Identity) -> None:
    if not policy.exists:
        raise PolicyRefused(
            "this site has no policy.yml: it takes no jobs",
            # No path of this machine: the message goes to whoever submitted the job.
            hint="ask the site to copy its kit's policy.yml.sample to policy.yml beside the kit, and edit it",
        )
    if identity.kind is not Kind.PERSON or identity.role not in _MAY_SUBMIT:
        kind = identity.role.value if identity.role else identity.kind.value
        raise PolicyRefused(
            f"only a project_admin or a lead may run jobs here; {identity.name} is {kind}",
            hint="ask the project's admin for another role, or let a lead submit the job",
        )
    if identity.org in policy.organisations or policy.people & {identity.name, identity.uri}:
        return
    raise PolicyRefused(
        f"this site's policy allows {_allowed_in_words(policy)};"
        f" the job is from {identity.name} of {identity.org}",
        hint=f"ask the site to add {identity.org} or {identity.name} under `allow` in its policy.yml",
    )


def _allowed_in_words(policy: SitePolicy) -> str:
    named = [*sorted(policy.organisations), *sorted(policy.people)]
    if not named:
        return "nobody"
    rest = f" and {len(named) - 6} more" if len(named) > 6 else ""
    return f"only {', '.join(named[:6])}{rest}"


def _verify_ceilings(policy: SitePolicy, *, gpus: int, cpus: int, memory: int, jobs_here: int) -> None:
    ceilings = policy.ceilings
    found = _excesses(ceilings, gpus=gpus, cpus=cpus, memory=memory)
    if found:
        raise PolicyRefused(
            f"the job asks for more than this site's policy gives: {', '.join(found)}",
            hint="ask for less under `resources` in job.yml,"
            " or ask the site to raise `ceilings` in its policy.yml",
        )
    if ceilings.jobs is not None and jobs_here >= ceilings.jobs:
        raise NoRoom(
            f"this site's policy gives room for {ceilings.jobs} jobs at a time; {jobs_here} run here now",
            hint="wait for one to end, or ask the site to raise `ceilings.jobs` in its policy.yml",
        )


def _excesses(ceilings: Ceilings, *, gpus: int, cpus: int, memory: int) -> list[str]:
    found = []
    if ceilings.gpus is not None and gpus > ceilings.gpus:
        found.append(f"{gpus} gpus (ceiling {ceilings.gpus})")
    if ceilings.cpus is not None and cpus > ceilings.cpus:
        found.append(f"{cpus} cpus (ceiling {ceilings.cpus})")
    if ceilings.memory is not None and memory > ceilings.memory:
        found.append(f"{_in_gib(memory)} of memory (ceiling {_in_gib(ceilings.memory)})")
    return found


def _in_gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**20 else f"{size} bytes"
