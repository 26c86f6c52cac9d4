# SPDX-License-Identifier: Apache-2.0
"""ModelController and what FLARE has built of it, over our sites, in numbers by hand."""

import re

import numpy as np
import pytest
from flare_sites import FlareSites, run_controller

from flprov.errors import JobFailed, Misuse
from flprov.flare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from flprov.flare.apis.shareable import Shareable
from flprov.flare.app_common.abstract.aggregator import Aggregator
from flprov.flare.app_common.abstract.fl_model import FLModel, ParamsType
from flprov.flare.app_common.aggregators.model_aggregator import ModelAggregator
from flprov.flare.app_common.aggregators.weighted_aggregation_helper import WeightedAggregationHelper
from flprov.flare.app_common.app_constant import AppConstants, ModelName
from flprov.flare.app_common.utils.fl_model_utils import FLModelUtils
from flprov.flare.app_common.utils.math_utils import parse_compare_criteria, parse_compare_operator
from flprov.flare.app_common.workflows.base_fedavg import BaseFedAvg
from flprov.flare.app_common.workflows.cyclic import Cyclic
from flprov.flare.app_common.workflows.cyclic_ctl import CyclicController, RelayOrder
from flprov.flare.app_common.workflows.fedavg import FedAvg
from flprov.flare.app_common.workflows.model_controller import ModelController
from flprov.flare.app_common.workflows.scaffold import Scaffold
from flprov.flare.app_common.workflows.scatter_and_gather import ScatterAndGather
from flprov.sdk import Selection, encode_state

ZERO = {"w": np.zeros(2, np.float32)}
CURVE = [0.1, 0.5, 0.3, 0.4, 0.9]  # the accuracy of the rounds, at every site


def trainer(site, kind=DataKind.WEIGHTS):
    """A site that adds its number to every weight."""

    def execute(name, shareable):
        data, number = from_shareable(shareable).data, shareable.get_header("current_round")
        step = int(site[-1])
        new = {k: (v + step if kind == DataKind.WEIGHTS else np.full_like(v, step)) for k, v in data.items()}
        meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 1, MetaKey.INITIAL_METRICS: {"acc": CURVE[number]}}
        return DXO(kind, data=new, meta=meta).to_shareable()

    return execute


def three_sites(kind=DataKind.WEIGHTS, **options):
    return FlareSites({name: trainer(name, kind) for name in ("s1", "s2", "s3")}, **options)


def run(controller, rounds=5, sites=None, **options):
    return run_controller(
        controller, sites or three_sites(), rounds=rounds, model=ZERO, tasks=("train",), **options
    )


def models(saved):
    return [state.model["w"][0] for state in saved]


def verify_same_after_every_kill(make, rounds=5, sites=three_sites):
    """Killed at each step and run again, a controller ends with the same bytes."""
    whole = run(make(), rounds, sites())
    for step in range(sites_steps(whole) + 1):
        first = run(make(), rounds, sites(), die_at=step)
        then = run(make(), rounds, sites(), after=first[-1] if first else None)
        assert encode_state(then[-1]) == encode_state(whole[-1]), f"killed at step {step}"
    return whole


def sites_steps(saved):
    return 3 * len(saved)  # an ask, and two steps of a save


# ---- an algorithm of a job's own -----------------------------------------------------------


def test_an_early_stopping_algorithm_ends_with_its_best_model_also_after_every_kill(migrated):
    kind = migrated("hello_early_stopping").EarlyStopping
    saved = verify_same_after_every_kill(
        lambda: kind(num_clients=3, num_rounds=5, stop_cond="acc >= 0.9", patience=2)
    )
    assert [state.metrics["acc"] for state in saved] == pytest.approx(
        [0.1, 0.5, 0.3, 0.4]
    )  # patience ends it
    assert models(saved)[1] == models(saved)[-1] == 4.0  # of round 2, the best


def test_the_condition_ends_it_and_the_rounds_of_job_yml_are_the_default(migrated):
    kind = migrated("hello_early_stopping").EarlyStopping
    assert len(run(kind(num_clients=3, stop_cond="acc >= 0.5"))) == 2
    assert len(run(kind(num_clients=3, stop_cond="acc >= 0.99"))) == 5


def test_sampled_sites_follow_from_seed_and_round_and_are_the_same_after_a_crash(migrated):
    kind = migrated("hello_early_stopping").EarlyStopping

    def make():
        return kind(num_clients=2, num_rounds=5, stop_cond="acc >= 0.99")

    whole = make()
    run(whole)
    assert all(len(set(clients)) == 2 for clients in whole.seen)
    assert len({tuple(clients) for clients in whole.seen}) > 1
    verify_same_after_every_kill(make)


