# SPDX-License-Identifier: Apache-2.0
"""How a site sees itself: its ladder and what is in its way, without the server's word.

The rungs are those of the server's `status`. What a site cannot know is left out, not guessed: whether it
has been removed, say, it learns when it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flprov.agent.control import Link, LinkState
from flprov.wire.documents import RenewalStatus, Rung, Vitals, environment_rung


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What the agent knows at one moment."""

    kit: Path
    made_at: datetime  # of the kit
    link: Link
    issued_at: datetime  # of the certificate in use
    not_after: datetime
    renewal: RenewalStatus
    trust: int  # version of the trust bundle that is held
    vitals: Vitals | None
    jobs: Mapping[str, str]  # job id -> how far it is here
    since: Mapping[str, datetime]  # job id -> since when it is that far, where that is known
    drained: str
    now: datetime


def own_ladder(own: Outlook) -> tuple[Rung, ...]:
    """The rungs in order, up to the first that fails; those of each job stand for themselves."""
    rungs: list[Rung] = []
    for rung in (*_site_rungs(own),):
        rungs.append(rung)
        if not rung.ok:
            return tuple(rungs)
    return (*rungs, *_job_rungs(own))


def _site_rungs(own: Outlook) -> Iterator[Rung]:
    link = own.link
    refused = link.state is LinkState.REFUSED
    yield Rung(
        name="enrolled",
        ok=not refused,
        since=link.since if refused else own.made_at,
        reason=link.reason if refused else "its kit was made then",
    )
    up = link.state is LinkState.CONNECTED
    yield Rung(name="connected", ok=up, since=link.since, reason="" if up else say_link(link, own.now))
    yield _kit_rung(own)
    yield environment_rung(own.vitals)


def _kit_rung(own: Outlook) -> Rung:
    error, due = own.renewal.last_error, own.renewal.due_at
    if error:
        text = f"the certificate ends on {own.not_after:%Y-%m-%d %H:%M} UTC and cannot be renewed: {error}"
        return Rung(name="kit_current", ok=False, since=None, reason=text)
    held = f"trust bundle {own.trust}" if own.trust else "the trust that came with the kit"
    text = f"certificate until {own.not_after:%Y-%m-%d %H:%M} UTC, renewed from {due:%Y-%m-%d}; {held}"
    return Rung(name="kit_current", ok=True, since=own.issued_at, reason=text)


def _job_rungs(own: Outlook) -> Iterator[Rung]:
    for job_id, state in own.jobs.items():
        since = own.since.get(job_id)
        deployed = state in ("ready", "training")
        up_since = None if state == "training" else since  # it was deployed before it began to train
        yield Rung(
            name="job_deployed", ok=deployed, since=up_since, reason="" if deployed else state, job=job_id
        )
        if state == "training":
            yield Rung(name="training", ok=True, since=since, job=job_id)


def say_link(link: Link, now: datetime) -> str:
    """`nobody answers (try 7, next in 30 s)`."""
    if not link.tries:
        return link.reason or link.state.value
    left = max(0.0, (link.next_at - now).total_seconds()) if link.next_at else 0.0
    again = f"next in {left:.0f} s" if left >= 1 else "dialling now"
    return f"{link.reason} (try {link.tries}, {again})"


def own_why(own: Outlook) -> tuple[str, str]:
    """Why this site takes no jobs now, and the next thing to do about it; empty: it does."""
    for rung in own_ladder(own):
        if not rung.ok and not rung.job:
            return f"{_PLAIN[rung.name]}: {rung.reason}", _hint(own, rung.name)
    if own.drained:
        return f"no new jobs come: {own.drained}", "whoever runs the network types: flprov site enable NAME"
    return "", ""


_PLAIN = {
    "enrolled": "the server does not let this site in",
    "connected": "not connected",
    "kit_current": "its identity is not up to date",
    "environment_ready": "this machine is not ready for jobs",
}


def _hint(own: Outlook, rung: str) -> str:
    if rung == "connected":
        return f"flprov doctor {own.kit}"
    if rung == "environment_ready":
        return f"put right what it says, in {own.kit}.local/ or on this machine; no restart is needed"
    if rung == "kit_current":
        return "flprov tries again by itself; ask whoever runs the network if it stays so"
    return "ask whoever runs the network; the agent goes on asking"
