# SPDX-License-Identifier: Apache-2.0
"""GPUs through NVIDIA's own binding, over a library that answers as NVML does: read, leased, full, lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flprov._base import from_document
from flprov.wire.documents import GPU, GPUProcess, Vitals

GIB = 2**30

# In a process of its own, which finds the fake library before the system's. Each step describes the cards,
# then may ask for a lease ("lease", job, gpus, GiB) or release one ("release", job).
SCRIPT = """
import asyncio, json, sys
sys.path[:] = json.loads(sys.argv[1])
from pathlib import Path
from flprov._base import SystemClock, to_document
from flprov.agent.leases import Leases
from flprov.agent.vitals import GPUs, read_vitals
from flprov.errors import NoRoom
from flprov.jobs import Resources
from flprov.store import MemoryStore

folder, gpus = Path(sys.argv[2]), GPUs()

def measure(held):
    files = {name: folder / name for name in ("policy", "settings")}
    return read_vitals(gpus, state=folder, python=Path("python"), held=held, **files)

async def main():
    leases = Leases(MemoryStore(), SystemClock(), measure)
    for cards, *order in json.loads(sys.argv[3]):
        if cards is None:
            (folder / "cards").unlink(missing_ok=True)
        else:
            (folder / "cards").write_text(cards)
        said = None
        try:
            if order and order[0] == "lease":
                need = Resources(gpus=order[2], gpu_memory=order[3] << 30, memory=1 << 20)
                said = (await leases.lease(order[1], need)).gpus
            elif order:
                said = await leases.release(order[1])
        except NoRoom as error:
            said = str(error)
        print(json.dumps([to_document(measure(leases.all)), said]), flush=True)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a compiled libnvidia-ml.so.1."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the fake driver with")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("fake_nvml.c")
    out = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-Wall", "-Werror", "-shared", "-fPIC", "-o", out, source], check=True)
    return folder


@pytest.fixture
def drive(library: Path, tmp_path: Path):
    """Carries out steps; for each what the machine says afterwards, and what was said to the order."""

    def run(*steps: tuple[Any, ...]) -> list[tuple[Vitals, Any]]:
        words = [sys.executable, "-c", SCRIPT, json.dumps(sys.path), str(tmp_path), json.dumps(steps)]
        env = {"LD_LIBRARY_PATH": str(library), "FAKE_NVML": str(tmp_path / "cards")}
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return [(from_document(Vitals, vitals), said) for vitals, said in lines]

    return run


TWO = """
card GPU-a 8192
util 87
temp 61
process 4242 1024
process 4241 2048
used 256
card GPU-b 24576
util 0
"""
SHARED = "card GPU-a 24576\nprocess 4711 9216\n"  # 9 of 24 GiB are somebody else's


def test_every_figure_comes_through_the_binding(drive):
    [(found, _)] = drive((TWO,))
    assert found.gpu_note == ""
    assert found.gpus == (
        GPU(
            index=0,
            uuid="GPU-a",
            name="NVIDIA Fake 100",
            driver="550.54.15",
            memory_total=8 * GIB,
            memory_used=3 * GIB + (256 << 20),
            utilization=87.0,
            temperature=61.0,
            processes=(4241, 4242),
            used_by=(GPUProcess(pid=4241, memory=2 * GIB), GPUProcess(pid=4242, memory=GIB)),
        ),
        GPU(
            index=1,
            uuid="GPU-b",
            name="NVIDIA Fake 100",
            driver="550.54.15",
            memory_total=24 * GIB,
            memory_used=0,
            utilization=0.0,
            temperature=None,
        ),
    )


def test_a_driver_that_does_not_tell_who_holds_what(drive):
    [(found, _)] = drive(("card GPU-a 8192\nused 3072\nprocess 5 -1\n",))
    assert found.gpus[0].used_by == (GPUProcess(pid=5, memory=None),)
    assert found.gpus[0].free == 5 * GIB


