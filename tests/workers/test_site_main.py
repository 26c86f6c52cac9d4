# SPDX-License-Identifier: Apache-2.0
"""A job's process at a site: the real main, in a real process, with the parent's side of the frames."""

import time

import numpy as np
import pytest
from parents import Parent, job

from flprov.jobs import Filters
from flprov.wire import read_metadata

MODEL = {"w": np.float32([1.0, 2.0])}
DOUBLE = """
import flprov.client as fl

fl.init()
while fl.is_running():
    model = fl.receive()
    fl.send(fl.Model(params={"w": model.params["w"] * 2}, samples=10, metrics={"round": model.round}))
print("the loop ended")
"""


@pytest.fixture
def start(tmp_path):
    """Start a site's process for these files and this job; it is ready."""
    started = []

    def start(files, spec, **options):
        parent = Parent(tmp_path / "job", files, spec).__enter__()
        started.append(parent)
        parent.start_site(**options)
        return parent

    yield start
    for parent in started:
        parent.__exit__()


def script(start, text, **fields):
    return start({"train.py": text}, job("train.py", **fields))


# ---- scripts -------------------------------------------------------------------------------


def test_one_process_serves_all_rounds(start):
    parent = script(start, DOUBLE)
    for number in range(3):
        parent.task(model={"w": np.float32([number])}, number=number)
        update = parent.update()
        assert parent.take_out(update.tensors)["w"].tolist() == [2.0 * number]
        assert (update.kind, update.samples, dict(update.metrics)) == ("full", 10, {"round": number})
        assert update.seconds > 0
    assert parent.quit() == 0
    assert "the loop ended" in parent.output()


def test_an_answer_names_its_task_and_job(start):
    parent = script(start, DOUBLE)
    parent.task(model=MODEL)
    answer = parent.expect("answer")
    assert (answer.job_id, answer.task_id) == ("j1", "0/train/1")


def test_large_tensors_pass_as_files(start):
    parent = script(start, DOUBLE)
    for number in range(2):
        parent.task(model={"w": np.full(50_000, number + 1, np.float32)}, number=number)
        update = parent.update()
        assert update.tensors.file
        assert parent.take_out(update.tensors)["w"].sum() == 100_000 * (number + 1)
    assert list((parent.folder / "out").iterdir()) == []


def test_many_tiny_tensors_pass_as_a_file_too(start):
    parent = script(start, DOUBLE.replace('{"w": model.params["w"] * 2}', "model.params"))
    tiny = {f"layer.{number}.bias": np.float32([number]) for number in range(2000)}
    parent.task(model=tiny)
    update = parent.update()
    assert update.tensors.file
    assert len(parent.take_out(update.tensors)) == 2000


def test_args_reach_a_script_as_command_line_options(start):
    text = """
import argparse, flprov.client as fl
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
parser.add_argument("--lr", type=float)
parser.add_argument("--nesterov", action="store_true")
parser.add_argument("--quiet", action="store_true")
parser.add_argument("--layers", type=int, nargs="+")
args = parser.parse_args()
model = fl.receive()
fl.send(fl.Model(params=model.params, samples=args.epochs, weight=args.lr * args.nesterov + sum(args.layers)))
assert not args.quiet
"""
    args = {"epochs": 2, "lr": 0.25, "nesterov": True, "quiet": False, "layers": [3, 4]}
    parent = script(start, text, args=args)
    parent.task(model=MODEL)
    update = parent.update()
    assert (update.samples, update.weight) == (2, 7.25)


def test_a_script_sees_where_it_runs(start, tmp_path):
    text = """
import os, sys, flprov.client as fl
fl.init()
model = fl.receive()
assert __name__ == "__main__" and sys.modules["__main__"].fl is fl
assert fl.is_train() and not fl.is_evaluate()
assert os.getcwd().endswith("/work")
assert (model.task, model.round, model.rounds, model.scalars) == ("train", 1, 3, {"lr": 0.5})
print(fl.site_name(), fl.job_id(), fl.dataset("heart").read_text())
try:
    fl.dataset("lungs")
except Exception as error:
    print(error)
fl.send(fl.Model(params=model.params))
"""
    (tmp_path / "heart.csv").write_text("63,1,145")
    parent = start({"train.py": text}, job("train.py"), datasets={"heart": str(tmp_path / "heart.csv")})
    parent.task(model=MODEL, number=1, scalars={"lr": 0.5})
    parent.update()
    parent.quit()
    assert "a j1 63,1,145" in parent.output()
    assert "no dataset 'lungs' for this job at a (it has: heart)" in parent.output()


