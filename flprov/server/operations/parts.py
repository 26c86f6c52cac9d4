# SPDX-License-Identifier: Apache-2.0
"""What the services of operations work with."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from flprov._base import Clock
from flprov.errors import SiteUnavailable
from flprov.rpc import Call
from flprov.server.commands import Commands
from flprov.server.foreign import foreign_line
from flprov.server.jobs.jobs import Jobs
from flprov.server.operations.bell import Bell
from flprov.server.records import Enrolment, Mark
from flprov.server.registry import Registry
from flprov.server.sessions import Sessions
from flprov.store import Store
from flprov.wire import pb

LONGEST_REASON = 200  # characters


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Shared parts. The bell rings whenever a job, a session or a mark has changed."""

    server: str  # its name
    clock: Clock
    store: Store
    registry: Registry
    sessions: Sessions
    jobs: Jobs
    commands: Commands
    bell: Bell = field(default_factory=Bell)

    def __post_init__(self) -> None:
        self.jobs.listen(lambda _job: self.bell.ring())
        self.sessions.listen(lambda _session, _connected: self.bell.ring())

    def mark(self, call: Call, reason: str) -> Mark:
        """Who does this, now."""
        said = foreign_line(reason, LONGEST_REASON)
        return Mark(by=call.caller.uri, at=self.clock.now(), reason=said)

    def enrol(self, enrolment: Enrolment) -> None:
        """Act on a mark that is on disk: the scheduler, the site and whoever waits hear of it."""
        self.registry.enrol(enrolment)
        standing = pb.Standing(drained=self.registry.closed(enrolment.name))
        with contextlib.suppress(SiteUnavailable):
            self.sessions.send(enrolment.name, pb.ToSite(standing=standing))
        self.jobs.scheduler.wake()
        self.bell.ring()
