# SPDX-License-Identifier: Apache-2.0
"""Where the documents about sites take what they say from: each part says only what it knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from flprov import __version__
from flprov._base import Clock
from flprov.jobs import JobState
from flprov.server.jobs.jobs import Jobs
from flprov.server.jobs.run import JobRun
from flprov.server.records import SiteRecord
from flprov.server.registry import Barred, Registry
from flprov.server.sessions import Session, Sessions
from flprov.wire.documents import CertificateWarning, RefusedDocument, SiteDocument


@dataclass(frozen=True, kw_only=True)
class NewestTrust:
    """The trust bundle that is in force at the server."""

    version: int
    made_at: datetime


@dataclass(frozen=True, kw_only=True)
class HeldTrust:
    """What a site has said to hold."""

    version: int = 0
    since: datetime | None = None  # when the server first heard so; None: not known


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The parts of a server that know something about sites."""

    clock: Clock
    registry: Registry
    sessions: Sessions
    jobs: Jobs
    kit_made_at: datetime | None = None  # of the server's kit: since then its sites are enrolled
    newest_trust: Callable[[], NewestTrust | None] = lambda: None
    held_trust: Callable[[str], HeldTrust] = field(default=lambda _identity: HeldTrust())
    warnings: Callable[[], tuple[CertificateWarning, ...]] = lambda: ()
    refused: Callable[[], tuple[RefusedDocument, ...]] = lambda: ()
    complete: Callable[[SiteDocument], SiteDocument] = field(default=lambda site: site)
    version: str = __version__

    def running(self) -> tuple[JobRun, ...]:
        """Jobs of which anything may be at a site: chosen, and not proven to be gone everywhere."""
        return tuple(
            run
            for run in self.jobs.going()
            if run.record.unconfirmed
            or not (run.record.state.terminal or run.record.state is JobState.QUEUED)
        )

    def at(
        self,
        site: SiteRecord,
        warnings: tuple[CertificateWarning, ...] | None = None,
        running: Sequence[JobRun] | None = None,
    ) -> SiteView:
        """One site at this moment.

        Args:
            site: which.
            warnings: those of all certificates, if they are at hand.
            running: what `running` returns, likewise.
        """
        now = self.clock.now()
        session = self.sessions.get(site.name)
        barred = None if session else self.registry.barred(site.name) or expired(site, now)
        found = self.warnings() if warnings is None else warnings
        runs = self.running() if running is None else running
        return SiteView(
            site=site,
            session=session,
            barred=barred,
            enrolled_at=self._enrolled_at(site.name),
            overdue=next((w for w in found if (w.kind, w.subject) == ("site", site.name)), None),
            runs=tuple(run for run in runs if _is_at(run, site.name)),
            now=now,
            scene=self,
        )

    def _enrolled_at(self, name: str) -> datetime | None:
        added = self.registry.enrolment(name).added
        return added.at if added else self.kit_made_at


@dataclass(frozen=True, kw_only=True)
class SiteView:
    """What is known of one site at one moment."""

    site: SiteRecord
    session: Session | None
    barred: Barred | None
    enrolled_at: datetime | None
    overdue: CertificateWarning | None  # its certificate should have been renewed by now
    runs: tuple[JobRun, ...]  # jobs that have a part there
    now: datetime
    scene: Scene

    @property
    def state(self) -> str:
        """As in its document."""
        if self.session is not None:
            return "connected"
        if self.barred is not None:
            return self.barred.state
        if not self.site.first_connected:
            return "never_connected"
        return "stopped" if self.site.left_by_itself else "disconnected"


def _is_at(run: JobRun, site: str) -> bool:
    if run.record.state.terminal:
        return site in run.record.unconfirmed
    if run.active:
        return site in run.sites.parts
    return run.sites.holds(site)  # it is being ended


def expired(site: SiteRecord, now: datetime) -> Barred | None:
    """That the newest certificate of a site has ended, if it has: it cannot come back by itself."""
    if site.cert_not_after is None or now <= site.cert_not_after:
        return None
    seen = f"; last seen {site.last_seen:%Y-%m-%d %H:%M:%S} UTC" if site.last_seen else ""
    return Barred(
        state="refused",
        since=site.cert_not_after,
        reason=f"its certificate expired on {site.cert_not_after:%Y-%m-%d %H:%M:%S} UTC{seen}. The way back:"
        f" flprov invite create {site.name}",
        rung="connected",
    )
