# SPDX-License-Identifier: Apache-2.0
"""A scatter-and-gather controller as people write them for NVIDIA FLARE 2.x, with callbacks."""

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, OperatorMethod, Task, TaskOperatorKey
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.aggregator import Aggregator
from nvflare.app_common.abstract.learnable_persistor import LearnablePersistor
from nvflare.app_common.abstract.model import ModelLearnable, make_model_learnable
from nvflare.app_common.abstract.shareable_generator import ShareableGenerator
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType


class HelloController(Controller):
    def __init__(
        self,
        num_rounds: int = 3,
        min_clients: int = 2,
        wait_time_after_min_received: int = 0,
        aggregator_id=AppConstants.DEFAULT_AGGREGATOR_ID,
        persistor_id=AppConstants.DEFAULT_PERSISTOR_ID,
        shareable_generator_id=AppConstants.DEFAULT_SHAREABLE_GENERATOR_ID,
        train_timeout: int = 0,
        validate: bool = True,
    ):
        super().__init__(task_check_period=0.5)
        self.aggregator_id = aggregator_id
        self.persistor_id = persistor_id
        self.shareable_generator_id = shareable_generator_id
        self._num_rounds = num_rounds
        self._min_clients = min_clients
        self._wait = wait_time_after_min_received
        self._train_timeout = train_timeout
        self._validate = validate
        self._phase = AppConstants.PHASE_INIT
        self._global_weights = make_model_learnable({}, {})
        self._current_round = None
        self.calls = []

    def start_controller(self, fl_ctx: FLContext) -> None:
        self.aggregator = self._engine.get_component(self.aggregator_id)
        self.shareable_gen = self._engine.get_component(self.shareable_generator_id)
        self.persistor = self._engine.get_component(self.persistor_id)
        if not (
            isinstance(self.aggregator, Aggregator)
            and isinstance(self.shareable_gen, ShareableGenerator)
            and isinstance(self.persistor, LearnablePersistor)
        ):
            self.system_panic("a component is missing", fl_ctx)
            return
        self._global_weights = self.persistor.load(fl_ctx)
        if not isinstance(self._global_weights, ModelLearnable) or self._global_weights.is_empty():
            self.system_panic("no initial model", fl_ctx)
            return
        fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, self._global_weights, private=True, sticky=True)
        self.fire_event(AppEventType.INITIAL_MODEL_LOADED, fl_ctx)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        self._phase = AppConstants.PHASE_TRAIN
        if self._current_round is None:
            self._current_round = 0
        while self._current_round < self._num_rounds:
            if abort_signal.triggered:
                return
            self.log_info(fl_ctx, f"Round {self._current_round} started.")
            fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, self._global_weights, private=True, sticky=True)
            fl_ctx.set_prop(AppConstants.CURRENT_ROUND, self._current_round, private=True, sticky=True)
            self.fire_event(AppEventType.ROUND_STARTED, fl_ctx)

            data: Shareable = self.shareable_gen.learnable_to_shareable(self._global_weights, fl_ctx)
            data.set_header(AppConstants.CURRENT_ROUND, self._current_round)
            data.set_header(AppConstants.NUM_ROUNDS, self._num_rounds)
            data.add_cookie(AppConstants.CONTRIBUTION_ROUND, self._current_round)
            train_task = Task(
                name=AppConstants.TASK_TRAIN,
                data=data,
                operator={
                    TaskOperatorKey.OP_ID: AppConstants.TASK_TRAIN,
                    TaskOperatorKey.METHOD: OperatorMethod.BROADCAST,
                },
                props={},
                timeout=self._train_timeout,
                before_task_sent_cb=self._prepare_train_task_data,
                after_task_sent_cb=self._sent,
                result_received_cb=self._process_train_result,
                task_done_cb=self._done,
            )
            self.broadcast_and_wait(
                task=train_task,
                min_responses=self._min_clients,
                wait_time_after_min_received=self._wait,
                fl_ctx=fl_ctx,
                abort_signal=abort_signal,
            )
            if abort_signal.triggered:
                return
            self.fire_event(AppEventType.BEFORE_AGGREGATION, fl_ctx)
            aggregated = self.aggregator.aggregate(fl_ctx)
            self.fire_event(AppEventType.AFTER_AGGREGATION, fl_ctx)
            self._global_weights = self.shareable_gen.shareable_to_learnable(aggregated, fl_ctx)
            fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, self._global_weights, private=True, sticky=True)
            fl_ctx.sync_sticky()
            self.persistor.save(self._global_weights, fl_ctx)
            self.fire_event(AppEventType.ROUND_DONE, fl_ctx)
            self._current_round += 1
            self._engine.persist_components(fl_ctx, completed=False)
            self.aggregator.reset(fl_ctx)
        if self._validate:
            self._validate_everywhere(fl_ctx)
        self._phase = AppConstants.PHASE_FINISHED

    def _validate_everywhere(self, fl_ctx):
        for client in self._engine.get_clients():
            data = self.shareable_gen.learnable_to_shareable(self._global_weights, fl_ctx)
            task = Task(name=AppConstants.TASK_VALIDATION, data=data, result_received_cb=self._validated)
            self.send(task, fl_ctx, targets=[client])
        while self.get_num_standing_tasks():
            pass

    def stop_controller(self, fl_ctx: FLContext) -> None:
        self._phase = AppConstants.PHASE_FINISHED

    def _prepare_train_task_data(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        self.calls.append(("before", client_task.client.name))
        fl_ctx.set_prop("greeting", "hello", private=False, sticky=False)

    def _sent(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        self.calls.append(("after", client_task.client.name))

    def _process_train_result(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        result = client_task.result
        self.calls.append(("result", client_task.client.name))
        rc = result.get_return_code()
        if rc and rc != ReturnCode.OK:
            self.log_error(fl_ctx, f"{client_task.client.name}: {rc}")
            self.calls.append((rc, client_task.client.name))
            return
        self.aggregator.accept(result, fl_ctx)
        client_task.result = None

    def _validated(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        self.calls.append((from_shareable(client_task.result).data["val_acc"], client_task.client.name))

    def _done(self, task: Task, fl_ctx: FLContext) -> None:
        self.calls.append(("done", task.completion_status.value))

    def process_result_of_unknown_task(
        self, client: Client, task_name, client_task_id, result: Shareable, fl_ctx: FLContext
    ) -> None:
        self.calls.append(("unknown", client.name))

    def get_persist_state(self, fl_ctx: FLContext) -> dict:
        return {"current_round": self._current_round, "global_weights": self._global_weights}

    def restore(self, state_data: dict, fl_ctx: FLContext):
        self._current_round = state_data["current_round"]
        self._global_weights = make_model_learnable(state_data["global_weights"]["weights"], {})