class Own(ModelController):
    """`run` is a function."""

    def __init__(self, flow, **options):
        super().__init__(**options)
        self.flow = flow
        self.step = 1.0

    def run(self):
        self.flow(self)


def keeps_its_model_to_itself(self):
    model = self.load_model()
    for number in range(self.start_round, self.start_round + self.num_rounds):
        self.current_round = model.current_round = number
        self.step *= 0.5
        results = self.send_model_and_wait(data=model)
        model.params = {"w": np.mean([one.params["w"] for one in results], axis=0).astype(np.float32)}
    self.save_model(model)


def test_a_run_that_never_says_what_its_model_is_commits_what_it_sends():
    assert models(run(Own(keeps_its_model_to_itself), 3)) == [2.0, 4.0, 6.0]
    saved = run(Own(keeps_its_model_to_itself), 3, die_at=4)
    assert models(run(Own(keeps_its_model_to_itself), 3, after=saved[-1])) == [4.0, 6.0]


def test_attributes_that_have_changed_are_kept_and_those_of_the_constructor_are_not():
    def flow(self):
        for number in range(self.start_round, self.start_round + self.num_rounds):
            self.current_round = number
            self.step *= 0.5
            model = FLModel(ParamsType.FULL, ZERO, current_round=number)
            self.send_model_and_wait(data=model)
            self.save_model(model)

    first = Own(flow)
    saved = run(first, 3, die_at=4)
    assert len(saved) == 1
    again = Own(flow)
    again.task_weights = {"s1": 2.0}  # of a clone with another job.yml
    run(again, 3, after=saved[-1])
    assert (again.step, again.task_weights) == (0.125, {"s1": 2.0})


def test_send_model_calls_back_for_each_answer_while_it_waits():
    heard = []

    def flow(self):
        self.current_round = 0
        model = self.load_model()
        self.send_model(
            data=model, targets=["s2", "s1"], callback=lambda one: heard.append(one.meta["client_name"])
        )
        while self.get_num_standing_tasks():
            pass
        with pytest.raises(TypeError, match="callback"):
            self.send_model(data=model)
        with pytest.raises(TypeError, match="FLModel"):
            self.send_model_and_wait(data={"w": 1})

    run(Own(flow), 1, three_sites(arrival="backwards"))
    assert heard == ["s2", "s1"]


@pytest.mark.parametrize(("ignore", "ends"), [(True, True), (None, False), (False, False)])
def test_a_site_that_fails_is_left_out_or_ends_the_job(ignore, ends):
    def flow(self):
        self.current_round = 0
        found = self.send_model_and_wait(data=self.load_model())
        assert len(found) == 2  # not reached after a panic
        self.save_model(found[0])

    sites = three_sites()
    sites.sites["s2"] = "s2 answered task 'train' with BAD_TASK_DATA"
    if ends:
        assert len(run(Own(flow, ignore_result_error=ignore), 1, sites)) == 1
    else:
        with pytest.raises(JobFailed, match="gave up: s2 answered with BAD_TASK_DATA"):
            run(Own(flow, ignore_result_error=ignore), 1, sites)


def test_what_comes_of_going_on_after_a_panic_is_not_the_reason():
    def flow(self):
        self.panic("no model")
        raise AttributeError("None has no params")

    with pytest.raises(JobFailed, match="gave up: no model"):
        run(Own(flow), 1)


def test_an_error_of_run_is_the_jobs_error():
    with pytest.raises(ZeroDivisionError):
        run(Own(lambda self: 1 / 0), 1)


def test_run_takes_sites_and_state_or_neither():
    with pytest.raises(Misuse, match="sites and state, or neither"):
        Own(lambda self: None).run(object())


def test_answers_that_are_no_models_reach_the_controller_whole():
    seen = []

    def flow(self):
        self.current_round = 1
        found = self.send_model_and_wait(data=FLModel(params={}, current_round=1, total_rounds=2))
        seen.extend(one.params["hist"] for one in found)

    def site(name, shareable):
        return FLModelUtils.to_shareable(FLModel(params={"hist": {"1": 2, "5": 3}}))

    run_controller(Own(flow), FlareSites({"s1": site}), rounds=1, tasks=("train",))
    assert seen == [{"1": 2, "5": 3}]


