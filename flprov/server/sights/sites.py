# SPDX-License-Identifier: Apache-2.0
"""A site as people see it now."""

from __future__ import annotations

from datetime import datetime

from flprov.server.jobs.jobs import Jobs
from flprov.server.records import SiteRecord
from flprov.server.registry import Barred
from flprov.server.sessions import Session
from flprov.server.sights.ladder import ladder
from flprov.wire.documents import SiteDocument


def site_document(
    site: SiteRecord, session: Session | None, jobs: Jobs, barred: Barred | None = None
) -> SiteDocument:
    """One site as it is now. Vitals of a site that is away are not shown: they would be stale."""
    vitals = session.vitals if session else None
    return SiteDocument(
        name=site.name,
        org=site.org,
        state=_site_state(site, session, barred),
        ladder=ladder(site, session, jobs, barred),
        gpus=vitals.gpus if vitals else (),
        gpu_note=vitals.gpu_note if vitals else "",
        cpu=vitals.cpu if vitals else None,
        memory=vitals.memory if vitals else None,
        disk=vitals.disk if vitals else None,
        jobs=tuple(run.record.id for run in jobs.active_at(site.name)),
        last_seen=session.last_seen if session else site.last_seen,
        cert_not_after=site.cert_not_after,
        version=session.hello.version if session else site.version,
        host=session.hello.host if session else site.host,
        datasets=vitals.datasets if vitals else (),
        confinement=vitals.confinement if vitals else "",
        notes=vitals.notes if vitals else (),
    )


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


def _site_state(site: SiteRecord, session: Session | None, barred: Barred | None) -> str:
    if session is not None:
        return "connected"
    if barred is not None:
        return barred.state
    return "disconnected" if site.first_connected else "never_connected"
