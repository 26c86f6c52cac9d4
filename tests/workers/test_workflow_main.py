# SPDX-License-Identifier: Apache-2.0
"""The workflow's process: what it asks for, saves, hands over, and how it goes on after a crash."""

import sys

import numpy as np
import pytest
from parents import job
from servers import FakeServer, Killed

from flprov.jobs import Filters, Workflow
from flprov.messages import Update, UpdateKind
from flprov.sdk import State, encode_state
from flprov.wire import encode_tensors, read_metadata, read_tensors
from flprov.workers.workflow_main import run_workflow

SIZE = 20_000  # float32 numbers: 80 kB travel as files
START = """
import numpy as np
def small():
    return {"w": np.float32([2.0])}
def large():
    return {"w": np.random.rand(20_000).astype(np.float32), "n": np.array(5)}
def net():
    import torch
    return torch.nn.Linear(2, 1)
"""
SHARES = {"a": 1, "b": 3}


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch):
    """What the worker does to its process is undone; modules of an app are found anew."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith(("flprov", "torch", "numpy")):
            del sys.modules[name]


def workflow(tmp_path, answer, *, files=None, die_at=None, saved=None, folder="job", **fields):
    rounds = fields.pop("rounds", 2)
    fields.setdefault("workflow", Workflow(rounds=rounds))
    spec = job(fields.pop("tasks", "train.py"), **fields)
    server = FakeServer(tmp_path / folder, spec, answer, die_at=die_at, saved=saved)
    for name, text in {"start.py": START, **(files or {})}.items():
        (server.folder / "app" / name).write_text(text)
    return server


def run(server):
    return run_workflow(server, server.folder)


def half_way(broadcast, site, model):
    """To 0 for a, to 8 for b; a sends differences."""
    new = model["w"] + (np.float32({"a": 0, "b": 8}[site]) - model["w"]) / 2
    if site == "a":
        return Update(params={"w": new - model["w"]}, kind=UpdateKind.DIFF, samples=1, metrics={"loss": 1.0})
    return Update(params={"w": new}, samples=3, metrics={"loss": 3.0})


def noisy(broadcast, site, model):
    source = np.random.default_rng([broadcast.round, ord(site)])
    w = (model["w"] + source.standard_normal(SIZE)).astype(np.float32)
    return Update(params={"w": w, "n": model["n"] + 1}, samples=SHARES[site])


def test_fedavg_from_start_to_finish(tmp_path):
    server = workflow(tmp_path, half_way, model="start:small")
    assert run(server) == 0
    assert server.ready
    assert [data.read().model["w"].tolist() for data in server.saved] == [[4.0], [5.0]]
    assert server.metrics == [{"loss": 2.5}, {"loss": 2.5}]
    assert read_tensors(server.results["model.safetensors"])["w"].tolist() == [5.0]


def test_a_broadcast_says_all_that_a_site_needs(tmp_path):
    server = workflow(tmp_path, half_way, model="start:small")
    run(server)
    first, second = (broadcast for broadcast, _ in server.broadcasts)
    assert first.task_id.startswith("0/train/0~")
    assert (first.name, first.round, first.rounds) == ("train", 0, 2)
    assert (first.expects, list(first.sites), first.scalars) == ("full,diff", ["a", "b"], b"{}")
    assert second.task_id.startswith("1/train/0~")
    assert second.round == 1


def test_large_models_pass_as_files_and_none_are_left_behind(tmp_path):
    server = workflow(tmp_path, noisy, model="start:large", rounds=3)
    assert run(server) == 0
    broadcast, _ = server.broadcasts[0]
    assert broadcast.model.file
    assert list((server.folder / "out").iterdir()) == []
    assert list((server.folder / "work").iterdir()) == []
    assert read_tensors(server.results["model.safetensors"])["n"] == 8


def test_without_a_model_the_sites_weights_start_the_run(tmp_path):
    def answer(broadcast, site, model):
        return half_way(broadcast, site, model) if model else Update(params={"w": np.ones(1)}, samples=1)

    server = workflow(tmp_path, answer)
    assert run(server) == 0
    assert [broadcast.expects for broadcast, _ in server.broadcasts] == ["full", "full,diff"]
    assert server.saved[0].read().model["w"].tolist() == [1.0]


def test_a_model_of_torch_is_marked_for_the_sites_and_in_the_result(tmp_path):
    server = workflow(
        tmp_path, lambda broadcast, site, model: Update(params=model, samples=1), model="start:net"
    )
    assert run(server) == 0
    assert [read_metadata(data) for _, data in server.broadcasts] == [{"format": "pt"}] * 2
    assert read_metadata(server.results["model.safetensors"]) == {"format": "pt"}
    assert set(read_tensors(server.results["model.safetensors"])) == {"weight", "bias"}


def test_weights_that_a_site_sends_from_torch_are_marked_from_then_on_and_after_a_restart(tmp_path):
    def answer(broadcast, site, model):
        return Update(site="torch", params={"w": np.ones(1)}, samples=1)

    server = workflow(tmp_path, answer, rounds=1)
    run(server)
    assert read_metadata(server.broadcasts[0][1]) == {}
    resumed = workflow(tmp_path, answer, rounds=2, saved=(server.saved[0], 1), folder="again")
    run(resumed)
    assert read_metadata(resumed.broadcasts[0][1]) == {"format": "pt"}


def test_an_evaluate_task_is_asked_for_metrics_only(tmp_path):
    def answer(broadcast, site, model):
        if broadcast.name == "evaluate":
            return Update(samples=1, metrics={"accuracy": float(model["w"][0])})
        return half_way(broadcast, site, model)

    tasks = {"train": "t:f", "evaluate": "t:g"}
    server = workflow(tmp_path, answer, model="start:small", tasks=tasks, rounds=1)
    assert run(server) == 0
    assert [(b.name, b.expects) for b, _ in server.broadcasts] == [("train", "full,diff"), ("evaluate", "")]
    assert server.metrics == [{"loss": 2.5, "accuracy": 4.0}]


def test_absent_sites_are_left_out(tmp_path):
    def answer(broadcast, site, model):
        return "no power" if site == "a" else half_way(broadcast, site, model)

    server = workflow(tmp_path, answer, model="start:small", rounds=1)
    assert run(server) == 0
    assert server.saved[0].read().model["w"].tolist() == [5.0]


# ---- crashes -------------------------------------------------------------------------------


def uninterrupted(tmp_path):
    server = workflow(tmp_path, noisy, model="start:large", rounds=3, folder="whole")
    assert run(server) == 0
    return server


def test_killed_at_any_step_and_started_again_the_bits_are_the_same(tmp_path):
    whole = uninterrupted(tmp_path)
    for die_at in range(1, whole.steps):
        fields = {"model": "start:large", "rounds": 3, "folder": f"job{die_at}"}
        killed = workflow(tmp_path, noisy, die_at=die_at, **fields)
        with pytest.raises(Killed):
            run(killed)
        saved = (killed.saved[-1], len(killed.saved)) if killed.saved else None
        resumed = workflow(tmp_path, noisy, saved=saved, **fields)
        assert run(resumed) == 0
        assert killed.saved + resumed.saved == whole.saved, die_at
        assert resumed.results == whole.results, die_at


def test_a_run_that_was_killed_after_its_last_round_only_hands_over_the_model(tmp_path):
    whole = uninterrupted(tmp_path)
    server = workflow(tmp_path, noisy, rounds=3, saved=(whole.saved[-1], 3))
    assert run(server) == 0
    assert server.broadcasts == []
    assert server.results == whole.results


def test_a_job_goes_on_without_loading_its_model_again(tmp_path):
    state = encode_state(State(round=1, model={"w": np.float32([4.0])}))
    server = workflow(tmp_path, half_way, model="no_such:thing", saved=(state, 1))
    assert run(server) == 0
    assert server.saved[-1].read().model["w"].tolist() == [5.0]


@pytest.mark.parametrize("number", [0, 2])
def test_a_state_of_another_round_is_refused(tmp_path, number):
    state = encode_state(State(round=1, model={"w": np.float32([4.0])}))
    server = workflow(tmp_path, half_way, saved=(state, number))
    assert run(server) == 1
    assert server.failure.code == "state-damaged"


def test_what_is_no_state_is_refused(tmp_path):
    server = workflow(tmp_path, half_way, saved=(encode_tensors({"w": np.ones(1)}), 0))
    assert run(server) == 1
    assert server.failure.code == "state-damaged"


# ---- controllers and filters of the app ------------------------------------------------------

CONTROLLER = """
import numpy as np
from flprov.sdk import weighted_mean

