# SPDX-License-Identifier: Apache-2.0
"""FLARE-shaped controllers over our sites: rounds, callbacks, cancelling, resuming, in numbers by hand."""

import numpy as np
import pytest
from flare_sites import FlareSites, run_controller

from flprov.errors import JobFailed, Misuse
from flprov.flare.apis.controller_spec import SendOrder, Task, TaskCompletionStatus
from flprov.flare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from flprov.flare.apis.fl_constant import ReturnCode
from flprov.flare.apis.impl.controller import Controller
from flprov.flare.apis.shareable import Shareable
from flprov.flare.app_common.app_constant import AppConstants


def move_by(site, steps=1):
    """A site that adds its own number to every weight."""

    def execute(name, shareable):
        if name == "validate":
            return DXO(DataKind.METRICS, data={"val_acc": 0.5}).to_shareable()
        data = from_shareable(shareable).data
        moved = {key: np.full_like(value, int(site[-1])) for key, value in data.items()}
        return DXO(
            DataKind.WEIGHT_DIFF, data=moved, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: steps}
        ).to_shareable()

    return execute


class Flow(Controller):
    """A controller whose control_flow is a function."""

    def __init__(self, flow):
        super().__init__()
        self.flow = flow
        self.strays = []

    def start_controller(self, fl_ctx):
        pass

    def stop_controller(self, fl_ctx):
        pass

    def control_flow(self, abort_signal, fl_ctx):
        self.flow(self, abort_signal, fl_ctx)

    def process_result_of_unknown_task(self, client, task_name, client_task_id, result, fl_ctx):
        self.strays.append((client.name, task_name))


def weights(value=0.0):
    return DXO(DataKind.WEIGHTS, data={"w": np.full(2, value, np.float32)}).to_shareable()


@pytest.mark.parametrize("arrival", ["forwards", "backwards"])
def test_scatter_and_gather_ends_with_the_weighted_mean_whatever_the_order_of_arrival(migrated, arrival):
    controller = migrated("hello_controller").HelloController(num_rounds=2)
    sites = FlareSites({"s1": move_by("s1", steps=3), "s2": move_by("s2", steps=1)}, arrival=arrival)
    saved = run_controller(controller, sites, rounds=2, model={"w": np.zeros(2, np.float32)})
    assert [state.round for state in saved] == [1, 2]
    # each round adds (3 * 1 + 1 * 2) / 4
    assert [state.model["w"].tolist() for state in saved] == [[1.25, 1.25], [2.5, 2.5]]
    assert saved[-1].model["w"].dtype == np.float32
    one = [
        ("before", "s1"),
        ("before", "s2"),
        ("after", "s1"),
        ("after", "s2"),
        ("result", "s1"),
        ("result", "s2"),
        ("done", "ok"),
    ]
    assert controller.calls == [*one, *one, (0.5, "s1"), (0.5, "s2")]


def test_sites_see_rounds_cookies_and_public_properties(migrated):
    seen = []

    def look(name, shareable):
        seen.append(
            (
                name,
                shareable.get_header(AppConstants.CURRENT_ROUND),
                shareable.get_cookie(AppConstants.CONTRIBUTION_ROUND),
                (shareable.get_peer_props() or {}).get("greeting"),
            )
        )
        return move_by("s1")(name, shareable)

    controller = migrated("hello_controller").HelloController(num_rounds=2, min_clients=1, validate=False)
    run_controller(controller, FlareSites({"s1": look}), rounds=2, model={"w": np.zeros(1, np.float32)})
    assert seen == [("train", 0, 0, "hello"), ("train", 1, 1, "hello")]


@pytest.mark.parametrize("die_at", range(1, 8))
def test_a_killed_controller_that_keeps_its_state_ends_with_the_same_bits(migrated, die_at):
    make = migrated("hello_controller").HelloController

    def sites():
        return FlareSites({"s1": move_by("s1", 3), "s2": move_by("s2", 1)})

    model = {"w": np.zeros(2, np.float32)}
    whole = run_controller(make(num_rounds=3, validate=False), sites(), rounds=3, model=model)
    broken = run_controller(make(num_rounds=3, validate=False), sites(), rounds=3, model=model, die_at=die_at)
    resumed = run_controller(
        make(num_rounds=3, validate=False),
        sites(),
        rounds=3,
        model=model,
        after=broken[-1] if broken else None,
    )
    assert resumed[-1].model["w"].tobytes() == whole[-1].model["w"].tobytes()
    assert resumed[-1].round == 3


