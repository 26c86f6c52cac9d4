# SPDX-License-Identifier: Apache-2.0
"""Why a site runs no jobs now: everything that stands in its way, and the next thing to type for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flprov.errors import error_class
from flprov.server.records import SiteRecord
from flprov.server.sights.ladder import ladder
from flprov.server.sights.scene import Scene, SiteView
from flprov.wire.documents import Cause, RefusedDocument, Rung, Seen, SiteWhyDocument

_NEVER = datetime.max.replace(tzinfo=UTC)  # where a cause has no known beginning: it comes last


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """One thing in the way, what to type, and whether it alone keeps jobs away."""

    cause: Cause
    blocks: bool = True


def site_why(scene: Scene, site: SiteRecord) -> SiteWhyDocument:
    """What `site why` prints."""
    view = scene.at(site)
    found = tuple(_obstacles(view))
    blocking = [line.cause for line in found if line.blocks]
    causes = tuple(sorted((line.cause for line in found), key=lambda cause: cause.at or _NEVER))
    return SiteWhyDocument(
        name=site.name,
        state=view.state,
        answer=f"{site.name}: {blocking[0].message}" if blocking else _all_right(view),
        causes=causes,
        hint=blocking[0].hint if blocking else next((cause.hint for cause in causes if cause.hint), ""),
        seen=tuple(last_seen(view)),
    )


def _all_right(view: SiteView) -> str:
    running = [run.record.id for run in view.runs]
    jobs = f"it runs {', '.join(running)}" if running else "no job runs there now"
    return f"{view.site.name}: nothing stands in its way; {jobs}"


def _obstacles(view: SiteView) -> Iterator[Obstacle]:
    """In the order of the ladder: what comes first is the answer."""
    for rung in ladder(view):
        if not rung.ok and not rung.job:
            yield Obstacle(cause=_of_rung(view, rung))
    yield from _marks(view)
    for call in view.scene.refused():
        if call.looks_like == view.site.name:
            yield Obstacle(cause=_of_refusal(view, call), blocks=False)
    for rung in ladder(view):
        if not rung.ok and rung.job:
            text = f"job {rung.job} does not go on there: {rung.reason}"
            yield Obstacle(
                cause=_cause(view, rung.since, "job-failed", text, f"flprov job why {rung.job}"), blocks=False
            )


def _marks(view: SiteView) -> Iterator[Obstacle]:
    registry, name = view.scene.registry, view.site.name
    drained = registry.enrolment(name).drained
    if drained is not None:
        text = f"it gets no new jobs: drained {drained.since}"
        yield Obstacle(cause=_cause(view, drained.at, "conflict", text, f"flprov site enable {name}"))
    hold = registry.drained
    if hold is not None:
        text = f"no job starts anywhere: the server is drained {hold.since}"
        yield Obstacle(cause=_cause(view, hold.at, "conflict", text, "flprov server enable", party="server"))


def _of_refusal(view: SiteView, call: RefusedDocument) -> Cause:
    who = call.claims or call.who
    calls = "a call that looks like this site's was refused"
    if call.count > 1:
        calls = f"{call.count} calls that look like this site's were refused, the last"
    text = f"{calls} at {call.last:%Y-%m-%d %H:%M:%S} UTC, as {who}: {call.reason}"
    hint = f"is it {view.site.name}? then: flprov invite create {view.site.name}"
    return _cause(view, call.first, "identity-refused", text, hint)


def _cause(view: SiteView, at: datetime | None, code: str, text: str, hint: str, *, party: str = "") -> Cause:
    return Cause(
        at=at,
        party=party or view.site.name,
        code=code,
        message=text,
        hint=hint,
        nature=error_class(code).nature.value,
    )


# ---- the rungs -------------------------------------------------------------------------------


def _of_rung(view: SiteView, rung: Rung) -> Cause:
    name = view.site.name
    match rung.name:
        case "enrolled":
            locked = view.state == "locked"
            hint = f"flprov site unlock {name}" if locked else f"flprov invite create {name}"
            code = "site-locked" if locked else "identity-refused"
            return _cause(view, rung.since, code, rung.reason, hint)
        case "connected":
            return _away(view, rung)
        case "kit_current":
            hint = f"flprov cert renew {name}" if view.overdue else "flprov ca rotate status"
            return _cause(
                view, rung.since, "identity-refused", f"its kit is not current: {rung.reason}", hint
            )
        case _:
            text = f"its machine is not ready for jobs: {rung.reason}"
            return _cause(view, rung.since, "config-error", text, _environment_hint(view))


def _away(view: SiteView, rung: Rung) -> Cause:
    name = view.site.name
    if view.barred is not None:
        return _cause(view, rung.since, "identity-refused", rung.reason, f"flprov invite create {name}")
    if not view.site.first_connected:
        hint = f"no kit there yet: flprov invite create {name}; else at the site: flprov doctor KIT"
        return _cause(view, view.enrolled_at, "site-unavailable", "it has never connected", hint)
    if view.site.left_by_itself:
        text = f"its agent was stopped and no link was lost: {rung.reason}"
        return _cause(view, rung.since, "site-unavailable", text, "at the site: flprov site start KIT")
    hint = "at the site: flprov site status KIT, which says what it tries; then flprov doctor KIT"
    return _cause(view, rung.since, "site-unavailable", f"not connected: {rung.reason}", hint)


_BY_CONDITION = {
    "disk": "free some disk where the kit lies",
    "confinement": "install bubblewrap, or set `unconfined: true` in policy.yml",
    "policy": "put policy.yml or site.yml right, beside the kit",
    "datasets": "correct the paths under `datasets:` in site.yml, or mount what is missing",
    "interpreter": "correct `python:` in site.yml",
    "packages": "install what is missing into the interpreter that site.yml names",
    "gpu driver": "look at the NVIDIA driver: nvidia-smi",
}


def _environment_hint(view: SiteView) -> str:
    vitals = view.session.vitals if view.session else None
    if vitals is None:
        return "its first heartbeat comes within seconds; ask again"
    bad = next((found.name for found in vitals.environment if not found.ok), "policy")
    return f"at the site: {_BY_CONDITION.get(bad, 'put it right')}; no restart is needed"


# ---- what was seen ---------------------------------------------------------------------------


def last_seen(view: SiteView) -> Iterator[Seen]:
    """The last link and heartbeat of a site, and its clock if that is off."""
    name, site, session = view.site.name, view.site, view.session
    if session is None:
        if site.gone_at:
            yield Seen(party=name, what="link", at=site.gone_at, text=site.gone_because or "lost")
        elif site.last_seen:  # the server itself was not there when the link ended
            yield Seen(
                party=name,
                what="link",
                at=site.last_seen,
                text="it connected; not again since the server was started",
            )
        return
    yield Seen(party=name, what="link", at=session.since, text=f"connected from {session.hello.host}")
    yield Seen(party=name, what="heartbeat", at=session.last_seen)
    off = session.clock_off
    if off:
        yield Seen(party=name, what="clock", at=view.now, text=say_clock(off))


def say_clock(off: timedelta) -> str:
    """`its clock is 5 min behind the server's; times here are the server's`."""
    seconds = abs(off.total_seconds())
    amount = f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
    side = "behind" if off > timedelta(0) else "ahead of"
    return f"its clock is {amount} {side} the server's; the times shown are the server's"
