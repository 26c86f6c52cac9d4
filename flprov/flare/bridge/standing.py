# SPDX-License-Identifier: Apache-2.0
"""Standing: a FLARE controller's task between being scheduled and being done."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from flprov.flare.apis.controller_spec import ClientTask, Task, TaskCompletionStatus
from flprov.flare.apis.shareable import Shareable
from flprov.sdk import Gathering


class Manner(enum.Enum):
    """How a task goes to its targets."""

    BROADCAST = "broadcast"  # to all, at once
    FOREVER = "broadcast forever"  # to all, and again to whoever has answered
    ONE = "send"  # to one of them
    RELAY = "relay"  # to one after the other


@dataclass(eq=False, kw_only=True)
class Standing:
    """What has been sent, what has come back, and when it is enough."""

    task: Task
    manner: Manner
    queue: list[str]  # targets that it has not been sent to
    minimum: int = 0  # answers that are enough; 0: all of them
    grace: float = 0.0  # seconds to wait for further ones after that
    in_turn: bool = False  # of a task for one site: it has to be the first target
    patience: float = 0.0  # of a relay: seconds that each site has; 0: any
    under_way: dict[str, ClientTask] = field(default_factory=dict)
    gatherings: list[Gathering] = field(default_factory=list)
    arrived: dict[str, Shareable] = field(default_factory=dict)  # not given to the callback yet
    order: list[str] = field(default_factory=list)  # in which results go to the callback
    received: int = 0  # good answers
    closing: bool = False  # enough have come; the time of grace runs
    ended: TaskCompletionStatus | None = None  # set by a timer
    timers: list[threading.Timer] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        """Whether everybody who was to answer has answered, and was heard."""
        return not (self.queue or self.under_way or self.arrived)

    @property
    def waits_for_all(self) -> bool:
        """Whether the task ends only when everybody has answered."""
        return self.manner is Manner.BROADCAST and not 0 < self.minimum < len(self.order)

    def next_targets(self, busy: set[str]) -> list[str]:
        """Whom to send it to now, of those in the queue that are not busy."""
        free = [name for name in self.queue if name not in busy]
        if self.manner in (Manner.BROADCAST, Manner.FOREVER):
            return free
        if self.under_way or (self.in_turn and free[:1] != self.queue[:1]):
            return []
        return free[:1]

    def sent(self, names: list[str], gathering: Gathering, tasks: list[ClientTask]) -> None:
        """Note that it has been sent."""
        for name, client_task in zip(names, tasks, strict=True):
            self.under_way[name] = client_task
            client_task.task_send_count += 1
            client_task.task_sent_time = time.time()
            self.task.client_tasks.append(client_task)
            self.task.last_client_task_map[name] = client_task
        kept = [] if self.manner is Manner.ONE else [name for name in self.queue if name not in names]
        self.queue = kept
        self.gatherings.append(gathering)
        if self.patience:
            self.start_timer(self.patience, gathering.withdraw)

    def due(self) -> list[str]:
        """Whose results can be given to the callback: all of them, or, where all are waited for, in order.

        So a controller that adds up results as they come gets the same sum whatever comes first. When its
        time is up nobody is waited for any more: what has come counts.
        """
        if not self.waits_for_all:
            return list(self.arrived)
        if self.ended is not None:
            return [name for name in self.order if name in self.arrived]
        found: list[str] = []
        open_sites = set(self.queue) | set(self.under_way)
        for name in self.order:
            if name in open_sites and name not in self.arrived:
                break
            if name in self.arrived:
                found.append(name)
        return found

    def end_later(self, seconds: float, status: TaskCompletionStatus) -> None:
        """Let it end after so many seconds: a timer's thread tells the sites, which ends the waiting."""

        def end() -> None:
            self.ended = status
            for gathering in list(self.gatherings):
                gathering.withdraw()

        self.start_timer(seconds, end)

    def start_timer(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something after so many seconds, unless the task ends before."""
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()
        self.timers.append(timer)

    def stop_timers(self) -> None:
        """The task has ended."""
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()
