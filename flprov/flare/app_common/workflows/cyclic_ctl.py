# SPDX-License-Identifier: Apache-2.0
"""CyclicController: the model goes round the sites, as something to write subclasses of.

`workflow: {type: cyclic}` does the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from flprov.errors import JobFailed, Misuse
from flprov.flare.apis.client import Client
from flprov.flare.apis.controller_spec import ClientTask, Task
from flprov.flare.apis.fl_constant import ReturnCode
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.impl.controller import Controller
from flprov.flare.apis.signal import Signal
from flprov.flare.app_common.app_constant import AppConstants
from flprov.flare.app_common.app_event_type import AppEventType


class RelayOrder:
    """Who comes after whom in a round."""

    FIXED = "FIXED"  # by name
    RANDOM = "RANDOM"
    RANDOM_WITHOUT_SAME_IN_A_ROW = "RANDOM_WITHOUT_SAME_IN_A_ROW"  # nobody ends a round and begins the next


SUPPORTED_ORDERS = (RelayOrder.FIXED, RelayOrder.RANDOM, RelayOrder.RANDOM_WITHOUT_SAME_IN_A_ROW)


class CyclicController(Controller):
    """Relays the task, each site's result being the next one's model.

    Args:
        num_rounds: how many rounds; None: `workflow.rounds` of job.yml.
        persistor_id, shareable_generator_id: components; ours unless others were added.
        task_name: what the sites are asked for.
        order: of RelayOrder, or the names of sites. A random one follows from the job's seed and the round.
        allow_early_termination: a site may end the job by answering EARLY_TERMINATION.
        task_assignment_timeout, task_check_period, persist_every_n_rounds, snapshot_every_n_rounds,
            memory_gc_rounds: each round is committed, and nothing is polled.
    """

    def __init__(
        self,
        num_rounds: int | None = None,
        task_assignment_timeout: int = 10,  # noqa: ARG002 - FLARE's signature
        persistor_id: str = AppConstants.DEFAULT_PERSISTOR_ID,
        shareable_generator_id: str = AppConstants.DEFAULT_SHAREABLE_GENERATOR_ID,
        task_name: str = AppConstants.TASK_TRAIN,
        task_check_period: float = 0.5,
        persist_every_n_rounds: int = 1,  # noqa: ARG002
        snapshot_every_n_rounds: int = 1,  # noqa: ARG002
        order: str | Sequence[str] = RelayOrder.FIXED,
        allow_early_termination: bool = False,
        memory_gc_rounds: int = 1,  # noqa: ARG002
    ) -> None:
        super().__init__(task_check_period=task_check_period)
        if isinstance(order, str) and order not in SUPPORTED_ORDERS:
            raise Misuse(f"order is {order!r}; it must be one of {', '.join(SUPPORTED_ORDERS)}, or a list")
        self.persistor_id = persistor_id
        self.shareable_generator_id = shareable_generator_id
        self.task_name = task_name
        self.persistor: Any = None
        self.shareable_generator: Any = None
        self._num_rounds = num_rounds
        self._current_round = 0
        self._last_learnable: Any = None
        self._last_client: str | None = None
        self._order = order
        self._allow_early_termination = allow_early_termination
        self._is_done = False

    def start_controller(self, fl_ctx: FLContext) -> None:
        """See `Controller`."""
        if self._num_rounds is None:
            self._num_rounds = self._engine.total
        self.persistor = self._engine.get_component(self.persistor_id)
        self.shareable_generator = self._engine.get_component(self.shareable_generator_id)
        self._last_learnable = self.persistor.load(fl_ctx)
        fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, self._last_learnable, private=True, sticky=True)
        self.fire_event(AppEventType.INITIAL_MODEL_LOADED, fl_ctx)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """See `Controller`."""
        while self._current_round < (self._num_rounds or 0) and not self._is_done:
            if abort_signal.triggered:
                return
            fl_ctx.set_prop(AppConstants.CURRENT_ROUND, self._current_round, private=True, sticky=True)
            targets = self._get_relay_orders(fl_ctx)
            task = Task(self.task_name, self._make_data(fl_ctx), result_received_cb=self._process_result)
            self.relay_and_wait(task, fl_ctx, targets=targets, abort_signal=abort_signal)
            self.persistor.save(self._last_learnable, fl_ctx)
            self._current_round += 1
            self._engine.end_round()

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """See `Controller`."""

    def get_persist_state(self, fl_ctx: FLContext) -> dict[str, Any]:  # noqa: ARG002
        """The round, and who was its last; its model is the committed one."""
        return {"current_round": self._current_round, "last_client": self._last_client}

    def restore(self, state_data: dict[str, Any], fl_ctx: FLContext) -> None:  # noqa: ARG002
        """See `get_persist_state`."""
        self._current_round, self._last_client = state_data["current_round"], state_data["last_client"]

    def _get_relay_orders(self, fl_ctx: FLContext) -> list[Client]:  # noqa: ARG002
        known = {client.name: client for client in self._engine.get_clients()}
        if not isinstance(self._order, str):
            if strangers := [name for name in self._order if name not in known]:
                raise JobFailed(f"order names {strangers[0]!r}, which is no site of this job")
            return [known[name] for name in self._order]
        names = list(known)
        if self._order != RelayOrder.FIXED:
            random.Random(f"{self._engine.seed}/{self._current_round}").shuffle(names)  # noqa: S311 - no secret
            if self._order == RelayOrder.RANDOM_WITHOUT_SAME_IN_A_ROW and names[0] == self._last_client:
                names.append(names.pop(0))
        self._last_client = names[-1]
        return [known[name] for name in names]

    def _process_result(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        result, site = client_task.result, client_task.client.name
        assert result is not None  # it has come
        code = result.get_return_code()
        if code not in (ReturnCode.OK, ReturnCode.EARLY_TERMINATION):
            raise JobFailed(f"{site} answered with {code} and has broken the cycle")
        if code == ReturnCode.OK or result.get(AppConstants.DXO):
            self._last_learnable = self.shareable_generator.shareable_to_learnable(result, fl_ctx)
            fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, self._last_learnable, private=True, sticky=True)
        if code == ReturnCode.EARLY_TERMINATION and self._allow_early_termination:
            self._is_done = True
            self.cancel_task(client_task.task)
        client_task.task.data = self._make_data(fl_ctx)

    def _make_data(self, fl_ctx: FLContext) -> Any:  # noqa: ANN401 - a Shareable, of the generator
        data = self.shareable_generator.learnable_to_shareable(self._last_learnable, fl_ctx)
        data.set_header(AppConstants.CURRENT_ROUND, self._current_round)
        data.set_header(AppConstants.NUM_ROUNDS, self._num_rounds)
        data.add_cookie(AppConstants.CONTRIBUTION_ROUND, self._current_round)
        return data
