# SPDX-License-Identifier: Apache-2.0
"""The start of a job's process, for whoever may have to end the job before that has started."""

from __future__ import annotations

import asyncio

from flprov.errors import JobFailed
from flprov.workers.launcher import Launcher, Process
from flprov.workers.order import LaunchOrder


class Starting:
    """The launches of one job, which may be given up.

    No time is set to them: one that is slow may be sound. But a shim that somebody has stopped (SIGSTOP) says
    nothing ever, and the end of a job must not wait for it.
    """

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._task: asyncio.Task[object] | None = None  # that waits for a launch now
        self._given_up = False

    async def launch(self, order: LaunchOrder) -> Process:
        """As `Launcher.launch`. Raises JobFailed once it is given up; nothing is left of it then."""
        task = asyncio.current_task()
        assert task is not None
        if self._given_up:
            raise _stopped(order)
        self._task = task
        try:
            return await self._launcher.launch(order)
        except asyncio.CancelledError:
            if self._given_up and task.uncancel() == 0:  # else somebody else has cancelled it as well
                raise _stopped(order) from None
            raise
        finally:
            self._task = None

    def give_up(self) -> None:
        """Cancel the launch that is under way, and all that would come; again is fine."""
        if not self._given_up and self._task is not None:
            self._task.cancel()
        self._given_up = True


def _stopped(order: LaunchOrder) -> JobFailed:
    return JobFailed(f"job {order.job_id} was stopped before its process had started")