class Momentum:
    def __init__(self, *, beta: float = 0.5):
        self.beta = beta
    def run(self, sites, state):
        for state in sites.rounds(state):
            start = state.model or {"w": np.float32([0.0])}
            mean = weighted_mean(sites.train(start, scalars={"beta": self.beta}), start)
            v = self.beta * state.tensors.get("v", np.float32([0.0])) + (mean["w"] - start["w"])
            sites.log("v", float(v[0]), step=state.round)
            model = {"w": start["w"] + v}
            sites.commit(state.next(model=model, tensors={"v": v}, scalars={"seen": state.round}))

class Lazy:
    def run(self, sites, state):
        pass

class Forgetful:
    def run(self, sites, state):
        for state in sites.rounds(state):
            sites.train({"w": np.float32([0.0])})

class Broken:
    def run(self, sites, state):
        for state in sites.rounds(state):
            raise ValueError("no idea")

def double(update, site):
    from dataclasses import replace
    return replace(update, params={"w": update.params["w"] * 2})

def negate(task, site):
    from dataclasses import replace
    return replace(task, params={"w": -task.params["w"]})
"""


def own(tmp_path, name, answer=half_way, **fields):
    plan = Workflow(type=None, entry=f"mine:{name}", rounds=2, options=fields.pop("options", {}))
    return workflow(tmp_path, answer, files={"mine.py": CONTROLLER}, workflow=plan, **fields)


def test_an_apps_own_controller_starts_from_its_own_weights_and_keeps_its_tensors(tmp_path):
    server = own(tmp_path, "Momentum", options={"beta": 0.25})
    assert run(server) == 0
    # round 0: mean of 0 and 4, weighted 1:3, is 3: v = 3, w = 3
    # round 1: mean of 1.5 and 5.5 is 4.5: v = 0.75 + 1.5 = 2.25, w = 5.25
    assert [data.read().tensors["v"].tolist() for data in server.saved] == [[3.0], [2.25]]
    assert server.saved[-1].read().model["w"].tolist() == [5.25]
    assert server.saved[-1].read().scalars == {"seen": 1}
    assert server.broadcasts[0][0].scalars == b'{"beta":0.25}'
    assert server.progress == [({"v": 3.0}, 0), ({"v": 2.25}, 1)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Lazy", "the workflow ended before it committed a round"),
        ("Forgetful", "round 0 of the workflow ended without sites.commit(...)"),
        ("Broken", "mine.py:29: ValueError: no idea"),
        ("Unknown", "workflow.entry: no 'Unknown' in mine"),
    ],
)
def test_a_controller_that_fails_says_where_and_why(tmp_path, name, message):
    server = own(tmp_path, name)
    assert run(server) == 1
    assert message in server.failure.message


def test_a_workflow_that_does_not_exist_is_told(tmp_path):
    server = workflow(tmp_path, half_way, workflow=Workflow(type="fedvag", rounds=1))
    assert run(server) == 1
    assert server.failure.code == "config-error"
    assert "did you mean 'fedavg'" in server.failure.message


@pytest.mark.parametrize("size", [1, SIZE])
def test_filters_at_the_server_see_tasks_and_results(tmp_path, size):
    def answer(broadcast, site, model):
        return Update(params={"w": model["w"] + 1}, samples=1)

    filters = Filters(task_server=({"type": "mine:negate"},), result_server=({"type": "mine:double"},))
    state = encode_state(State(round=1, model={"w": np.full(size, 3.0, np.float32)}))
    server = workflow(tmp_path, answer, files={"mine.py": CONTROLLER}, filters=filters, saved=(state, 1))
    assert run(server) == 0
    assert read_tensors(server.broadcasts[0][1])["w"][0] == -3.0
    assert server.saved[0].read().model["w"][0] == -4.0  # (-3 + 1) * 2
    assert list((server.folder / "out").iterdir()) == []


def test_no_site_at_all_is_a_failure_with_reasons(tmp_path):
    server = workflow(tmp_path, lambda broadcast, site, model: f"{site} is gone", model="start:small")
    assert run(server) == 1
    assert "a: a is gone; b: b is gone" in server.failure.message


def test_sites_without_samples_are_a_failure_with_a_hint(tmp_path):
    server = workflow(tmp_path, lambda b, s, model: Update(params=model), model="start:small")
    assert run(server) == 1
    assert "total weight of 0 (from a, b)" in server.failure.message
    assert "send `samples`" in server.failure.hint


def test_updates_that_do_not_match_each_other_are_refused_by_site(tmp_path):
    def answer(broadcast, site, model):
        return Update(params={"w": np.ones(1 if site == "a" or broadcast.round else 2)}, samples=1)

    server = workflow(tmp_path, answer)
    assert run(server) == 0
    [(_, site, reason)] = server.refused
    assert site == "b"
    assert reason == "b has no tensor 'w' of F64[1], which most sites have"


# ---- its end -------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["quit", None])
def test_quit_and_a_server_that_is_gone_end_it_quietly(tmp_path, last):
    from flprov.wire import pb

    server = workflow(tmp_path, half_way, model="start:small")
    server.on_broadcast = lambda broadcast: server.frames.append(
        pb.ToWorker(quit=pb.Quit(reason="aborted")) if last else None
    )
    assert run(server) == (0 if last else 1)
    assert server.failure is None


def test_an_answer_to_another_task_is_refused(tmp_path):
    from flprov.wire import pb

    server = workflow(tmp_path, half_way, model="start:small")
    stray = pb.SiteAnswer(task_id="9/train/0", site="a", absent=pb.Failure(message="x"))
    server.on_broadcast = lambda broadcast: server.frames.append(pb.ToWorker(answer=stray))
    assert run(server) == 1
    assert "'9/train/0', which is not open" in server.failure.message


# ---- an own workflow's asks ------------------------------------------------------------------

ASKING = """
import numpy as np
class Own:
    def run(self, sites, state):
        for state in sites.rounds(state):
            extra = {"c": np.full(SIZE, 3.0)}
            first = sites.start("train", state.model, to=["a"], extra_of={"a": extra}, requires=["c"])
            second = sites.start("train", state.model, to=["b"], optional=True)
            gathering, update = next(sites.replies(first, second))
            first.stop(), second.stop()
            sites.refuse(update, "not for me")
            sites.report("done asking")
            sites.commit(state.next(model=state.model))
