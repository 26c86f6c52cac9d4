# SPDX-License-Identifier: Apache-2.0
"""ProcessLauncher: the conformance suite under every confinement, and what is its own."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from launching import EVERY_METHOD, gone

from flprov import errors
from flprov.testing.launcher_conformance import (
    IGNORE_TERM,
    WAIT,
    LauncherConformance,
    alive_with,
    order_for,
    told,
)
from flprov.workers import LaunchOrder, Method, ProcessLauncher
from flprov.workers import launcher as launcher_module
from flprov.workers.parent import open_door
from flprov.workers.record import SHIM_SOCKET


class _Waived:
    """A launcher whose site waives confinement."""

    def __init__(self, launcher):
        self._launcher = launcher

    async def launch(self, order: LaunchOrder):
        import dataclasses

        return await self._launcher.launch(dataclasses.replace(order, unconfined=True))

    async def adopt(self, folder):
        return await self._launcher.adopt(folder)


class TestProcessLauncher(LauncherConformance):
    @pytest.fixture(params=EVERY_METHOD, ids=lambda method: method.value)
    def launcher(self, request):
        launcher = ProcessLauncher(method=request.param)
        return _Waived(launcher) if request.param is Method.NONE else launcher


async def test_unconfined_is_refused_unless_the_site_waives_it(tmp_path):
    launcher = ProcessLauncher(method=Method.NONE)
    with pytest.raises(errors.ConfinementRefused, match="cannot be confined on this machine") as caught:
        await launcher.launch(order_for(tmp_path / "job", WAIT))
    assert "unconfined: true" in caught.value.hint
    assert not (tmp_path / "job" / "shim.json").exists()


async def test_a_waiver_does_not_switch_off_what_works(tmp_path):
    process = await ProcessLauncher().launch(order_for(tmp_path / "job", WAIT, unconfined=True))
    assert process.confinement != "none"
    assert await process.stop(1) == ()


async def test_missing_interpreter_is_named(tmp_path):
    order = order_for(tmp_path / "job", WAIT, python=Path("/nowhere/python"))
    with pytest.raises(errors.LocalError, match="interpreter /nowhere/python"):
        await ProcessLauncher().launch(order)


async def test_interpreter_that_is_none_is_named(tmp_path):
    order = order_for(tmp_path / "job", WAIT, python=Path("/bin/true"))
    with pytest.raises(errors.LocalError, match="did not answer as a Python does"):
        await ProcessLauncher().launch(order)


@pytest.mark.parametrize("above", ["", pytest.param("s" * 300, id="cannot be looked at")])
async def test_missing_dataset_is_named(tmp_path, above):
    order = order_for(tmp_path / "job", WAIT, readable=(tmp_path / above / "scans",))
    with pytest.raises(errors.LocalError, match=r"dataset folder .*/scans does not exist"):
        await ProcessLauncher().launch(order)


async def test_what_the_machine_refuses_is_an_error_of_ours(tmp_path, monkeypatch):
    def plan(*_):
        raise FileNotFoundError(2, "No such file or directory", "/opt/venv/share")

    monkeypatch.setattr(launcher_module, "plan_launch", plan)
    with pytest.raises(errors.LocalError, match=r"could not be started: .*/opt/venv/share"):
        await ProcessLauncher().launch(order_for(tmp_path / "job", WAIT))


async def test_unknown_gpu_is_named(tmp_path):
    order = order_for(tmp_path / "job", WAIT, gpus=("GPU-00000000-not-here",))
    with pytest.raises(errors.LocalError, match="knows no GPU GPU-00000000-not-here"):
        await ProcessLauncher().launch(order)


@pytest.mark.parametrize("what", ["jobs", "kit"])
async def test_dataset_that_contains_what_is_private_is_refused(tmp_path, what):
    (tmp_path / "kit").mkdir()
    folder = tmp_path / "state" / "jobs" / "job"
    readable = tmp_path / "state" if what == "jobs" else tmp_path / "kit"
    order = order_for(folder, WAIT, readable=(readable,), private=(tmp_path / "kit",))
    with pytest.raises(errors.ConfinementRefused, match="job code would see"):
        await ProcessLauncher().launch(order)
    assert not (folder / "shim.json").exists()


async def test_failing_launch_leaves_no_process_and_no_descriptor(tmp_path):
    launcher = ProcessLauncher()
    order = order_for(tmp_path / "job", WAIT, readable=(tmp_path,))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(errors.ConfinementRefused):
            await launcher.launch(order)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_cancelled_launch_leaves_nothing(tmp_path):
    launching = asyncio.create_task(
        ProcessLauncher().launch(order_for(tmp_path / "job", IGNORE_TERM, grace=0))
    )
    shim = tmp_path / "job" / "shim.json"
    while not shim.exists():
        await asyncio.sleep(0)
    launching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await (await launching).stop(0)
    await asyncio.get_running_loop().shutdown_default_executor()
    assert gone(json.loads(shim.read_text())["pid"])
    assert alive_with(str(tmp_path / "job")) == []


async def test_cancelled_launch_waits_for_no_shim_that_was_stopped(tmp_path, stopped_shims):
    order = order_for(tmp_path / "job", WAIT, orphan_seconds=60)
    launching = asyncio.create_task(ProcessLauncher().launch(order))
    await stopped_shims.begun.wait()
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    assert stopped_shims.statuses == [-signal.SIGKILL]
    assert alive_with(str(tmp_path / "job")) == []
    await asyncio.get_running_loop().shutdown_default_executor()  # as at the end of asyncio.run


async def test_worker_gets_an_environment_made_from_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "hunter2")
    script = "import os; tell(dict(os.environ)); channel.receive()"
    order = order_for(tmp_path / "job", script, variables={"OMP_NUM_THREADS": "3", "HOME": "/root"})
    process = await ProcessLauncher().launch(order)
    environment = await told(process)
    assert await process.stop(1) == ()
    tag = environment.pop("FLPROV_JOB_TAG")
    assert len(tag) == 32
    assert int(environment.pop("FLPROV_CHANNEL_FD")) > 2
    assert environment.pop("LC_CTYPE", "C.UTF-8") == "C.UTF-8"  # Python's own (PEP 538)
    work = str(tmp_path / "job" / "work")
    assert environment == {
        "CUDA_VISIBLE_DEVICES": "",
        "HOME": work,
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "3",
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "TMPDIR": f"/dev/shm/flprov-{tag[:8]}",
        "USER": "flprov",
    }


async def test_worker_starts_in_its_work_folder_with_nothing_of_the_agents_open(tmp_path):
    script = """
        import os
        tell({
            "cwd": os.getcwd(),
            "open": {n: os.readlink(f"/proc/self/fd/{n}") for n in sorted(os.listdir("/proc/self/fd"))
                     if os.path.exists(f"/proc/self/fd/{n}")},
            "umask": os.umask(0),
        })
        channel.receive()
    """
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003
        process = await ProcessLauncher().launch(order_for(tmp_path / "job", script))
    found = await told(process)
    assert await process.stop(1) == ()
    assert found["cwd"] == str(tmp_path / "job" / "work")
    assert found["umask"] == 0o077
    kinds = sorted(target.split(":")[0] for target in found["open"].values())
    assert not any("secret" in kind for kind in kinds)
    assert kinds == ["/dev/null", "pipe", "pipe", "socket"]


HOSTILE_MODULES = {
    "sitecustomize.py": "open('shadowed', 'w')",
    "usercustomize.py": "open('shadowed', 'w')",
    "evil.pth": "import os; open('shadowed', 'w')",
    "flprov/__init__.py": "open('shadowed', 'w')",
    "runpy.py": "open('shadowed', 'w')",
    "json.py": "open('shadowed', 'w')",
    "google/__init__.py": "open('shadowed', 'w')",
}


async def test_modules_of_the_job_shadow_nothing_of_ours(tmp_path):
    order = order_for(tmp_path / "job", WAIT)
    for folder in ("app", "work"):
        for name, text in HOSTILE_MODULES.items():
            path = tmp_path / "job" / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    process = await ProcessLauncher().launch(order)
    assert await told(process) == "ready"
    assert not list((tmp_path / "job").rglob("shadowed"))
    assert await process.stop(1) == ()


async def test_children_that_multiprocessing_spawns_find_flprov(tmp_path):
    script = """
        import multiprocessing, flprov.errors

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                tell(pool.apply(flprov.errors.error_class, ("not-found",)).__name__)
                channel.receive()
    """
    process = await ProcessLauncher().launch(order_for(tmp_path / "job", script))
    assert await told(process) == "NotFound"
    assert await process.stop(2) == ()


async def test_times_from_launch_to_ready_and_from_stop_to_gone(tmp_path, record_property):
    launcher = ProcessLauncher()
    await (await launcher.launch(order_for(tmp_path / "first", WAIT))).stop(
        0
    )  # the interpreter is asked once
    times = {}
    for name, script in (("willing", WAIT), ("stubborn", IGNORE_TERM)):
        begun = time.monotonic()
        process = await launcher.launch(order_for(tmp_path / name, script))
        assert await told(process) == "ready"
        times[f"{name}: launch to ready"] = time.monotonic() - begun
        begun = time.monotonic()
        assert await process.stop(1.0) == ()
        times[f"{name}: stop to gone"] = time.monotonic() - begun
    for name, seconds in times.items():
        record_property(name, f"{seconds * 1000:.0f} ms")
    assert times["willing: stop to gone"] < 1.0
    assert times["stubborn: stop to gone"] < 2.0


async def test_shim_that_is_killed_at_its_start_is_started_again(tmp_path, monkeypatch):
    started = []
    start = launcher_module._start_shim

    def start_and_kill(order):
        shim, *lines = start(order)
        started.append(shim.pid)
        if len(started) == 1:
            open_door(
                str(order.folder / SHIM_SOCKET)
            ).close()  # as far as a shim gets that was killed a little later
            shim.kill()
        return (shim, *lines)

    monkeypatch.setattr(launcher_module, "_start_shim", start_and_kill)
    order = LaunchOrder(job_id="j", folder=_made(tmp_path / "j"), orphan_seconds=5)
    process = await ProcessLauncher().launch(order)
    assert len(started) == 2
    assert process.shim_pid == started[1]
    assert await process.stop(0) == ()


async def test_shim_that_is_killed_again_and_again_is_named(tmp_path, monkeypatch):
    start = launcher_module._start_shim

    def start_and_kill(order):
        shim, *lines = start(order)
        shim.kill()
        return (shim, *lines)

    monkeypatch.setattr(launcher_module, "_start_shim", start_and_kill)
    with pytest.raises(errors.LocalError, match="killed 3 times at its start"):
        await ProcessLauncher().launch(LaunchOrder(job_id="j", folder=_made(tmp_path / "j")))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