def test_whole_numbers_in_the_meta_of_weights_come_as_such():
    seen = {}

    def flow(self):
        self.current_round = 0
        [found] = self.send_model_and_wait(data=FLModel(params=ZERO))
        seen.update(found.meta)

    def site(name, shareable):
        meta = {"best": 3, "rate": 0.5, "own": np.int64(2)}
        return FLModelUtils.to_shareable(FLModel(params=ZERO, meta=meta))

    run(Own(flow), 1, FlareSites({"s1": site}))
    assert [["a", "b", "c", "d"][seen[name]] for name in ("best", "own")] == ["d", "c"]
    assert seen["rate"] == 0.5


def test_a_site_that_is_asked_for_its_model_reads_which_one():
    asked = Shareable()
    asked.set_header(AppConstants.SUBMIT_MODEL_NAME, ModelName.BEST_MODEL)
    found = FLModelUtils.from_shareable(asked)
    assert (found.meta, found.params) == ({MetaKey.SUBMIT_MODEL_NAME: "best_model"}, None)
    with pytest.raises(ValueError, match="holds no DXO"):
        FLModelUtils.from_shareable(Shareable())


# ---- FLARE's own ---------------------------------------------------------------------------


def test_fedavg_with_a_condition_saves_the_best_round_also_after_every_kill():
    saved = verify_same_after_every_kill(lambda: FedAvg(num_clients=3, stop_cond="acc >= 0.8", patience=3))
    assert len(saved) == 5
    assert models(saved[-1:]) == [10.0]
    stopped = run(FedAvg(num_clients=3, stop_cond="acc >= 0.8", patience=1))
    assert (len(stopped), models(stopped[-1:])) == (3, [4.0])


def test_fedavg_weighs_sites_and_leaves_weights_out():
    saved = run(FedAvg(num_clients=3, aggregation_weights={"s3": 2.0}), 1)
    assert models(saved) == [pytest.approx(9 / 4)]
    assert models(run(FedAvg(num_clients=3, exclude_vars="^w$"), 1)) == [0.0]
    assert models(run(FedAvg(num_clients=3, model={"w": ZERO["w"] + 5}), 1)) == [7.0]


def reporting(value, steps, **metrics):
    params = {"w": np.full(2, value, np.float32)}
    model = FLModel(params=params, metrics=metrics, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: steps})
    return lambda name, shareable: FLModelUtils.to_shareable(model)


def test_metrics_are_weighed_as_the_weights_are():
    sites = {"s1": reporting(1.0, 10, acc=1.0), "s2": reporting(5.0, 10, acc=0.0)}
    controller = FedAvg(num_clients=2, stop_cond="acc >= 0.7", aggregation_weights={"s1": 3.0})
    saved = run(controller, 5, FlareSites(sites))
    assert (len(saved), models(saved)) == (1, [2.0])
    assert controller.best_target_metric_value == 0.75


def test_a_site_that_has_taken_no_step_does_not_count():
    sites = {"s1": reporting(1.0, 4, acc=0.5), "s2": reporting(9.0, 0, acc=0.9, only_here=1.0)}
    controller = FedAvg(num_clients=2, stop_cond="acc >= 0.5")
    saved = run(controller, 1, FlareSites(sites))
    assert models(saved) == [1.0]
    assert controller.best_target_metric_value == 0.5


@pytest.mark.parametrize("kind", [DataKind.WEIGHTS, DataKind.WEIGHT_DIFF])
def test_weights_and_differences_lead_to_the_same_model(kind):
    saved = run(FedAvg(num_clients=3), 2, three_sites(kind))
    assert models(saved) == [2.0, 4.0]
    assert saved[-1].model["w"].dtype == np.float32


@pytest.mark.parametrize("options", [{}, {"aggregation_weights": {"s1": 2.0}}])
def test_weights_and_differences_have_no_mean_together(options):
    sites = FlareSites({"s1": trainer("s1", DataKind.WEIGHT_DIFF), "s2": trainer("s2")})
    with pytest.raises(ValueError, match=r"s1 sent .*DIFF and s2 sent .*FULL"):
        run(FedAvg(num_clients=2, **options), 2, sites)


class Largest(ModelAggregator):
    best = -1.0

    def accept_model(self, model):
        self.best = max(self.best, float(model.params["w"][0]))

    def aggregate_model(self):
        return FLModel(ParamsType.FULL, {"w": np.full(2, self.best, np.float32)})

    def reset_stats(self):
        self.best = -1.0


