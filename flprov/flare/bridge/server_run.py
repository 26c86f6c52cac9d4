# SPDX-License-Identifier: Apache-2.0
"""ServerRun: a FLARE controller's `control_flow` over our rounds.

FLARE's controllers count rounds by themselves. One of our rounds ends, with a commit of the global
model, when the controller fires ROUND_DONE, has its engine persist it, or goes on with a task of
another CURRENT_ROUND. As FLARE's controllers count on only after ROUND_DONE, the commit comes with
what they do next: persist themselves, or send; not while a task is under way, and in the last round
when the controller has returned. After a crash it begins again: with what it gave from `get_persist_state` in
`restore`, with the committed model from its persistor and as GLOBAL_MODEL, and with START_ROUND.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flprov.errors import JobFailed, Misuse
from flprov.flare.apis.client import Client
from flprov.flare.apis.controller_spec import Task, TaskCompletionStatus
from flprov.flare.apis.event_type import EventType
from flprov.flare.apis.fl_component import FLComponent
from flprov.flare.apis.fl_constant import FLContextKey
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import Shareable
from flprov.flare.apis.signal import Signal
from flprov.flare.app_common.abstract.fl_model import FLModel
from flprov.flare.app_common.abstract.model import ModelLearnableKey, make_model_learnable
from flprov.flare.app_common.aggregators.intime_accumulate_model_aggregator import (
    InTimeAccumulateWeightedAggregator,
)
from flprov.flare.app_common.app_constant import AppConstants
from flprov.flare.app_common.app_event_type import AppEventType
from flprov.flare.app_common.shareablegenerators.full_model_shareable_generator import (
    FullModelShareableGenerator,
)
from flprov.flare.bridge.board import Board
from flprov.flare.bridge.codec import pack_value, unpack_value
from flprov.flare.bridge.exchange import in_precision_of
from flprov.flare.bridge.parts import Parts, find_workspace, show_log
from flprov.flare.bridge.persisting import StatePersistor
from flprov.messages import Tensors, Update
from flprov.sdk import Sites, State, as_tensors, mean_metrics

if TYPE_CHECKING:
    from flprov.flare.apis.impl.controller import Controller

_KEPT = "flare"  # the scalar that says that the controller's own state is among the tensors
_OVER = "flare_over"  # that the controller has returned, and of how many rounds' job that was
_log = logging.getLogger("flprov.flare")


class RunOver(BaseException):
    """The run has ended while its controller was still at work; no `except Exception` of a job's stops it."""


class ServerEngine(Parts):
    """What `fl_ctx.get_engine()` gives beside the server."""

    def __init__(self, run: ServerRun, job_id: str) -> None:
        super().__init__(identity="server", job_id=job_id, workspace=find_workspace(Path.cwd()))
        self._run = run

    def get_clients(self) -> list[Client]:
        """The sites of the job."""
        return self._run.board.clients

    def persist_components(self, fl_ctx: FLContext, completed: bool = False) -> None:  # noqa: ARG002
        """Keep the controller's state: our round ends here."""
        self._run.end_round(commit=True)

    def end_round(self) -> None:
        """The controller begins another round: commit the one before."""
        self._run.end_round(commit=True)

    def verify_running(self) -> None:
        """End the controller here when the run has ended: nothing that it would do still counts."""
        self._run.verify_running()

    @property
    def total(self) -> int:
        """How many rounds the job has."""
        return self._run.sites.total

    @property
    def committed(self) -> bool:
        """Whether there is a round that this run goes on from."""
        return self._run.began > 0

    @property
    def seed(self) -> int:
        """The job's seed."""
        return self._run.sites.seed

    def validate_targets(self, client_names: list[str]) -> tuple[list[Client], list[str]]:
        """The sites of these names, and the names that no site has."""
        known = {client.name: client for client in self.get_clients()}
        return [known[n] for n in client_names if n in known], [n for n in client_names if n not in known]


