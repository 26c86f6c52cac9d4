# SPDX-License-Identifier: Apache-2.0
"""Flower: a SuperLink and SuperNodes as processes, HTTP without TLS between them."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path

from systems.environments import lend_torch, make_environment
from systems.peer import Place, running
from systems.processes import SERVER, SITE, Peaks
from systems.system import Failed, Job, NotRun, Ran, read_marks, wait_for_mark

REQUIREMENT = "flwr[simulation]==1.41.0"
PATIENCE = 30.0  # seconds, for the end of an aborted run
READY = 600.0  # seconds, for a network
HERE = Path(__file__).resolve().parent


class Flower:
    """The commands of Flower."""

    name = "flower"
    title = "Flower"
    settings = (
        "`--insecure`, as in its tutorials: no TLS and no authentication; the others pay for both.",
        "State in memory, which is its default: nothing is durable.",
        "Its message API with `FedAvg`, and `fraction_evaluate=0`: no second exchange in each round.",
        "No telemetry, no look for updates, no installation of dependencies for a run: each would add time.",
        "When all are ready is read from the SuperLink's log, since asking by a command takes seconds.",
        "Simulation with one core for each virtual site instead of two, so that both cores work.",
    )

    def _place(self, folder: Path) -> Place:
        commands = make_environment("flower", REQUIREMENT) / "bin"
        extra = {
            "FLWR_HOME": str(folder / "home"), "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(folder / "app"),
        }  # fmt: skip
        place = Place(folder, commands, extra)
        (folder / "home").mkdir(exist_ok=True)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(HERE / "flower_app", folder / "app", ignore=ignored, dirs_exist_ok=True)
        return place

    def version(self) -> str:
        """Of the package."""
        return REQUIREMENT.partition("==")[2] if make_environment("flower", REQUIREMENT) else ""

    def help(self) -> None:
        """`flwr --help`."""
        commands = make_environment("flower", REQUIREMENT) / "bin"
        subprocess.run([commands / "flwr", "--help"], check=True, capture_output=True)

    def provision(self, folder: Path, sites: int) -> None:  # noqa: ARG002
        """There is no such command."""
        raise NotRun("has no provisioning")

    def up(self, folder: Path, sites: int) -> FlowerNetwork:
        """`flower-superlink` and `flower-supernode`, until the first has activated all of the second."""
        network = FlowerNetwork(self._place(folder), sites)
        try:
            network.start()
        except BaseException:
            network.down()
            raise
        return network

    def simulate(self, folder: Path, *, sites: int, rounds: int, size: int) -> tuple[float, ...]:
        """Its simulation over Ray, as a script."""
        place = self._place(folder)
        try:
            place.command("python", "app/simulate.py", str(sites), str(rounds), str(size), patience=900)
        finally:
            place.end()
        began = read_marks(place.marks)
        if len(began) != rounds:
            raise Failed("the simulation ended before its last round")
        return began


class FlowerNetwork:
    """A SuperLink with its SuperNodes."""

    def __init__(self, place: Place, sites: int) -> None:
        self._place = place
        self._sites = sites
        self._roots: dict[int, str] = {}
        self._children: list[subprocess.Popen[bytes]] = []
        self.ready_after = 0.0

    def start(self) -> None:
        """From nothing until all are ready."""
        began = time.monotonic()
        ports = _free_ports(self._sites + 1)
        address = f"127.0.0.1:{ports[0]}"
        (self._place.folder / "home" / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{address}"\ninsecure = true\n'
        )
        link = ("--insecure", "--port", str(ports[0]), "--disable-runtime-dependency-installation")
        self._begin(SERVER, "superlink.log", "flower-superlink", *link)
        for number in range(self._sites):
            node = ("--insecure", "--superlink", address, "--port", str(ports[number + 1]))
            self._begin(SITE, f"supernode-{number}.log", "flower-supernode", *node)
        log = self._place.folder / "superlink.log"
        while log.read_text().count("Activated node_id") < self._sites:
            if time.monotonic() > began + READY:
                raise Failed(f"not all of {self._sites} SuperNodes were active after {READY:.0f} s")
            time.sleep(0.02)
        self.ready_after = time.monotonic() - began
        lend_torch(Path(self._place.environment["PATH"].partition(":")[0]).parent)

    def _begin(self, role: str, log: str, *words: str) -> None:
        self._children.append(self._place.start(log, *words))
        self._roots[self._children[-1].pid] = role

    def status(self) -> None:
        """`flwr supernode list`."""
        self._place.command("flwr", "supernode", "list", "here")

    def run(self, job: Job, *, watch: bool = False) -> Ran:
        """`flwr run`, and `flwr list` until the run is finished."""
        self._place.marks.unlink(missing_ok=True)
        peaks = Peaks(self._roots)
        with peaks if watch else nullcontext():
            submitted = time.time()
            self._wait(self._submit(job), job)
        began = read_marks(self._place.marks)
        if len(began) != job.rounds:
            raise Failed(f"{len(began)} of {job.rounds} rounds were begun")
        return Ran(submitted=submitted, began=began, peaks=peaks.by_role() if watch else {})

    def abort(self) -> float:
        """`flwr stop`."""
        self._place.marks.unlink(missing_ok=True)
        before = running(self._place.processes())
        name = self._submit(Job(rounds=1, stubborn=True))
        wait_for_mark(self._place.marks, self._sites, PATIENCE)
        pids = running(self._place.processes()) - before
        began = time.monotonic()
        self._place.command("flwr", "stop", name, "here")
        return self._place.wait_gone(pids, PATIENCE) - began

    def down(self) -> None:
        """SIGKILL: how it stops when asked is measured nowhere."""
        self._place.end()
        for child in self._children:
            child.wait()

    def _submit(self, job: Job) -> str:
        config = {
            "rounds": job.rounds, "size": job.size, "sites": self._sites,
            "torch": str(job.torch).lower(), "stubborn": str(job.stubborn).lower(),
        }  # fmt: skip
        settings = " ".join(f"{key}={value}" for key, value in config.items())
        said = self._place.command("flwr", "run", "app", "here", "--format", "json", "--run-config", settings)
        return str(json.loads(said)["run-id"])

    def _wait(self, name: str, job: Job) -> None:
        deadline = time.monotonic() + job.patience
        while time.monotonic() < deadline:
            said = json.loads(
                self._place.command("flwr", "list", "here", "--run-id", name, "--format", "json")
            )
            status = said["runs"][0]["status"]
            if status.startswith("finished"):
                if not status.endswith("completed"):
                    raise Failed(f"the run ended: {status}, {said['runs'][0]['status-details'][:200]}")
                return
            time.sleep(0.5)
        raise Failed(f"not done after {job.patience:.0f} s")


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
