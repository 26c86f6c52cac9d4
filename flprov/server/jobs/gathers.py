# SPDX-License-Identifier: Apache-2.0
"""The broadcasts of one round: several may be open at once, as long as no site has two open tasks.

A site that one of them has given up, or that was spared when one was withdrawn, may be asked anew.
"""

from __future__ import annotations

from collections.abc import Iterator

from flprov.errors import ProtocolError
from flprov.server.jobs.gather import Gather

LATE = "the round went on without it"
SPARED = "the workflow went on without its answer"
_MOST = 10_000  # in one round


class Gathers:
    """Every broadcast of the round, in the order in which the workflow made them."""

    def __init__(self) -> None:
        self._all: dict[str, Gather] = {}
        self._unsettled: dict[str, Gather] = {}  # those that the rule of membership still has to look at
        self._before: dict[str, frozenset[str]] = {}  # tasks of the round before -> whose answers it has
        self._late: dict[str, set[str]] = {}  # tasks of both -> whose answers were counted as too late

    def __iter__(self) -> Iterator[Gather]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    @property
    def newest(self) -> Gather | None:
        """The last one that was made, open or not."""
        return next(reversed(self._all.values()), None)

    @property
    def open(self) -> tuple[Gather, ...]:
        """Those in which a site's answer is awaited."""
        return tuple(gather for gather in self._unsettled.values() if gather.is_open)

    @property
    def unsettled(self) -> tuple[Gather, ...]:
        """Those that are open, or that nobody has judged since their last answer."""
        return tuple(self._unsettled.values())

    def settle(self, gather: Gather) -> None:
        """It was judged, nobody is awaited, and its quorum stands."""
        self._unsettled.pop(gather.asked.task_id, None)

    def unsettle(self, gather: Gather) -> None:
        """An update that it had is refused: it has to be judged again."""
        self._unsettled[gather.asked.task_id] = gather

    def get(self, task_id: str) -> Gather | None:
        """The broadcast of this task in this round."""
        return self._all.get(task_id)

    def awaiting(self, site: str) -> Gather | None:
        """The one that waits for this site's answer."""
        return next((gather for gather in self._unsettled.values() if gather.awaits(site)), None)

    def taking(self, site: str) -> Gather | None:
        """The one for which the site's answer counts: awaited, or given up and taken all the same."""
        late = [gather for gather in self.open if gather.takes_late(site)]
        return self.awaiting(site) or (late[-1] if late else None)

    def lost(self, site: str) -> Gather | None:
        """The newest one that went on without this site."""
        return next((gather for gather in reversed(self._all.values()) if site in gather.given_up), None)

    def verify_new(self, task_id: str, sites: tuple[str, ...]) -> None:
        """Check that the workflow may ask this now.

        Raises:
            ProtocolError: the task is not new, a site has not answered another one, or it is one too many.
        """
        if task_id in self._all:
            raise ProtocolError(f"the workflow broadcast task {task_id!r} twice in one round")
        if len(self._all) >= _MOST:
            raise ProtocolError(f"the workflow made {_MOST} broadcasts in one round; no more are taken")
        for gather in self.open:
            for site in sites:
                if gather.awaits(site):
                    raise ProtocolError(
                        f"the workflow broadcast task {task_id!r} to {site},"
                        f" which has not answered task {gather.asked.task_id!r}"
                    )

    def add(self, gather: Gather) -> None:
        """A broadcast that was verified."""
        self._all[gather.asked.task_id] = self._unsettled[gather.asked.task_id] = gather

    def holds(self, task_id: str, site: str) -> bool:
        """Whether this site's answer to this task was taken, in this round or the one before."""
        gather = self.get(task_id)
        return site in (self._before.get(task_id, ()) if gather is None else gather.taken)

    def note_late(self, task_id: str, site: str) -> None:
        """This site's answer to this task was counted as too late."""
        self._late.setdefault(task_id, set()).add(site)

    def was_late(self, task_id: str, site: str) -> bool:
        """Whether it was counted before."""
        return site in self._late.get(task_id, ())

    def missed(self, task_id: str, site: str) -> str:
        """Why this site's answer to this task comes too late; empty when nobody asked for it here."""
        gather = self.get(task_id)
        if gather is None:
            return f"{LATE}: its round is saved" if task_id in self._before else ""
        if site in gather.spared:
            return f"{LATE}: {SPARED}"
        why = gather.missing.get(site, "")
        return f"{LATE}: {why}" if why else LATE

    def clear(self) -> None:
        """The workflow begins the round anew."""
        self._all.clear()
        self._unsettled.clear()

    def drop(self) -> None:
        """The round is saved, or the job has ended."""
        self._before = {task_id: frozenset(gather.taken) for task_id, gather in self._all.items()}
        self._late = {task_id: sites for task_id, sites in self._late.items() if task_id in self._before}
        self.clear()