def test_an_own_aggregator_serves_fedavg_and_scatter_and_gather():
    assert models(run(FedAvg(num_clients=3, aggregator=Largest()), 2)) == [3.0, 6.0]
    controller = ScatterAndGather(min_clients=3)
    controller.add_component("aggregator", Largest())
    assert models(run(controller, 2)) == [3.0, 6.0]


def test_scatter_and_gather_is_the_same_after_every_kill():
    whole = verify_same_after_every_kill(
        lambda: ScatterAndGather(min_clients=2, wait_time_after_min_received=1)
    )
    assert models(whole) == [2.0, 4.0, 6.0, 8.0, 10.0]


def test_scatter_and_gather_refuses_components_that_are_none():
    controller = ScatterAndGather(aggregator_id="mine")
    controller.add_component("mine", object())
    with pytest.raises(JobFailed, match="'mine' must be a Aggregator"):
        run(controller, 1)
    assert issubclass(Largest, Aggregator)


@pytest.mark.parametrize("order", [RelayOrder.FIXED, RelayOrder.RANDOM_WITHOUT_SAME_IN_A_ROW, ["s3", "s1"]])
def test_the_cycle_goes_round_also_after_every_kill(order):
    whole = verify_same_after_every_kill(lambda: CyclicController(order=order), rounds=3)
    step = 4.0 if isinstance(order, list) else 6.0
    assert models(whole) == [step, 2 * step, 3 * step]


def test_cyclic_of_models_goes_round():
    assert models(run(Cyclic(num_clients=3), 2)) == [6.0, 12.0]


def test_scaffold_moves_weights_and_control_variates_also_after_every_kill():
    seen = []

    def site(name):
        def execute(task, shareable):
            dxo = from_shareable(shareable)
            c = dxo.meta["scaffold_c_global"]["w"]
            seen.append(float(c[0]))
            meta = {"NUM_STEPS_CURRENT_ROUND": 1, "scaffold_c_diff": {"w": np.full(2, 0.5, np.float32)}}
            return DXO(DataKind.WEIGHTS, data={"w": dxo.data["w"] + 1 - c}, meta=meta).to_shareable()

        return execute

    def sites():
        return FlareSites({name: site(name) for name in ("s1", "s2")})

    whole = run(Scaffold(num_clients=2), 3, sites())
    assert (seen, models(whole)) == ([0.0, 0.0, 0.5, 0.5, 1.0, 1.0], [1.0, 1.5, 1.5])
    verify_same_after_every_kill(lambda: Scaffold(num_clients=2), 3, sites)
    with pytest.raises(JobFailed, match="sent no control variates"):
        run(Scaffold(num_clients=2), 1, three_sites())


@pytest.mark.parametrize("make", [lambda: FedAvg(num_clients=3), ScatterAndGather, CyclicController])
def test_the_patience_of_job_yml_ends_flares_controllers_too(make):
    saved = run(make(), selection=Selection(best="acc", patience=2))
    assert (len(saved), saved[-1].best.round) == (4, 1)


# ---- parts ---------------------------------------------------------------------------------


def test_the_helper_averages_each_key_over_those_who_have_it():
    mean = WeightedAggregationHelper(exclude_vars="bn")
    mean.add({"a": np.float32([1, 3]), "bn": np.float32([9])}, 1, "s2", 0)
    mean.add({"a": np.float32([5, 7]), "b": 4}, 3, "s1", 0)
    found = mean.get_result()
    assert (found.keys(), found["a"].tolist(), found["b"]) == ({"a", "b"}, [4.0, 6.0], 4.0)
    assert mean.get_len() == 0


def test_a_site_without_params_is_named_and_so_is_nobody():
    sites = three_sites()
    sites.sites["s2"] = lambda name, shareable: DXO(DataKind.METRICS, data={"acc": 1.0}).to_shareable()
    with pytest.raises(ValueError, match="the results of s2 have no params"):
        run(FedAvg(num_clients=3), 1, sites)
    with pytest.raises(ValueError, match="no site has answered"):
        BaseFedAvg.aggregate_fn([])


@pytest.mark.parametrize("text", ["acc", "acc >", "acc ~ 3", "acc > x", "acc  > 3", None])
def test_a_condition_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=re.escape(repr(text)) if text != "acc ~ 3" else "none of"):
        parse_compare_criteria(text)


def test_conditions_are_read():
    key, target, compare = parse_compare_criteria("loss <= 0.5")
    assert (key, target, compare(0.4, target), compare(0.6, target)) == ("loss", 0.5, True, False)
    assert parse_compare_operator("acc >")[1](2, 1)