def test_one_script_serves_several_tasks(start):
    text = """
import flprov.client as fl
while fl.is_running():
    model = fl.receive()
    if fl.is_evaluate():
        fl.send(fl.Model(metrics={"auc": 0.5}, samples=4))
    elif fl.is_train():
        fl.send(fl.Model(params={"w": model.params["w"]}, kind="diff"))
"""
    parent = start({"train.py": text}, job({"train": "train.py", "evaluate": "train.py"}))
    parent.task(model=MODEL)
    assert parent.update().kind == "diff"
    parent.task("evaluate", MODEL, expects="")
    update = parent.update()
    assert dict(update.metrics) == {"auc": 0.5}
    assert parent.take_out(update.tensors) == {}


def test_a_function_beside_a_script_shares_what_the_script_has_loaded(start):
    text = """
import flprov.client as fl
from flprov.sdk import Update

loaded = []
def evaluate(task, site):
    loaded.append(task.name)
    return Update(metrics={"calls": len(loaded)}, samples=1)

while fl.is_running():
    model = fl.receive()
    loaded.append("train")
    fl.send(fl.Model(params=model.params, samples=len(loaded)))
"""
    parent = start({"train.py": text}, job({"train": "train.py", "evaluate": "train:evaluate"}))
    parent.task(model=MODEL)
    assert parent.update().samples == 1
    parent.task("evaluate", MODEL, expects="")
    assert dict(parent.update().metrics) == {"calls": 2}
    parent.task(model=MODEL)
    assert parent.update().samples == 3
    assert parent.quit() == 0


def test_a_script_that_serves_one_task_and_ends_is_started_again_for_the_next(start):
    text = """
import flprov.client as fl
print("started")
model = fl.receive()
fl.send(fl.Model(params=model.params, samples=model.round))
"""
    parent = script(start, text)
    for number in range(3):
        parent.task(model=MODEL, number=number)
        assert parent.update().samples == number
    assert parent.quit() == 0
    assert parent.output().count("started") == 3


def test_modules_of_the_app_can_be_imported_also_from_a_folder(start):
    files = {"net.py": "FACTOR = 3", "code/run.py": "import net, near\n" + DOUBLE, "code/near.py": ""}
    parent = start(files, job("code/run.py"))
    parent.task(model=MODEL)
    assert parent.update().samples == 10


def test_modules_of_the_app_do_not_take_the_place_of_ours(start):
    files = {"train.py": DOUBLE}
    files |= dict.fromkeys(("flprov.py", "numpy.py", "socket.py"), "raise SystemExit('taken over')")
    parent = start(files, job("train.py"))
    parent.task(model=MODEL)
    assert parent.update().samples == 10


def test_a_model_of_torch_reaches_the_script_as_tensors_and_comes_back_as_such(start):
    text = """
import torch, flprov.client as fl
net = torch.nn.BatchNorm1d(2)
while fl.is_running():
    model = fl.receive()
    if model.params:
        net.load_state_dict(model.params)
    net(torch.ones(4, 2))
    fl.send(fl.Model(params=net.state_dict(), samples=4))
"""
    parent = script(start, text)
    parent.task(expects="full")
    update = parent.update()
    assert read_metadata(update.tensors.inline) == {"format": "pt"}
    state = parent.take_out(update.tensors)
    assert state["num_batches_tracked"] == 1
    parent.task(model=state, number=1, form="pt")
    assert parent.take_out(parent.update().tensors)["num_batches_tracked"] == 2


