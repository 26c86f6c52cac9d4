# SPDX-License-Identifier: Apache-2.0
"""Runs a process as a container or a hardened service would: another user, read-only root, own /tmp.

The root holds this machine's system folders, the Python that runs the tests and this checkout, to read;
what a manifest or a unit mounts comes on top. Everything is bubblewrap's; nothing is left afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flprov.kits import provision
from flprov.project import load_project

UID = 10001
ROOT = Path(__file__).resolve().parents[2]
FLPROV = Path(sys.executable).with_name("flprov")  # the script that pip installed, shebang and all

PROJECT = """
name: boxed
trust_domain: boxed.example
organisations: [{{name: org-a}}]
server: {{name: server, org: org-a, listen: "127.0.0.1:{port}", endpoints: ["localhost:{port}"]}}
sites: [{{name: hospital-a, org: org-a}}]
people: [{{name: ada, org: org-a, role: project_admin}}]
"""
APP = {
    "job.yml": "name: tiny\nworkflow: {type: fedavg, rounds: 2}\nmodel: model:initial\ntasks: train:train\n",
    "model.py": "import numpy as np\n\ndef initial():\n    return {'w': np.zeros(4, dtype=np.float32)}\n",
    "train.py": "from flprov.messages import Update\n\n"
    "def train(task, site):\n    return Update(params={'w': task.params['w'] + 1}, samples=1)\n",
}


def sandboxes_work() -> bool:
    """Whether bubblewrap may do here what these tests ask of it."""
    if not shutil.which("bwrap") or not FLPROV.exists():
        return False
    words = ["bwrap", "--unshare-user", "--uid", str(UID), "--unshare-pid", "--ro-bind", "/", "/", "true"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


needs_sandboxes = pytest.mark.skipif(not sandboxes_work(), reason="needs bubblewrap and an installed flprov")


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A folder or file of this machine inside a sandbox."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """What a container or a service sees."""

    mounts: Sequence[Mount] = ()
    scratch: Sequence[str] = ("/tmp",)  # folders of its own, gone when it ends
    links: Mapping[str, str] = field(default_factory=dict)  # name -> where it leads
    folder: str = "/"  # where it starts
    environment: Mapping[str, str] = field(default_factory=dict)
    umask: int = 0o022

    def words(self, command: Sequence[str]) -> list[str]:
        """The whole command line."""
        words = ["bwrap", "--unshare-user", "--uid", str(UID), "--gid", str(UID), "--unshare-pid"]
        words += ["--unshare-ipc", "--unshare-uts", "--die-with-parent", "--cap-drop", "ALL"]
        for path in _system():
            words += ["--ro-bind", str(path), str(path)]
        words += ["--proc", "/proc", "--dev", "/dev"]
        for path in self.scratch:
            words += ["--tmpfs", path]
        for path in dict.fromkeys((Path(sys.prefix), Path(sys.base_prefix), ROOT)):
            words += [] if path.is_relative_to("/usr") else ["--ro-bind", str(path), str(path)]
        for mount in self.mounts:
            words += ["--ro-bind" if mount.read_only else "--bind", str(mount.source), mount.target]
        for name, target in self.links.items():
            words += ["--symlink", target, name]
        words += ["--remount-ro", "/", "--chdir", self.folder, "--clearenv"]
        found = {"PATH": f"{FLPROV.parent}:/usr/local/bin:/usr/bin:/bin", **self.environment}
        for name, value in found.items():
            words += ["--setenv", name, value]
        return [*words, *command]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run something in it to its end."""
        return subprocess.run(
            self.words(command), capture_output=True, text=True, check=False, timeout=60, umask=self.umask
        )


def _system() -> list[Path]:
    names = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "sys")
    return [path for name in names if (path := Path("/") / name).is_dir()]


class Boxed:
    """A process in a sandbox, and whether it has said that it is ready."""

    def __init__(self, sandbox: Sandbox, command: Sequence[str], log: Path) -> None:
        self.log = log
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind("")  # the kernel chooses an abstract name
        environment = {**sandbox.environment, "NOTIFY_SOCKET": "@" + self._notify.getsockname()[1:].decode()}
        receiver, sender = os.pipe()
        words = Sandbox(**{**vars(sandbox), "environment": environment}).words(command)
        words[1:1] = ["--info-fd", str(sender), "--as-pid-1"]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                words, stdout=out, stderr=out, pass_fds=[sender], umask=sandbox.umask
            )
        os.close(sender)
        with open(receiver, "rb") as info:
            text = info.read()
        assert text, log.read_text()
        self.pid = json.loads(text)["child-pid"]  # of the command, as this machine counts

    def wait_ready(self, seconds: float = 30.0) -> None:
        """Until it says READY=1."""
        self._notify.settimeout(seconds)
        try:
            while b"READY=1" not in self._notify.recv(4096):
                pass
        except TimeoutError:
            raise AssertionError(f"not ready:\n{self.log.read_text()[-3000:]}") from None

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM to the first process in there, as a service manager does it; the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(seconds)

    def close(self) -> None:
        """End whatever is left of it."""
        self._notify.close()
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.process.wait(10)


class BoxedProject:
    """Kits of one server, one site and one person, as delivered into a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        (folder / "project.yml").write_text(PROJECT.format(port=self.port))
        provision(load_project(folder / "project.yml"), folder / "ws", now=datetime.now(UTC))
        self.kits = folder / "ws" / "kits"
        self.running: list[Boxed] = []
        for name in ("server", "hospital-a"):
            self.local(name).mkdir(mode=0o700)
        (self.local("hospital-a") / "policy.yml").write_text("allow: {organisations: [org-a]}\n")
        (self.local("hospital-a") / "site.yml").write_text("datasets: {}\n")

    def kit(self, name: str) -> Path:
        return self.kits / name

    def local(self, name: str) -> Path:
        return self.kits / f"{name}.local"

    def start(self, name: str, sandbox: Sandbox, command: Sequence[str]) -> Boxed:
        """Start the server or the site in its sandbox; it may not be ready yet."""
        boxed = Boxed(sandbox, command, self.folder / f"{name}.log")
        self.running.append(boxed)
        return boxed

    def run_a_job(self) -> str:
        """A job of two rounds over the site; the state in which it ended."""
        from flprov.admin import open_admin

        app = self.folder / "tiny"
        app.mkdir()
        for name, text in APP.items():
            (app / name).write_text(text)
        with contextlib.closing(open_admin(self.kit("ada"))) as admin:
            job = admin.submit(app)
            done = admin.wait(job.job_id, timeout=60)
        return f"{done.state} after {done.rounds_done} rounds"

    def close(self) -> None:
        for boxed in reversed(self.running):
            boxed.close()
