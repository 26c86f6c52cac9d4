# SPDX-License-Identifier: Apache-2.0
"""FLARE-shaped executors and filters on our tasks: what they see, what becomes of their answers."""

import dataclasses
import os
import signal
import threading

import numpy as np
import pytest
import torch
from flare_jobs import flare_job

from flprov.errors import ConfigError, JobFailed, Misuse, ProtocolError
from flprov.flare import convert_job, write_migration
from flprov.flare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from flprov.flare.apis.dxo_filter import DXOFilter
from flprov.flare.apis.event_type import EventType
from flprov.flare.apis.executor import Executor
from flprov.flare.apis.fl_constant import FLContextKey, ReturnCode
from flprov.flare.apis.fl_context import FLContext, FLContextManager
from flprov.flare.apis.shareable import Shareable, make_copy, make_reply
from flprov.flare.apis.signal import Signal
from flprov.flare.app_common.abstract.fl_model import FLModel, ParamsType
from flprov.flare.app_common.abstract.model_learner import ModelLearner
from flprov.flare.app_common.app_constant import AppConstants
from flprov.flare.app_common.executors.model_learner_executor import ModelLearnerExecutor
from flprov.flare.bridge.codec import decode_value, pack_value, unpack_value
from flprov.flare.bridge.exchange import to_parcel
from flprov.messages import Site, Task, Update, UpdateKind
from flprov.sdk import as_tensors, build_executor, build_result_filters, load_model, weighted_mean
from flprov.simulator import Simulation, simulate
from flprov.wire import read_tensors
from flprov.workers.failures import describe_failure


@pytest.fixture
def site(tmp_path):
    (tmp_path / "work").mkdir()
    return Site(name="site-1", job_id="job-7", folder=tmp_path / "work")


def task(name="train", *, params=None, **parts):
    found = {"w": np.zeros(2, np.float32)} if params is None else params
    return Task(name=name, params=found, round=1, rounds=3, job_id="job-7", **parts)


class Answering(Executor):
    """Answers by a function; remembers what it has heard."""

    def __init__(self, answer):
        self.answer = answer
        self.heard = []

    def handle_event(self, event_type, fl_ctx):
        self.heard.append(event_type)

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        self.heard.append(task_name)
        return self.answer(task_name, shareable, fl_ctx, abort_signal)


def reply_with(kind, data, **meta):
    return lambda *_: DXO(kind, data=data, meta=meta).to_shareable()


# ---- the acceptance: a trainer written for FLARE gives the model of our own ----------------------


def trained_by_hand(network, model, sites, rounds, lr, epochs):
    """FedAvg over plain torch, as our own script would have it."""
    for _ in range(rounds):
        updates = []
        for name in sites:
            net = network.SimpleNetwork()
            net.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in model.items()})
            x, y = network.points(name)
            optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
            for _ in range(epochs):
                for batch in range(0, len(x), 16):
                    optimizer.zero_grad()
                    cost = torch.nn.functional.cross_entropy(
                        net(x[batch : batch + 16]), y[batch : batch + 16]
                    )
                    cost.backward()
                    optimizer.step()
            updates.append(Update(site=name, params=as_tensors(net.state_dict()), weight=1.0))
        model = weighted_mean(updates, model)
    return model


def test_a_flare_job_simulates_to_the_model_of_our_own_script(tmp_path, migrated):
    job = flare_job(tmp_path / "job")
    assert write_migration(convert_job(job), tmp_path / "app") == ()
    done, files = simulate(Simulation(app=tmp_path / "app", sites=2, output=tmp_path / "out"))
    assert done.state == "completed", done.reason
    found = read_tensors(next(path for path in files if path.name == "model.safetensors"))
    network = migrated("hello_network")
    first, _ = load_model("hello_network:SimpleNetwork", tmp_path)
    expected = trained_by_hand(network, first, ["site-1", "site-2"], rounds=2, lr=0.05, epochs=2)
    assert set(found) == set(expected)
    for name, tensor in expected.items():  # the trainer sends differences: one rounding apart
        np.testing.assert_allclose(found[name], tensor, rtol=0, atol=1e-6, err_msg=name)
    assert 0 <= done.rounds[-1].metrics["val_acc"] <= 1


def test_one_instance_does_all_tasks_that_name_its_class(migrated, site):
    trainer = build_executor(
        migrated("hello_trainer").HelloTrainer, {"lr": 0.05, "unknown": 1}, "tasks.train"
    )
    model, _ = load_model("hello_network:SimpleNetwork", site.folder)
    update = trainer(task(params=model), site)
    assert (update.kind, update.weight, update.samples) == (UpdateKind.DIFF, 20.0, 20)
    assert update.params["norm.num_batches_tracked"].dtype == np.int64
    measured = trainer(task("evaluate", params=model), site)
    assert set(measured.metrics) == {"val_acc"}
    assert not measured.params
    trainer.close()
    heard = (site.folder / "events.txt").read_text().split("\n")
    one = [EventType.BEFORE_TASK_EXECUTION, EventType.AFTER_TASK_EXECUTION]
    start = [EventType.ABOUT_TO_START_RUN, EventType.START_RUN]
    assert heard == [*start, *one, *one, EventType.ABOUT_TO_END_RUN, EventType.END_RUN]