class _Watcher(FLComponent):
    """Hears the events that mean something to the run."""

    def __init__(self, run: ServerRun) -> None:
        super().__init__()
        self._run = run

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == AppEventType.ROUND_DONE:
            self._run.end_round()
        elif event_type == EventType.FATAL_SYSTEM_ERROR:
            self._run.panic(str(fl_ctx.get_prop(FLContextKey.EVENT_DATA, "no reason given")))


class ServerRun:
    """One controller, from start to end."""

    def __init__(self, controller: Controller, sites: Sites, state: State) -> None:
        show_log()
        self._controller = controller
        self.sites = sites
        self._rounds = sites.rounds(state)
        self.began = state.round  # the first round of this process
        self._state = state
        self._ended = False  # the round is, as far as the controller goes
        self._sent = False  # anything, since the last commit
        self._number: object = None  # the CURRENT_ROUND of the last task
        self._updates: list[Update] = []  # of this round, without their tensors
        self._panic = ""
        self._over = False  # no round follows: patience has run out
        self._abort = Signal()
        self._engine = ServerEngine(self, job_id=_job_id())
        self.board = Board(sites, self._engine, self, self._engine.new_context().get_job_id())
        self._persistor = StatePersistor(state.model)
        self._add_components()

    def run(self) -> None:
        """Do what the job still has to do.

        Raises:
            JobFailed: the controller has called system_panic.
        """
        first = next(self._rounds, None)
        if first is None or first.scalars.get(_OVER) == self.sites.total:
            return  # it had ended before all rounds were done, and was killed then
        self._state = first
        controller = self._controller
        controller.use_board(self.board, self._engine)
        ctx = self._context()
        cause: Exception | None = None
        try:
            self._fire(EventType.ABOUT_TO_START_RUN)
            self._fire(EventType.START_RUN)
            controller.start_controller(ctx)
            if _KEPT in first.scalars:
                controller.restore(unpack_value(first.tensors), ctx)
            self._fire(EventType.START_WORKFLOW)
            if not self._panic:
                controller.control_flow(self._abort, ctx)
            self._fire(EventType.END_WORKFLOW)
        except RunOver:
            pass
        except Exception as error:
            if not self._panic:
                raise
            cause = error  # what came of going on after a panic
        finally:
            controller.stop_controller(self._context())
            self.board.cancel_all(TaskCompletionStatus.CANCELLED)
        if self._panic:
            raise JobFailed(f"{controller.name} gave up: {self._panic}") from cause
        if not self._over and (self._sent or self._ended or self._state.round == 0):
            self.sites.commit(self._next_state(over=True))
        self._fire(EventType.ABOUT_TO_END_RUN)
        self._fire(EventType.END_RUN)

    def end_round(self, *, commit: bool = False) -> None:
        """The controller is done with a round; its own state follows at the latest with its next task."""
        self._ended = self._ended or self._sent  # a round that nothing was sent in has ended already
        if commit:
            self._commit_if_due()

    def panic(self, reason: str) -> None:
        """The controller cannot go on."""
        self._panic = self._panic or reason
        self._abort.trigger(reason)

    def verify_running(self) -> None:
        """Raise RunOver when it has ended."""
        if self._panic or self._over:
            raise RunOver

    # ---- what the board tells

    def before_send(self, data: Shareable) -> None:
        """See `Listener.before_send`."""
        ctx = self._engine.new_context()
        number = data.get_header(AppConstants.CURRENT_ROUND, ctx.get_prop(AppConstants.CURRENT_ROUND))
        if self._number is not None and number is not None and number != self._number:
            self._ended = self._sent
        self._number = self._number if number is None else number
        self._commit_if_due()
        self._sent = True

    def on_update(self, update: Update) -> None:
        """See `Listener.on_update`."""
        prefix = "initial_metrics."
        metrics = {name.removeprefix(prefix): value for name, value in update.metrics.items()}
        self._updates.append(replace(update, params={}, metrics=metrics))

    def on_stray(self, client: Client, task: Task, result: Shareable, fl_ctx: FLContext) -> None:
        """See `Listener.on_stray`."""
        self._controller.process_result_of_unknown_task(client, task.name, "", result, fl_ctx)

    # ---- rounds

    def _commit_if_due(self) -> None:
        last = self._state.round + 1 >= self.sites.total
        if not self._ended or not self._sent or last or self.board.busy:
            return
        self.sites.commit(self._next_state())
        self._ended = self._sent = False
        self._updates = []
        following = next(self._rounds, None)
        if following is None:
            self._over = True
            raise RunOver
        self._state = following

    def _next_state(self, *, over: bool = False) -> State:
        kept = self._controller.get_persist_state(self._context())
        return self._state.next(
            model=self._model(),
            metrics=mean_metrics(self._updates),
            tensors=pack_value(kept, "what get_persist_state gave") if kept else {},
            scalars=({_KEPT: True} if kept else {}) | ({_OVER: self.sites.total} if over else {}),
        )

    def _model(self) -> Tensors:
        """What the controller has last called its model."""
        saved, shown = self._persistor.saved, self._engine.new_context().get_prop(AppConstants.GLOBAL_MODEL)
        found = saved if shown is None or shown is self._given else shown
        weights = _weights(found)
        return in_precision_of(as_tensors(weights), self._state.model) if weights else self._state.model

    # ---- its surroundings

    def _add_components(self) -> None:
        ours: dict[str, object] = {
            AppConstants.DEFAULT_PERSISTOR_ID: self._persistor,
            AppConstants.DEFAULT_SHAREABLE_GENERATOR_ID: FullModelShareableGenerator(),
            AppConstants.DEFAULT_AGGREGATOR_ID: InTimeAccumulateWeightedAggregator(),
        }
        for component_id, component in (ours | self._controller.components()).items():
            self._engine.add(component_id, component)
        self._engine.add("controller", self._controller)
        self._engine.add("flprov", _Watcher(self))
        self._given = make_model_learnable(dict(self._state.model), {})

    def _context(self) -> FLContext:
        ctx = self._engine.new_context()
        folder = self._engine.get_workspace().get_root_dir()
        for key in (FLContextKey.APP_ROOT, FLContextKey.WORKSPACE_ROOT):
            ctx.put(key, folder, private=True, sticky=False)
        ctx.put(FLContextKey.WORKSPACE_OBJECT, self._engine.get_workspace(), private=True, sticky=False)
        ctx.put(FLContextKey.RUN_ABORT_SIGNAL, self._abort, private=True, sticky=False)
        if ctx.get_prop(AppConstants.START_ROUND) is None:
            ctx.set_prop(AppConstants.START_ROUND, self._state.round, private=True, sticky=True)
        if ctx.get_prop(AppConstants.GLOBAL_MODEL) is None and self._state.model:
            ctx.set_prop(AppConstants.GLOBAL_MODEL, self._given, private=True, sticky=True)
        ctx.put(AppConstants.NUM_ROUNDS, self.sites.total, private=True, sticky=False)
        return ctx

    def _fire(self, event: str) -> None:
        self._controller.fire_event(event, self._context())


def _job_id() -> str:
    """The id of this job: a workflow's process starts in the folder JOB/workflow/work."""
    parents = Path.cwd().parents
    return parents[1].name if len(parents) > 1 else ""


def _weights(found: object) -> Mapping[str, Any]:
    """The arrays by name in whatever a controller holds its model in."""
    if isinstance(found, FLModel):
        found = found.params
    if isinstance(found, Mapping) and ModelLearnableKey.WEIGHTS in found:
        found = found[ModelLearnableKey.WEIGHTS]
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise Misuse(
            f"the global model of the controller is a {type(found).__name__}",
            hint="set AppConstants.GLOBAL_MODEL to make_model_learnable({name: array}, {})",
        )
    return found
