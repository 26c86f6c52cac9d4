# SPDX-License-Identifier: Apache-2.0
"""TensorBoard and MLflow, as they are: each point once, also when a receiver is killed in between."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import warnings
from pathlib import Path

import pytest

from flprov.config import open_config
from flprov.errors import ConfigError
from flprov.server.series import FILE
from flprov.server.tracking import Tracking
from flprov.server.tracking.feed import Feed
from flprov.server.tracking.settings import read_tracking
from flprov.testing.clock import FakeClock
from flprov.wire import ROUND, SeriesEnd, SeriesJob, SeriesLine, SeriesPoint, encode_series

JOB = SeriesJob(
    job_id="0job",
    name="heart",
    submitted_by="leo",
    submitted_at="2026-01-01T00:00:00Z",
    sites=("site-1",),
    params={"args.lr": "0.1", "workflow": "fedavg"},
)
LINES: list[SeriesLine] = [
    JOB,
    SeriesPoint(name="loss", value=0.5, step=7, at=1_000.5, site="site-1"),
    SeriesPoint(name="loss", value=0.25, step=8, at=1_001.5, site="site-1"),
    SeriesPoint(name="accuracy", value=0.75, step=1, at=1_002.0, site="site-1", origin=ROUND),
    SeriesPoint(name="accuracy", value=0.7, step=1, at=1_002.0, origin=ROUND),
]
MORE: list[SeriesLine] = [
    SeriesPoint(name="loss", value=0.125, step=9, at=1_003.0, site="site-1"),
    SeriesEnd(state="completed"),
]


class Killed(BaseException):
    """The process is gone, here and now."""


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    folder = tmp_path / "jobs"
    (folder / "0job").mkdir(parents=True)
    return folder


def tell(jobs: Path, lines: list[SeriesLine]) -> None:
    with (jobs / "0job" / FILE).open("ab") as out:
        out.writelines(encode_series(line) for line in lines)


def make_feed(tmp_path: Path, target: object) -> Feed:
    return Feed(jobs=tmp_path / "jobs", marks=tmp_path / "marks", name=FILE, target=target)


def tensorboard(tmp_path: Path) -> object:
    from flprov.server.tracking.to_tensorboard import TensorBoard

    return TensorBoard(str(tmp_path / "board"))


def mlflow(tmp_path: Path) -> object:
    from flprov.server.tracking.to_mlflow import MLflow

    return MLflow(f"file://{tmp_path}/runs")


def in_tensorboard(tmp_path: Path) -> dict[str, list[tuple[int, float]]]:
    """`run/tag` -> steps and values, read by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for folder in sorted((tmp_path / "board").glob("*/*")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = EventAccumulator(str(folder))
            reader.Reload()
        for tag in reader.Tags()["scalars"]:
            found[f"{folder.name}/{tag}"] = [(e.step, round(e.value, 5)) for e in reader.Scalars(tag)]
    return found


def mlflow_run(tmp_path: Path) -> object:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"file://{tmp_path}/runs")
    experiment = client.get_experiment_by_name("heart")
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def in_mlflow(tmp_path: Path) -> dict[str, list[tuple[int, float]]]:
    client, run = mlflow_run(tmp_path)
    return {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


EXPECTED = {
    "global/round/accuracy": [(1, 0.7)],
    "site-1/live/loss": [(7, 0.5), (8, 0.25), (9, 0.125)],
    "site-1/round/accuracy": [(1, 0.75)],
}
TARGETS = pytest.mark.parametrize(
    ("target", "read"), [(tensorboard, in_tensorboard), (mlflow, in_mlflow)], ids=["tensorboard", "mlflow"]
)


@TARGETS
def test_every_point_is_where_the_tool_itself_finds_it(tmp_path, jobs, target, read):
    tell(jobs, LINES)
    make_feed(tmp_path, target(tmp_path)).deliver_all()
    tell(jobs, MORE)
    feed = make_feed(tmp_path, target(tmp_path))  # begun again
    feed.deliver_all()
    feed.deliver("0job")
    assert read(tmp_path) == EXPECTED


@TARGETS
def test_a_kill_between_writing_and_marking_doubles_nothing(tmp_path, jobs, target, read, monkeypatch):
    tell(jobs, LINES[:2])
    make_feed(tmp_path, target(tmp_path)).deliver_all()
    tell(jobs, LINES[2:])
    feed = make_feed(tmp_path, target(tmp_path))
    save = feed._save

    def killed_at_the_end(job_id, mark):
        if mark.offset == (jobs / job_id / FILE).stat().st_size:
            raise Killed
        save(job_id, mark)

    monkeypatch.setattr(feed, "_save", killed_at_the_end)
    with pytest.raises(Killed):
        feed.deliver_all()
    assert "site-1/round/accuracy" in read(tmp_path)  # it was written, and not marked
    tell(jobs, MORE)
    make_feed(tmp_path, target(tmp_path)).deliver_all()
    assert read(tmp_path) == EXPECTED


def test_mlflow_has_the_params_once_and_knows_how_the_job_ended(tmp_path, jobs):
    tell(jobs, LINES)
    make_feed(tmp_path, mlflow(tmp_path)).deliver_all()
    assert mlflow_run(tmp_path)[1].info.status == "RUNNING"
    tell(jobs, MORE)
    make_feed(tmp_path, mlflow(tmp_path)).deliver_all()
    _, run = mlflow_run(tmp_path)
    assert run.data.params == {"args.lr": "0.1", "workflow": "fedavg"}
    assert run.info.status == "FINISHED"
    assert run.data.tags["flprov.job_id"] == "0job"


def test_mlflow_takes_params_whose_names_differ_in_characters_that_it_does_not_take(tmp_path, jobs):
    tell(jobs, [dataclasses.replace(JOB, params={"args.a:b": "1", "args.a;b": "2"}), *LINES[1:], *MORE])
    make_feed(tmp_path, mlflow(tmp_path)).deliver_all()
    assert mlflow_run(tmp_path)[1].data.params == {"args.a_b": "1", "args.a_b_": "2"}
    assert in_mlflow(tmp_path) == EXPECTED


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_what_was_deleted_in_mlflow_keeps_no_other_job_waiting(tmp_path, jobs, what):
    tell(jobs, LINES)
    make_feed(tmp_path, mlflow(tmp_path)).deliver_all()
    client, run = mlflow_run(tmp_path)
    if what == "run":
        client.delete_run(run.info.run_id)
    else:
        client.delete_experiment(run.info.experiment_id)
    tell(jobs, MORE)
    (jobs / "1job").mkdir()
    other = [dataclasses.replace(JOB, job_id="1job"), *LINES[1:], *MORE]
    (jobs / "1job" / FILE).write_bytes(b"".join(map(encode_series, other)))
    make_feed(tmp_path, mlflow(tmp_path)).deliver_all()
    name = "heart" if what == "run" else "heart-2"
    (found,) = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    assert (found.info.run_name, found.info.status) == ("1job", "FINISHED")


@TARGETS
def test_hostile_names_stay_inside(tmp_path, jobs, target, read):
    names = ["../../out", "..", "a/b", "ü$%", "x" * 100]
    tell(jobs, [JOB, *(SeriesPoint(name=name, value=1.0, step=1, at=1.0, site="../..") for name in names)])
    make_feed(tmp_path, target(tmp_path)).deliver_all()
    assert len(read(tmp_path)) == len(names)
    assert {path.name for path in tmp_path.iterdir()} <= {"jobs", "marks", "board", "runs"}


def test_marks_of_deleted_jobs_go(tmp_path, jobs):
    tell(jobs, LINES)
    feed = make_feed(tmp_path, tensorboard(tmp_path))
    feed.deliver_all()
    (jobs / "0job" / FILE).unlink()
    feed.deliver_all()
    assert list((tmp_path / "marks").iterdir()) == []


# ---- the processes -----------------------------------------------------------------------------


def make_tracking(tmp_path: Path, clock: FakeClock, script: str) -> Tracking:
    command = [sys.executable, "-c", script]
    return Tracking(
        {"tensorboard": "x"}, jobs=tmp_path / "jobs", state=tmp_path / "state", clock=clock, command=command
    )


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_receiver_that_ends_is_begun_again_and_counted(tmp_path):
    clock = FakeClock()
    tracking = make_tracking(tmp_path, clock, "import sys; sys.exit('no such package')")
    tracking.start()
    for count in (1, 2):
        await until(lambda count=count: tracking.status()[0].restarts == count)
        assert tracking.status()[0].reason == "no such package"
        await clock.elapse(60.0)
    await tracking.close()


async def test_a_receiver_that_prints_without_end_is_begun_again_all_the_same(tmp_path):
    clock = FakeClock()
    tracking = make_tracking(tmp_path, clock, "import sys; print('x' * 200_000); sys.exit('it broke')")
    tracking.start()
    await until(lambda: tracking.status()[0].restarts == 1)
    await clock.elapse(60.0)
    await until(lambda: tracking.status()[0].restarts == 2)
    assert tracking.status()[0].reason == "it broke"
    await tracking.close()


async def test_a_receiver_is_told_which_jobs_have_told_something_also_at_the_last_moment(tmp_path):
    out = tmp_path / "heard"
    script = f"import sys; print('ready', flush=True); open({str(out)!r}, 'w').write(sys.stdin.read())"
    tracking = make_tracking(tmp_path, FakeClock(), script)
    tracking.start()
    await until(lambda: tracking.status()[0].ready)
    tracking.told("job-1")
    await asyncio.sleep(0.05)
    tracking.told("job-2")
    await tracking.close()
    assert out.read_text().split() == ["job-1", "job-2"]
    assert tracking.status()[0].restarts == 0


async def test_the_real_receiver_delivers_what_it_is_told(tmp_path, jobs):
    targets = {"tensorboard": str(tmp_path / "board")}
    tracking = Tracking(targets, jobs=jobs, state=tmp_path / "state", clock=FakeClock())
    tell(jobs, LINES)
    tracking.start()
    await until(lambda: tracking.status()[0].ready)
    tell(jobs, MORE)
    tracking.told("0job")
    await tracking.close()
    assert in_tensorboard(tmp_path) == EXPECTED


# ---- server.yml --------------------------------------------------------------------------------


def settings(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "server.yml"
    path.write_text(text)
    with open_config(path) as section:
        return dict(read_tracking(section, tmp_path))


def test_the_operator_says_where_to(tmp_path):
    found = settings(tmp_path, "tracking: {tensorboard: board, mlflow: 'http://127.0.0.1:5000'}\n")
    assert found == {"tensorboard": str(tmp_path / "board"), "mlflow": "http://127.0.0.1:5000"}
    assert settings(tmp_path, "tracking: {mlflow: runs}\n") == {"mlflow": f"file://{tmp_path}/runs"}
    assert settings(tmp_path, "{}\n") == {}


@pytest.mark.parametrize("text", ["tracking: {wandb: x}", "tracking: {mlflow: 'ftp://x'}", "tracking: yes"])
def test_a_mistake_refuses_the_start(tmp_path, text):
    with pytest.raises(ConfigError):
        settings(tmp_path, text)
