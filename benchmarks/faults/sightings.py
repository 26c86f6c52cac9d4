# SPDX-License-Identifier: Apache-2.0
"""The kernel's own view of a network's job processes, and the files that jobs left."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path

from faults.history import Seen

_SHIM = re.compile(rb"flprov-shim:([0-9a-z]+)")
_PLACE = re.compile(rb"kits/([^/]+)\.local/state/jobs/([0-9a-z]+)")
_MAINS = {b"flprov.workers.workflow_main": "workflow", b"flprov.workers.site_main": "worker"}
_TEMPORARY = ("*.partial", "*.tmp", "*.sock", "*.part")
_TAG = b"FLPROV_JOB_TAG="


def see_processes(folder: Path) -> tuple[Seen, ...]:
    """Every living process of a job of the network in `folder`: shims, workers, and what these started."""
    root = os.fsencode(folder)
    found: list[Seen] = []
    tags: dict[bytes, Seen] = {}
    others: list[tuple[int, int, bytes]] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            command = (entry / "cmdline").read_bytes()
            started = _started(pid)
            if not command or started is None:
                continue
            tag = _tag_of(pid)
            seen = _one(pid, started, command, root)
            if seen is not None:
                found.append(seen)
                if tag and seen.kind != "shim":
                    tags[tag] = seen
            elif tag:
                others.append((pid, started, tag))
    for pid, started, tag in others:
        if tag in tags:
            parent = tags[tag]
            found.append(Seen(pid=pid, started=started, party=parent.party, job=parent.job, kind="other"))
    return tuple(found)


def _one(pid: int, started: int, command: bytes, root: bytes) -> Seen | None:
    shim = _SHIM.search(command)
    if shim is not None:
        party = _party_of_shim(pid, root)
        job = shim[1].decode()
        return Seen(pid=pid, started=started, party=party, job=job, kind="shim") if party else None
    place = _PLACE.search(command)
    if root not in command or place is None:
        return None
    kind = next((kind for main, kind in _MAINS.items() if main in command), "other")
    return Seen(pid=pid, started=started, party=place[1].decode(), job=place[2].decode(), kind=kind)


def _party_of_shim(pid: int, root: bytes) -> str:
    """Whose it is: by the log in the job's folder, which it holds open."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.fsencode(descriptor.readlink())
            place = _PLACE.search(target)
            if target.startswith(root) and place is not None:
                return place[1].decode()
    return ""


def _started(pid: int) -> int | None:
    """Start time in ticks since boot; None for the dead that nobody has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _tag_of(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if word.startswith(_TAG):
                return word
    return b""


def see_files(folder: Path, ended: set[str]) -> tuple[str, ...]:
    """Temporary files below the parties' state folders, folders of ended jobs at sites, and short names."""
    found: list[str] = []
    for state in sorted(folder.glob("ws/kits/*.local/state")):
        found += [str(path.relative_to(folder)) for path in _temporary(state) if not _own_socket(path)]
        if state.parent.name != "server.local":
            found += [
                str(state.relative_to(folder) / "jobs" / job)
                for job in ended
                if (state / "jobs" / job).exists()
            ]
    for name in Path("/dev/shm").glob("flprov-*"):
        with contextlib.suppress(OSError):
            if name.is_symlink() and str(name.readlink()).startswith(f"{folder}/"):
                found.append(f"{name} -> {name.readlink()}")
    return tuple(found)


def _temporary(state: Path) -> Iterator[Path]:
    """By os.walk, which passes over what goes while it looks; Path.rglob does not."""
    for place, folders, files in os.walk(state):
        for name in (*folders, *files):
            if any(fnmatch.fnmatch(name, pattern) for pattern in _TEMPORARY):
                yield Path(place, name)


def _own_socket(path: Path) -> bool:
    """Whether it is the agent's or server's own socket, which belongs there."""
    return path.suffix == ".sock" and path.parent.name == "state"
