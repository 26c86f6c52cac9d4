# SPDX-License-Identifier: Apache-2.0
"""A parent is killed and another takes its place: the worker goes on, and who is no parent gets nothing."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import EVERY_METHOD, METHODS, gone

from flprov.testing.launcher_conformance import ECHO, MAIN, WAIT, alive_with, order_for, told, write_job
from flprov.wire import pb
from flprov.workers import Method, ProcessLauncher, read_exit_record, reap_leftovers
from flprov.workers.processes import mounts_of, within
from flprov.workers.reaping import sweep

ROOT = Path(__file__).resolve().parents[2]
BRIEF = Path(__file__).with_name("brief_parent.py")
FLOOD = """
    number = 0
    while True:
        tell([number, 'x' * 1_000_000])
        number += 1
"""


class Brief:
    """A parent's process."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(BRIEF), str(folder), *words],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.worker, self.shim = (int(word) for word in self.line().split())

    def line(self) -> str:
        return self.process.stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "job"
    reap_leftovers(tmp_path / "job")


# ---- killed parents --------------------------------------------------------------------------


async def test_the_worker_of_a_killed_parent_is_found_and_goes_on(folder):
    parent = Brief(write_job(folder, ECHO), "launch", MAIN)
    parent.kill()
    process = await ProcessLauncher().adopt(folder)
    assert (process.pid, process.shim_pid) == (parent.worker, parent.shim)
    await process.channel.send(pb.ToWorker(quit=pb.Quit(reason="hello")))
    assert await told(process) == "hello"
    assert await process.stop(1) == ()
    assert gone(parent.shim)
    assert not (folder / "shim.sock").exists()


async def test_parents_killed_at_any_moment_leave_a_worker_that_speaks_in_whole_frames(folder):
    """Frames are larger than the socket's buffer, so nearly every kill hits one that is half sent."""
    chance = random.Random(4)
    parent = Brief(write_job(folder, FLOOD), "launch", MAIN)
    worker = parent.worker
    for _ in range(5):
        time.sleep(chance.random() / 20)
        parent.kill()
        parent = Brief(folder, "adopt")
        assert parent.worker == worker
        assert parent.line() == "frame\n"
    parent.kill()
    process = await ProcessLauncher().adopt(folder)
    first, _ = await told(process)
    second, text = await told(process)
    assert (second, len(text)) == (first + 1, 1_000_000)
    assert await process.stop(0.5) == ()
    assert alive_with(str(folder)) == []


