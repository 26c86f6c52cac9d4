# SPDX-License-Identifier: Apache-2.0
"""Controller: a FLARE-shaped algorithm beside the server; `workflow: {entry: "mine:MyController"}`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from flprov.errors import Misuse
from flprov.flare.apis.client import Client
from flprov.flare.apis.controller_spec import (
    ClientTask,
    SendOrder,
    Task,
    TaskCompletionStatus,
)
from flprov.flare.apis.fl_component import FLComponent
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import Shareable
from flprov.flare.apis.signal import Signal
from flprov.flare.bridge.board import Board
from flprov.flare.bridge.parts import Parts
from flprov.flare.bridge.standing import Manner
from flprov.sdk import Sites, State

__all__ = [
    "Client",
    "ClientTask",
    "Controller",
    "FLContext",
    "Shareable",
    "Signal",
    "Task",
    "TaskCompletionStatus",
]

Targets = Sequence[Client | str] | None  # None: every site of the job


class Controller(FLComponent, ABC):
    """Its constructor gets the other keys of `workflow` in job.yml.

    `task_check_period` is there for FLARE's sake: nothing is polled.
    """

    _board: Board | None = None
    _engine: Parts
    communicator: None = None

    def __init__(self, task_check_period: float = 0.2) -> None:
        super().__init__()
        self._task_check_period = task_check_period

    def run(self, sites: Sites, state: State) -> None:
        """Let `control_flow` do the rounds that are left; see docs/flare.md for what a round is."""
        from flprov.flare.bridge.server_run import ServerRun

        ServerRun(self, sites, state).run()

    def add_component(self, component_id: str, component: object) -> None:
        """Let `engine.get_component(component_id)` give this one, instead of ours or beside them."""
        self.components()[component_id] = component

    def components(self) -> dict[str, object]:
        """What `add_component` was given, by id."""
        found: dict[str, object] = self.__dict__.setdefault("_components", {})
        return found

    def use_board(self, board: Board, engine: Parts) -> None:
        """Work with these from now on."""
        self._board, self._engine = board, engine

    # ---- to be overridden

    @abstractmethod
    def start_controller(self, fl_ctx: FLContext) -> None:
        """Called first."""

    @abstractmethod
    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """The algorithm."""

    @abstractmethod
    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Called last."""

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Called with a result for a task that does not stand any more."""

    # ---- tasks

    def broadcast(
        self,
        task: Task,
        fl_ctx: FLContext,  # noqa: ARG002 - FLARE's signatures, here and below
        targets: Targets = None,
        min_responses: int = 1,
        wait_time_after_min_received: float = 0,
    ) -> None:
        """Send a task to all targets and go on at once.

        It ends when all have answered, or `wait_time_after_min_received` seconds after `min_responses`
        of them have; 0 responses means all.
        """
        self._tasks.schedule(
            task,
            Manner.BROADCAST,
            targets,
            minimum=min_responses,
            grace=wait_time_after_min_received,
        )

    def broadcast_and_wait(
        self,
        task: Task,
        fl_ctx: FLContext,  # noqa: ARG002
        targets: Targets = None,
        min_responses: int = 1,
        wait_time_after_min_received: float = 0,
        abort_signal: Signal | None = None,
    ) -> None:
        """The same, and wait until it has ended."""
        standing = self._tasks.schedule(
            task,
            Manner.BROADCAST,
            targets,
            minimum=min_responses,
            grace=wait_time_after_min_received,
        )
        self._tasks.wait(standing, abort_signal)

    def broadcast_forever(self, task: Task, fl_ctx: FLContext, targets: Targets = None) -> None:  # noqa: ARG002
        """Send a task to all targets, and again to whoever has answered, until it is cancelled."""
        self._tasks.schedule(task, Manner.FOREVER, targets)

    def send(
        self,
        task: Task,
        fl_ctx: FLContext,  # noqa: ARG002
        targets: Targets = None,
        send_order: SendOrder = SendOrder.SEQUENTIAL,
        task_assignment_timeout: float = 0,  # noqa: ARG002 - a site that is away is the runtime's business
    ) -> None:
        """Send a task to one of the targets and go on at once."""
        self._tasks.schedule(task, Manner.ONE, targets, in_turn=send_order is SendOrder.SEQUENTIAL)

    def send_and_wait(
        self,
        task: Task,
        fl_ctx: FLContext,  # noqa: ARG002
        targets: Targets = None,
        send_order: SendOrder = SendOrder.SEQUENTIAL,
        task_assignment_timeout: float = 0,  # noqa: ARG002
        abort_signal: Signal | None = None,
    ) -> None:
        """The same, and wait for the answer."""
        standing = self._tasks.schedule(task, Manner.ONE, targets, in_turn=send_order is SendOrder.SEQUENTIAL)
        self._tasks.wait(standing, abort_signal)

    def relay(
        self,
        task: Task,
        fl_ctx: FLContext,  # noqa: ARG002
        targets: Targets = None,
        send_order: SendOrder = SendOrder.SEQUENTIAL,
        task_assignment_timeout: float = 0,  # noqa: ARG002
        task_result_timeout: float = 0,
        dynamic_targets: bool = True,  # noqa: ARG002 - a job's sites are those it was sent to
    ) -> None:
        """Send a task to one target after the other and go on at once."""
        self._tasks.schedule(
            task,
            Manner.RELAY,
            targets,
            in_turn=send_order is SendOrder.SEQUENTIAL,
            patience=task_result_timeout,
        )

    def relay_and_wait(
        self,
        task: Task,
        fl_ctx: FLContext,  # noqa: ARG002
        targets: Targets = None,
        send_order: SendOrder = SendOrder.SEQUENTIAL,
        task_assignment_timeout: float = 0,  # noqa: ARG002
        task_result_timeout: float = 0,
        dynamic_targets: bool = True,  # noqa: ARG002
        abort_signal: Signal | None = None,
    ) -> None:
        """The same, and wait for the last answer."""
        standing = self._tasks.schedule(
            task,
            Manner.RELAY,
            targets,
            in_turn=send_order is SendOrder.SEQUENTIAL,
            patience=task_result_timeout,
        )
        self._tasks.wait(standing, abort_signal)

    def get_num_standing_tasks(self) -> int:
        """How many tasks stand, after waiting for one more answer: a loop over this sees every one."""
        if self._tasks.count:
            self._tasks.advance()
        return self._tasks.count

    def cancel_task(
        self,
        task: Task,
        completion_status: TaskCompletionStatus = TaskCompletionStatus.CANCELLED,
        fl_ctx: FLContext | None = None,  # noqa: ARG002
    ) -> None:
        """Do not wait for this task any more; whoever is at it is told."""
        self._tasks.cancel(task, completion_status)

    def cancel_all_tasks(
        self,
        completion_status: TaskCompletionStatus = TaskCompletionStatus.CANCELLED,
        fl_ctx: FLContext | None = None,  # noqa: ARG002
    ) -> None:
        """The same for all tasks."""
        self._tasks.cancel_all(completion_status)

    @property
    def _tasks(self) -> Board:
        if self._board is None:
            raise Misuse(f"{self.name} sends tasks before its start_controller was called")
        return self._board
