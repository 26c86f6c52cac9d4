# SPDX-License-Identifier: Apache-2.0
"""What jobs take of this machine: counted over the whole subtree of each shim, and of no other process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flprov._base import canonical_json
from flprov.workers import Footprint, read_footprints
from flprov.workers.processes import boot_id, start_time
from flprov.workers.record import SHIM_RECORD, ShimRecord

MIB = 1 << 20

# A child that holds 60 MiB, and its own child that holds 40; both say when they do.
TREE = """
import subprocess, sys
held = b"x" * (60 << 20)
child = subprocess.Popen([sys.executable, "-c", "h = b'x' * (40 << 20); print('up', flush=True); input()"])
input()
child.kill()
child.wait()
"""


@pytest.fixture
def tree() -> Iterator[int]:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", TREE], stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    yield process.pid
    process.communicate(b"\n\n")


def shim(folder: Path, pid: int, *, started: int | None = None, boot: str = "") -> Path:
    folder.mkdir()
    record = ShimRecord(
        job_id=folder.name,
        pid=pid,
        started=start_time(pid) if started is None else started,
        boot=boot or boot_id(),
        tag="t",
    )
    (folder / SHIM_RECORD).write_bytes(canonical_json(record))
    return folder


def test_the_whole_subtree_counts(tmp_path, tree):
    folder = shim(tmp_path / "j1", tree)
    found = read_footprints([folder])[folder]
    assert tree in found.pids
    assert len(found.pids) == 2
    assert 100 * MIB < found.memory < 200 * MIB
    assert os.getpid() not in found.pids


def test_a_number_that_belongs_to_somebody_else_by_now_counts_nothing(tmp_path, tree):
    folders = [
        shim(tmp_path / "later", tree, started=1),
        shim(tmp_path / "other-boot", tree, boot="another"),
        shim(tmp_path / "gone", 2**22 + 1, started=5),
        tmp_path / "never",
    ]
    assert read_footprints(folders) == dict.fromkeys(folders, Footprint())
