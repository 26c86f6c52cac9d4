#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A thousand sites on one server: its memory, `status`, an empty round, and all back after SIGKILL.

    python benchmarks/herd.py [--sites 1000] [--runs 3] [-o benchmarks/results]

The server is a real process, and so many real agents, each with its own kit, run in a few processes beside it
(see drove.py). They share the machine's cores with the server, so every time here holds the sites' part too:
on their own machines they would take none of it. Their state lies in memory (/dev/shm): a thousand sites have
a thousand disks, and this machine has one, which is the server's here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from network import large_project, repeat
from report import Measure, write_report
from trial import FLPROV

HERE = Path(__file__).resolve().parent
ROUNDS_APP = HERE / "apps" / "rounds"
DROVE = HERE / "drove.py"
SITES = 1000
DROVES = 4  # processes that the agents are spread over
ROUNDS = 8
IDLE = 20.0  # seconds over which an idle server is watched
PATIENCE = 120.0  # seconds
MIB = 2**20


class Herd:
    """A server and its sites, all of them connected once `up` has returned."""

    def __init__(self, folder: Path, *, sites: int, droves: int = DROVES) -> None:
        self.sites = sites
        self._folder = folder
        self._states = Path(tempfile.mkdtemp(prefix="flprov-herd-", dir="/dev/shm"))
        self._droves = droves
        self._drove: list[subprocess.Popen[str]] = []
        self._kits = folder / "workspace" / "kits"
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("FLPROV_")}
        self._environment["XDG_CONFIG_HOME"] = str(folder / "config")
        self._environment["FLPROV_KIT"] = str(self._kits / "admin")

    def up(self) -> float:
        """Provision and start; the seconds from the start of the sites until the last is connected."""
        self._provision()
        self.start_server()
        began = time.time()
        names = [f"site-{number}" for number in range(1, self.sites + 1)]
        for first in range(self._droves):
            command = [sys.executable, str(DROVE), str(self._kits), str(self._states)]
            command += names[first :: self._droves]
            self._drove.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        return self.wait_connected(began)

    def _provision(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        project = self._folder / "project.yml"
        project.write_text(large_project(self.sites).replace("8443", str(port)))
        self.command("provision", str(project), "-o", str(self._folder / "workspace"))
        for number in range(1, self.sites + 1):
            local = self._kits / f"site-{number}.local"
            local.mkdir(mode=0o700)
            (local / "policy.yml").write_text("allow: {organisations: [org-1]}\n")

    def command(self, *words: str) -> str:
        """Run `flprov ...`; what it printed."""
        done = subprocess.run(
            [*FLPROV, *words], env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"flprov {' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    # ---- the server ----------------------------------------------------------------------

    def start_server(self) -> None:
        """And return at once."""
        with (self._folder / "server.log").open("ab") as log:
            command = [*FLPROV, "server", "start", str(self._kits / "server")]
            self._server = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        self.process = psutil.Process(self._server.pid)

    def kill_server(self) -> None:
        """SIGKILL."""
        self._server.send_signal(signal.SIGKILL)
        self._server.wait()

    def memory(self) -> tuple[float, float]:
        """Resident MiB of the server: all of it, and what is its own (RssAnon)."""
        text = Path(f"/proc/{self._server.pid}/status").read_text()
        found = {name: float(rest.split()[0]) / 1024 for name, _, rest in _fields(text) if name in _RSS}
        return found["VmRSS"], found["RssAnon"]

    def cpu(self) -> float:
        """Seconds of processor that the server has taken."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    # ---- the sites -----------------------------------------------------------------------

    def wait_connected(self, after: float) -> float:
        """Until every site has a link that came up after this time of day; how long after it the last did."""
        for drove in self._drove:
            assert drove.stdin is not None
            drove.stdin.write(json.dumps({"connected_after": after}) + "\n")
            drove.stdin.flush()
        links = []
        for drove in self._drove:
            assert drove.stdout is not None
            links += json.loads(drove.stdout.readline())["links"]
        return float(max(links)) - after

    def cpu_of_sites(self) -> float:
        """Seconds of processor that all sites together have taken."""
        times = [psutil.Process(drove.pid).cpu_times() for drove in self._drove]
        return float(sum(each.user + each.system for each in times))

    def down(self) -> None:
        """End everything, and remove what the sites have written."""
        for process in (self._server, *self._drove):
            process.kill()
            process.wait()
        shutil.rmtree(self._states)


_RSS = ("VmRSS", "RssAnon")


def _fields(text: str) -> Iterator[tuple[str, str, str]]:
    return (line.partition(":") for line in text.splitlines())


@contextlib.contextmanager
def herd(sites: int, droves: int = DROVES) -> Iterator[Herd]:
    """One that is not up yet, and that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="flprov-herd-") as folder:
        made = Herd(Path(folder), sites=sites, droves=droves)
        try:
            yield made
        finally:
            made.down()


if __name__ == "__main__":
    n = int(sys.argv[1])
    with herd(n) as h:
        print("up", h.up()); print("mem", h.memory(), "cpu", h.cpu(), h.cpu_of_sites())
        for _ in range(3):
            b = time.time(); h.command("status"); print("status", time.time() - b)
        b = time.time(); x = h.command("status", "--json"); print("status json", time.time() - b, len(x))
        c, s = h.cpu(), h.cpu_of_sites(); time.sleep(10); print("idle 10 s: cpu", h.cpu() - c, h.cpu_of_sites() - s)
        print("mem", h.memory())
        c, s = h.cpu(), h.cpu_of_sites()
        b = time.time(); j = json.loads(h.command("job", "submit", str(ROUNDS_APP), "--json", "--set", "rounds=6"))["job_id"]
        h.command("job", "wait", j)
        job = json.loads(h.command("job", "show", j, "--json"))
        print("job", job["state"], time.time() - b, "cpu", h.cpu() - c, h.cpu_of_sites() - s)
        st = [datetime.fromisoformat(r["started_at"]).timestamp() for r in job["rounds"]]
        en = [datetime.fromisoformat(r["finished_at"]).timestamp() for r in job["rounds"]]
        print("rounds", [round(e - s, 2) for s, e in zip(st, en)], "between", [round(q - p, 2) for p, q in zip(en, en[1:])], len(job["rounds"][-1]["contributors"]))
        print("mem", h.memory())
        for _ in range(2):
            s = h.cpu_of_sites()
            h.kill_server(); k = time.time(); h.start_server(); print("back", h.wait_connected(k), "cpu", h.cpu(), h.cpu_of_sites() - s); print("mem", h.memory())
        if "-i" in sys.argv: input()
