# SPDX-License-Identifier: Apache-2.0
"""FLComponent: what every part of a FLARE job is; it hears events, fires them and logs."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

from flprov.flare.apis.event_type import EventType
from flprov.flare.apis.fl_constant import EventScope, FLContextKey
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import Shareable

Handler = Callable[..., object]  # handler(event_type, fl_ctx, **what it was registered with)


class FLComponent:
    """Works also where a subclass does not call `super().__init__()`."""

    def __init__(self) -> None:
        self._name = type(self).__name__
        self.logger = self._logger()
        self._event_handlers: dict[str, list[tuple[Handler, dict[str, Any]]]] = {}

    @property
    def name(self) -> str:
        """The name of its class."""
        return type(self).__name__

    # ---- events

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Called with every event of the run; to be overridden."""

    def register_event_handler(self, event_types: str | list[str], handler: Handler, **kwargs: Any) -> None:  # noqa: ANN401
        """Call `handler` with events of these types, beside `handle_event`."""
        if not callable(handler):
            raise ValueError(f"a {type(handler).__name__} cannot handle events")
        for event in [event_types] if isinstance(event_types, str) else event_types:
            rows = self.get_event_handlers().setdefault(event, [])
            if all(known != handler for known, _ in rows):
                rows.append((handler, kwargs))

    def get_event_handlers(self) -> dict[str, list[tuple[Handler, dict[str, Any]]]]:
        """What `register_event_handler` was given, by event."""
        handlers: dict[str, list[tuple[Handler, dict[str, Any]]]]
        handlers = self.__dict__.setdefault("_event_handlers", {})
        return handlers

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Let every component of this process hear an event.

        Raises:
            TypeError: not an event and a context.
        """
        if not (isinstance(event_type, str) and event_type and isinstance(fl_ctx, FLContext)):
            raise TypeError(f"fire_event takes a text and an FLContext, not {event_type!r}, {type(fl_ctx)}")
        fl_ctx.put(FLContextKey.EVENT_SCOPE, EventScope.LOCAL, private=True, sticky=False)
        fl_ctx.put(FLContextKey.EVENT_ORIGIN, self.name, private=True, sticky=False)
        engine = fl_ctx.get_engine()
        if engine is None:
            self._logger().error("event %s was fired in a context without an engine", event_type)
        else:
            engine.fire_event(event_type, fl_ctx)

    def fire_event_with_data(self, event_type: str, fl_ctx: FLContext, key: str, data: Any) -> None:  # noqa: ANN401
        """The same, with a property that is there as long as the event is heard."""
        fl_ctx.put(key, data, private=True, sticky=False)
        try:
            self.fire_event(event_type, fl_ctx)
        finally:
            fl_ctx.put(key, None, private=True, sticky=False)

    def fire_fed_event(
        self,
        event_type: str,
        event_data: Shareable,
        fl_ctx: FLContext,
        targets: list[str] | None = None,  # noqa: ARG002
    ) -> None:
        """Fire an event with data: heard in this process only, as nothing travels but tasks and results."""
        fl_ctx.put(FLContextKey.EVENT_DATA, event_data, private=True, sticky=False)
        self.fire_event(event_type, fl_ctx)

    def system_panic(self, reason: str, fl_ctx: FLContext) -> None:
        """End the job, as failed, for this reason."""
        fl_ctx.put(FLContextKey.EVENT_DATA, reason, private=True, sticky=False)
        self.fire_event(EventType.FATAL_SYSTEM_ERROR, fl_ctx)

    # ---- its log

    def log_debug(self, fl_ctx: FLContext | None, msg: str, fire_event: bool = False) -> None:
        """Log a line that only a developer reads."""
        self._log(logging.DEBUG, EventType.DEBUG_LOG_AVAILABLE, fl_ctx, msg, fire_event)

    def log_info(self, fl_ctx: FLContext | None, msg: str, fire_event: bool = False) -> None:
        """Log what happens."""
        self._log(logging.INFO, EventType.INFO_LOG_AVAILABLE, fl_ctx, msg, fire_event)

    def log_warning(self, fl_ctx: FLContext | None, msg: str, fire_event: bool = True) -> None:
        """Log what may be wrong."""
        self._log(logging.WARNING, EventType.WARNING_LOG_AVAILABLE, fl_ctx, msg, fire_event)

    def log_error(self, fl_ctx: FLContext | None, msg: str, fire_event: bool = True) -> None:
        """Log what went wrong."""
        self._log(logging.ERROR, EventType.ERROR_LOG_AVAILABLE, fl_ctx, msg, fire_event)

    def log_critical(self, fl_ctx: FLContext | None, msg: str, fire_event: bool = True) -> None:
        """Log what cannot be gone on with."""
        self._log(logging.CRITICAL, EventType.CRITICAL_LOG_AVAILABLE, fl_ctx, msg, fire_event)

    def log_exception(self, fl_ctx: FLContext | None, msg: str, fire_event: bool = False) -> None:
        """Log what went wrong with the traceback of the exception that is being handled."""
        text = f"{msg}\n{traceback.format_exc()}"
        self._log(logging.ERROR, EventType.EXCEPTION_LOG_AVAILABLE, fl_ctx, text, fire_event)

    def _log(self, level: int, event: str, fl_ctx: FLContext | None, msg: str, fire: bool) -> None:
        where = f"[identity={fl_ctx.get_identity_name()}, run={fl_ctx.get_job_id()}]: " if fl_ctx else ""
        self._logger().log(level, "%s%s", where, msg)
        if fire and fl_ctx is not None and fl_ctx.get_engine() is not None:
            self.fire_event_with_data(event, fl_ctx, FLContextKey.EVENT_DATA, Shareable({"message": msg}))

    def _logger(self) -> logging.Logger:
        return logging.getLogger(type(self).__name__)

    # ---- what outlives a process, of a controller

    def get_persist_state(self, fl_ctx: FLContext) -> dict[str, Any]:  # noqa: ARG002
        """What `restore` will need after a crash: numbers, texts, arrays, lists, dicts."""
        return {}

    def restore(self, state_data: dict[str, Any], fl_ctx: FLContext) -> None:
        """Go on from what `get_persist_state` gave."""