def test_progress_reaches_the_parent(start):
    text = """
import flprov.client as fl
model = fl.receive()
fl.log("loss", 0.5)
fl.log("loss", 0.25)
fl.log("loss", 0.125, step=40)
fl.log("loss", float("nan"))
fl.send(fl.Model(params=model.params))
"""
    parent = script(start, text)
    parent.task(model=MODEL)
    seen = [parent.expect("progress") for _ in range(3)]
    assert [(p.values["loss"], p.step, p.task_id) for p in seen] == [
        (0.5, 1, "0/train/1"),
        (0.25, 2, "0/train/1"),
        (0.125, 40, "0/train/1"),
    ]
    parent.update()
    assert "loss is nan" in parent.output()


# ---- what scripts do wrong -----------------------------------------------------------------


def assert_ended(parent, message):
    """The parent heard `message`, as the answer of the open task and as the end of the process."""
    assert message in parent.failure().message
    assert message in parent.expect("failure").message
    assert parent.receive() is None
    assert parent.wait() == 1


def test_an_exception_names_the_line_of_the_jobs_own_code(start):
    text = "import flprov.client as fl\ndef step(x):\n    return 1 / x\nfl.receive()\nstep(0)\n"
    parent = script(start, text)
    parent.task(model=MODEL)
    failure = parent.failure()
    assert failure.code == "job-failed"
    assert failure.message == "train.py:3: ZeroDivisionError: division by zero"
    assert "return 1 / x" in failure.traceback
    assert "site_main" not in failure.traceback
    assert parent.expect("failure").message == failure.message
    assert parent.wait() == 1


def test_an_exception_inside_a_library_names_the_line_that_called_it(start):
    parent = script(start, "import flprov.client as fl\nfl.receive()\nimport json\njson.loads('{')\n")
    parent.task(model=MODEL)
    message = parent.failure().message
    assert message.startswith("train.py:4: json.decoder.JSONDecodeError")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_package\n", "train.py:1: ModuleNotFoundError: No module named 'no_such_package'"),
        ("x = = 1\n", "train.py:1: SyntaxError: invalid syntax"),
        ("print('nothing to do')\n", "train.py ended without asking for a task"),
        ("import sys\nsys.exit(3)\n", "train.py:2: train.py exited with status 3"),
        ("import sys\nsys.exit('no GPU')\n", "train.py exited with the words no GPU"),
        ("raise KeyboardInterrupt\n", "train.py:1: KeyboardInterrupt"),
        ("class Odd(Exception):\n    def __str__(self): return 1 / 0\nraise Odd\n", "train.py:3: "),
        ("raise ValueError('\\udc80 bytes')\n", "train.py:1: ValueError: \\udc80 bytes"),
        ("raise ValueError('x' * 10**6)\n", "train.py:1: ValueError: xxx"),
    ],
)
def test_a_script_that_fails_before_its_first_task_says_why(start, text, message):
    parent = script(start, text)
    failure = parent.expect("failure")
    assert message in failure.message
    assert len(failure.message) <= 1000
    assert len(failure.traceback) <= 32_000
    assert parent.wait() == 1


@pytest.mark.parametrize("end", ["", "import sys; sys.exit(0)"])
def test_exiting_with_0_without_an_update_is_a_failure(start, end):
    parent = script(start, f"import flprov.client as fl\nfl.receive()\n{end}\n")
    parent.task(model=MODEL, number=2)
    assert_ended(parent, "train.py ended without sending an update for task 'train' of round 2")


def test_asking_for_the_next_task_without_an_update_fails_the_first_only(start):
    text = """
import flprov.client as fl
while fl.is_running():
    model = fl.receive()
    if model.round == 1:
        fl.send(fl.Model(params=model.params))
"""
    parent = script(start, text)
    parent.task(model=MODEL)
    assert "before an update was sent for task 'train' of round 0" in parent.failure().message
    parent.task(model=MODEL, number=1)
    parent.update()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("params=p, metrics={'loss': float('nan')}", "metric 'loss' is nan"),
        ("params=p, metrics={'loss': 'low'}", "metric 'loss' is 'low', which is not a number"),
        ("params=p, samples=-1", "samples is -1"),
        ("params=p, samples=2**63", "samples is 9223372036854775808"),
        ("params=p, samples=1.5", "samples is 1.5, which is not a number that fits"),
        ("params=p, weight=float('inf')", "weight is inf"),
        ("params=p, kind='delta'", "kind is 'delta'; it must be one of full, diff, opaque"),
        ("params=p, kind='opaque'", "takes full,diff, the update is of kind opaque"),
        ("", "takes weights, the update has none"),
        ("params={'w': None}", "tensor 'w' is no array of numbers"),
        ("params={'w': object()}", "tensor 'w' is no array of numbers"),
        ("params=3", "params must be a mapping"),
    ],
)
def test_an_impossible_update_is_refused_where_it_is_sent(start, model, message):
    text = f"import flprov.client as fl\np = fl.receive().params\nfl.send(fl.Model({model}))\n"
    parent = script(start, text)
    parent.task(model=MODEL)
    failure = parent.failure()
    assert failure.message.startswith("train.py:3: ")
    assert message in failure.message


