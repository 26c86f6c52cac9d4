# SPDX-License-Identifier: Apache-2.0
"""ModelController: a FLARE algorithm as one method, `run(self)`, over FLModels.

A round of ours ends, and its model is committed, when `self.current_round` is given another number: at the
head of the loop. After a crash `run` begins again with `start_round` behind what was committed, `num_rounds`
less by as much, `load_model` giving the committed model, and the attributes that had changed as they were.
"""

from __future__ import annotations

import functools
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flprov.errors import JobFailed, Misuse
from flprov.flare.apis.client import Client
from flprov.flare.apis.controller_spec import ClientTask, Task
from flprov.flare.apis.fl_constant import ReturnCode
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.impl.controller import Controller
from flprov.flare.apis.shareable import Shareable
from flprov.flare.apis.signal import Signal
from flprov.flare.app_common.abstract.fl_model import FLModel, ParamsType
from flprov.flare.app_common.abstract.learnable_persistor import LearnablePersistor
from flprov.flare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from flprov.flare.app_common.app_constant import AppConstants
from flprov.flare.app_common.app_event_type import AppEventType
from flprov.flare.app_common.utils.fl_component_wrapper import FLComponentWrapper
from flprov.flare.app_common.utils.fl_model_utils import FLModelUtils
from flprov.flare.bridge.remembering import find_changes, take_fingerprints
from flprov.sdk import Sites, State

Targets = Sequence[Client | str] | None
_DONE, _SAVED, _OWN = "attributes", "saved", "own"
# What belongs to this process, or is set anew at its start.
_NOT_KEPT = frozenset(
    ("abort_signal", "engine", "fl_ctx", "logger", "num_rounds", "persistor", "start_round", "total_rounds")
) | {
    f"_{name}"
    for name in ("before", "drawn", "engine", "name", "number", "planned", "saved", "told", "updates")
}