# ---- what an executor sees -----------------------------------------------------------------------


def test_the_round_the_site_and_the_workflows_scalars_are_where_flare_has_them(site):
    seen = {}

    def look(name, shareable, fl_ctx, abort_signal):
        seen["name"] = name
        seen["data"] = from_shareable(shareable).data["w"].tolist()
        keys = (AppConstants.CURRENT_ROUND, AppConstants.NUM_ROUNDS, "mu", "nothing")
        seen["headers"] = [shareable.get_header(key) for key in keys]
        seen["cookie"] = shareable.get_cookie(AppConstants.CONTRIBUTION_ROUND)
        seen["who"] = (
            fl_ctx.get_identity_name(),
            fl_ctx.get_job_id(),
            fl_ctx.get_prop(FLContextKey.TASK_NAME),
        )
        seen["folders"] = {
            fl_ctx.get_engine().get_workspace().get_app_dir("job-7"),
            fl_ctx.get_prop(FLContextKey.APP_ROOT),
        }
        seen["peer"] = fl_ctx.get_peer_context().get_identity_name()
        return DXO(DataKind.METRICS, data={}).to_shareable()

    Answering(look)(task("evaluate", scalars={"mu": 0.5}), site)
    assert seen == {
        "name": "validate",
        "data": [0.0, 0.0],
        "headers": [1, 3, 0.5, None],
        "cookie": 1,
        "who": ("site-1", "job-7", "validate"),
        "folders": {str(site.folder)},
        "peer": "server",
    }


def test_a_required_scalar_is_looked_at_only_when_the_job_asks_for_it(site):
    class Noting(dict):
        asked = ()

        def get(self, key, default=None):
            self.asked = (*self.asked, key)
            return super().get(key, default)

    scalars = Noting(mu=0.5)
    Answering(reply_with(DataKind.METRICS, {}))(task(scalars=scalars), site)
    assert "mu" not in scalars.asked


def test_components_of_the_job_are_found_by_id(site):
    args = {"components": {"far": {"path": "collections.Counter", "args": {"a": 2}}}}
    found = []

    def look(name, shareable, fl_ctx, abort_signal):
        found.append(fl_ctx.get_engine().get_component("far"))
        return DXO(DataKind.METRICS, data={}).to_shareable()

    Answering(look)(task(args=args), site)
    assert found[0]["a"] == 2
    with pytest.raises(ConfigError, match=r"args\.components\.x"):
        Answering(look)(task(args={"components": {"x": {"path": "collections.Nothing"}}}), site)


def test_what_the_engine_has_not_is_an_attribute_error_that_says_so(site):
    def ask(name, shareable, fl_ctx, abort_signal):
        fl_ctx.get_engine().send_aux_request()

    with pytest.raises(AttributeError, match=r"engine has no 'send_aux_request'; docs/flare\.md"):
        Answering(ask)(task(), site)


# ---- what becomes of its answer ------------------------------------------------------------------


def test_kinds_of_answers(site):
    full = Answering(reply_with(DataKind.WEIGHTS, {"w": [1.0, 2.0]}, initial_metrics=0.25))(task(), site)
    assert (full.kind, full.weight, full.metrics) == (UpdateKind.FULL, 1.0, {"initial_metrics": 0.25})
    assert full.params["w"].dtype == np.float32  # the model's
    metrics = Answering(reply_with(DataKind.METRICS, {"a": {"b": np.float32(0.5)}, "c": torch.tensor(2)}))
    assert metrics(task(), site).metrics == {"a.b": 0.5, "c": 2.0}
    both = {
        "model": DXO(DataKind.WEIGHT_DIFF, data={"w": np.ones(2)}, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: 4}),
        "numbers": DXO(DataKind.METRICS, data={"loss": 1.5}),
    }
    update = Answering(reply_with(DataKind.COLLECTION, both))(task(), site)
    assert (update.kind, update.weight, update.metrics) == (UpdateKind.DIFF, 4.0, {"loss": 1.5})
    other = Answering(reply_with(DataKind.STATISTICS, {"bins": [1, 2]}))(task(), site)
    assert other.kind is UpdateKind.OPAQUE
    assert from_shareable(unpack_value(other.params)).data == {"bins": [1, 2]}