def test_tensors_for_a_task_that_takes_metrics_only_are_refused(start):
    text = "import flprov.client as fl\nm = fl.receive()\nfl.send(fl.Model(params=m.params))\n"
    parent = start({"e.py": text}, job({"evaluate": "e.py"}))
    parent.task("evaluate", MODEL, expects="")
    assert "takes metrics only, the update has tensors" in parent.failure().message


def test_an_update_without_an_open_task_is_refused(start):
    parent = script(start, "import flprov.client as fl\nfl.send(fl.Model(params={'w': 1}))\n")
    assert "no task was open" in parent.expect("failure").message


def test_two_scripts_in_one_job_are_refused_with_a_hint(start):
    parent = start({"a.py": "", "b.py": ""}, job({"train": "a.py", "evaluate": "b.py"}))
    failure = parent.expect("failure")
    assert failure.code == "config-error"
    assert "a.py and b.py are two scripts" in failure.message
    assert "fl.is_evaluate()" in failure.hint


def test_a_script_that_is_not_there_is_named(start):
    parent = start({}, job("train.py"))
    assert parent.expect("failure").message == "tasks.train: no file 'train.py' in the app"


def test_output_of_a_failing_script_is_kept(start):
    parent = script(start, "print('loading', flush=False)\nraise ValueError\n")
    parent.expect("failure")
    parent.wait()
    assert "loading" in parent.output()


# ---- functions -----------------------------------------------------------------------------

FUNCTIONS = """
from flprov.sdk import Update

calls = 0
def train(task, site, lr, epochs=1):
    global calls
    calls += 1
    if task.round == 1:
        raise RuntimeError("out of luck")
    return Update(params={"w": task.params["w"] + lr}, samples=calls)
def evaluate(task, site):
    return Update(metrics={"sum": float(task.params["w"].sum())}, samples=1)
def place(task, site):
    (site.folder / "mark").write_text(site.name)
    return Update(params=task.params)
class Trainer:
    def __init__(self, lr):
        self.lr = lr
    def __call__(self, task, site):
        return Update(params={"w": task.params["w"] * self.lr})
def leave(task, site):
    raise SystemExit(4)
"""


def functions(start, tasks, **fields):
    return start({"code.py": "", "mine.py": FUNCTIONS}, job(tasks, args={"lr": 0.5}, **fields))


def test_functions_are_called_with_task_site_and_args(start):
    parent = functions(start, {"train": "mine:train", "evaluate": "mine:evaluate"})
    parent.task(model=MODEL)
    update = parent.update()
    assert parent.take_out(update.tensors)["w"].tolist() == [1.5, 2.5]
    parent.task("evaluate", MODEL, expects="")
    assert dict(parent.update().metrics) == {"sum": 3.0}
    assert parent.quit() == 0


def test_a_function_that_fails_once_is_called_again_in_the_next_round(start):
    parent = functions(start, "mine:train")
    for number in range(3):
        parent.task(model=MODEL, number=number)
        if number == 1:
            assert parent.failure().message == "mine.py:9: RuntimeError: out of luck"
        else:
            assert parent.update().samples == number + 1


def test_a_class_is_made_with_the_args_and_called(start):
    parent = functions(start, "mine:Trainer")
    parent.task(model=MODEL)
    assert parent.take_out(parent.update().tensors)["w"].tolist() == [0.5, 1.0]


def test_a_function_has_a_folder_of_its_own(start):
    parent = functions(start, "mine:place")
    parent.task(model=MODEL)
    parent.update()
    assert (parent.folder / "work" / "mark").read_text() == "a"


