# SPDX-License-Identifier: Apache-2.0
"""strace on a process that runs: counting its system calls, and SIGKILL at the n-th of one kind."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What changes something: on the disk, or for a peer.
CALLS = ("fdatasync", "fsync", "pwrite64", "write", "rename", "unlink", "openat", "sendmsg", "ftruncate")
_LINE = re.compile(r"^(\d+)\s+(\w+)\(")


def missing() -> str:
    """Why this cannot be done here; empty: it can."""
    return "" if shutil.which("strace") else "no strace on this machine"


class Tracer:
    """strace, attached to every thread of a process."""

    def __init__(self, pid: int, *options: str) -> None:
        command = ["strace", "-f", "-p", str(pid), *options]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        if "attached" not in line:
            self.close()
            raise RuntimeError(f"strace did not attach: {line.strip()}")

    def close(self) -> None:
        """Detach; the process goes on."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


@contextmanager
def counting(pid: int, folder: Path) -> Iterator[Counter[str]]:
    """How often one thread of the process at most makes each call; filled in at the end."""
    found: Counter[str] = Counter()
    output = folder / "trace.txt"
    tracer = Tracer(pid, "-o", str(output), "-e", f"trace={','.join(CALLS)}", "-e", "signal=none")
    try:
        yield found
    finally:
        tracer.close()
        by_thread: Counter[tuple[str, str]] = Counter()
        for line in output.read_text(errors="replace").splitlines():
            if match := _LINE.match(line):
                by_thread[match[1], match[2]] += 1
        for (_, call), count in by_thread.items():
            found[call] = max(found[call], count)


def kill_at(pid: int, call: str, number: int) -> Tracer:
    """SIGKILL when some thread makes its n-th call of this kind from now on."""
    inject = f"inject={call}:signal=KILL:when={number}"
    return Tracer(pid, "-o", "/dev/null", "-e", f"trace={call}", "-e", inject, "-e", "signal=none")