@pytest.mark.parametrize(("cards", "note"), [(None, "no NVIDIA driver on this machine"), ("", "no GPU")])
def test_no_driver_and_no_card_are_notes(drive, cards, note):
    [(found, _)] = drive((cards,))
    assert found.gpus == ()
    assert note in found.gpu_note


def test_a_driver_that_is_loaded_later_is_found(drive):
    none, some = drive((None,), (TWO,))
    assert (len(none[0].gpus), len(some[0].gpus)) == (0, 2)


def test_a_shared_gpu_fits_a_job_that_needs_15_and_not_one_that_needs_16(drive):
    (_, refused), (_, got), (_, second), (_, freed), (_, again) = drive(
        (SHARED, "lease", "j16", 1, 16),
        (SHARED, "lease", "j15", 1, 15),
        (SHARED, "lease", "j1", 1, 1),  # 14 GiB would be left: never two jobs
        (SHARED, "release", "j15"),
        (SHARED, "lease", "j1", 1, 1),
    )
    assert refused == "needs 1 GPU of 16 GiB, has 0 (gpu 0 has 15 GiB free: 9 GiB used by pid 4711)"
    assert got == again == ["GPU-a"]
    assert second == "needs 1 GPU of 1 GiB, 0 free of 1: 1 used by job j15"
    assert freed[0] == "gpu GPU-a"


def test_room_comes_back_when_the_other_process_ends(drive):
    (_, before), (_, after) = drive(
        (SHARED, "lease", "j", 1, 20), ("card GPU-a 24576\n", "lease", "j", 1, 20)
    )
    assert "4711" in before
    assert after == ["GPU-a"]


def test_the_smallest_gpu_that_fits_is_leased(drive):
    steps = drive((TWO, "lease", "j1", 1, 4), (TWO, "lease", "j2", 1, 4))
    assert [said for _, said in steps] == [["GPU-a"], ["GPU-b"]]
    assert [gpu.leased_to for gpu in steps[-1][0].gpus] == [("j1",), ("j2",)]


def test_a_gpu_that_falls_off_the_bus_while_it_is_leased_is_named(drive):
    lost = TWO.replace("util 87", "lost")
    (_, got), (found, again), (_, other) = drive(
        (TWO, "lease", "j1", 1, 4), (lost, "lease", "j1", 1, 4), (lost, "lease", "j2", 1, 4)
    )
    assert got == ["GPU-a"]
    assert found.gpus[0].error == "GPU is lost"
    assert found.room.lost == {"GPU-a": "j1"}
    assert "gpu GPU-a, which job j1 has, cannot be used: GPU is lost" in found.notes
    assert again == "gpu GPU-a, which job j1 has, cannot be used: GPU is lost"
    assert other == ["GPU-b"]


def test_a_gpu_that_is_unplugged_while_it_is_leased_is_named(drive):
    (_, got), (found, _) = drive((TWO, "lease", "j1", 1, 20), (TWO[: TWO.index("card GPU-b")],))
    assert got == ["GPU-b"]
    assert [gpu.uuid for gpu in found.gpus] == ["GPU-a"]
    assert found.room.lost == {"GPU-b": "j1"}
    assert "gpu GPU-b, which job j1 has, is not there any more" in found.notes


def test_a_driver_that_fails_as_a_whole_is_a_note_and_comes_back(drive):
    _, broken, back = drive((TWO,), ("fail 999\n" + TWO,), (TWO,))
    assert broken[0].gpus == ()
    assert broken[0].gpu_note.startswith("NVML: ")
    assert len(back[0].gpus) == 2


def test_a_library_that_is_none_is_a_note(drive, library, tmp_path):
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"not a library")
    words = [sys.executable, "-c", SCRIPT, json.dumps(sys.path), str(tmp_path), json.dumps([[TWO]])]
    done = subprocess.run(
        words, env={"LD_LIBRARY_PATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert "no NVIDIA driver on this machine" in done.stdout
