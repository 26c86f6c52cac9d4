# SPDX-License-Identifier: Apache-2.0
"""The rung of a machine that is ready, from what the machine said: the same at the site and at the server."""

from __future__ import annotations

from datetime import timedelta

from flprov.wire.documents.machines import Vitals
from flprov.wire.documents.network import Rung

_LEAST_DISK = 1 << 30  # bytes; for a site whose agent is too old to say


def environment_rung(vitals: Vitals | None, behind: timedelta = timedelta(0)) -> Rung:
    """Whether jobs can run there; since when as the machine says, put right by what its clock is `behind`."""
    if vitals is None:
        return Rung(name="environment_ready", ok=False, since=None, reason="no heartbeat yet")
    if not vitals.environment:
        problem = _problem(vitals)
        return Rung(name="environment_ready", ok=not problem, since=None, reason=problem)
    bad = sorted((found for found in vitals.environment if not found.ok), key=lambda found: found.since)
    if bad:
        reason = "; ".join(f"{found.name}: {found.reason}" for found in bad)
        return Rung(name="environment_ready", ok=False, since=bad[0].since + behind, reason=reason)
    since = max(found.since for found in vitals.environment)
    return Rung(name="environment_ready", ok=True, since=since + behind)


def _problem(vitals: Vitals) -> str:
    """As far as the older agents told it."""
    if vitals.disk.available < _LEAST_DISK:
        return f"{vitals.disk.available >> 20} MiB of disk left"
    if vitals.confinement == "none":
        return "job code cannot be confined there (neither Landlock nor bubblewrap)"
    return vitals.notes[0] if vitals.notes else ""
