# SPDX-License-Identifier: Apache-2.0
"""ScatterAndGather: FLARE's older federated averaging, made of components that a job may replace.

`workflow: {type: fedavg}` does the same where nothing is replaced.
"""

from __future__ import annotations

from typing import Any

from flprov.errors import JobFailed
from flprov.flare.apis.client import Client
from flprov.flare.apis.controller_spec import ClientTask, Task
from flprov.flare.apis.fl_constant import ReturnCode
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.impl.controller import Controller
from flprov.flare.apis.shareable import Shareable
from flprov.flare.apis.signal import Signal
from flprov.flare.app_common.abstract.aggregator import Aggregator
from flprov.flare.app_common.abstract.learnable_persistor import LearnablePersistor
from flprov.flare.app_common.abstract.model import ModelLearnable, make_model_learnable
from flprov.flare.app_common.abstract.shareable_generator import ShareableGenerator
from flprov.flare.app_common.app_constant import AppConstants
from flprov.flare.app_common.app_event_type import AppEventType


class ScatterAndGather(Controller):
    """Sends the model to all sites, lets the aggregator make one of what comes back, and saves it.

    Args:
        min_clients: good answers that are enough; all sites' where there are not so many.
        num_rounds: how many rounds; None: `workflow.rounds` of job.yml.
        start_round: the number of the first.
        wait_time_after_min_received: seconds for further answers.
        aggregator_id, persistor_id, shareable_generator_id: components; ours unless others were added.
        train_timeout: seconds that a task stands; 0: any.
        ignore_result_error: what a site's failure does: True, it is left out; False, it ends the job; None,
            that depends on whether `min_clients` can still be reached.
        task_check_period, persist_every_n_rounds, snapshot_every_n_rounds, memory_gc_rounds,
            enable_tensor_disk_offload: each round is committed, nothing is polled, updates are mapped files.
    """

    def __init__(
        self,
        min_clients: int = 1000,
        num_rounds: int | None = None,
        start_round: int = 0,
        wait_time_after_min_received: int = 10,
        aggregator_id: str = AppConstants.DEFAULT_AGGREGATOR_ID,
        persistor_id: str = AppConstants.DEFAULT_PERSISTOR_ID,
        shareable_generator_id: str = AppConstants.DEFAULT_SHAREABLE_GENERATOR_ID,
        train_task_name: str = AppConstants.TASK_TRAIN,
        train_timeout: int = 0,
        ignore_result_error: bool | None = None,
        allow_empty_global_weights: bool = False,
        task_check_period: float = 0.5,
        persist_every_n_rounds: int = 1,
        snapshot_every_n_rounds: int = 1,
        memory_gc_rounds: int = 1,  # noqa: ARG002 - FLARE's signature
        enable_tensor_disk_offload: bool = False,  # noqa: ARG002
    ) -> None:
        super().__init__(task_check_period=task_check_period)
        if min_clients <= 0:
            raise ValueError(f"min_clients is {min_clients}; it must be above 0")
        self.aggregator_id = aggregator_id
        self.persistor_id = persistor_id or AppConstants.DEFAULT_PERSISTOR_ID
        self.shareable_generator_id = shareable_generator_id
        self.train_task_name = train_task_name
        self.ignore_result_error = ignore_result_error
        self.allow_empty_global_weights = allow_empty_global_weights
        self.aggregator: Any = None
        self.persistor: Any = None
        self.shareable_gen: Any = None
        self._min_clients = min_clients
        self._num_rounds = num_rounds
        self._start_round = start_round
        self._wait_time_after_min_received = wait_time_after_min_received
        self._train_timeout = train_timeout
        self._persist_every_n_rounds = persist_every_n_rounds
        self._snapshot_every_n_rounds = snapshot_every_n_rounds
        self._phase = AppConstants.PHASE_INIT
        self._global_weights = make_model_learnable({}, {})
        self._current_round: int | None = None
        self._failed: set[str] = set()

    def start_controller(self, fl_ctx: FLContext) -> None:
        """See `Controller`.

        Raises:
            JobFailed: a component is not of its kind.
        """
        if self._num_rounds is None:
            self._num_rounds = self._engine.total
        self.aggregator = self._find(self.aggregator_id, Aggregator)
        self.shareable_gen = self._find(self.shareable_generator_id, ShareableGenerator)
        self.persistor = self._find(self.persistor_id, LearnablePersistor)
        found = self.persistor.load(fl_ctx)
        if not isinstance(found, ModelLearnable):
            raise JobFailed(f"{self.persistor_id}.load gave a {type(found).__name__}, not a ModelLearnable")
        self._global_weights = found
        fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, found, private=True, sticky=True)
        self.fire_event(AppEventType.INITIAL_MODEL_LOADED, fl_ctx)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """See `Controller`."""
        self._phase = AppConstants.PHASE_TRAIN
        self.fire_event(AppEventType.TRAINING_STARTED, fl_ctx)
        if self._current_round is None:
            self._current_round = self._start_round
        while self._current_round < self._start_round + (self._num_rounds or 0):
            if self._check_abort_signal(fl_ctx, abort_signal):
                return
            self._do_round(abort_signal, fl_ctx)
            self.fire_event(AppEventType.ROUND_DONE, fl_ctx)
            self._current_round += 1
            self.aggregator.reset(fl_ctx)
            self._engine.persist_components(fl_ctx, completed=False)
        self._phase = AppConstants.PHASE_FINISHED

    def stop_controller(self, fl_ctx: FLContext) -> None:  # noqa: ARG002
        """See `Controller`."""
        self._phase = AppConstants.PHASE_FINISHED

    def process_result_of_unknown_task(
        self,
        client: Client,
        task_name: str,
        client_task_id: str,  # noqa: ARG002 - FLARE's signature
        result: Shareable,
        fl_ctx: FLContext,
    ) -> None:
        """A training result that comes late may still be in time for the aggregator."""
        if self._phase == AppConstants.PHASE_TRAIN and task_name == self.train_task_name:
            if result.get_return_code() == ReturnCode.OK:
                self._accept_train_result(client.name, result, fl_ctx)
        else:
            self.log_warning(fl_ctx, f"{client.name} answered task {task_name!r} when it was not waited for")

    def get_persist_state(self, fl_ctx: FLContext) -> dict[str, Any]:  # noqa: ARG002
        """The round; its model is the committed one."""
        return {"current_round": self._current_round}

    def restore(self, state_data: dict[str, Any], fl_ctx: FLContext) -> None:  # noqa: ARG002
        """See `get_persist_state`."""
        self._current_round = state_data["current_round"]

    # ---- within; subclasses of FLARE's use these names

    def _do_round(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, self._global_weights, private=True, sticky=True)
        fl_ctx.set_prop(AppConstants.CURRENT_ROUND, self._current_round, private=True, sticky=True)
        self.fire_event(AppEventType.ROUND_STARTED, fl_ctx)
        data = self.shareable_gen.learnable_to_shareable(self._global_weights, fl_ctx)
        data.set_header(AppConstants.CURRENT_ROUND, self._current_round)
        data.set_header(AppConstants.NUM_ROUNDS, self._num_rounds)
        data.add_cookie(AppConstants.CONTRIBUTION_ROUND, self._current_round)
        task = Task(
            name=self.train_task_name,
            data=data,
            timeout=self._train_timeout,
            before_task_sent_cb=self._prepare_train_task_data,
            result_received_cb=self._process_train_result,
        )
        self._failed = set()
        self.broadcast_and_wait(
            task,
            fl_ctx,
            min_responses=min(self._min_clients, len(self._engine.get_clients())),
            wait_time_after_min_received=self._wait_time_after_min_received,
            abort_signal=abort_signal,
        )
        self._engine.verify_running()
        self.fire_event(AppEventType.BEFORE_AGGREGATION, fl_ctx)
        found = self.aggregator.aggregate(fl_ctx)
        self.fire_event_with_data(
            AppEventType.AFTER_AGGREGATION, fl_ctx, AppConstants.AGGREGATION_RESULT, found
        )
        self.fire_event(AppEventType.BEFORE_SHAREABLE_TO_LEARNABLE, fl_ctx)
        self._global_weights = self.shareable_gen.shareable_to_learnable(found, fl_ctx)
        fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, self._global_weights, private=True, sticky=True)
        self.fire_event(AppEventType.AFTER_SHAREABLE_TO_LEARNABLE, fl_ctx)
        self.fire_event(AppEventType.BEFORE_LEARNABLE_PERSIST, fl_ctx)
        self.persistor.save(self._global_weights, fl_ctx)
        self.fire_event(AppEventType.AFTER_LEARNABLE_PERSIST, fl_ctx)

    def _prepare_train_task_data(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        data, key = client_task.task.data, AppConstants.TRAIN_SHAREABLE
        self.fire_event_with_data(AppEventType.BEFORE_TRAIN_TASK, fl_ctx, key, data)

    def _process_train_result(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        result = client_task.result
        assert result is not None  # it has come
        self._accept_train_result(client_task.client.name, result, fl_ctx)
        client_task.result = None

    def _accept_train_result(self, client_name: str, result: Shareable, fl_ctx: FLContext) -> bool:
        code = result.get_return_code()
        if code != ReturnCode.OK:
            self._failed.add(client_name)
            left = len(self._engine.get_clients()) - len(self._failed)
            enough = left >= min(self._min_clients, len(self._engine.get_clients()))
            if self.ignore_result_error or (self.ignore_result_error is None and enough):
                self.log_warning(fl_ctx, f"{client_name} answered with {code} and is left out")
            else:
                self.system_panic(f"{client_name} answered with {code}, and too few are left", fl_ctx)
            return False
        fl_ctx.put(AppConstants.TRAINING_RESULT, result, private=True, sticky=False)
        self.fire_event(AppEventType.BEFORE_CONTRIBUTION_ACCEPT, fl_ctx)
        accepted = bool(self.aggregator.accept(result, fl_ctx))
        fl_ctx.put(AppConstants.AGGREGATION_ACCEPTED, accepted, private=True, sticky=False)
        self.fire_event(AppEventType.AFTER_CONTRIBUTION_ACCEPT, fl_ctx)
        return accepted

    def _check_abort_signal(self, fl_ctx: FLContext, abort_signal: Signal) -> bool:  # noqa: ARG002
        if abort_signal.triggered:
            self._phase = AppConstants.PHASE_FINISHED
        return abort_signal.triggered

    def _find(self, component_id: str, kind: type) -> Any:  # noqa: ANN401 - of that kind
        found = self._engine.get_component(component_id)
        if not isinstance(found, kind):
            raise JobFailed(f"{component_id!r} must be a {kind.__name__}, not {type(found).__name__}")
        return found
