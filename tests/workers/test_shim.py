# SPDX-License-Identifier: Apache-2.0
"""The shim, and what is left without it: every process of a job ends, whoever is killed."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from launching import EVERY_METHOD, METHODS, gone

from flprov._base import to_document
from flprov.errors import LocalError
from flprov.testing.launcher_conformance import (
    DAEMON,
    IGNORE_TERM,
    MAIN,
    WAIT,
    alive_with,
    order_for,
    told,
    write_job,
)
from flprov.workers import (
    ExitRecord,
    LaunchOrder,
    Method,
    ProcessLauncher,
    log_segments,
    log_size,
    log_start,
    read_exit_record,
    read_log,
    reap_leftovers,
)
from flprov.workers.detection import PACKAGE
from flprov.workers.joblog import JobLog
from flprov.workers.launcher import _SHIM
from flprov.workers.plan import plan_launch
from flprov.workers.processes import boot_id, start_time

LINGER = """
    import os, signal, time
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                while True:
                    time.sleep(60)
            os._exit(0)
        os.wait()
    tell('ready')
    while True:
        time.sleep(60)
"""


def launch(folder: Path, script: str, *, method: Method | None = None, **settings):
    unconfined = method is Method.NONE
    return ProcessLauncher(method=method).launch(order_for(folder, script, unconfined=unconfined, **settings))


# ---- the log -------------------------------------------------------------------------------


async def test_log_takes_any_bytes_of_stdout_and_stderr(tmp_path):
    script = r"""
        import os
        os.write(1, b"out \x00\xff\n"); os.write(2, b"err\n")
        os.system("echo from a child")
    """
    process = await launch(tmp_path / "job", script)
    assert (await process.wait()).clean
    assert process.log.read_bytes() == b"out \x00\xff\nerr\nfrom a child\n"
    await process.stop(0)


async def test_log_keeps_the_newest_bytes_while_the_job_goes_on(tmp_path):
    script = """
        import sys
        for _ in range(200):
            sys.stdout.write("x" * 9_999 + "\\n")
        print("the end")
    """
    process = await launch(tmp_path / "job", script, log_limit=100_000)
    record = await process.wait()
    assert record.clean
    assert log_size(process.log) == 2_000_008
    start = log_start(process.log)
    assert 80_000 < 2_000_008 - start <= 100_000
    assert record.log_dropped == start
    assert sum(Path(path).stat().st_size for _, path in log_segments(process.log)) == 2_000_008 - start
    assert read_log(process.log, 2_000_000, 100) == (2_000_000, b"the end\n")
    await process.stop(0)


async def test_log_is_appended_to_and_the_cap_counts_what_was_there(tmp_path):
    folder = write_job(tmp_path / "job", "print('y' * 99)")
    (folder / "log").write_text("x" * 50)
    order = LaunchOrder(job_id="job", folder=folder, main=MAIN, log_limit=100)
    process = await ProcessLauncher().launch(order)
    await process.wait()
    assert log_size(process.log) == 150
    start = log_start(process.log)
    assert 50 <= start < 80
    parts = b""
    while (found := read_log(process.log, start + len(parts), 100))[1]:
        parts += found[1]
    assert parts == (b"x" * 50 + b"y" * 99 + b"\n")[start:]
    await process.stop(0)


async def test_log_that_is_a_link_is_not_followed(tmp_path):
    order = order_for(tmp_path / "job", WAIT)
    (tmp_path / "victim").write_text("")
    (tmp_path / "job" / "log").symlink_to(tmp_path / "victim")
    with pytest.raises(LocalError, match=r"job's log .* cannot be written"):
        await ProcessLauncher().launch(order)
    assert (tmp_path / "victim").read_text() == ""


# ---- the record ----------------------------------------------------------------------------


async def test_record_tells_time_memory_and_processor(tmp_path):
    script = "x = bytearray(100 << 20); sum(range(5_000_000))"
    process = await launch(tmp_path / "job", script)
    record = await process.wait()
    await process.stop(0)
    assert record.max_rss > 100 << 20
    assert record.cpu_seconds > 0.05
    assert record.started_at < record.ended_at
    written = json.loads((tmp_path / "job" / "exit.json").read_text())
    assert written == to_document(record)


async def test_shim_record_leads_to_the_shim(tmp_path):
    process = await launch(tmp_path / "job", WAIT)
    found = json.loads((tmp_path / "job" / "shim.json").read_text())
    assert found["pid"] == process.shim_pid
    assert found["started"] == start_time(process.shim_pid)
    assert (found["boot"], found["job_id"]) == (boot_id(), "job")
    assert await process.stop(1) == ()


async def test_a_shim_whose_parent_is_gone_before_it_begins_leaves_no_record(tmp_path):
    order = order_for(tmp_path / "job", WAIT, orphan_seconds=60)
    for name in ("lib", "out", "work"):
        (order.folder / name).mkdir()
    plan = plan_launch(order, None, "0" * 32)
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        control.send(json.dumps(plan).encode())
        control.close()
        ends = (theirs.fileno(), os.open(os.devnull, os.O_RDWR))
        command = [sys.executable, "-I", "-S", "-c", _SHIM, str(PACKAGE.parent), *map(str, ends)]
        shim = await asyncio.create_subprocess_exec(*command, pass_fds=ends)
    os.close(ends[1])
    assert await shim.wait() == 0
    assert not (order.folder / "shim.json").exists()
    assert alive_with(str(order.folder)) == []


def test_a_torn_record_is_no_record(tmp_path):
    for text in ("", "{", "[]", '{"reason": 3}', "\0" * 100):
        (tmp_path / "exit.json").write_text(text)
        (tmp_path / "shim.json").write_text(text)
        assert read_exit_record(tmp_path) is None
        assert reap_leftovers(tmp_path).record is None


async def test_record_that_cannot_be_written_still_reaches_the_parent(tmp_path):
    order = order_for(tmp_path / "job", "")
    (tmp_path / "job" / "exit.json").mkdir()
    process = await ProcessLauncher().launch(order)
    assert (await process.wait()).clean
    assert "the exit record could not be written" in process.log.read_text()
    await process.stop(0)


def test_output_that_finds_no_space_is_counted_and_dropped():
    log = JobLog("/dev/full", limit=1000)
    os.write(log.inlet, b"x" * 100)
    log.close_inlet()
    log.drain()
    assert log.dropped == 100
    os.close(log.pipe)


# ---- jobs that do not want to end ------------------------------------------------------------


@pytest.mark.parametrize("method", EVERY_METHOD, ids=lambda method: method.value)
async def test_daemons_that_ignore_term_are_killed(tmp_path, method):
    process = await launch(tmp_path / "job", LINGER, method=method)
    await told(process)
    assert len(alive_with(str(tmp_path / "job"))) >= 4
    assert await process.stop(0.2) == ()
    assert alive_with(str(tmp_path / "job")) == []


FORK_LOOP = """
    import os, signal, time
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = os.getpid()
    tell('ready')
    living = 1
    while True:
        # each process starts another one and ends; a few hundred in a second, 50 at a time
        if os.fork() == 0:
            os.setsid()
            time.sleep(0.05)
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        elif os.getpid() != parent:
            os._exit(0)
        else:
            living += 1
            while living > 50:
                time.sleep(60)
