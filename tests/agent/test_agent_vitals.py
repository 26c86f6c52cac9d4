# SPDX-License-Identifier: Apache-2.0
"""The state of a site's machine: with a driver, without one, and with files that cannot be read."""

# ruff: noqa: N802 - the fake has pynvml's names

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
from agent_parties import NOW
from agent_rig import FakeGPUs, make_gpu

from flprov._base import canonical_json, from_document, parse_json
from flprov.agent.leases import HeldLease
from flprov.agent.vitals import GPUs, read_vitals
from flprov.wire.documents import GPU, GPUProcess, Vitals
from flprov.workers import Footprint

# ---- a driver that is made of Python -----------------------------------------------------------


class NVMLError(Exception):
    pass


class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801 - pynvml's name
    pass


class FakeNVML(ModuleType):
    """The functions of pynvml that are asked for, over cards that a test describes."""

    NVMLError = NVMLError

    def __init__(self, *cards: dict[str, object]) -> None:
        super().__init__("pynvml")
        self.cards = [{"uuid": f"GPU-{n}", "name": "A100", "pids": []} | card for n, card in enumerate(cards)]
        self.inits = 0
        self.broken: Exception | None = None

    def nvmlInit(self) -> None:
        self.inits += 1
        self._verify()

    def nvmlDeviceGetCount(self) -> int:
        self._verify()
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict:
        return self.cards[index]

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"550.54"

    def nvmlDeviceGetUUID(self, card) -> str | bytes:
        return card["uuid"]

    def nvmlDeviceGetName(self, card) -> str | bytes:
        return card["name"]

    def nvmlDeviceGetMemoryInfo(self, card) -> SimpleNamespace:
        return SimpleNamespace(total=100, used=card.get("used", 0))

    def nvmlDeviceGetUtilizationRates(self, card) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._figure(card, "busy"))

    def nvmlDeviceGetTemperature(self, card, sensor: int) -> int:
        assert sensor == 0
        return self._figure(card, "degrees")

    def nvmlDeviceGetComputeRunningProcesses(self, card) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=card.get("each")) for pid in card["pids"]]

    def _figure(self, card, name: str):
        if name not in card:
            raise NVMLError("not supported")
        return card[name]

    def _verify(self) -> None:
        if self.broken is not None:
            raise self.broken


@pytest.fixture
def driver(monkeypatch):
    """Puts cards into this machine."""

    def put(*cards: dict[str, object]) -> FakeNVML:
        fake = FakeNVML(*cards)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return put


@pytest.fixture
def gpus():
    return GPUs()


def test_a_gpu_is_read_with_all_its_figures(driver, gpus):
    driver({"used": 40, "busy": 87, "degrees": 61, "pids": [9, 7, 9]})
    assert gpus.read() == (
        GPU(
            index=0,
            uuid="GPU-0",
            name="A100",
            driver="550.54",
            memory_total=100,
            memory_used=40,
            utilization=87.0,
            temperature=61.0,
            processes=(7, 9),
            used_by=(GPUProcess(pid=7), GPUProcess(pid=9)),
        ),
    )
    assert gpus.note == ""


def test_a_figure_that_a_card_does_not_have_is_absent(driver, gpus):
    driver({"busy": 3})
    [gpu] = gpus.read()
    assert (gpu.utilization, gpu.temperature) == (3.0, None)


def test_older_drivers_give_bytes(driver, gpus):
    driver({"uuid": b"GPU-b", "name": b"K80"})
    assert [(gpu.uuid, gpu.name) for gpu in gpus.read()] == [("GPU-b", "K80")]


def test_a_driver_without_cards_says_so(driver, gpus):
    driver()
    assert gpus.read() == ()
    assert "no GPU" in gpus.note


def test_the_driver_is_opened_once(driver, gpus):
    fake = driver({})
    gpus.read()
    gpus.read()
    assert fake.inits == 1


def test_a_driver_that_fails_is_a_note_and_is_tried_again(driver, gpus):
    fake = driver({})
    assert len(gpus.read()) == 1
    fake.broken = NVMLError("GPU is lost")
    assert gpus.read() == ()
    assert gpus.note == "NVML: GPU is lost"
    fake.broken = None
    assert len(gpus.read()) == 1
    assert gpus.note == ""


def test_a_machine_without_a_driver_says_so(driver, gpus):
    driver().broken = NVMLError_LibraryNotFound("NVML Shared Library Not Found")
    assert gpus.read() == ()
    assert gpus.note == "no NVIDIA driver on this machine"


# ---- the whole ---------------------------------------------------------------------------------


