# SPDX-License-Identifier: Apache-2.0
"""Board: a FLARE controller's standing tasks over our sites, one task at a time at each site.

There is one thread: it sends what can be sent, waits for the next answer and calls the callbacks. A
task with a timeout has a timer, which withdraws it and so ends that waiting; nothing polls.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from flprov.errors import JobFailed, Misuse
from flprov.flare.apis.client import Client
from flprov.flare.apis.controller_spec import ClientTask, Task, TaskCompletionStatus
from flprov.flare.apis.event_type import EventType
from flprov.flare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from flprov.flare.apis.fl_context import FLContext, FLContextManager
from flprov.flare.apis.shareable import ReservedHeaderKey, Shareable
from flprov.flare.apis.signal import Signal
from flprov.flare.bridge.exchange import Parcel, from_reason, from_update, to_parcel
from flprov.flare.bridge.parts import Parts
from flprov.flare.bridge.standing import Manner, Standing
from flprov.messages import Update, UpdateKind
from flprov.sdk import Gathering, Sites

_ALL = tuple(UpdateKind)


class Listener(Protocol):
    """What the board tells its owner."""

    def before_send(self, data: Shareable) -> None:
        """A task is about to be sent."""
        ...

    def on_update(self, update: Update) -> None:
        """An update has come."""
        ...

    def on_stray(self, client: Client, task: Task, result: Shareable, fl_ctx: FLContext) -> None:
        """A result has come for a task that does not stand any more."""
        ...


class Board:
    """Scheduling, waiting and cancelling, for `Controller`."""

    def __init__(self, sites: Sites, parts: Parts, listener: Listener, job_id: str) -> None:
        self._sites = sites
        self._parts = parts
        self._listener = listener
        self._peers = {name: FLContextManager(identity_name=name, job_id=job_id) for name in sites.names}
        self._clients = {name: Client(name) for name in sites.names}
        self._standing: list[Standing] = []
        self._sending = False

    @property
    def clients(self) -> list[Client]:
        """All sites of the job."""
        return list(self._clients.values())

    @property
    def count(self) -> int:
        """How many tasks stand."""
        return len(self._standing)

    @property
    def busy(self) -> set[str]:
        """Sites that are at work."""
        return {name for one in self._standing for gathering in one.gatherings for name in gathering.waiting}

    def schedule(
        self,
        task: Task,
        manner: Manner,
        targets: Sequence[Client | str] | None,
        *,
        minimum: int = 0,
        grace: float = 0.0,
        in_turn: bool = False,
        patience: float = 0.0,
    ) -> Standing:
        """Let a task stand, and send it to whoever is free.

        Raises:
            Misuse: it stands already, or has no targets.
            NotFound: a target is no site of the job.
        """
        names = self._names(targets)
        if task.is_standing:
            raise Misuse(f"task {task.name!r} stands already", hint="make a new Task for each time")
        if not names:
            raise Misuse(f"task {task.name!r} has no targets")
        if minimum > len(names):
            raise Misuse(
                f"task {task.name!r} waits for {minimum} answers of {len(names)} sites, which never come",
                hint="lower min_responses, or run the job on more sites",
            )
        task.targets, task.is_standing, task.completion_status = names, True, None
        task.schedule_time = time.time()
        standing = Standing(
            task=task,
            manner=manner,
            queue=list(names),
            order=list(names),
            minimum=minimum,
            grace=grace,
            in_turn=in_turn,
            patience=patience,
        )
        self._standing.append(standing)
        if task.timeout:
            standing.end_later(task.timeout, TaskCompletionStatus.TIMEOUT)
        self.send()
        return standing

    def send(self) -> None:
        """Send what waits for sites that have become free."""
        if self._sending:
            return  # a callback has scheduled something; the loop below sees it
        self._sending = True
        try:
            while any(self._send_one(standing) for standing in list(self._standing)):
                pass
        finally:
            self._sending = False

    def advance(self) -> bool:
        """Wait for one more answer, and let everybody hear it; False when none is under way."""
        self.send()
        under_way = [gathering for one in self._standing for gathering in one.gatherings]
        if self._sites.wait_answer(*under_way) is None and not any(one.ended for one in self._standing):
            return False
        for standing in list(self._standing):
            self._look(standing)
        self.send()
        return True

    def wait(self, standing: Standing, abort_signal: Signal | None) -> None:
        """Until the task does not stand any more, or the signal is triggered.

        Raises:
            JobFailed: it waits for sites that are not going to be free.
        """
        while standing in self._standing:
            if abort_signal is not None and abort_signal.triggered:
                self.cancel(standing.task, TaskCompletionStatus.ABORTED)
            elif not self.advance() and standing in self._standing:
                raise JobFailed(f"task {standing.task.name!r} waits for sites that never become free")

    def cancel(self, task: Task, status: TaskCompletionStatus) -> None:
        """Let a task not stand any more; nothing where it does not."""
        for standing in list(self._standing):
            if standing.task is task:
                self._end(standing, status)

    def cancel_all(self, status: TaskCompletionStatus) -> None:
        """The same for all."""
        for standing in list(self._standing):
            self._end(standing, status)

    def _names(self, targets: Sequence[Client | str] | None) -> list[str]:
        if targets is None:
            return list(self._sites.names)
        names = [one.name if isinstance(one, Client) else str(one) for one in targets]
        return list(dict.fromkeys(names))

    # ---- out -------------------------------------------------------------------------------

    def _send_one(self, standing: Standing) -> bool:
        names = standing.next_targets(self.busy) if standing in self._standing else []
        if not names:
            return False
        self._listener.before_send(standing.task.data)
        for group, tasks, parcel in self._parcels(standing.task, names):
            gathering = self._sites.start(
                standing.task.name,
                parcel.model,
                to=group,
                extra=parcel.extra,
                scalars=parcel.scalars,
                expects=_ALL,
            )
            standing.sent(group, gathering, tasks)
            for client_task in tasks:
                self._call(standing.task.after_task_sent_cb, client_task)
        return True

    def _parcels(self, task: Task, names: Sequence[str]) -> list[tuple[list[str], list[ClientTask], Parcel]]:
        """What to send to whom: one parcel for all that get the same."""
        found: list[tuple[list[str], list[ClientTask], Parcel]] = []
        for name in names:
            client_task = ClientTask(self._clients[name] if name in self._clients else Client(name), task)
            public = self._call(task.before_task_sent_cb, client_task).get_all_public_props()
            shown = {key: value for key, value in public.items() if not key.startswith("__")}
            parcel = (
                found[-1][2] if found and task.before_task_sent_cb is None else to_parcel(task.data, shown)
            )
            for group, tasks, known in found:
                if known.same_as(parcel):
                    group.append(name)
                    tasks.append(client_task)
                    break
            else:
                found.append(([name], [client_task], parcel))
        return found

    # ---- back ------------------------------------------------------------------------------

    def _look(self, standing: Standing) -> None:
        """Take what has come for a task, give it to the callback, and see whether it is enough."""
        for gathering in list(standing.gatherings):
            self._collect(standing, gathering)
        for name in standing.due():
            if standing in self._standing:
                self._deliver(standing, name, standing.arrived.pop(name))
        if standing not in self._standing:
            return
        if standing.ended is not None:
            self._end(standing, standing.ended)
        elif standing.idle and standing.manner is not Manner.FOREVER:
            self._end(standing, TaskCompletionStatus.OK)
        elif 0 < standing.minimum <= standing.received and not standing.waits_for_all:
            self._close(standing)

    def _collect(self, standing: Standing, gathering: Gathering) -> None:
        while (update := gathering.fresh()) is not None:
            result = from_update(update)
            self._listener.on_update(update)
            if update.site in standing.under_way:
                standing.arrived[update.site] = result
            else:
                self._stray(standing.task, update.site, result)
        if not gathering.done:
            return
        standing.gatherings.remove(gathering)
        for name in gathering.sites:
            if name not in standing.under_way or name in standing.arrived:
                continue
            if name in gathering.absent:
                standing.arrived[name] = from_reason(gathering.absent[name])
            else:
                del standing.under_way[name]  # it was withdrawn: nobody answers

    def _deliver(self, standing: Standing, name: str, result: Shareable) -> None:
        client_task = standing.under_way.pop(name)
        if standing.manner is Manner.FOREVER:
            standing.queue.append(name)
        if result.get_return_code() == ReturnCode.OK:
            standing.received += 1
        client_task.result = result
        client_task.result_received_time = time.time()
        ctx = self._result_context(standing.task, name, result)
        self._parts.fire_event(EventType.BEFORE_PROCESS_SUBMISSION, ctx)
        if standing.task.result_received_cb is not None:
            standing.task.result_received_cb(client_task, ctx)
        self._parts.fire_event(EventType.AFTER_PROCESS_SUBMISSION, ctx)

    def _stray(self, task: Task, name: str, result: Shareable) -> None:
        result.set_header(ReservedHeaderKey.REPLY_IS_LATE, value=True)
        self._listener.on_stray(self._clients[name], task, result, self._result_context(task, name, result))

    def _result_context(self, task: Task, name: str, result: Shareable) -> FLContext:
        """A context of a site's result, with what FLARE's runtime adds to that."""
        if (jar := task.data.get_cookie_jar()) is not None:
            result.set_cookie_jar(jar)
        result.set_header(ReservedHeaderKey.TASK_NAME, task.name)
        result.set_peer_props({ReservedKey.IDENTITY_NAME: name})
        ctx = self._parts.new_context()
        ctx.set_peer_context(self._peers[name].new_context())
        ctx.put(FLContextKey.TASK_NAME, task.name, private=True, sticky=False)
        ctx.put(FLContextKey.TASK_RESULT, result, private=True, sticky=False)
        return ctx

    def _close(self, standing: Standing) -> None:
        """Enough have answered: end it now, or after the time of grace."""
        if standing.grace <= 0:
            self._end(standing, TaskCompletionStatus.OK)
        elif not standing.closing:
            standing.closing = True
            standing.end_later(standing.grace, TaskCompletionStatus.OK)

    def _end(self, standing: Standing, status: TaskCompletionStatus) -> None:
        """Let a task not stand any more: whoever has not answered is free, what came meanwhile is a stray."""
        self._standing.remove(standing)
        standing.stop_timers()
        task = standing.task
        task.is_standing, task.completion_status = False, status
        for gathering in standing.gatherings:
            gathering.stop()
            while (update := gathering.fresh()) is not None:
                self._listener.on_update(update)
                self._stray(task, update.site, from_update(update))
        for name, result in standing.arrived.items():
            self._stray(task, name, result)
        if task.task_done_cb is not None:
            task.task_done_cb(task, self._parts.new_context())

    def _call(self, callback: object, client_task: ClientTask) -> FLContext:
        ctx = self._parts.new_context()
        ctx.set_peer_context(self._peers[client_task.client.name].new_context())
        if callable(callback):
            callback(client_task, ctx)
        return ctx