"""


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.value)
async def test_fork_loop_does_not_outrun_the_shim(tmp_path, method):
    process = await launch(tmp_path / "job", FORK_LOOP, method=method)
    await told(process)
    await asyncio.sleep(0.3)
    assert await process.stop(0.1) == ()
    assert alive_with(str(tmp_path / "job")) == []


async def test_first_thread_that_ends_does_not_hide_the_process(tmp_path):
    script = """
        import ctypes, os, threading, time
        if os.fork() == 0:
            os.setsid()
            threading.Thread(target=time.sleep, args=(600,)).start()
            tell('ready')
            ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)  # exit, of this thread
        channel.receive()
    """
    process = await launch(tmp_path / "job", script)
    await told(process)
    assert await process.stop(0.1) == ()
    assert alive_with(str(tmp_path / "job")) == []


async def test_stopped_worker_gets_its_grace(tmp_path):
    script = """
        import os, signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        tell('ready')
        os.kill(os.getpid(), signal.SIGSTOP)
        channel.receive()
    """
    process = await launch(tmp_path / "job", script)
    await told(process)
    assert await process.stop(20) == ()
    assert (await process.wait()).code == 7


async def test_second_stop_may_shorten_the_grace(tmp_path):
    process = await launch(tmp_path / "job", IGNORE_TERM)
    await told(process)
    patient = asyncio.create_task(process.stop(600))
    await asyncio.sleep(0.1)
    assert await asyncio.wait_for(process.stop(0), 10) == ()
    assert await patient == ()


async def test_what_a_finished_worker_leaves_behind_is_killed_at_once(tmp_path):
    process = await launch(tmp_path / "job", DAEMON)
    record = await asyncio.wait_for(process.wait(), 20)
    assert (record.code, record.stopped, record.remaining) == (0, False, ())
    assert alive_with(str(tmp_path / "job")) == []
    await process.stop(0)


MEMORY = Path("/sys/fs/cgroup/memory")


@pytest.mark.skipif(not os.access(MEMORY / "cgroup.procs", os.W_OK), reason="needs a memory cgroup (v1)")
async def test_running_out_of_memory_is_named(tmp_path):
    group = MEMORY / f"flprov-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(100 << 20))
        script = "tell('ready'); channel.receive(); hoard = b'x' * (200 << 20)"
        process = await launch(tmp_path / "job", script)
        assert await told(process) == "ready"
        (group / "cgroup.procs").write_text(str(process.pid))
        process.channel.close()
        record = await process.wait()
        await process.stop(0)
    finally:
        group.rmdir()
    assert (record.signal, record.oom, record.stopped) == (9, True, False)
    assert "out of memory" in record.reason


async def test_being_killed_is_not_running_out_of_memory(tmp_path):
    process = await launch(tmp_path / "job", "import os; os.kill(os.getpid(), 9)")
    record = await process.wait()
    assert (record.signal, record.oom, record.reason) == (9, False, "killed by SIGKILL")
    await process.stop(0)


# ---- parents and shims that are killed -------------------------------------------------------

PARENT = """
    import asyncio, sys
    from pathlib import Path
    from flprov.testing.launcher_conformance import MAIN, told
    from flprov.workers import LaunchOrder, ProcessLauncher

    async def main():
        order = LaunchOrder(job_id="job", folder=Path(sys.argv[1]), main=MAIN, grace=float(sys.argv[2]))
        process = await ProcessLauncher().launch(order)
        await told(process)
        print(process.shim_pid, flush=True)
        await process.wait()

    asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def another_parent(folder: Path, script: str, *, grace: float = 0.3):
    """A process of its own that has launched `script`; gives it and its shim's number."""
    write_job(folder, script)
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(folder), str(grace)]
    parent = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        yield parent, int(await parent.stdout.readline())
    finally:
        with contextlib.suppress(ProcessLookupError):
            parent.kill()
        await parent.communicate()