def read(config, *gpus: GPU, jobs: tuple[str, ...] = ()) -> Vitals:
    return read_vitals(
        FakeGPUs(*gpus),
        state=config.state,
        policy=config.policy,
        settings=config.settings,
        python=config.python,
        jobs=jobs,
    )


def test_vitals_travel_as_a_document(config):
    found = read(config, make_gpu(0), jobs=("j1",))
    assert from_document(Vitals, parse_json(canonical_json(found))) == found
    assert found.jobs == ("j1",)
    assert found.gpus[0].name == "A100"
    assert found.cpu.count >= 1
    assert 0 < found.memory.available <= found.memory.total
    assert 0 < found.disk.available <= found.disk.total
    assert found.python == sys.executable
    assert found.notes == ()


def test_it_tells_which_datasets_and_interpreter_the_site_names(config):
    config.settings.write_text("datasets: {b: /b, a: /a}\npython: /opt/python\n")
    found = read(config)
    assert found.datasets == ("a", "b")
    assert found.python == "/opt/python"


def test_a_policy_that_allows_nobody_is_told(config):
    config.policy.write_text("{}")
    assert "its policy.yml allows nobody, so it takes no jobs" in read(config).notes[0]
    config.policy.unlink()
    assert "it has no policy.yml, so it takes no jobs" in read(config).notes[0]


@pytest.mark.parametrize("name", ["policy", "settings"])
def test_a_file_with_mistakes_is_told_with_its_line(config, name):
    path = getattr(config, name)
    path.write_text("\nalow: 1\n")
    assert f"{path.name}:2" in read(config).notes[0]


def test_a_file_that_cannot_be_read_is_told_and_stops_no_heartbeat(config):
    config.policy.unlink()
    config.policy.symlink_to(config.policy.name)  # a link to itself: ELOOP
    assert "cannot be read" in read(config).notes[0]


def test_a_waived_confinement_is_told(config):
    assert read(config).confinement in ("landlock", "bubblewrap", "none")
    config.policy.write_text("allow: {organisations: [org-a]}\nunconfined: true\n")
    assert read(config).confinement == "unconfined"


# ---- room --------------------------------------------------------------------------------------


def held(**changes) -> dict[str, HeldLease]:
    lease = HeldLease(job_id="j1", name="toy", at=NOW, cpus=1, memory=1 << 30, disk=1 << 20)
    return {"j1": replace(lease, **changes)}


def read_room(config, leases, *gpus: GPU) -> Vitals:
    return read_vitals(
        FakeGPUs(*gpus),
        state=config.state,
        policy=config.policy,
        settings=config.settings,
        python=config.python,
        held=leases,
    )


def test_what_is_leased_is_not_left(config):
    before, after = read_room(config, {}), read_room(config, held())
    assert before.room.cpus - after.room.cpus == 1
    assert before.room.held == ()
    assert [(one.job_id, one.cpus, one.memory) for one in after.room.held] == [("j1", 1, 1 << 30)]
    assert after.room.memory <= after.memory.available - (1 << 30)
    assert after.room.disk <= after.disk.available - (1 << 20)


def test_what_a_job_uses_already_is_not_taken_off_twice(config, monkeypatch):
    folder = config.state / "jobs" / "j1"
    used = {folder: Footprint(pids=frozenset({7}), memory=1 << 30)}
    monkeypatch.setattr("flprov.agent.vitals.read_footprints", lambda folders: used if folders else {})
    found = read_room(config, held())
    assert found.room.memory == found.memory.available


def test_which_job_has_a_gpu_and_which_processes_are_ours(config, monkeypatch):
    folder = config.state / "jobs" / "j1"
    ours = {folder: Footprint(pids=frozenset({7}), memory=0)}
    monkeypatch.setattr("flprov.agent.vitals.read_footprints", lambda _: ours)
    processes = (GPUProcess(pid=7, memory=5), GPUProcess(pid=8, memory=3))
    card = replace(make_gpu(0, total=100, used=10), used_by=processes)
    found = read_room(config, held(gpus=("GPU-0",)), card).gpus[0]
    assert found.leased_to == ("j1",)
    assert [(process.pid, process.ours) for process in found.used_by] == [(7, True), (8, False)]
    assert found.free == 97
    assert replace(found, leased_to=()).free == 90


def test_the_ceilings_of_the_policy_are_told(config):
    config.policy.write_text("allow: {people: [leo]}\nceilings: {gpus: 1, cpus: 2, memory: 3GiB, jobs: 4}\n")
    found = read_room(config, {}).room.ceilings
    assert (found.gpus, found.cpus, found.memory, found.jobs) == (1, 2, 3 << 30, 4)
