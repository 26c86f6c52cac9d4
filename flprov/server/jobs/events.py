# SPDX-License-Identifier: Apache-2.0
"""What can happen to a job: the events that its run takes, one at a time, in order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from flprov.server.records import UpdateRecord
from flprov.store import Change
from flprov.wire import pb


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The scheduler chose this job: deploy it at the sites that were granted."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The scheduler found room at further sites for a job that has begun."""

    sites: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SiteCame:
    """A site of this job opened its control stream."""

    site: str


@dataclass(frozen=True, kw_only=True)
class SiteWent:
    """A site of this job lost its control stream."""

    site: str
    reason: str = ""  # when it left of its own accord


@dataclass(frozen=True, kw_only=True)
class SiteDeployed:
    """A site answered a Deploy."""

    site: str
    ready: bool
    refusal: str = ""
    code: str = ""
    hint: str = ""
    transient: bool = False  # it has no room now; later it may


@dataclass(frozen=True, kw_only=True)
class SiteUpdated:
    """A site's update came and passed our checks."""

    site: str
    update: UpdateRecord


@dataclass(frozen=True, kw_only=True)
class AnswersDue:
    """Updates that were taken have waited long enough for others to be written with."""


@dataclass(frozen=True, kw_only=True)
class SiteLate:
    """A site's update came for a task that is not open; nobody has looked at it."""

    site: str
    task_id: str


@dataclass(frozen=True, kw_only=True)
class SiteFailed:
    """A site's task failed, or its update was refused by our checks."""

    site: str
    task_id: str
    code: str
    message: str
    traceback: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class SiteStopped:
    """A site says whether anything of the job still runs there."""

    site: str
    clean: bool
    reason: str
    freed: tuple[str, ...] = ()  # what the job held there, in words


@dataclass(frozen=True, kw_only=True)
class WorkflowSaid:
    """A frame from the workflow's process."""

    frame: pb.FromWorker


@dataclass(frozen=True, kw_only=True)
class WorkflowGone:
    """The workflow's process ended, or could not be started."""

    code: str
    message: str
    hint: str = ""
    killed: bool = False  # by somebody outside: neither its own code's doing nor ours


@dataclass(frozen=True, kw_only=True)
class WorkflowStopped:
    """The workflow's subtree of processes was killed; these are left."""

    processes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class AbortAsked:
    """A person wants the job gone; `recorded` is set once that is on disk."""

    who: str
    reason: str
    recorded: asyncio.Future[None]
    more: tuple[Change, ...] = ()  # to be written with it


@dataclass(frozen=True, kw_only=True)
class Faulted:
    """Something at the server itself ends the job, and that could not be written down before."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class TakenUp:
    """This server drives the job from now on: it is new, or the server was started again."""


@dataclass(frozen=True, kw_only=True)
class MoveOn:
    """What the job waits for may have come: a site has moved, or the disk takes what it refused."""


@dataclass(frozen=True, kw_only=True)
class TryAgain:
    """What the disk refused is due once more, before anything that came after it."""


@dataclass(frozen=True, kw_only=True)
class LookAgain:
    """An absence or a stop deadline ran out."""


Event = (
    Chosen
    | Joined
    | SiteCame
    | SiteWent
    | SiteDeployed
    | SiteUpdated
    | AnswersDue
    | SiteLate
    | SiteFailed
    | SiteStopped
    | WorkflowSaid
    | WorkflowGone
    | WorkflowStopped
    | AbortAsked
    | Faulted
    | TakenUp
    | MoveOn
    | TryAgain
    | LookAgain
)