async def wait_gone(pid: int) -> None:
    handle = os.pidfd_open(pid)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), 20)
    finally:
        loop.remove_reader(handle)
        os.close(handle)


async def test_killed_parent_takes_the_job_with_it_and_the_record_says_so(tmp_path):
    async with another_parent(tmp_path / "job", LINGER) as (parent, shim):
        assert len(alive_with(str(tmp_path / "job"))) >= 4
        parent.kill()
        await wait_gone(shim)
        assert alive_with(str(tmp_path / "job")) == []
        record = read_exit_record(tmp_path / "job")
        assert (record.reason, record.stopped, record.remaining) == ("the agent went away", True, ())


async def test_shim_that_is_told_to_end_ends_the_job(tmp_path):
    process = await launch(tmp_path / "job", LINGER, grace=0.1)
    await told(process)
    os.kill(process.shim_pid, signal.SIGTERM)
    record = await process.wait()
    assert record.reason == "the job's shim was told to stop by a signal"
    assert alive_with(str(tmp_path / "job")) == []
    assert await process.stop(0) == ()


@pytest.mark.parametrize("method", EVERY_METHOD, ids=lambda method: method.value)
async def test_killed_shim_leaves_nothing(tmp_path, method):
    process = await launch(tmp_path / "job", LINGER, method=method)
    await told(process)
    os.kill(process.shim_pid, signal.SIGKILL)
    assert await process.stop(5) == ()
    assert alive_with(str(tmp_path / "job")) == []
    record = await process.wait()
    assert record.reason == "the job's shim was killed by SIGKILL"
    assert record == read_exit_record(tmp_path / "job")
    assert gone(process.pid)