def test_a_function_that_calls_exit_ends_the_process_and_says_so(start):
    parent = functions(start, "mine:leave")
    parent.task(model=MODEL)
    assert_ended(parent, "called sys.exit(4)")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("mien:train", "tasks.train: no module 'mien' in the app"),
        ("mine:trian", "did you mean 'train'"),
        ("broken:train", "broken.py:1: ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("mine:calls", "tasks.train: a int is not something to call"),
    ],
)
def test_an_entry_point_that_does_not_resolve_is_told_before_any_task(start, entry, message):
    files = {"mine.py": FUNCTIONS, "broken.py": "import nothing_like_it\n"}
    parent = start(files, job(entry))
    assert message in parent.expect("failure").message
    assert parent.wait() == 1


def test_a_task_that_job_yml_does_not_name_is_refused(start):
    parent = functions(start, "mine:train")
    parent.task("analyse", MODEL)
    assert "sent task 'analyse', which job.yml does not name" in parent.failure().message
    parent.task(model=MODEL)
    parent.update()


# ---- filters -------------------------------------------------------------------------------


def test_filters_of_the_site_see_tasks_and_results(start):
    own = """
from dataclasses import replace
def halve(task, site):
    return replace(task, params={"w": task.params["w"] / 2})
"""
    filters = Filters(
        task_site=({"type": "own:halve"},), result_site=({"type": "clip_norm", "max_norm": 0.5},)
    )
    parent = start({"train.py": DOUBLE, "own.py": own}, job("train.py", filters=filters))
    parent.task(model={"w": np.float32([6.0, 8.0])})
    # halved to (3, 4), doubled to (6, 8); the difference (3, 4) is clipped from norm 5 to 0.5
    w = parent.take_out(parent.update().tensors)["w"]
    np.testing.assert_allclose(w, [3.3, 4.4], rtol=1e-6)


def test_a_filter_that_does_not_exist_is_told_before_any_task(start):
    filters = Filters(result_site=({"type": "clamp"},))
    parent = script(start, DOUBLE, filters=filters)
    assert "filters.result.site[0]: no filter 'clamp'" in parent.expect("failure").message


# ---- its end -------------------------------------------------------------------------------

WAIT = """
import threading, flprov.client as fl
fl.receive()
try:
    fl.log("step", 1)
    {body}
finally:
    print("cleaned up")
"""


def test_sigterm_ends_a_script_that_does_not_look(start):
    parent = script(start, WAIT.format(body="threading.Event().wait(60)"))
    parent.task(model=MODEL)
    parent.expect("progress")
    parent.terminate()
    assert parent.wait() == 143
    assert parent.receive() is None
    assert "cleaned up" in parent.output()


def test_sigterm_leaves_a_script_that_looks_to_end_by_itself(start):
    text = """
import threading, flprov.client as fl
fl.receive()
assert not fl.aborted()
fl.log("step", 1)
while not fl.aborted():
    threading.Event().wait(0.01)
print("aborted, running:", fl.is_running())
"""
    parent = script(start, text)
    parent.task(model=MODEL)
    parent.expect("progress")
    parent.terminate()
    assert parent.wait() == 0
    assert "aborted, running: False" in parent.output()


def test_receive_is_none_when_the_job_is_over(start):
    text = """
import flprov.client as fl
while (model := fl.receive()) is not None:
    fl.send(fl.Model(params=model.params))
print("over:", fl.receive(), fl.is_running())
"""
    parent = script(start, text)
    parent.task(model=MODEL)
    parent.update()
    assert parent.quit() == 0
    assert "over: None False" in parent.output()


def test_a_parent_that_goes_away_ends_the_process(start):
    parent = script(start, DOUBLE)
    parent.socket.close()
    assert parent.wait() == 0
    parent = functions(start, "mine:train")
    parent.socket.close()
    assert parent.wait() == 0


def test_ready_comes_before_the_scripts_own_imports(start):
    began = time.perf_counter()
    parent = script(start, "import signal\nsignal.pause()\n")  # hangs at import
    assert time.perf_counter() - began < 20
    parent.terminate()
    assert parent.wait() == 143