def test_a_site_that_fails_comes_to_the_callback_with_its_return_code(migrated):
    controller = migrated("hello_controller").HelloController(num_rounds=1, min_clients=0, validate=False)
    sites = FlareSites({"s1": move_by("s1"), "s2": "Trainer answered task 'train' with TASK_UNSUPPORTED"})
    saved = run_controller(controller, sites, rounds=1, model={"w": np.zeros(1, np.float32)})
    assert (ReturnCode.TASK_UNSUPPORTED, "s2") in controller.calls
    assert saved[-1].model["w"].tolist() == [1.0]


def test_a_failure_in_job_code_is_an_execution_exception():
    codes = []

    def flow(self, abort, ctx):
        task = Task(
            "train", weights(), result_received_cb=lambda ct, _: codes.append(ct.result.get_return_code())
        )
        self.broadcast_and_wait(task, ctx, min_responses=0)

    run_controller(Flow(flow), FlareSites({"s1": "t.py:3: ValueError: no"}), rounds=1)
    assert codes == [ReturnCode.EXECUTION_EXCEPTION]


def test_enough_answers_end_a_broadcast_and_later_ones_are_strays():
    statuses = []

    def flow(self, abort, ctx):
        task = Task("train", weights(), result_received_cb=lambda ct, _: statuses.append(ct.client.name))
        self.broadcast_and_wait(task, ctx, min_responses=1)
        statuses.append(task.completion_status)

    sites = FlareSites({name: move_by(name) for name in ("s1", "s2", "s3")}, slow={"s3"})
    controller = Flow(flow)
    run_controller(controller, sites, rounds=1)
    assert statuses == ["s1", TaskCompletionStatus.OK]
    assert controller.strays == [("s2", "train")]
    assert sites.port.withdrawn == ["0/train/0"]


def test_time_after_the_minimum_is_waited_without_polling():
    statuses = []

    def flow(self, abort, ctx):
        task = Task("train", weights(), result_received_cb=lambda ct, _: statuses.append(ct.client.name))
        self.broadcast_and_wait(task, ctx, min_responses=1, wait_time_after_min_received=0.05)
        statuses.append(task.completion_status)

    sites = FlareSites({name: move_by(name) for name in ("s1", "s2", "s3")}, slow={"s3"})
    run_controller(Flow(flow), sites, rounds=1)
    assert statuses == ["s1", "s2", TaskCompletionStatus.OK]


def test_a_task_with_a_timeout_ends_with_timeout():
    found = []

    def flow(self, abort, ctx):
        task = Task(
            "train", weights(), timeout=1, task_done_cb=lambda t, _: found.append(t.completion_status)
        )
        task.timeout = 0.05
        self.broadcast_and_wait(task, ctx, min_responses=0)

    run_controller(Flow(flow), FlareSites({"s1": move_by("s1")}, slow={"s1"}), rounds=1)
    assert found == [TaskCompletionStatus.TIMEOUT]


def test_what_came_in_time_counts_also_where_it_was_kept_back_for_the_order():
    found = []

    def flow(self, abort, ctx):
        def address(client_task, _):  # each site gets words of its own
            client_task.task.data.set_header("to", client_task.client.name)

        task = Task(
            "train",
            weights(),
            timeout=0.05,
            before_task_sent_cb=address,
            result_received_cb=lambda ct, _: found.append(ct.client.name),
        )
        self.broadcast_and_wait(task, ctx, min_responses=0)
        found.append(task.completion_status)

    sites = FlareSites({name: move_by(name) for name in ("s1", "s2", "s3")}, slow={"s1", "s2"})
    controller = Flow(flow)
    run_controller(controller, sites, rounds=1)
    assert found == ["s3", TaskCompletionStatus.TIMEOUT]
    assert controller.strays == []


def test_relay_goes_from_site_to_site_with_what_the_callback_puts_into_the_task():
    path = []

    def flow(self, abort, ctx):
        def received(client_task, _):
            data = (
                from_shareable(client_task.result).data["w"] + from_shareable(client_task.task.data).data["w"]
            )
            path.append((client_task.client.name, float(data[0])))
            DXO(DataKind.WEIGHTS, data={"w": data}).update_shareable(client_task.task.data)

        task = Task("train", weights(), result_received_cb=received)
        self.relay_and_wait(task, ctx, targets=["s3", "s1", "s2"])

    run_controller(Flow(flow), FlareSites({name: move_by(name) for name in ("s1", "s2", "s3")}), rounds=1)
    assert path == [("s3", 3.0), ("s1", 4.0), ("s2", 6.0)]


def test_two_tasks_for_one_site_are_done_one_after_the_other():
    seen = []

    def flow(self, abort, ctx):
        for name in ("train", "validate"):
            task = Task(name, weights(), result_received_cb=lambda ct, _: seen.append(ct.task.name))
            self.send(task, ctx, targets=["s1"])
        assert self._board.count == 2
        while self.get_num_standing_tasks():
            pass

    run_controller(Flow(flow), FlareSites({"s1": move_by("s1")}), rounds=1)
    assert seen == ["train", "validate"]


