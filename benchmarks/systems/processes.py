# SPDX-License-Identifier: Apache-2.0
"""Processes as the kernel tells of them: who descends from whom, what memory each has had, and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

PROC = Path("/proc")
SERVER, SERVER_WARM, SERVER_JOB = "server", "server, beside it", "server, job"
SITE, SITE_WARM, SITE_JOB = "site", "site, beside it", "site, job"
ROLES = (SERVER, SERVER_WARM, SERVER_JOB, SITE, SITE_WARM, SITE_JOB)
ALL = "all processes"
_EVERY = 0.02  # seconds between two looks
_LEARN_EVERY = 0.25  # seconds; new processes of a job live for longer
_SHARE = 0.05  # of one core, that looking may take at most
_MB = 1_000_000 / 1024  # this many of the kernel's kB, of 1,024 bytes each


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most memory that a process of a role had, in MB; of `ALL`, the most of all together."""

    rss: float  # VmHWM: every resident page, those of mapped files too
    anon: float  # RssAnon: what no file backs; sampled
    processes: int


class Peaks:
    """Watches the descendants of some processes for as long as it is entered.

    What already ran when it was entered belongs beside its server or site; what comes later is the job's.
    """

    def __init__(self, roots: Mapping[int, str]) -> None:
        self._roots = dict(roots)
        self._role = dict(roots)
        self._found: dict[int, tuple[float, float]] = {}
        self._total = (0.0, 0.0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peaks:
        self._learn(beside=True)
        for pid in self._role:
            _forget_peak(pid)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def by_role(self) -> dict[str, Peak]:
        """What was seen."""
        found = {}
        for role in ROLES:
            seen = [peak for pid, peak in list(self._found.items()) if self._role[pid] == role]
            if seen:
                found[role] = Peak(
                    rss=max(rss for rss, _ in seen), anon=max(anon for _, anon in seen), processes=len(seen)
                )
        found[ALL] = Peak(rss=self._total[0], anon=self._total[1], processes=len(self._found))
        return found

    def _watch(self) -> None:
        pause, learned = _EVERY, 0.0
        while not self._over.wait(pause):
            began = time.monotonic()
            if began - learned > _LEARN_EVERY:  # it reads all of /proc
                self._learn(beside=False)
                learned = began
            self._look()
            pause = max(_EVERY, (time.monotonic() - began) / _SHARE)

    def _learn(self, *, beside: bool) -> None:
        for pid, root in descendants(self._roots).items():
            server = self._roots[root] == SERVER
            role = (SERVER_WARM if server else SITE_WARM) if beside else (SERVER_JOB if server else SITE_JOB)
            self._role.setdefault(pid, role)

    def _look(self) -> None:
        total_rss = total_anon = 0.0
        for pid in self._role:
            memory = read_memory(pid)
            if memory is None:
                continue
            now, peak, anon = memory
            before = self._found.get(pid, (0.0, 0.0))
            self._found[pid] = (max(before[0], peak), max(before[1], anon))
            total_rss, total_anon = total_rss + now, total_anon + anon
        self._total = (max(self._total[0], total_rss), max(self._total[1], total_anon))


def read_memory(pid: int) -> tuple[float, float, float] | None:
    """VmRSS, VmHWM and RssAnon of a process in MB; None when it has ended."""
    try:
        text = (PROC / str(pid) / "status").read_text()
    except OSError:
        return None
    found = dict(line.split(":", 1) for line in text.splitlines())
    if "RssAnon" not in found:  # it has ended, and nobody has asked how
        return None
    rss, peak, anon = (int(found[key].split()[0]) / _MB for key in ("VmRSS", "VmHWM", "RssAnon"))
    return rss, peak, anon


def _forget_peak(pid: int) -> None:
    """Let VmHWM begin again at what is resident now (proc(5), clear_refs)."""
    try:
        (PROC / str(pid) / "clear_refs").write_text("5")
    except OSError:
        return  # it has ended, or is not ours: the peak of its life stands


def descendants(roots: Iterable[int]) -> dict[int, int]:
    """Every process below the roots, and below which of them it is."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found: dict[int, int] = {}
    for root in roots:
        waiting = list(children.get(root, ()))
        while waiting:
            pid = waiting.pop()
            found[pid] = root
            waiting += children.get(pid, ())
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for entry in os.listdir(PROC):  # noqa: PTH208 a Path for each is slower than the reading
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    text = file.read()
            except OSError:
                continue
            yield int(entry), int(text.rpartition(b")")[2].split()[1])


def marked(folder: Path) -> dict[int, str]:
    """The processes whose environment names `folder`, with their command lines."""
    found = {}
    for entry in os.listdir(PROC):  # noqa: PTH208
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            if os.fsencode(folder) in Path(f"/proc/{entry}/environ").read_bytes():
                found[int(entry)] = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def end_all(folder: Path) -> None:
    """SIGKILL whatever was started with `folder` in its environment, until there is nothing."""
    while pids := marked(folder):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def run_command(
    command: Sequence[str | Path], *, environment: Mapping[str, str], folder: Path, patience: float
) -> str:
    """What it printed.

    Raises:
        subprocess.SubprocessError: it failed, or took longer than `patience` and was ended.
    """
    done = subprocess.run(
        [str(word) for word in command],
        env=dict(environment), cwd=folder, capture_output=True, text=True, check=True, timeout=patience,
        start_new_session=True,  # Ctrl-C is for the benchmark, which then ends what it has started
    )  # fmt: skip
    return done.stdout