async def test_a_parent_killed_while_it_takes_over_is_no_parent(folder):
    chance = random.Random(5)
    parent = Brief(write_job(folder, ECHO), "launch", MAIN)
    parent.kill()
    for _ in range(4):
        taking = subprocess.Popen(
            [sys.executable, str(BRIEF), str(folder), "adopt"],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        time.sleep(0.15 + chance.random() / 3)
        taking.kill()
        taking.wait()
    process = await ProcessLauncher().adopt(folder)
    assert process.pid == parent.worker
    await process.channel.send(pb.ToWorker(quit=pb.Quit(reason="still here")))
    assert await told(process) == "still here"
    assert await process.stop(1) == ()


async def test_a_shim_that_is_killed_after_adoption_takes_all_with_it(folder):
    parent = Brief(write_job(folder, WAIT), "launch", MAIN)
    parent.kill()
    process = await ProcessLauncher().adopt(folder)
    os.kill(process.shim_pid, signal.SIGKILL)
    record = await process.wait()
    assert record.outside
    assert record.reason.startswith("the job's shim was killed")
    assert alive_with(str(folder)) == []
    assert not (folder / "shim.sock").exists()
    assert await process.stop(0) == ()


STRIPPED = """
    import os
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve('/bin/sleep', ['flprov-stripped', '600'], {})
        os._exit(0)
    os.wait()
    tell('ready')
    channel.receive()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a job has mounts of its own for sure only under root")
async def test_what_has_stripped_its_environment_is_found_by_its_mounts(folder):
    process = await ProcessLauncher(method=Method.LANDLOCK).launch(order_for(folder, STRIPPED))
    assert await told(process) == "ready"
    mounts = mounts_of(process.pid)
    try:
        inside = within(mounts)
        assert len(inside) == 2
        assert os.getpid() not in inside
        swept = await asyncio.to_thread(sweep, "no such tag", mounts=mounts)
    finally:
        os.close(mounts)
    assert (set(swept.found), swept.remaining) == (set(inside), ())
    assert mounts_of(os.getpid()) is None
    assert (await process.wait()).outside
    assert await process.stop(0) == ()


async def test_the_log_goes_on_through_the_change(folder):
    script = """
        print('one', flush=True)
        channel.receive()
        print('two', flush=True)
        channel.receive()
    """
    process = await ProcessLauncher().launch(order_for(folder, script, orphan_seconds=60))
    await process.leave()
    process = await ProcessLauncher().adopt(folder)
    grown = asyncio.Event()
    process.on_log(grown.set)
    await process.channel.send(pb.ToWorker(quit=pb.Quit()))
    while process.log.read_text() != "one\ntwo\n":
        await asyncio.wait_for(grown.wait(), 20)
        grown.clear()
    assert await process.stop(0.5) == ()


# ---- who was killed, and by whom ---------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
async def test_a_worker_that_is_killed_from_outside_is_told_from_one_that_fails(folder, number):
    process = await ProcessLauncher().launch(order_for(folder, WAIT))
    await told(process)
    os.kill(process.pid, number)
    record = await process.wait()
    assert (record.reason, record.outside) == (f"killed by {number.name}", True)
    assert await process.stop(0) == ()


@pytest.mark.parametrize("script", ["import os; os.abort()", "raise SystemExit(1)", ""])
async def test_what_a_job_does_to_itself_is_its_own_fault(folder, script):
    process = await ProcessLauncher().launch(order_for(folder, script))
    assert not (await process.wait()).outside
    assert await process.stop(0) == ()


async def test_a_stop_is_not_from_outside_and_counts_what_it_ended(folder):
    script = "import subprocess; subprocess.Popen(['sleep', '60']); " + WAIT
    process = await ProcessLauncher().launch(order_for(folder, script))
    await told(process)
    assert await process.stop(0.5) == ()
    record = await process.wait()
    assert (record.outside, record.ended) == (False, 2)


async def test_a_shim_told_to_stop_by_a_signal_was_ended_from_outside(folder):
    process = await ProcessLauncher().launch(order_for(folder, WAIT))
    await told(process)
    os.kill(process.shim_pid, signal.SIGTERM)
    record = await process.wait()
    assert (record.outside, record.reason) == (True, "the job's shim was told to stop by a signal")
    assert await process.stop(0) == ()


# ---- who may come in ---------------------------------------------------------------------------


async def test_the_door_is_for_our_own_user(folder):
    process = await ProcessLauncher().launch(order_for(folder, WAIT, orphan_seconds=60))
    assert (folder / "shim.sock").stat().st_mode & 0o777 == 0o600
    assert await process.stop(0.5) == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_another_user_is_sent_away_at_the_door(folder):
    folder.parent.parent.chmod(0o755)
    folder.parent.chmod(0o755)
    process = await ProcessLauncher().launch(order_for(folder, ECHO, orphan_seconds=60))
    await process.leave()
    folder.chmod(0o755)
    (folder / "shim.sock").chmod(0o777)  # as if the mode had let it in
    knock = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        "s.settimeout(20); s.connect('shim.sock')"
        "\ntry: s.send(b'{\"stop\": 0}'); print(s.recv(100))\nexcept OSError: print(b'')"
    )
    answer = subprocess.run([sys.executable, "-I", "-c", knock], cwd=folder, capture_output=True, text=True)
    assert answer.stdout == "b''\n", answer.stderr
    process = await ProcessLauncher().adopt(folder)
    await process.channel.send(pb.ToWorker(quit=pb.Quit(reason="alive")))
    assert await told(process) == "alive"
    assert await process.stop(0.5) == ()


async def test_nobody_is_let_in_while_the_parent_lives(folder, monkeypatch):
    monkeypatch.setattr("flprov.workers.adoption._ANSWER", 0.3)
    process = await ProcessLauncher().launch(order_for(folder, ECHO, orphan_seconds=60))
    assert await ProcessLauncher().adopt(folder) is None
    await process.channel.send(pb.ToWorker(quit=pb.Quit(reason="mine")))
    assert await told(process) == "mine"
    assert await process.stop(0.5) == ()


HOSTILE = """
    import os, socket, subprocess
    def knock(path):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(path)
        except OSError as error:
            return type(error).__name__
        return 'let in'
    listing = 'import os; print(sorted(os.listdir("/proc/self/fd")))'
    fds = subprocess.run([os.sys.executable, '-I', '-c', listing], close_fds=False, capture_output=True)
    line = socket.socket(fileno=int(os.environ['FLPROV_LIFELINE_FD']))
    try:
        line.send(b'{"stop": 0}')
        said = 'sent'
    except OSError as error:
        said = type(error).__name__
    line.detach()
    tell([knock('../shim.sock'), knock(os.path.realpath('../shim.sock')), fds.stdout.decode(), said])
    channel.receive()
"""


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.value)
async def test_job_code_reaches_neither_the_door_nor_the_shim_and_its_children_no_line(folder, method):
    process = await ProcessLauncher(method=method).launch(order_for(folder, HOSTILE, orphan_seconds=60))
    near, real, descriptors, said = await told(process)
    assert near in ("PermissionError", "FileNotFoundError")
    assert real in ("PermissionError", "FileNotFoundError")
    assert descriptors == "['0', '1', '2', '3']\n"  # the last one is of the listing itself
    assert said == "BrokenPipeError"
    await process.leave()
    process = await ProcessLauncher().adopt(folder)
    assert await process.stop(0.5) == ()


SPOILER = """
    import os, signal, socket
    line = socket.socket(fileno=int(os.environ['FLPROV_LIFELINE_FD']))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell('ready')
    {deed}
    while True:
        signal.pause()
"""


@pytest.mark.parametrize("deed", ["line.close()", "line.shutdown(2)", "os.fork()", "pass"])
async def test_a_worker_that_spoils_its_adoption_is_ended_all_the_same(folder, deed):
    process = await ProcessLauncher().launch(order_for(folder, SPOILER.format(deed=deed), orphan_seconds=60))
    await told(process)
    await process.leave()
    again = await ProcessLauncher().adopt(folder)
    assert again is not None
    assert await again.stop(0.2) == ()
    assert alive_with(str(folder)) == []


@pytest.mark.parametrize("method", EVERY_METHOD, ids=lambda method: method.value)
async def test_however_it_is_confined_it_is_found_again(folder, method):
    unconfined = method is Method.NONE
    order = order_for(folder, ECHO, orphan_seconds=60, unconfined=unconfined)
    process = await ProcessLauncher(method=method).launch(order)
    await process.leave()
    again = await ProcessLauncher().adopt(folder)
    assert again.confinement == method.value
    await again.channel.send(pb.ToWorker(quit=pb.Quit(reason="here")))
    assert await told(again) == "here"
    assert await again.stop(0.5) == ()


# ---- records that lead nowhere ------------------------------------------------------------------


async def test_a_folder_with_a_long_name_has_a_door_too(tmp_path):
    folder = tmp_path / ("x" * 100) / ("y" * 100) / "job"
    process = await ProcessLauncher().launch(order_for(folder, ECHO, orphan_seconds=60))
    await process.leave()
    again = await ProcessLauncher().adopt(folder)
    assert again is not None
    assert await again.stop(0.5) == ()


@pytest.mark.parametrize("change", [{"boot": "another"}, {"job_id": "other"}, {"started": 1}, {"pid": 1}])
async def test_a_record_of_something_else_is_not_believed(folder, change):
    process = await ProcessLauncher().launch(order_for(folder, WAIT, orphan_seconds=60))
    await process.leave()
    record = json.loads((folder / "shim.json").read_bytes())
    (folder / "shim.json").write_text(json.dumps(record | change))
    assert await ProcessLauncher().adopt(folder) is None
    (folder / "shim.json").write_text(json.dumps(record))
    assert reap_leftovers(folder).remaining == ()


async def test_a_stopped_shim_is_not_waited_for_and_can_be_ended(folder, monkeypatch):
    monkeypatch.setattr("flprov.workers.adoption._ANSWER", 0.3)
    monkeypatch.setattr("flprov.workers.reaping._PATIENCE", 0.5)
    process = await ProcessLauncher().launch(order_for(folder, WAIT, orphan_seconds=60))
    await process.leave()
    os.kill(process.shim_pid, signal.SIGSTOP)
    assert await ProcessLauncher().adopt(folder) is None
    left = await asyncio.to_thread(reap_leftovers, folder)
    assert left.remaining == ()
    assert read_exit_record(folder).outside
    assert alive_with(str(folder)) == []
    with contextlib.suppress(FileNotFoundError):
        assert not (folder / "shim.sock").exists()