class ModelController(Controller, FLComponentWrapper, ABC):
    """Subclasses write `run(self)`.

    Args:
        persistor_id: the component that `load_model` and `save_model` use; ours unless another was added.
        ignore_result_error: what a site's failure does: True, it is left out; False, it ends the job; None,
            that depends on whether `min_responses` can still be reached.
        allow_empty_global_weights: a job without `model` starts with no weights.
        task_check_period: nothing is polled.
    """

    num_rounds: int | None = None
    start_round: int = 0
    persistor: Any = None
    _number: int | None = None
    _persistor_id = AppConstants.DEFAULT_PERSISTOR_ID
    _ignore_result_error: bool | None = None
    _allow_empty_global_weights = False
    _task_check_period = 0.5
    _told = False  # whether `run` has ever said what its model is: by update_model, or save_model
    _updates = False  # by update_model
    _saved: ModelLearnable | None = None  # what was saved last, where that is not the current model

    def __init__(
        self,
        persistor_id: str = AppConstants.DEFAULT_PERSISTOR_ID,
        ignore_result_error: bool | None = None,
        allow_empty_global_weights: bool = False,
        task_check_period: float = 0.5,
    ) -> None:
        super().__init__(task_check_period=task_check_period)
        self._persistor_id = persistor_id
        self._ignore_result_error = ignore_result_error
        self._allow_empty_global_weights = allow_empty_global_weights

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - object's
        """Our runtime and FLARE's users both call their entry `run`: with sites and state it is ours."""
        super().__init_subclass__(**kwargs)
        if not getattr(cls.run, "starts_both", False):
            cls.run = _start_both(cls.run)  # type: ignore[method-assign]

    @abstractmethod
    def run(self) -> None:  # type: ignore[override]  # see __init_subclass__
        """The algorithm."""

    @property
    def current_round(self) -> int | None:
        """The round that is under way, as `run` counts."""
        return self._number

    @current_round.setter
    def current_round(self, number: int | None) -> None:
        if number != self._number and self._number is not None and self._told:
            self._engine.end_round()
        self._number = number

    # ---- what `run` calls

    def load_model(self) -> FLModel:
        """The model of job.yml, or after a crash the committed one.

        Raises:
            JobFailed: the persistor gives no ModelLearnable.
        """
        found = (
            self.persistor.load(self.fl_ctx) if self.persistor is not None else make_model_learnable({}, {})
        )
        if not isinstance(found, ModelLearnable):
            raise JobFailed(f"{self._persistor_id}.load gave a {type(found).__name__}, not a ModelLearnable")
        if found.is_empty() and not self._allow_empty_global_weights:
            self.warning("job.yml names no model: the first round starts from what the sites have")
        self.event(AppEventType.INITIAL_MODEL_LOADED)
        weights, meta = found[ModelLearnableKey.WEIGHTS], found[ModelLearnableKey.META]
        return FLModel(params_type=ParamsType.FULL, params=weights, meta=meta)

    def save_model(self, model: FLModel) -> None:
        """Make `model` the job's result, unless a later one is saved."""
        self.event(AppEventType.BEFORE_LEARNABLE_PERSIST)
        self._saved = make_model_learnable(dict(model.params or {}), model.meta)
        if not self._updates:  # else what is saved may be the best of earlier rounds
            self._show_global_model(self._saved)
        if self.persistor is not None:
            self.persistor.save(self._saved, self.fl_ctx)
        self.event(AppEventType.AFTER_LEARNABLE_PERSIST)

    def set_global_model(self, model: FLModel) -> None:
        """What `run` goes on from, and the next commit has as its model."""
        self._updates = True
        self._show_global_model(make_model_learnable(dict(model.params or {}), model.meta))

    def _show_global_model(self, made: ModelLearnable) -> None:
        self.fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, made, private=True, sticky=True)
        self._told = True

    def load_global_weights(self) -> dict[str, Any]:
        """The weights of what `set_global_model` was given last, or of the model that the job began with."""
        found = self.fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)
        return dict(found[ModelLearnableKey.WEIGHTS]) if found else {}

    def sample_clients(self, num_clients: int | None = None) -> list[str]:
        """The names of so many sites, or of all; they follow from the job's seed and the round."""
        names = [client.name for client in self._engine.get_clients()]
        if num_clients and num_clients > len(names):
            self.warning(f"{num_clients} sites were asked for; there are {len(names)}")
        if not num_clients or num_clients >= len(names):
            return names
        number, calls = getattr(self, "_drawn", (None, 0))
        calls = calls + 1 if number == self._number else 0
        self._drawn = (self._number, calls)
        source = random.Random(f"{self._engine.seed}/{self._number}/{calls}")  # noqa: S311 - no secret
        return source.sample(names, num_clients)

    def send_model_and_wait(
        self,
        task_name: str = AppConstants.TASK_TRAIN,
        data: FLModel | None = None,
        targets: Targets = None,
        min_responses: int | None = None,
        timeout: int = 0,
    ) -> list[FLModel]:
        """Send a model to sites; their answers, in the order of the targets.

        Raises:
            TypeError: `data` is no FLModel.
        """
        return self.broadcast_model(data, task_name, targets, min_responses, timeout) or []

    def send_model(
        self,
        task_name: str = AppConstants.TASK_TRAIN,
        data: FLModel | None = None,
        targets: Targets = None,
        min_responses: int | None = None,
        timeout: int = 0,
        callback: Callable[[FLModel], object] | None = None,
    ) -> None:
        """The same, and go on at once: `callback` gets each answer, while `get_num_standing_tasks` waits.

        Raises:
            TypeError: `data` is no FLModel, or there is no callback.
        """
        self.broadcast_model(
            data, task_name, targets, min_responses, timeout, blocking=False, callback=callback
        )

    def broadcast_model(
        self,
        data: FLModel | None,
        task_name: str = AppConstants.TASK_TRAIN,
        targets: Targets = None,
        min_responses: int | None = None,
        timeout: int = 0,
        wait_time_after_min_received: int = 0,
        blocking: bool = True,
        callback: Callable[[FLModel], object] | None = None,
    ) -> list[FLModel] | None:
        """What the two above do; None where it does not wait."""
        if not isinstance(data, FLModel):
            raise TypeError(f"data must be an FLModel, not a {type(data).__name__}")
        if not (blocking or callable(callback)):
            raise TypeError("callback must be a function where the answers are not waited for")
        found: list[FLModel] = []
        count = len(targets) if targets else len(self._engine.get_clients())
        take = callback if callback is not None and not blocking else found.append
        task = self._make_task(task_name, data, timeout, take, (min_responses or count, count))
        grace = wait_time_after_min_received
        if not blocking:
            self.broadcast(task, self.fl_ctx, targets or None, min_responses or 0, grace)
            return None
        signal = self.abort_signal
        self.broadcast_and_wait(task, self.fl_ctx, targets or None, min_responses or 0, grace, signal)
        self._engine.verify_running()
        return found

    # ---- what the runtime calls

    def start_controller(self, fl_ctx: FLContext) -> None:
        """See `Controller`."""
        self.fl_ctx, self.engine = fl_ctx, self._engine
        found = self._engine.get_component(self._persistor_id) if self._persistor_id else None
        self.persistor = found if isinstance(found, LearnablePersistor) else None
        done, total = int(fl_ctx.get_prop(AppConstants.START_ROUND, 0)), self._engine.total
        self._planned = (self.start_round, total if self.num_rounds is None else self.num_rounds)
        self.start_round, self.num_rounds = self._planned[0] + done, max(0, self._planned[1] - done)
        self._before = take_fingerprints(self, _NOT_KEPT)
        self.initialize(fl_ctx)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """See `Controller`."""
        self.fl_ctx, self.abort_signal = fl_ctx, abort_signal
        self.event(AppEventType.TRAINING_STARTED)
        self.run()
        if self._saved is not None:
            self.fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, self._saved, private=True, sticky=True)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """See `Controller`."""
        self.finalize(fl_ctx)

    def get_persist_state(self, fl_ctx: FLContext) -> dict[str, Any]:
        """The attributes that have changed, and the saved model where it is not the current one."""
        saved = self._saved
        if saved is None or saved is fl_ctx.get_prop(AppConstants.GLOBAL_MODEL):
            kept: dict[str, Any] | None = None
        else:
            kept = dict(saved)
        own = find_changes(self, self._before, _NOT_KEPT)
        return {_OWN: own, _SAVED: kept, _DONE: saved is not None}

    def restore(self, state_data: dict[str, Any], fl_ctx: FLContext) -> None:
        """See `get_persist_state`."""
        for name, value in state_data[_OWN].items():
            setattr(self, name, value)
        if state_data[_DONE]:
            kept: Mapping[str, Any] = state_data[_SAVED] or fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)
            self._saved = make_model_learnable(kept[ModelLearnableKey.WEIGHTS], kept[ModelLearnableKey.META])

    # ---- within

    def _make_task(
        self,
        name: str,
        data: FLModel,
        timeout: int,
        take: Callable[[FLModel], object],
        needed: tuple[int, int],
    ) -> Task:
        if not self._told and data.params and self._number is not None:
            self._show_global_model(make_model_learnable(dict(data.params), data.meta))
            self._told = False  # `run` keeps its model to itself: this is it, until the next one
        number = self._number if data.current_round is None else data.current_round
        if number is not None:
            self.fl_ctx.set_prop(AppConstants.CURRENT_ROUND, number, private=True, sticky=True)
        shareable = FLModelUtils.to_shareable(data)
        shareable.set_header(AppConstants.CURRENT_ROUND, number)
        shareable.add_cookie(AppConstants.CONTRIBUTION_ROUND, number)
        if data.total_rounds is not None:
            first, total = self._planned
            shareable.set_header(AppConstants.START_ROUND, first)
            shareable.set_header(AppConstants.NUM_ROUNDS, total)
        failed: set[str] = set()

        def receive(client_task: ClientTask, fl_ctx: FLContext) -> None:
            self._receive(client_task, fl_ctx, take, needed, failed)

        return Task(
            name=name,
            data=shareable,
            timeout=timeout,
            before_task_sent_cb=self._prepare_task_data,
            result_received_cb=receive,
        )

    def _prepare_task_data(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        data, key = client_task.task.data, AppConstants.TRAIN_SHAREABLE
        self.fire_event_with_data(AppEventType.BEFORE_TRAIN_TASK, fl_ctx, key, data)

    def _receive(
        self,
        client_task: ClientTask,
        fl_ctx: FLContext,
        take: Callable[[FLModel], object],
        needed: tuple[int, int],
        failed: set[str],
    ) -> None:
        result, site = client_task.result, client_task.client.name
        assert result is not None  # it has come
        self.fire_event(AppEventType.BEFORE_CONTRIBUTION_ACCEPT, fl_ctx)
        code = result.get_return_code()
        accepted = code == ReturnCode.OK
        if accepted:
            try:
                model = FLModelUtils.from_shareable(result)
            except ValueError as error:
                raise JobFailed(f"{site} answered task {client_task.task.name!r}: {error}") from error
            model.meta["client_name"] = site
            model.current_round = self._number if model.current_round is None else model.current_round
            accepted = take(model) is not False
        else:
            failed.add(site)
            self._judge_failure(site, str(code), needed[1] - len(failed) >= needed[0])
        fl_ctx.set_prop(AppConstants.AGGREGATION_ACCEPTED, accepted, private=True, sticky=False)
        self.fire_event(AppEventType.AFTER_CONTRIBUTION_ACCEPT, fl_ctx)
        client_task.result = None

    def _judge_failure(self, site: str, code: str, enough: bool) -> None:
        if self._ignore_result_error or (self._ignore_result_error is None and enough):
            self.warning(f"{site} answered with {code} and is left out")
        else:
            self.panic(f"{site} answered with {code}, and too few sites are left without it")

    def process_result_of_unknown_task(
        self,
        client: Client,
        task_name: str,
        client_task_id: str,  # noqa: ARG002 - FLARE's signature
        result: Shareable,  # noqa: ARG002
        fl_ctx: FLContext,
    ) -> None:
        """See `Controller`."""
        self.log_warning(fl_ctx, f"{client.name} answered task {task_name!r} when it was not waited for")


def _start_both(flow: Callable[..., None]) -> Callable[..., None]:
    """`run(sites, state)` starts the bridge, `run()` is the algorithm."""

    @functools.wraps(flow)
    def run(self: ModelController, sites: Sites | None = None, state: State | None = None) -> None:
        if sites is None:
            flow(self)
        elif state is None:
            raise Misuse("run takes sites and state, or neither")
        else:
            Controller.run(self, sites, state)

    run.starts_both = True  # type: ignore[attr-defined]
    return run
