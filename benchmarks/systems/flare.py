# SPDX-License-Identifier: Apache-2.0
"""NVIDIA FLARE: a POC network (its server and sites as processes, gRPC with mutual TLS between them)."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from systems.environments import lend_torch, make_environment
from systems.peer import Place, running
from systems.processes import SERVER, SITE, Peaks
from systems.system import Failed, Job, NotRun, Ran, read_marks, wait_for_mark

REQUIREMENT = "nvflare==2.9.0"
PORTS = (8002, 8003)  # of `nvflare poc`
PATIENCE = 60.0  # seconds, for the end of an aborted job
HERE = Path(__file__).resolve().parent


class Flare:
    """The commands of NVIDIA FLARE."""

    name = "flare"
    title = "NVIDIA FLARE"
    settings = (
        "`nvflare poc`, so gRPC with mutual TLS, as its kits would have it; streaming in chunks as shipped.",
        "The job that `NumpyFedAvgRecipe` exports (FedAvg with in-time aggregation, the trainer inside the "
        "site's job process, full models as numpy), without what draws curves, its model in ten tensors.",
        "Rows that say 'short polls' set task_request_interval and default_task_fetch_interval to 0.05 s and "
        "task_check_period to 0.02 s, instead of 2, 0.5 and 0.5 s; all others leave them.",
        "Simulation with as many threads as sites, which was four times as fast as one for each core.",
    )

    def _place(self, folder: Path) -> Place:
        commands = make_environment("flare", REQUIREMENT) / "bin"
        return Place(folder, commands, {"NVFLARE_POC_WORKSPACE": str(folder / "poc")})

    def version(self) -> str:
        """Of the package."""
        return REQUIREMENT.partition("==")[2] if make_environment("flare", REQUIREMENT) else ""

    def help(self) -> None:
        """`nvflare --help`."""
        commands = make_environment("flare", REQUIREMENT) / "bin"
        subprocess.run([commands / "nvflare", "--help"], check=True, capture_output=True)

    def provision(self, folder: Path, sites: int) -> None:
        """`nvflare provision` of a project with the builders of its own sample."""
        place = self._place(folder)
        (folder / "project.yml").write_text(json.dumps(_project(sites)))
        place.command("nvflare", "provision", "-p", "project.yml", "-w", "workspace", "--force", patience=900)

    def up(self, folder: Path, sites: int) -> FlareNetwork:
        """`nvflare poc prepare` and `nvflare poc start`, which waits for the sites."""
        for port in PORTS:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    raise NotRun(f"port {port}, which `nvflare poc` wants, is taken")
        network = FlareNetwork(self._place(folder), sites)
        try:
            network.start()
        except BaseException:
            network.down()
            raise
        return network

    def simulate(self, folder: Path, *, sites: int, rounds: int, size: int) -> tuple[float, ...]:
        """`nvflare simulator`."""
        place = self._place(folder)
        write_job(folder / "job", Job(rounds=rounds, size=size), sites)
        words = ("-w", "simulated", "-n", str(sites), "-t", str(sites))
        try:
            place.command("nvflare", "simulator", "job", *words, patience=900)
        finally:
            place.end()
        began = read_marks(place.marks)
        if len(began) != rounds:
            raise Failed("the simulation ended before its last round")
        return began


class FlareNetwork:
    """`nvflare poc` in a folder."""

    def __init__(self, place: Place, sites: int) -> None:
        self._place = place
        self._sites = sites
        self.ready_after = 0.0

    def start(self) -> None:
        """From nothing until all are ready."""
        began = time.monotonic()
        self._place.command("nvflare", "poc", "prepare", "-n", str(self._sites), "--force")
        self._place.command("nvflare", "poc", "start", "--timeout", "240")
        self.ready_after = time.monotonic() - began
        lend_torch(Path(self._place.environment["PATH"].partition(":")[0]).parent)

    def status(self) -> None:
        """`nvflare system status`."""
        self._place.command("nvflare", "system", "status")

    def run(self, job: Job, *, watch: bool = False) -> Ran:
        """`nvflare job submit`, `nvflare job wait`."""
        self._place.marks.unlink(missing_ok=True)
        write_job(self._place.folder / "job", job, self._sites)
        peaks = Peaks(self._roots())
        with peaks if watch else nullcontext():
            submitted = time.time()
            self._wait(self._submit(), job)
        began = read_marks(self._place.marks)
        if len(began) != job.rounds:
            raise Failed(f"{len(began)} of {job.rounds} rounds were begun")
        return Ran(submitted=submitted, began=began, peaks=peaks.by_role() if watch else {})

    def abort(self) -> float:
        """`nvflare job abort --force`."""
        self._place.marks.unlink(missing_ok=True)
        write_job(self._place.folder / "job", Job(rounds=1, stubborn=True), self._sites)
        before = running(self._place.processes())
        name = self._submit()
        wait_for_mark(self._place.marks, self._sites, PATIENCE)
        pids = running(self._place.processes()) - before
        began = time.monotonic()
        self._place.command("nvflare", "job", "abort", "--force", name)
        return self._place.wait_gone(pids, PATIENCE) - began

    def down(self) -> None:
        """SIGKILL: how it stops when asked is measured nowhere."""
        self._place.end()

    def _submit(self) -> str:
        said = json.loads(self._place.command("nvflare", "--format", "json", "job", "submit", "-j", "job"))
        return str(said["data"]["job_id"])

    def _wait(self, name: str, job: Job) -> None:
        self._place.command("nvflare", "job", "wait", "--interval", "1", name, patience=job.patience)

    def _roots(self) -> dict[int, str]:
        roles = {"server.server_train": SERVER, "client.client_train": SITE}
        return {
            pid: role
            for pid, command in self._place.processes().items()
            for module, role in roles.items()
            if f"-m nvflare.private.fed.app.{module} " in command and command.startswith("python")
        }


def write_job(folder: Path, job: Job, sites: int) -> None:
    """The job of the workload, as files."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        HERE / "flare_app", folder / "app" / "custom", ignore=shutil.ignore_patterns("__pycache__")
    )
    config = folder / "app" / "config"
    config.mkdir()
    words = [name for name, given in (("torch", job.torch), ("stubborn", job.stubborn)) if given]
    server: dict[str, Any] = {
        "format_version": 2,
        "workflows": [{
            "id": "controller",
            "path": "nvflare.app_common.workflows.fedavg.FedAvg",
            "args": {"num_clients": sites, "num_rounds": job.rounds},
        }],
        "components": [{"id": "persistor", "path": "zeros.Zeros", "args": {"size": job.size}}],
        "task_data_filters": [], "task_result_filters": [],
    }  # fmt: skip
    executor = {
        "path": "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor",
        "args": {
            "execution_mode": "in_process",
            "task_script_path": "train.py",
            "task_script_args": " ".join(words),
            "params_exchange_format": "numpy",
        },
    }
    client: dict[str, Any] = {
        "format_version": 2,
        "executors": [{"tasks": ["*"], "executor": executor}],
        "components": [], "task_data_filters": [], "task_result_filters": [],
    }  # fmt: skip
    if job.eager:
        server["server"] = {"task_request_interval": 0.05, "heart_beat_timeout": 600}
        server["workflows"][0]["args"]["task_check_period"] = 0.02
        client["default_task_fetch_interval"] = 0.05
    (config / "config_fed_server.json").write_text(json.dumps(server))
    (config / "config_fed_client.json").write_text(json.dumps(client))
    meta = {"name": "adding", "resource_spec": {}, "min_clients": sites, "deploy_map": {"app": ["@ALL"]}}
    (folder / "meta.json").write_text(json.dumps(meta))


def _project(sites: int) -> dict[str, Any]:
    """A project.yml (JSON is YAML) like `nvflare provision -g` writes, with so many sites."""
    people = [{"name": "admin@nvidia.com", "type": "admin", "org": "nvidia", "role": "project_admin"}]
    server = {"name": "server1", "type": "server", "org": "nvidia", "fed_learn_port": PORTS[0]}
    clients = [{"name": f"site-{n}", "type": "client", "org": "nvidia"} for n in range(1, sites + 1)]
    templates = ["master_template.yml", "aws_template.yml", "azure_template.yml"]
    implementation = "nvflare.lighter.impl"
    return {
        "api_version": 3, "name": "large", "participants": [server, *clients, *people],
        "builders": [
            {"path": f"{implementation}.workspace.WorkspaceBuilder", "args": {"template_file": templates}},
            {"path": f"{implementation}.static_file.StaticFileBuilder", "args": {"config_folder": "config"}},
            {"path": f"{implementation}.cert.CertBuilder"},
            {"path": f"{implementation}.signature.SignatureBuilder"},
        ],
    }  # fmt: skip