async def test_killed_shim_leaves_nothing_even_if_the_job_has_wiped_its_environment(tmp_path):
    script = """
        import os
        tag = [os.environ.pop("FLPROV_JOB_TAG")]
        if os.fork() == 0:
            os.setsid()
            os.execve("/bin/sleep", ["sleep", "6543"], {})
        tell('ready')
        channel.receive()
    """
    process = await launch(tmp_path / "job", script)
    await told(process)
    os.kill(process.shim_pid, signal.SIGKILL)
    assert await process.stop(5) == ()
    assert not [pid for pid in alive_with("6543") if b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def test_sweeping_one_job_leaves_the_others_alone(tmp_path):
    one = await launch(tmp_path / "one", LINGER)
    other = await launch(tmp_path / "other", LINGER)
    await told(one)
    await told(other)
    before = sorted(alive_with(str(tmp_path / "other")))
    os.kill(one.shim_pid, signal.SIGKILL)
    assert await one.stop(5) == ()
    assert sorted(alive_with(str(tmp_path / "other"))) == before
    assert await other.stop(0) == ()


async def test_stopped_shim_does_not_hold_up_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr("flprov.workers.launcher._OVERDUE", 0.2)
    process = await launch(tmp_path / "job", LINGER)
    await told(process)
    os.kill(process.shim_pid, signal.SIGSTOP)
    assert await process.stop(0.1) == ()
    assert alive_with(str(tmp_path / "job")) == []


async def test_leftovers_of_a_killed_parent_and_shim_are_found_and_ended(tmp_path):
    async with another_parent(tmp_path / "job", LINGER) as (parent, shim):
        parent.send_signal(signal.SIGSTOP)  # so that nobody clears up
        os.kill(shim, signal.SIGKILL)
        parent.kill()
        await parent.wait()
        left = await asyncio.to_thread(reap_leftovers, tmp_path / "job")
        assert len(left.found) >= 3
        assert left.remaining == ()
        assert left.record.reason == "the job's shim was killed while its parent was away"
        assert alive_with(str(tmp_path / "job")) == []
        again = reap_leftovers(tmp_path / "job")
        assert (again.found, again.remaining, again.record) == ((), (), left.record)


async def test_leftovers_of_a_shim_in_its_grace_end_at_once(tmp_path):
    async with another_parent(tmp_path / "job", LINGER, grace=600) as (parent, shim):
        parent.kill()
        left = await asyncio.to_thread(reap_leftovers, tmp_path / "job")
        assert shim in left.found
        assert left.remaining == ()
        assert alive_with(str(tmp_path / "job")) == []
        assert left.record.reason == "the agent went away"


def test_leftovers_of_another_boot_are_not_looked_for(tmp_path):
    record = {"job_id": "job", "pid": os.getpid(), "started": start_time(os.getpid()), "tag": "t"}
    (tmp_path / "shim.json").write_text(json.dumps(record | {"boot": "another"}))
    left = reap_leftovers(tmp_path)
    assert left.found == ()
    reason = "the machine was restarted while the job ran"
    assert left.record == ExitRecord(reason=reason, stopped=True, outside=True)


def test_a_process_that_has_got_the_shims_number_is_left_alone(tmp_path):
    with subprocess.Popen(["sleep", "600"]) as bystander:
        record = {
            "job_id": "job",
            "pid": bystander.pid,
            "started": 1,
            "boot": boot_id(),
            "tag": "no-such-tag",
        }
        (tmp_path / "shim.json").write_text(json.dumps(record))
        assert reap_leftovers(tmp_path).found == ()
        assert bystander.poll() is None
        bystander.kill()


def test_a_job_that_never_started_has_no_leftovers(tmp_path):
    left = reap_leftovers(tmp_path)
    assert (left.found, left.remaining, left.record) == ((), (), None)