"""


@pytest.mark.parametrize("size", [1, 20_000])
def test_an_own_workflow_asks_withdraws_refuses_and_reports(tmp_path, size):
    files = {"own.py": ASKING.replace("SIZE", str(size))}
    flow = Workflow(type=None, entry="own:Own", rounds=1)
    server = workflow(tmp_path, half_way, files=files, model="start:small", workflow=flow)
    extras = []
    take, server.on_broadcast = (
        server.on_broadcast,
        lambda broadcast: (
            extras.extend(read_tensors(server.take_out(part)) for part in broadcast.extra_of.values()),
            take(broadcast),
        ),
    )
    assert run(server) == 0, server.failure
    (first, _), (second, _) = server.broadcasts
    assert (list(first.sites), list(first.requires), first.optional) == (["a"], ["c"], False)
    assert (list(second.sites), dict(second.extra_of), second.optional) == (["b"], {}, True)
    assert extras[0]["c"].tolist() == [3.0] * size
    assert server.refused == [(first.task_id, "a", "not for me")]
    assert server.withdrawn == [second.task_id]
    assert server.said == ["done asking"]


def test_a_task_has_the_same_id_again_only_if_nothing_of_it_has_changed(tmp_path):
    def ids(folder, text):
        flow = Workflow(type=None, entry="own:Own", rounds=1)
        files = {"own.py": text}
        server = workflow(tmp_path, half_way, files=files, model="start:small", workflow=flow, folder=folder)
        assert run(server) == 0, server.failure
        sys.modules.pop("own")
        return [broadcast.task_id for broadcast, _ in server.broadcasts]

    text = ASKING.replace("SIZE", "20_000")
    before = ids("one", text)
    assert ids("two", text) == before
    after = ids("three", text.replace("3.0", "4.0"))
    assert (after[0] != before[0], after[1]) == (True, before[1])
    assert after[0].partition("~")[0] == before[0].partition("~")[0]


PATIENT = """
class Own:
    def run(self, sites, state):
        for state in sites.rounds(state):
            while not sites.aborted():
                sites.report("still at it")
            open("ended", "w").close()
            if state.scalars.get("never") is None:
                return
"""


def test_a_workflow_that_computes_for_long_is_told_to_stop_and_no_failure_comes_of_it(tmp_path, monkeypatch):
    from flprov.wire import pb

    monkeypatch.chdir(tmp_path)
    flow = Workflow(type=None, entry="own:Own", rounds=1)
    server = workflow(tmp_path, half_way, files={"own.py": PATIENT}, model="start:small", workflow=flow)
    server.on_progress = lambda _: server.frames.append(pb.ToWorker(quit=pb.Quit(reason="aborted")))
    assert run(server) == 0
    assert (tmp_path / "ended").exists()
    assert server.failure is None
    assert server.results == {}