def test_send_to_any_takes_a_site_that_is_free():
    seen = []

    def flow(self, abort, ctx):
        self.send(Task("train", weights()), ctx, targets=["s1"])
        task = Task("validate", weights(), result_received_cb=lambda ct, _: seen.append(ct.client.name))
        self.send_and_wait(task, ctx, targets=["s1", "s2"], send_order=SendOrder.ANY)
        self.cancel_all_tasks()

    run_controller(Flow(flow), FlareSites({"s1": move_by("s1"), "s2": move_by("s2")}, slow={"s1"}), rounds=1)
    assert seen == ["s2"]


def test_a_broadcast_forever_goes_on_until_it_is_cancelled():
    seen = []

    def flow(self, abort, ctx):
        def received(client_task, _):
            seen.append(client_task.client.name)
            if len(seen) == 3:
                self.cancel_task(task)

        task = Task("train", weights(), result_received_cb=received)
        self.broadcast_forever(task, ctx)
        while self.get_num_standing_tasks():
            pass
        assert task.completion_status is TaskCompletionStatus.CANCELLED

    run_controller(Flow(flow), FlareSites({"s1": move_by("s1")}), rounds=1)
    assert seen == ["s1"] * 3


def test_free_values_travel_both_ways():
    found = {}

    def answer(name, shareable):
        assert shareable["question"] == {"names": ("a", 1, None), 3: [b"x", float("inf")]}
        reply = Shareable({"text": shareable["text"].upper(), "table": {"t": np.arange(3)}})
        reply["dxos"] = DXO(DataKind.COLLECTION, data={"m": DXO(DataKind.METRICS, data={"a": "good"})})
        return reply

    def flow(self, abort, ctx):
        data = Shareable({"text": "why", "question": {"names": ("a", 1, None), 3: [b"x", float("inf")]}})
        task = Task("ask", data, result_received_cb=lambda ct, _: found.update(ct.result))
        self.broadcast_and_wait(task, ctx, min_responses=0)

    run_controller(Flow(flow), FlareSites({"s1": answer}), rounds=1, tasks=("ask",))
    assert found["text"] == "WHY"
    assert found["table"]["t"].tolist() == [0, 1, 2]
    assert found["dxos"].data["m"].data == {"a": "good"}


def test_what_cannot_travel_is_refused_by_name():
    def flow(self, abort, ctx):
        self.broadcast(Task("train", Shareable({"lock": {"of": object()}})), ctx)

    with pytest.raises(Misuse, match=r"the task's data\.lock\.of is a object"):
        run_controller(Flow(flow), FlareSites({"s1": move_by("s1")}), rounds=1)


def test_panic_fails_the_job_with_its_reason():
    def flow(self, abort, ctx):
        self.system_panic("the data is not what we think", ctx)
        assert abort.triggered

    with pytest.raises(JobFailed, match="Flow gave up: the data is not what we think"):
        run_controller(Flow(flow), FlareSites({"s1": move_by("s1")}), rounds=1)


def test_more_answers_than_there_are_sites_are_refused_at_once():
    def flow(self, abort, ctx):
        self.broadcast_and_wait(Task("train", weights()), ctx, min_responses=3)

    with pytest.raises(Misuse, match="waits for 3 answers of 1 sites"):
        run_controller(Flow(flow), FlareSites({"s1": move_by("s1")}), rounds=1)


def test_a_controller_without_persisted_state_learns_where_to_begin():
    starts = []

    def flow(self, abort, ctx):
        starts.append((ctx.get_prop(AppConstants.START_ROUND), ctx.get_prop(AppConstants.NUM_ROUNDS)))
        model = self._engine.get_component("persistor").load(ctx)["weights"]["w"]
        for number in range(ctx.get_prop(AppConstants.START_ROUND), 3):
            task = Task("train", DXO(DataKind.WEIGHTS, data={"w": model}).to_shareable())
            task.data.set_header(AppConstants.CURRENT_ROUND, number)
            self.broadcast_and_wait(task, ctx, min_responses=0)
            model = model + from_shareable(task.client_tasks[0].result).data["w"]
            self._engine.get_component("persistor").save({"weights": {"w": model}}, ctx)

    model = {"w": np.zeros(1, np.float32)}
    broken = run_controller(Flow(flow), FlareSites({"s1": move_by("s1")}), rounds=3, model=model, die_at=4)
    resumed = run_controller(
        Flow(flow), FlareSites({"s1": move_by("s1")}), rounds=3, model=model, after=broken[-1]
    )
    assert starts == [(0, 3), (1, 3)]
    assert resumed[-1].model["w"].tolist() == [3.0]