def test_a_return_code_fails_the_task_with_that_word(site):
    with pytest.raises(JobFailed, match="Answering answered task 'train' with BAD_TASK_DATA"):
        Answering(lambda *_: make_reply(ReturnCode.BAD_TASK_DATA))(task(), site)


def test_a_caught_exception_keeps_its_line_for_job_why(migrated, site):
    trainer = migrated("hello_trainer").HelloTrainer()
    with pytest.raises(JobFailed) as caught:
        trainer(task(params={"other": np.zeros(1)}), site)
    app = __import__("pathlib").Path(migrated("hello_trainer").__file__).parent
    failure = describe_failure(caught.value, app)
    assert failure.message.startswith("hello_trainer.py:")
    assert "with EXECUTION_EXCEPTION: RuntimeError: Error(s) in loading state_dict" in failure.message
    assert "self.model.load_state_dict(" in failure.traceback


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (lambda *_: None, JobFailed, "returned a NoneType for task 'train'"),
        (reply_with(DataKind.METRICS, {"a": "high"}), Misuse, "metric 'a' is 'high'"),
        (reply_with(DataKind.WEIGHTS, {"w": "text"}), Misuse, "tensor 'w' is no array"),
        (lambda *_: Shareable({"x": object()}), Misuse, r"Answering\.x is a object"),
    ],
)
def test_answers_that_say_nothing_are_refused(site, answer, error, words):
    with pytest.raises(error, match=words):
        Answering(answer)(task(), site)


def test_an_abort_triggers_the_signal_and_fires_abort_task_from_another_thread(site):
    told = threading.Event()

    class Patient(Answering):
        def handle_event(self, event_type, fl_ctx):
            super().handle_event(event_type, fl_ctx)
            if event_type == EventType.ABORT_TASK:
                self.thread = threading.current_thread()
                told.set()

    def work(name, shareable, fl_ctx, abort_signal):
        os.kill(os.getpid(), signal.SIGTERM)
        assert told.wait(10)
        return DXO(DataKind.METRICS, data={}).to_shareable()

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        patient = Patient(work)
        patient(task(), site)
        assert patient.thread is not threading.main_thread()
        patient.close()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert patient.heard[-2:] == [EventType.ABOUT_TO_END_RUN, EventType.END_RUN]


def test_a_signal_follows_its_parent_and_its_source():
    parent, aborted = Signal(), []
    child = Signal(parent)
    assert not child.triggered
    parent.trigger("enough")
    assert child.triggered
    asked = Signal(source=lambda: bool(aborted))
    assert not asked.triggered
    aborted.append(1)
    assert asked.triggered


# ---- learners, filters ---------------------------------------------------------------------------


class Doubler(ModelLearner):
    """Doubles every weight."""

    def train(self, model):
        self.info(f"round {self.current_round} of {self.total_rounds}")
        params = {name: value * 2 for name, value in model.params.items()}
        return FLModel(
            ParamsType.FULL, params=params, metrics={"loss": 0.5}, meta={"NUM_STEPS_CURRENT_ROUND": 3}
        )

    def validate(self, model):
        return FLModel(metrics={"round": model.current_round})


def test_a_model_learner_runs_under_its_executor(site):
    executor = ModelLearnerExecutor("learner")
    args = {"components": {"learner": {"path": f"{__name__}.Doubler"}}}
    update = executor(task(params={"w": np.ones(2, np.float32)}, args=args), site)
    assert (update.params["w"].tolist(), update.weight, update.metrics) == ([2.0, 2.0], 3.0, {"loss": 0.5})
    assert executor(task("evaluate", args=args), site).metrics == {"round": 1.0}
    with pytest.raises(JobFailed, match="TASK_UNSUPPORTED"):
        executor(task("submit_model", args=args), site)


class Scale(DXOFilter):
    """Multiplies weights."""

    def __init__(self, factor: float):
        super().__init__([DataKind.WEIGHTS, DataKind.WEIGHT_DIFF])
        self.factor = factor

    def process_dxo(self, dxo, shareable, fl_ctx):
        dxo.data = {name: value * self.factor for name, value in dxo.data.items()}
        return dxo


def test_a_filter_class_works_in_job_yml_on_updates_and_tasks(site):
    [one] = build_result_filters([{"type": f"{__name__}:Scale", "factor": 2.0}], "filters.result.site")
    update = Update(params={"w": np.ones(2, np.float32)}, kind=UpdateKind.DIFF, samples=5, metrics={"a": 1.0})
    filtered = one(update, task(), site)
    assert filtered.params["w"].tolist() == [2.0, 2.0]
    assert (filtered.kind, filtered.share, filtered.metrics) == (UpdateKind.DIFF, 5.0, {"a": 1.0})
    assert filtered.params["w"].dtype == np.float32
    metrics = Update(metrics={"a": 1.0})
    assert one(metrics, task(), site).metrics == {"a": 1.0}
    assert Scale(3.0)(task(params={"w": np.ones(1)}), site).params["w"].tolist() == [3.0]
    inner = DXO(DataKind.COLLECTION, data={"w": DXO(DataKind.WEIGHTS, data={"w": np.ones(1)})}).to_shareable()
    opaque = Update(kind=UpdateKind.OPAQUE, params=pack_value(inner))
    found = unpack_value(one(opaque, task(), site).params)
    assert from_shareable(found).data["w"].data["w"].tolist() == [2.0]


