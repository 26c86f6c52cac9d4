# SPDX-License-Identifier: Apache-2.0
"""The same job simulated and over a real network on this machine: whether the weights have the same bits."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from experiment import Plan, prepare_app

from flprov.admin import open_admin
from flprov.errors import JobFailed
from flprov.poc import Dataset, Poc, Starter
from flprov.wire import read_tensors

MODEL = "model.safetensors"


def check_poc(workflow: str, plan: Plan, folder: Path) -> bool:
    """Run a job that was simulated over a network too, and say whether the two agree.

    Raises:
        JobFailed: it did not complete.
    """
    network = run_on_network(workflow, plan, folder)
    files = [folder / "jobs" / workflow / MODEL, network / MODEL]
    same = same_weights(*files)
    print(f"the weights are {'the same, bit for bit' if same else 'NOT the same'}:")
    print("\n".join(f"  {file}" for file in files))
    return same


def run_on_network(workflow: str, plan: Plan, folder: Path) -> Path:
    """The job over a server and sites that are processes of their own; the folder with its results."""
    results = folder / "jobs" / f"{workflow}-poc"
    shutil.rmtree(results, ignore_errors=True)
    app = prepare_app(folder / "apps" / workflow, plan, workflow)
    network = Poc(folder / "network")
    try:
        report = network.up(
            Starter(command=(sys.executable, "-m", "flprov"), environment=dict(os.environ)),
            sites=plan.sites,
            datasets=[
                Dataset(name="cifar10", path=folder / "sites" / site, site=site) for site in plan.names
            ],
        )
        print(f"network of {plan.sites} sites: ready after {report.ready_after:.1f} s", flush=True)
        with open_admin(network.admin_kit) as admin:
            job = admin.wait(admin.submit(app).job_id)
            admin.download(job.id, results)
    finally:
        if network.place.exists():
            network.down(delete=True)
    if job.state != "completed":
        raise JobFailed(f"the job is {job.state}: {job.reason}", hint=f"its logs are in {results}")
    print(f"over the network: {100 * job.rounds[-1].metrics['accuracy']:.2f} %", flush=True)
    return results


def same_weights(one: Path, other: Path) -> bool:
    """Whether two files hold the same tensors."""
    first, second = read_tensors(one), read_tensors(other)
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and first[name].tobytes() == second[name].tobytes()
        for name in first
    )
