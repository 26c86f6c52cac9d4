# SPDX-License-Identifier: Apache-2.0
"""What `job.yml` says, as frozen values: the job that a person asks for.

Durations are seconds, sizes are bytes, so that a JobSpec goes through `to_document` and
`from_document` unchanged; it travels inside the signed submission and to every worker.
`docs/job-yml.md` is the page that users read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from flprov._base import dataclass
from flprov.messages import Scalar

ROUNDS = 5  # enough to see a curve; a real study says how many it wants
ABSENCE_SECONDS = 600.0  # a hospital's firewall restarts within this
GRACE_SECONDS = 1.0  # between the polite and the other signal
MEMORY = 1 << 30
LATE = ("take", "refuse")
MODES = ("max", "min")
WORKFLOW = "fedavg"


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """The algorithm that runs beside the server: one of ours by `type`, or the app's by `entry`."""

    type: str | None = WORKFLOW
    entry: str | None = None  # "module:Class"; then `type` is None
    rounds: int = ROUNDS
    seed: int = 0  # of every random choice: which sites take part, the first weights, what tasks draw
    best: str | None = None  # the metric by which the best round's model is kept; None: none is kept
    mode: str = "max"  # max | min: which value of `best` is better
    patience: int = 0  # rounds without a better value before the job ends early; 0: never
    min_delta: float = 0.0  # by how much a value has to be better to count
    options: Mapping[str, Scalar] = field(default_factory=dict)  # for the controller's constructor


@dataclass(frozen=True, kw_only=True)
class Membership:
    """Which sites a round cannot do without, and for how long it waits for one that vanished."""

    min: int | None = None  # None: every site that the job is sent to
    required: tuple[str, ...] = ()
    absence_seconds: float = ABSENCE_SECONDS  # time without a control stream, or without progress
    max_weight: float | None = None  # what one update may count at most (samples, or weight); None: 2^53
    late: str = "take"  # take | refuse: the update of a site that was given up, while its task is open


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the job takes at each of its sites while it runs there."""

    gpus: int = 0
    gpu_memory: int = 0  # bytes that others must leave free on each of those GPUs
    cpus: int = 1
    memory: int = MEMORY
    disk: int = 0  # bytes that must be free where the job's folder lies
    grace_seconds: float = GRACE_SECONDS  # from SIGTERM to SIGKILL


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What tasks and results pass through, in order, on their way; each entry has a `type`."""

    task_server: tuple[Mapping[str, object], ...] = ()  # on what goes out, at the server
    task_site: tuple[Mapping[str, object], ...] = ()  # on what came in, at the site
    result_site: tuple[Mapping[str, object], ...] = ()  # on what leaves the site
    result_server: tuple[Mapping[str, object], ...] = ()  # on what arrives, before it is used


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """One job, with every default filled in."""

    name: str
    tasks: Mapping[str, str]  # task name -> "train.py" or "module:attribute"
    workflow: Workflow = Workflow()
    model: str | None = None  # "module:callable" or a .safetensors file; None: the first site's weights
    args: Mapping[str, object] = field(default_factory=dict)
    data: tuple[str, ...] = ()  # names that each site maps to its own paths
    needs: tuple[str, ...] = ()  # PEP 508; checked at each site, never installed
    sites: Membership = Membership()
    resources: Resources = Resources()
    filters: Filters = Filters()
    priority: int = 0  # -100 to 100; a job with a higher one starts first

    def quorum(self, targeted: int) -> int:
        """How many of `targeted` sites a round needs."""
        return targeted if self.sites.min is None else self.sites.min
