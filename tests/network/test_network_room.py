# SPDX-License-Identifier: Apache-2.0
"""Several jobs at once on real sites: who gets what, who waits for whom, and what `job plan` says before."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import GATED, Network, write_app

from flprov.admin import Admin
from flprov.wire.documents import JobDocument

pytestmark = pytest.mark.network

DRIVER = Path(__file__).parents[1] / "agent" / "fake_nvml.c"

# What the kernel module of a real driver tells in /proc, where no test can put it.
WITH_PROC = """
import sys
from pathlib import Path
from flprov.workers import gpus
gpus.gpu_devices.__kwdefaults__["proc"] = Path(sys.argv.pop(1))
from flprov.__main__ import main
main()
"""


def until(admin: Admin, job_id: str, holds: Callable[[JobDocument], bool]) -> JobDocument:
    for job in admin.watch(job_id, timeout=15):
        if holds(job):
            return job
    raise AssertionError("the job ended without it")


def trains(job: JobDocument) -> bool:
    """In the round in which it waits for the gate."""
    return job.rounds_done == 1 and all(site.state == "training" for site in job.sites)


def reasons(job: JobDocument) -> list[str]:
    return [site.reason for site in job.sites]


@pytest.fixture
def app(tmp_path):
    return write_app(tmp_path / "gated", train=GATED)


def test_two_jobs_share_two_sites_and_the_third_waits(make_network, app):
    network = make_network(2)
    for name in network.names:
        policy = network.local(name) / "policy.yml"
        policy.write_text(policy.read_text() + "ceilings: {jobs: 2, memory: 2GiB}\n")
    network.up()
    admin = network.admin()
    both = [admin.submit(app).job_id for _ in range(2)]
    for job_id in both:
        until(admin, job_id, trains)
    third = admin.submit(app, settings={"priority": "-1"}).job_id
    fourth = admin.submit(app).job_id
    waiting = until(admin, third, lambda job: "takes 2 jobs at once" in job.reason)
    assert all("takes 2 jobs at once" in reason for reason in reasons(waiting))
    assert all(job_id in waiting.reason for job_id in both)
    shown = {job.id: job.reason for job in admin.status().waiting}
    assert shown.keys() == {third, fourth}
    assert "takes 2 jobs at once" in shown[third]

    plan = admin.plan(app)
    assert (plan.starts, plan.ahead, plan.position) == (False, 1, 2)  # the third has less priority
    assert [site.verdict for site in plan.sites] == ["waits", "waits"]
    assert all("job" in site.reason for site in plan.sites)
    greedy = admin.plan(app, settings={"resources.memory": "3GiB"})
    assert [site.verdict for site in greedy.sites] == ["refuses", "refuses"]
    assert "ceiling 2.00 GiB" in greedy.sites[0].reason

    for name in network.names:
        network.open_gate(name)
    ended = {job_id: admin.wait(job_id, timeout=60) for job_id in (*both, fourth, third)}
    assert {job.state for job in ended.values()} == {"completed"}
    assert ended[fourth].started_at <= ended[third].started_at
    assert network.job_processes() == []
    assert [admin.site(name).jobs for name in network.names] == [(), ()]
    assert admin.plan(app).starts


@pytest.fixture
def one_gpu(make_network, tmp_path, monkeypatch) -> tuple[Network, Path]:
    """A site with one GPU, which NVIDIA's own binding reads; and the file that describes it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the fake driver with")
    library, cards, proc = tmp_path / "driver", tmp_path / "cards", tmp_path / "proc"
    library.mkdir()
    out = library / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", out, DRIVER], check=True)
    (proc / "gpus" / "0").mkdir(parents=True)
    (proc / "gpus" / "0" / "information").write_text("GPU UUID: \t GPU-a\nDevice Minor: \t 0\n")
    cards.write_text("card GPU-a 24576\n")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("FAKE_NVML", str(cards))
    network = make_network(1)
    network.command = lambda words: [sys.executable, "-c", WITH_PROC, str(proc), *words[3:]]
    return network.up(), cards


def test_one_gpu_goes_to_one_job_and_then_to_the_next(one_gpu, app):
    network, cards = one_gpu
    admin = network.admin()
    gpu = {"resources.gpus": "1"}
    first = admin.submit(app, settings=gpu).job_id
    until(admin, first, trains)
    second = admin.submit(app, settings=gpu).job_id
    waiting = until(admin, second, lambda job: job.reason != "")
    assert f"needs 1 GPU, 0 free of 1: 1 used by job {first} (gated)" in reasons(waiting)[0]
    network.open_gate("site-1")
    assert admin.wait(first, timeout=60).state == "completed"
    assert admin.wait(second, timeout=60).state == "completed"

    # Somebody else's process fills most of it: the site sees that, says so, and sees it go.
    cards.write_text("card GPU-a 24576\nprocess 4711 9216\n")
    large = {**gpu, "resources.gpu_memory": "16GiB"}
    plan = admin.plan(app, settings=large)
    assert plan.sites[0].verdict == "waits"
    assert "gpu 0 has 15 GiB free: 9 GiB used by pid 4711" in plan.sites[0].reason
    third = admin.submit(app, settings=large).job_id
    waiting = until(admin, third, lambda job: "4711" in job.reason)
    assert "gpu 0 has 15 GiB free: 9 GiB used by pid 4711" in reasons(waiting)[0]
    cards.write_text("card GPU-a 24576\n")
    assert admin.wait(third, timeout=60).state == "completed"
    assert network.job_processes() == []
