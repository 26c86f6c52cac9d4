# SPDX-License-Identifier: Apache-2.0
"""How many jobs and GPUs an organisation may have at once, whoever of it submitted them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, kw_only=True)
class Quota:
    """The most that one organisation may have running; None is no limit."""

    jobs: int | None = None
    gpus: int | None = None  # over all its jobs and all sites


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """Each organisation's quota, and the one of those that are not named."""

    everybody: Quota = Quota()
    named: Mapping[str, Quota] = field(default_factory=dict)

    def of(self, org: str) -> Quota:
        """The quota of this organisation: its own says, and where that is silent everybody's."""
        own = self.named.get(org)
        if own is None:
            return self.everybody
        return Quota(
            jobs=self.everybody.jobs if own.jobs is None else own.jobs,
            gpus=self.everybody.gpus if own.gpus is None else own.gpus,
        )


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What an organisation has running."""

    jobs: int = 0
    gpus: int = 0


class Allowances:
    """What is left of each quota while one plan is made."""

    def __init__(self, quotas: Quotas, usage: Mapping[str, Usage]) -> None:
        self._quotas = quotas
        self._usage = usage
        self._spent: dict[str, Usage] = {}  # by this plan, or kept for jobs that are ahead

    def shortage(self, org: str, gpus: int, sites: int) -> str:
        """Why a job that needs `gpus` at each of `sites` sites must wait; empty: it need not."""
        quota, used, kept = self._quotas.of(org), self._usage.get(org, Usage()), self._kept(org)
        behind = " and more are ahead" if kept.jobs else ""
        if quota.jobs is not None and used.jobs + kept.jobs >= quota.jobs:
            noun = "job" if quota.jobs == 1 else "jobs"
            return f"{org} has {used.jobs} of {quota.jobs} {noun} running (its quota){behind}"
        need = gpus * sites
        if quota.gpus is None or used.gpus + kept.gpus + need <= quota.gpus or not need:
            return ""
        if need > quota.gpus:
            return f"needs {gpus} GPUs at {sites} sites, and {org} may have {quota.gpus} in all (its quota)"
        return f"{org} has {used.gpus} of {quota.gpus} GPUs in use (its quota){behind}; the job needs {need}"

    def reachable(self, org: str, gpus: int, sites: int) -> bool:
        """Whether the job may start once others of its organisation have ended."""
        quota = self._quotas.of(org)
        return quota.jobs != 0 and (quota.gpus is None or gpus * sites <= quota.gpus)

    def affordable(self, org: str, gpus: int, sites: Sequence[str], required: Sequence[str]) -> list[str]:
        """As many of `sites` as the GPUs of the quota are enough for, the required ones first."""
        quota = self._quotas.of(org)
        if quota.gpus is None or not gpus:
            return list(sites)
        left = quota.gpus - self._usage.get(org, Usage()).gpus - self._kept(org).gpus
        chosen = set(sorted(sites, key=lambda name: name not in required)[: max(0, left // gpus)])
        return [name for name in sites if name in chosen]

    def spend(self, org: str, gpus: int, *, jobs: int = 1) -> None:
        """Somebody of this organisation has so much more, or is ahead of those behind with so much."""
        kept = self._kept(org)
        self._spent[org] = replace(kept, jobs=kept.jobs + jobs, gpus=kept.gpus + gpus)

    def _kept(self, org: str) -> Usage:
        return self._spent.get(org, Usage())