class Blur(DXOFilter):
    """Adds float64 to weights, as numpy's generators give it."""

    def process_dxo(self, dxo, shareable, fl_ctx):
        dxo.data = {name: value + np.full(value.shape, 0.25) for name, value in dxo.data.items()}
        return dxo


@pytest.mark.parametrize("marked", [False, True])
def test_a_filter_of_a_task_keeps_the_precision_of_its_model(site, marked):
    sent = task()
    if marked:
        parcel = to_parcel(DXO(DataKind.WEIGHTS, data=dict(sent.params)).to_shareable(), {})
        sent = dataclasses.replace(sent, extra=parcel.extra, scalars=parcel.scalars)
    filtered = Blur()(sent, site)
    assert (filtered.params["w"].tolist(), filtered.params["w"].dtype) == ([0.25, 0.25], np.float32)
    found = Answering(lambda _, shareable, *__: shareable)(filtered, site)
    assert found.params["w"].dtype == np.float32


@pytest.mark.parametrize("numbers", [{"weight": 2.5}, {"samples": 7}, {"samples": 7, "weight": 0.5}])
def test_a_filter_leaves_metrics_their_weight(site, numbers):
    update = Update(metrics={"a": 1.0}, **numbers)
    assert Scale(2.0)(update, site) == update


# ---- contexts, shareables, the codec ---------------------------------------------------------------


def test_sticky_properties_are_common_to_a_run_and_others_are_not():
    contexts = FLContextManager(identity_name="a", job_id="j")
    one, two = contexts.new_context(), contexts.new_context()
    assert one.set_prop("s", 1, private=False, sticky=True)
    assert one.set_prop("o", 2, private=True, sticky=False)
    assert (two.get_prop("s"), two.get_prop("o")) == (1, None)
    assert contexts.new_context().get_prop("s") == 1
    assert two.set_prop("s", 3, private=False, sticky=True)
    assert one.get_prop("s") == 3
    assert not two.set_prop("s", 4, private=True, sticky=True)  # another nature
    assert one.get_all_public_props()["s"] == 3
    assert "o" not in one.get_all_public_props()
    assert FLContext().get_prop("s", "none") == "none"


def test_a_copy_of_a_shareable_has_headers_of_its_own():
    first = Shareable({"a": [1]})
    first.set_header("h", {"x": 1})
    second = make_copy(first, exclude_headers=["gone"])
    second.get_header("h")["x"] = 2
    assert first.get_header("h") == {"x": 1}
    with pytest.raises(ValueError, match="holds no DXO"):
        from_shareable(first)


@pytest.mark.parametrize(
    "text",
    [
        '{"$": "array", "v": "flare/9"}',
        '{"$": "array"}',
        '{"$": "class", "v": "os.system"}',
        '{"$": "dict", "v": [[{"a": 1}, 2]]}',
        '{"$": "dxo", "v": {"kind": "WEIGHTS", "data": 3}}',
        "[" * 40 + "]" * 40,
        "[" * 100_000,
        '{"$": "float", "v": "abc"}',
    ],
)
def test_a_damaged_value_from_a_peer_is_a_protocol_error(text):
    with pytest.raises(ProtocolError):
        decode_value(text, {})


def test_an_opaque_update_of_somebody_else_is_a_protocol_error():
    with pytest.raises(ProtocolError, match="holds nothing that FLARE's code has sent"):
        unpack_value({"statistics": np.zeros(3)})
    with pytest.raises(ProtocolError, match="bytes of text; the limit is"):
        unpack_value({**pack_value(1), "flare/document": np.zeros(1, np.uint8).repeat((64 << 20) + 1)})


def test_values_travel_unchanged():
    value = {
        "text": "ä",
        "numbers": [1, -2.5, True, None, float("-inf")],
        "pair": ("a", b"\x00\xff"),
        5: {"$": "not a tag"},
        "array": np.arange(4, dtype=np.int16).reshape(2, 2),
    }
    found = unpack_value(pack_value(value))
    assert found["array"].tolist() == [[0, 1], [2, 3]]
    assert found["array"].dtype == np.int16
    del value["array"], found["array"]
    assert found == value
