# SPDX-License-Identifier: Apache-2.0
"""SiteRun: an Executor at work in a site's process, with events in FLARE's order.

START_RUN comes with the first task, END_RUN when the job is over. An abort is SIGTERM: from then on
`abort_signal.triggered` is true, and ABORT_TASK is fired in a thread of its own, as FLARE does. Code
that has ever asked the signal is trusted to end by itself; other code is ended by SystemExit.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from flprov.flare.apis.event_type import EventType
from flprov.flare.apis.fl_constant import FLContextKey
from flprov.flare.apis.fl_context import FLContext, FLContextManager
from flprov.flare.apis.signal import Signal
from flprov.flare.bridge.exchange import task_name, to_shareable, to_update
from flprov.flare.bridge.parts import Parts, build_components, find_workspace, show_log
from flprov.messages import Site, Task, Update
from flprov.workers import current_session

if TYPE_CHECKING:
    from types import FrameType

    from flprov.flare.apis.executor import Executor

_log = logging.getLogger("flprov.flare")


class SiteRun:
    """One executor's part of one job at one site."""

    def __init__(self, executor: Executor, task: Task, site: Site) -> None:
        show_log()
        self._executor = executor
        self._who = type(executor).__name__
        self._parts = Parts(identity=site.name, job_id=site.job_id, workspace=find_workspace(site.folder))
        for component_id, component in build_components(task.args).items():
            self._parts.add(component_id, component)
        self._parts.add("executor", executor)
        self._server = FLContextManager(identity_name="server", job_id=site.job_id)
        self._abort = Signal(source=_aborted)
        self._doing: FLContext | None = None
        self._fire(EventType.ABOUT_TO_START_RUN, self._context(site))
        self._fire(EventType.START_RUN, self._context(site))
        self._site = site
        self._previous = _chain_sigterm(self._on_sigterm)

    def do(self, task: Task) -> Update:
        """One task.

        Raises:
            JobFailed: the answer has another return code than OK.
        """
        ctx = self._context(self._site)
        data = to_shareable(task)
        name = task_name(task)
        for key, value in (
            (FLContextKey.TASK_NAME, name),
            (FLContextKey.TASK_ID, f"{task.round}/{task.name}"),
            (FLContextKey.TASK_DATA, data),
        ):
            ctx.put(key, value, private=True, sticky=False)
        peer = self._server.new_context()
        for key, value in (data.get_peer_props() or {}).items():
            peer.put(key, value, private=False, sticky=False)
        ctx.set_peer_context(peer)
        self._doing = ctx
        try:
            self._fire(EventType.BEFORE_TASK_EXECUTION, ctx)
            reply = self._executor.execute(name, data, ctx, Signal(self._abort))
            ctx.put(FLContextKey.TASK_RESULT, reply, private=True, sticky=False)
            self._fire(EventType.AFTER_TASK_EXECUTION, ctx)
        finally:
            self._doing = None
        return to_update(reply, task, self._who)

    def end(self) -> None:
        """The job is over at this site."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
        for event in (EventType.ABOUT_TO_END_RUN, EventType.END_RUN):
            self._fire(event, self._context(self._site))

    def _context(self, site: Site) -> FLContext:
        ctx = self._parts.new_context()
        folder = str(site.folder)
        for key, value in (
            (FLContextKey.APP_ROOT, folder),
            (FLContextKey.WORKSPACE_ROOT, folder),
            (FLContextKey.WORKSPACE_OBJECT, self._parts.get_workspace()),
            (FLContextKey.CLIENT_NAME, site.name),
            (FLContextKey.RUN_ABORT_SIGNAL, self._abort),
        ):
            ctx.put(key, value, private=True, sticky=False)
        return ctx

    def _fire(self, event: str, ctx: FLContext) -> None:
        self._executor.fire_event(event, ctx)

    def _on_sigterm(self) -> None:
        if self._doing is not None:
            threading.Thread(target=self._tell_abort, args=(self._doing,), name="abort", daemon=True).start()

    def _tell_abort(self, ctx: FLContext) -> None:
        self._fire(EventType.ABORT_TASK, ctx)


def _aborted() -> bool:
    session = current_session()
    return session is not None and session.aborted()


def _chain_sigterm(first: Callable[[], None]) -> Callable[[int, FrameType | None], object] | None:
    """Call `first` before what SIGTERM does already; gives that back, or None where nothing was changed."""
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        return None

    def handle(number: int, frame: FrameType | None) -> None:
        first()
        before(number, frame)

    signal.signal(signal.SIGTERM, handle)
    return before
