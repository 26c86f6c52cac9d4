# SPDX-License-Identifier: Apache-2.0
"""What a FLARE controller says to its sites: tasks, what becomes of them, and in which order."""

from __future__ import annotations

import enum
import time
import uuid
from collections.abc import Callable
from typing import Any

from flprov.flare.apis.client import Client
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import ReservedHeaderKey, Shareable

__all__ = [
    "Client",
    "ClientTask",
    "FLContext",
    "OperatorMethod",
    "SendOrder",
    "Shareable",
    "Task",
    "TaskCompletionStatus",
    "TaskOperatorKey",
]


class TaskCompletionStatus(enum.Enum):
    """Why a task does not stand any more."""

    OK = "ok"  # enough have answered
    TIMEOUT = "timeout"  # it stood for longer than its timeout
    ERROR = "error"
    CANCELLED = "cancelled"  # by the controller
    ABORTED = "aborted"  # the run was
    IGNORED = "ignored"
    CLIENT_DEAD = "client_dead"


class SendOrder(enum.Enum):
    """Which of several targets gets a task that only one does at a time."""

    ANY = "any"  # the first one that is free
    SEQUENTIAL = "sequential"  # in the order of the targets


class OperatorMethod:
    """Methods that a task's operator can name; an operator changes nothing here."""

    BROADCAST = "bcast"
    RELAY = "relay"


class TaskOperatorKey:
    """Keys of a task's operator."""

    OP_ID = "op_id"
    METHOD = "method"
    NUM_ROUNDS = "num_rounds"
    TARGETS = "targets"
    AGGREGATOR = "aggregator"
    SHAREABLE_GENERATOR = "shareable_gen"
    PERSISTOR = "persistor"
    TIMEOUT = "timeout"
    TASK_ASSIGNMENT_TIMEOUT = "task_assign_timeout"
    MIN_TARGETS = "min_targets"
    WAIT_TIME_AFTER_MIN_RESPS = "wait_time_after_min_received"


class Task:
    """Work for sites.

    Attributes:
        client_tasks: one ClientTask for each time that it was sent.
        completion_status: None as long as it stands.

    Raises:
        TypeError, ValueError: an argument is not of its type; the message names it.
    """

    def __init__(
        self,
        name: str,
        data: Shareable,
        props: dict[str, Any] | None = None,
        timeout: int = 0,
        before_task_sent_cb: Callable[[ClientTask, FLContext], object] | None = None,
        after_task_sent_cb: Callable[[ClientTask, FLContext], object] | None = None,
        result_received_cb: Callable[[ClientTask, FLContext], object] | None = None,
        task_done_cb: Callable[[Task, FLContext], object] | None = None,
        operator: dict[str, Any] | None = None,
        secure: bool = False,
    ) -> None:
        if not isinstance(name, str) or not isinstance(data, Shareable):
            raise TypeError(f"a Task takes a name and a Shareable, not {name!r} and a {type(data).__name__}")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout < 0:
            raise ValueError(
                f"timeout of task {name!r} is {timeout!r}; it must be a number of seconds, 0: none"
            )
        callbacks = (before_task_sent_cb, after_task_sent_cb, result_received_cb, task_done_cb)
        if any(one is not None and not callable(one) for one in callbacks):
            raise TypeError(f"a callback of task {name!r} cannot be called")
        data.set_header(ReservedHeaderKey.TASK_NAME, name)
        self.name = name
        self.data = data
        self.props = {} if props is None else props
        self.timeout = timeout
        self.before_task_sent_cb = before_task_sent_cb
        self.after_task_sent_cb = after_task_sent_cb
        self.result_received_cb = result_received_cb
        self.task_done_cb = task_done_cb
        self.operator = operator
        self.secure = secure
        self.targets: list[str] | None = None
        self.client_tasks: list[ClientTask] = []
        self.last_client_task_map: dict[str, ClientTask] = {}
        self.completion_status: TaskCompletionStatus | None = None
        self.is_standing = False
        self.create_time = time.time()
        self.schedule_time: float | None = None

    def set_prop(self, key: str, value: Any) -> None:  # noqa: ANN401 - what a controller notes
        """Note something on this task, in this process."""
        if key.startswith("__"):
            raise ValueError(f"properties that start with __ are reserved: {key!r}")
        self.props[key] = value

    def get_prop(self, key: str) -> Any:  # noqa: ANN401
        """What was noted, or None."""
        return self.props.get(key)


class ClientTask:
    """A task at one site.

    Attributes:
        result: the Shareable that came back; the result_received callback may change it.
    """

    def __init__(self, client: Client, task: Task) -> None:
        self.client = client
        self.task = task
        self.id = str(uuid.uuid4())
        self.task_send_count = 0
        self.task_sent_time: float | None = None
        self.result_received_time: float | None = None
        self.result: Shareable | None = None
        self.props: dict[str, Any] = {}
