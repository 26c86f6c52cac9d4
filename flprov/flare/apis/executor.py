# SPDX-License-Identifier: Apache-2.0
"""Executor: what does the tasks at a site. `tasks: {train: "trainer:MyTrainer"}` names a subclass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from flprov.flare.apis.fl_component import FLComponent
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import Shareable
from flprov.flare.apis.signal import Signal
from flprov.messages import Site, Task, Update

if TYPE_CHECKING:
    from flprov.flare.bridge.site_run import SiteRun

__all__ = ["Executor", "FLComponent", "FLContext", "Shareable", "Signal"]


class Executor(FLComponent, ABC):
    """Its constructor gets those of job.yml's `args` that it names; one instance serves all its tasks."""

    _run: SiteRun | None = None
    unsafe = False

    @abstractmethod
    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Do one task.

        Args:
            task_name: "train", "validate" (for our task "evaluate"), or as the controller calls it.
            shareable: a DXO of the model, with the round in its headers.
            fl_ctx: who and where this is.
            abort_signal: triggered while it runs, when the job is being stopped.
        """

    def __call__(self, task: Task, site: Site) -> Update:
        """Do one of our tasks: `execute`, with events before and after it.

        Raises:
            JobFailed: the answer has another return code than OK.
        """
        if self._run is None:
            from flprov.flare.bridge.site_run import SiteRun

            self._run = SiteRun(self, task, site)
        return self._run.do(task)

    def close(self) -> None:
        """The run is over: END_RUN."""
        if self._run is not None:
            self._run.end()
            self._run = None
