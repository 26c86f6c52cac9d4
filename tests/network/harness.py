# SPDX-License-Identifier: Apache-2.0
"""A real network for tests: real processes, real mTLS, real signals. Everything is gone afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from flprov.admin import Admin, open_admin
from flprov.kits import provision
from flprov.project import load_project

PEOPLE = """
people:
  - {name: ada, org: org-a, role: project_admin}
  - {name: leo, org: org-a, role: lead}
  - {name: lea, org: org-b, role: lead}
  - {name: olga, org: org-b, role: org_admin}
  - {name: mia, org: org-a, role: member}
  - {name: obi, org: org-b, role: observer}
"""

PROJECT = """
name: net
trust_domain: net.example
organisations: [{{name: org-a}}, {{name: org-b}}]
server: {{name: server, org: org-a, listen: "{listen}:{port}", endpoints: ["{host}:{port}"]}}
sites:
{sites}
{people}
"""

POLICY = "allow: {organisations: [org-a, org-b]}\n"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Running:
    """One `flprov ... start` process."""

    def __init__(
        self,
        words: list[str],
        log: Path,
        notify: socket.socket,
        address: str,
        command: Callable[[list[str]], list[str]] = list,
    ) -> None:
        self.log = log
        self._notify = notify
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command([sys.executable, "-m", "flprov", *words]),
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "NOTIFY_SOCKET": address},
            )

    def wait_ready(self, seconds: float = 20.0) -> None:
        """Wait until the process says READY=1, or fail with what it printed."""
        self._notify.settimeout(seconds)
        try:
            while b"READY=1" not in self._notify.recv(4096):
                pass
        except TimeoutError:
            code = self.process.poll()
            raise AssertionError(f"not ready (exit {code}):\n{self.log.read_text()[-3000:]}") from None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 20.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


class Network:
    """A provisioned project in a folder, and its processes."""

    def __init__(
        self, folder: Path, sites: int = 2, *, listen: str = "127.0.0.1", host: str = "localhost"
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.names = [f"site-{n + 1}" for n in range(sites)]
        self.running: dict[str, Running] = {}
        self._held = contextlib.ExitStack()
        self.command: Callable[[list[str]], list[str]] = list  # what stands before the words of a process
        lines = "\n".join(
            f"  - {{name: {name}, org: org-{'ab'[n % 2]}}}" for n, name in enumerate(self.names)
        )
        (folder / "project.yml").write_text(
            PROJECT.format(listen=listen, host=host, port=self.port, sites=lines, people=PEOPLE)
        )
        self.provision()
        self.gate = folder / "gate"
        self.gate.mkdir()
        for name in self.names:
            local = self.local(name)
            local.mkdir(exist_ok=True)
            (local / "policy.yml").write_text(POLICY)
            (local / "site.yml").write_text(f"datasets: {{gate: {self.gate}}}\nmetrics: off\nwarm: []\n")
        self.local("server").mkdir(exist_ok=True)
        (self.local("server") / "server.yml").write_text("metrics: off\nwarm: []\n")

    def provision(self) -> None:
        provision(load_project(self.folder / "project.yml"), self.folder / "ws", now=datetime.now(UTC))

    def kit(self, name: str) -> Path:
        return self.folder / "ws" / "kits" / name

    def local(self, name: str) -> Path:
        return self.folder / "ws" / "kits" / f"{name}.local"

    def start(self, name: str, *, kit: Path | None = None, ready: bool = True) -> Running:
        """Start the server or a site and wait until it is ready."""
        notify = self._held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        # A path, since abstract names end at the border of a network namespace; and a short one.
        address = f"{self._held.enter_context(tempfile.TemporaryDirectory(prefix='fl'))}/n"
        notify.bind(address)
        noun = "server" if name == "server" else "site"
        words = [noun, "start", str(kit or self.kit(name))]
        running = Running(words, self.folder / f"{name}.log", notify, address, self.command)
        self.running[name] = running
        if ready:
            running.wait_ready()
        return running

    def start_refused(self, name: str, *, kit: Path | None = None) -> tuple[int, str]:
        """Start something that must not run; its exit code and what it said."""
        noun = "server" if name == "server" else "site"
        words = [sys.executable, "-m", "flprov", noun, "start", str(kit or self.kit(name))]
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
        return done.returncode, done.stdout + done.stderr

    def up(self) -> Network:
        self.start("server")
        for name in self.names:
            self.start(name, ready=False)
        for name in self.names:
            self.running[name].wait_ready()
        return self

    def kill(self, name: str) -> None:
        self.running.pop(name).kill()

    def admin(self, name: str = "ada") -> Admin:
        return self._held.enter_context(contextlib.closing(open_admin(self.kit(name))))

    def open_gate(self, name: str) -> None:
        (self.gate / name).touch()

    def job_processes(self) -> list[int]:
        """Pids of shims, workers and whatever they started, by the kernel's own view."""
        own = {os.getpid(), *(running.process.pid for running in self.running.values())}
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if pid not in own and touches(pid, self.folder)]

    def close(self) -> None:
        self._held.close()
        for running in self.running.values():
            if running.process.poll() is None:
                running.process.terminate()
        for running in self.running.values():
            try:
                running.process.wait(15)
            except subprocess.TimeoutExpired:
                running.kill()
        for pid in self.job_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def touches(pid: int, folder: Path) -> bool:
    """Whether a process has its current folder or an open file below `folder`."""
    entry = Path("/proc") / str(pid)
    inside = f"{folder}/"
    with contextlib.suppress(OSError):
        links = [entry / "cwd", *(entry / "fd").iterdir()]
        for link in links:
            with contextlib.suppress(OSError):
                if str(link.readlink()).startswith(inside):
                    return True
    return False


def write_app(folder: Path, *, train: str, job: str = "", **files: str) -> Path:
    """An app whose train.py holds `train`, at least with a function train(task, site)."""
    folder.mkdir(parents=True)
    spec = f"""
name: {folder.name}
workflow: {{type: fedavg, rounds: 3}}
model: model:initial
tasks: train:train
data: [gate]
{job}
"""
    (folder / "job.yml").write_text(spec)
    (folder / "model.py").write_text(
        "import numpy as np\n\n\ndef initial():\n    return {'w': np.zeros(4, dtype=np.float32)}\n"
    )
    (folder / "train.py").write_text(train)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


PLAIN = """
import numpy as np
from flprov.messages import Update


def train(task, site):
    print("round", task.round, "at", site.name, flush=True)
    step = {"site-1": 1, "site-2": 2, "site-3": 4}[site.name]
    w = task.params["w"] + np.float32(step) / 3
    return Update(params={"w": w}, samples=10 * step, metrics={"first": float(w[0])})
"""

# Waits in round 1 until the test opens the gate named after the site.
GATED = """
import time
import numpy as np
from flprov.messages import Update


def train(task, site):
    print("round", task.round, "at", site.name, flush=True)
    if task.round == 1:
        while not (site.data("gate") / site.name).exists():
            time.sleep(0.02)
    step = {"site-1": 1, "site-2": 2, "site-3": 4}[site.name]
    w = task.params["w"] + np.float32(step) / 3
    return Update(params={"w": w}, samples=10 * step, metrics={"first": float(w[0])})
"""
