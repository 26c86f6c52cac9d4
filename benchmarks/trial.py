# SPDX-License-Identifier: Apache-2.0
"""A trial network for benchmarks: real processes through the commands that people type."""

from __future__ import annotations

import compileall
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import psutil

import flprov
from flprov.admin import Admin, open_admin
from flprov.errors import FlprovError

FLPROV = (sys.executable, "-m", "flprov")


def compile_package() -> None:
    """What pip does when it installs one, and Python does later unless PYTHONDONTWRITEBYTECODE is set.

    Else each process compiles whatever was edited since: `flprov status` 1 ms for each such file.
    """
    compileall.compile_dir(Path(flprov.__file__).parent, quiet=2)


class CommandFailed(Exception):
    """A command of flprov ended with a status that it should not have."""


class Trial:
    """One network in `folder`; the choice of the user's own admin kit stays as it is."""

    def __init__(self, folder: Path, *, sites: int) -> None:
        self.folder = folder / "network"
        self.sites = sites
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("FLPROV_")}
        self._environment["XDG_CONFIG_HOME"] = str(folder / "config")
        compile_package()

    def up(self) -> None:
        """Make it, start it, and return when all is ready."""
        self.command("poc", "up", "-n", str(self.sites), "-o", str(self.folder))

    def down(self) -> None:
        """End every process and remove the files."""
        self.command("poc", "down", "-o", str(self.folder), "--delete")

    def command(self, *words: str, allowed: Iterable[int] = (0,), patience: float | None = None) -> str:
        """Run `flprov ...`; what it printed.

        Raises:
            CommandFailed: its exit status is not one of `allowed`.
            subprocess.TimeoutExpired: it took longer than `patience`, in seconds, and was ended.
        """
        done = subprocess.run(
            [*FLPROV, *words],
            env=self._environment, capture_output=True, text=True, check=False, timeout=patience,
        )  # fmt: skip
        if done.returncode not in allowed:
            raise CommandFailed(f"flprov {' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Begin `flprov ...` and do not wait for it."""
        quiet = subprocess.DEVNULL
        return subprocess.Popen([*FLPROV, *words], env=self._environment, stdout=quiet, stderr=quiet)

    def admin(self) -> Admin:
        """A client of the network's admin."""
        return open_admin(self._state()["admin_kit"])

    def parties(self) -> list[dict[str, Any]]:
        """Server and sites, as `poc status --json` says."""
        found: list[dict[str, Any]] = self._state()["parties"]
        return found

    def _state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("poc", "status", "-o", str(self.folder), "--json"))
        return found

    def processes(self) -> set[int]:
        """The processes that server and sites have started, directly or not: shims, workers, theirs."""
        roots = [psutil.Process(party["pid"]) for party in self.parties()]
        return {child.pid for root in roots for child in root.children(recursive=True)}

    def submit(self, app: Path, *options: str) -> dict[str, Any]:
        """What `job submit --json` says."""
        found: dict[str, Any] = json.loads(self.command("job", "submit", str(app), "--json", *options))
        return found

    def run(self, app: Path, *options: str, patience: float | None = None) -> dict[str, Any]:
        """Submit, wait for its end, and return what `job show --json` says.

        Raises:
            CommandFailed: the job did not complete.
            subprocess.TimeoutExpired: it had not ended after `patience`, in seconds.
        """
        with self.admin() as admin:  # connected before: a command that starts would take time from rounds
            job = self.submit(app, *options)["job_id"]
            waiting = Thread(target=follow, args=(admin, job), daemon=True)
            waiting.start()
            waiting.join(patience)
            if waiting.is_alive():
                raise subprocess.TimeoutExpired(f"job {job}", patience or 0.0)
        found: dict[str, Any] = json.loads(self.command("job", "show", job, "--json"))
        if found["state"] != "completed":
            raise CommandFailed(f"job {job} is {found['state']}: {found['reason']}")
        return found


def follow(admin: Admin, job: str) -> None:
    """Wait until a job has ended, by its log: nobody watches its rounds."""
    with suppress(FlprovError):  # the network has gone first
        for _ in admin.logs(job, follow=True):
            pass


class Watch:
    """Processes by their pidfds: the kernel tells when each has ended, whatever number it has by then."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._opened = ExitStack()
        self._poller = select.poll()
        self._waiting: set[int] = set()
        for pid in pids:
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue  # it has ended already
            self._opened.callback(os.close, handle)
            self._poller.register(handle, select.POLLIN)
            self._waiting.add(handle)

    def wait(self, timeout: float) -> float:
        """The time (of time.monotonic) at which the last one ended.

        Raises:
            TimeoutError: some have not.
        """
        deadline = time.monotonic() + timeout
        with self._opened:
            while self._waiting:
                events = self._poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
                if not events:
                    raise TimeoutError(f"{len(self._waiting)} processes still run after {timeout:g} s")
                for handle, _ in events:
                    self._poller.unregister(handle)
                    self._waiting.remove(handle)
            return time.monotonic()


def large_project(sites: int) -> str:
    """A project.yml with that many sites."""
    lines = [
        "name: large",
        "trust_domain: large.example",
        "organisations: [{name: org-1}]",
        'server: {name: server, org: org-1, endpoints: ["localhost:8443"]}',
        "people: [{name: admin, org: org-1, role: project_admin}]",
        "sites:",
        *(f"  - {{name: site-{number}, org: org-1}}" for number in range(1, sites + 1)),
    ]
    return "\n".join(lines) + "\n"
