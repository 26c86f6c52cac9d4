# SPDX-License-Identifier: Apache-2.0
"""Ending a network: ask, then kill, then what its jobs left; and the proof that nothing is there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flprov.errors import LocalError
from flprov.poc.place import Party, Place, Record
from flprov.poc.processes import ProcessMark, end_all, find_commands, find_descendants


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What was ended."""

    stopped: tuple[str, ...]  # parties that ran
    killed: tuple[str, ...]  # of these, those that did not end when asked
    job_processes: tuple[int, ...]  # what jobs had left


def end_network(place: Place, record: Record, *, grace: float) -> Ended:
    """End every process of the network in `place`.

    Raises:
        LocalError: one could not be ended.
    """
    names = _running(place, record)
    descendants = find_descendants(names)
    killed = end_all(names, grace=grace)
    found, remaining = _end_jobs(place, descendants)
    _verify_gone([*names, *descendants], remaining, _running(place, record))
    return Ended(
        stopped=tuple(sorted(set(names.values()))),
        killed=tuple(sorted({names[process] for process in killed})),
        job_processes=tuple(sorted(found)),
    )


def _running(place: Place, record: Record) -> dict[ProcessMark, str]:
    """Every server and site of this network: those that were recorded, and those started by hand."""
    names = {process: name for name, process in record.alive.items()}
    for party in record.parties:
        names |= dict.fromkeys(find_started(place, party), party.name)
    return names


def find_started(place: Place, party: Party) -> list[ProcessMark]:
    """The processes of one party, whoever has started them."""
    return find_commands([party.kind, "start", str(place.kit(party.name))])


def _end_jobs(place: Place, descendants: Iterable[ProcessMark]) -> tuple[set[int], set[int]]:
    """Processes of jobs that their parents have not ended: what was there, and what is there still."""
    from flprov.workers import reap_leftovers

    found: set[int] = set()
    remaining: set[int] = set()
    for pattern in ("*/shim.json", "*/workflow/shim.json"):
        for shim in place.workspace.glob(f"kits/*.local/state/jobs/{pattern}"):
            left = reap_leftovers(shim.parent)
            found.update(left.found)
            remaining.update(left.remaining)
    rest = {process for process in descendants if process.alive}
    end_all(rest, grace=0)
    return found | {process.pid for process in rest}, remaining


def _verify_gone(ended: Iterable[ProcessMark], remaining: set[int], running: Iterable[ProcessMark]) -> None:
    left = remaining | {process.pid for process in (*ended, *running) if process.alive}
    if left:
        pids = " ".join(str(pid) for pid in sorted(left))
        raise LocalError(f"processes could not be ended: {pids}", hint=f"ps -fp {pids.replace(' ', ',')}")
