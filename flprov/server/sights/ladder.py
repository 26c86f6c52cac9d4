# SPDX-License-Identifier: Apache-2.0
"""The ladder of a site: how far it has come, each rung with since when and why.

    enrolled, connected, kit_current, environment_ready     of the site
    job_deployed, training, contributed                     of each job that runs there

The first rung of the site that fails is the last that is shown; one of a job ends that job's part alone.
Nothing is a guess: where the server cannot know since when something is so, `since` is empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from flprov.server.jobs.run import JobRun
from flprov.server.jobs.sites import SitePart
from flprov.server.sights.scene import SiteView
from flprov.wire.documents import Rung, environment_rung

_DEPLOYED = frozenset({"ready", "training", "stalled"})


def ladder(view: SiteView) -> tuple[Rung, ...]:
    """The rungs in order."""
    rungs: list[Rung] = []
    for rung in _site_rungs(view):
        rungs.append(rung)
        if not rung.ok:
            return tuple(rungs)
    for run in view.runs:
        rungs += _until_one_fails(_job_rungs(view.site.name, run, view))
    return tuple(rungs)


def _until_one_fails(rungs: Iterator[Rung]) -> Iterator[Rung]:
    for rung in rungs:
        yield rung
        if not rung.ok:
            return


def _site_rungs(view: SiteView) -> Iterator[Rung]:
    barred, site, session = view.barred, view.site, view.session
    if barred is not None and barred.rung == "enrolled":
        yield Rung(name="enrolled", ok=False, since=barred.since, reason=barred.reason)
        return
    yield Rung(name="enrolled", ok=True, since=view.enrolled_at)
    if barred is not None:
        yield Rung(name=barred.rung, ok=False, since=barred.since, reason=barred.reason)
        return
    if session is None:
        yield Rung(name="connected", ok=False, since=site.gone_at, reason=say_away(view))
        return
    yield Rung(name="connected", ok=True, since=session.since, reason=session.hello.host)
    yield kit_rung(view)
    yield environment_rung(session.vitals, session.clock_off)


def say_away(view: SiteView) -> str:
    """Why a site has no control stream, as far as the server saw it."""
    site = view.site
    if not site.first_connected:
        return "it has never connected"
    if site.last_seen and not site.gone_at:  # when its link ended the server was not there to see it
        before = f"{site.last_seen:%Y-%m-%d %H:%M:%S} UTC"
        return f"it has not come back since the server was started; it connected last on {before}"
    seen = f"; last seen {site.last_seen:%Y-%m-%d %H:%M:%S} UTC" if site.last_seen else ""
    return f"{site.gone_because or 'connection lost'}{seen}"


def kit_rung(view: SiteView) -> Rung:
    """Whether what the site holds is the newest: its certificate, and whom it believes."""
    site, session, scene = view.site, view.session, view.scene
    assert session is not None
    held = scene.held_trust(session.identity.uri)
    newest = scene.newest_trust()
    if view.overdue is not None:
        return Rung(name="kit_current", ok=False, since=None, reason=view.overdue.text)
    if newest is not None and held.version < newest.version:
        has = f"trust bundle {held.version}" if held.version else "only the trust that came with its kit"
        text = f"it holds {has}; the newest is {newest.version}, which was sent to it"
        return Rung(name="kit_current", ok=False, since=newest.made_at, reason=text)
    return Rung(
        name="kit_current", ok=True, since=_both(site.cert_issued_at, held.since), reason=_kit_text(view)
    )


def _both(*moments: datetime | None) -> datetime | None:
    """Since when all of it is so; None if that is not known of one."""
    known = [moment for moment in moments if moment is not None]
    return max(known) if len(known) == len(moments) else None


def _kit_text(view: SiteView) -> str:
    assert view.session is not None
    hello, own = view.session.hello, view.scene.version
    parts = []
    if view.site.cert_not_after is not None:
        parts.append(f"certificate until {view.site.cert_not_after:%Y-%m-%d %H:%M} UTC")
    same = hello.version == own
    parts.append(f"flprov {hello.version}" + ("" if same else f" there, {own} here; both speak one protocol"))
    if hello.manifest:
        parts.append(f"kit {hello.manifest[:12]}; the server has no list of kits to compare it with")
    return "; ".join(parts)


def _job_rungs(name: str, run: JobRun, view: SiteView) -> Iterator[Rung]:
    part, job = run.sites.parts[name], run.record.id
    if not run.active:
        text = f"{run.record.state.value}: it is being ended there, which is not proven yet"
        yield Rung(name="job_deployed", ok=False, since=part.since, reason=text, job=job)
        return
    if part.state not in _DEPLOYED:
        text = part.reason or part.progress or part.state
        yield Rung(name="job_deployed", ok=False, since=part.since, reason=text, job=job)
        return
    yield Rung(name="job_deployed", ok=True, since=part.deployed_at, job=job)
    if part.state == "stalled":
        yield Rung(name="training", ok=False, since=part.since, reason=_progress(part), job=job)
        return
    if part.state == "training":
        yield Rung(name="training", ok=True, since=part.since, reason=_progress(part), job=job)
    record = view.scene.jobs.contributed(job, name)
    if record is not None:
        text = f"to round {record.round + 1}"
        yield Rung(name="contributed", ok=True, since=record.finished_at, reason=text, job=job)


def _progress(part: SitePart) -> str:
    return "; ".join(text for text in (part.reason, part.progress or "no progress heard yet") if text)
