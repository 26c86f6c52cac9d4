# SPDX-License-Identifier: Apache-2.0
"""FLComponentWrapper: a component that knows its context, so that its methods need not be given one."""

from __future__ import annotations

from typing import Any

from flprov.flare.apis.fl_component import FLComponent
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.fl_exception import TaskExecutionError
from flprov.flare.apis.shareable import Shareable
from flprov.flare.apis.signal import Signal


class InContext(FLComponent):
    """What a component can do that knows its context. Works also where a subclass does not call
    `super().__init__()`.

    Attributes:
        fl_ctx, engine, abort_signal: of the run, once it has begun.
        site_name, job_id, app_root: who and where this is.
        total_rounds: of the run.
    """

    engine: Any = None
    fl_ctx: FLContext = FLContext()  # an empty one, until the run begins: what is logged is logged
    workspace: Any = None
    shareable: Shareable | None = None
    site_name = ""
    job_id = ""
    app_root = ""
    abort_signal: Signal | None = None
    total_rounds: int = 0

    def is_aborted(self) -> bool:
        """Whether the job is being stopped."""
        return self.abort_signal is not None and self.abort_signal.triggered

    def get_component(self, component_id: str) -> Any:  # noqa: ANN401 - of a class of the job's
        """A component of the run, or None."""
        return self.engine.get_component(component_id) if self.engine is not None else None

    def stop_task(self, reason: str) -> None:
        """Give the task up. Raises TaskExecutionError."""
        self.log_error(self.fl_ctx, f"task stopped: {reason}")
        raise TaskExecutionError(reason)

    def debug(self, msg: str) -> None:
        """Log for developers."""
        self.log_debug(self.fl_ctx, msg)

    def info(self, msg: str) -> None:
        """Log what happens."""
        self.log_info(self.fl_ctx, msg)

    def warning(self, msg: str) -> None:
        """Log what may be wrong."""
        self.log_warning(self.fl_ctx, msg)

    def error(self, msg: str) -> None:
        """Log what went wrong."""
        self.log_error(self.fl_ctx, msg)

    def exception(self, msg: str) -> None:
        """Log the exception that is being handled."""
        self.log_exception(self.fl_ctx, msg)

    def critical(self, msg: str) -> None:
        """Log what cannot be gone on with."""
        self.log_critical(self.fl_ctx, msg)


class FLComponentWrapper(InContext):
    """A component that need not be handed the context in each call."""

    args: Any = None

    def get_shareable_header(self, key: str, default: Any = None) -> Any:  # noqa: ANN401 - whatever was put there
        """A header of the Shareable that is being worked on."""
        return default if self.shareable is None else self.shareable.get_header(key, default)

    def get_context_prop(self, key: str, default: Any = None) -> Any:  # noqa: ANN401
        """A property of the context."""
        return self.fl_ctx.get_prop(key, default)

    def initialize(self, fl_ctx: FLContext) -> None:
        """Called once, before anything else; to be overridden."""

    def finalize(self, fl_ctx: FLContext) -> None:
        """Called once, after everything else; to be overridden."""

    def event(self, event_type: str) -> None:
        """Let every component hear an event."""
        self.fire_event(event_type, self.fl_ctx)

    def panic(self, reason: str) -> None:
        """End the job, as failed, for this reason."""
        self.system_panic(reason, self.fl_ctx)
