# SPDX-License-Identifier: Apache-2.0
"""Workers from a template: all that a launcher promises, nothing of another job, and no job fails for it."""

import asyncio
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy.random
import pytest
import pytest_asyncio
from launching import gone

from flprov.errors import LocalError
from flprov.testing.launcher_conformance import (
    ECHO,
    WAIT,
    LauncherConformance,
    alive_with,
    order_for,
    told,
    write_job,
)
from flprov.wire import pb
from flprov.workers import Method, ProcessLauncher, Warming, confinement_method, landlock
from flprov.workers import warming as warming_module
from flprov.workers.processes import children

PYTHON = Path(sys.executable)
forking = pytest.mark.skipif(confinement_method() == "bubblewrap", reason="bubblewrap is entered by exec")
shared_loop = pytest.mark.asyncio(loop_scope="module")


async def ready(warming: Warming, *, other_than: int = 0) -> int:
    """Wait for a template; its process number."""
    warming.prepare(PYTHON)
    async with asyncio.timeout(60):
        while warming.describe().state != "ready" or template_of(warming).pid == other_than:
            assert warming.describe().state != "off", warming.describe()
            await asyncio.sleep(0.01)
    return template_of(warming).pid


def template_of(warming: Warming):
    return warming._template.process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def warming():
    """One for the module: a template takes half a second to start."""
    found = Warming("site", (), delay=0)
    await ready(found)
    yield found
    await found.close()


@pytest.fixture
def launcher(warming):
    return ProcessLauncher(warming=warming)


async def answer_of(launcher, folder, script):
    process = await launcher.launch(order_for(folder, script))
    try:
        return await told(process)
    finally:
        assert await process.stop(0.5) == ()


@forking
@shared_loop
class TestForkedWorkers(LauncherConformance):
    async def test_the_shim_is_forked_and_becomes_our_child(self, launcher, warming, tmp_path):
        process = await launcher.launch(order_for(tmp_path / "job", WAIT))
        assert await told(process) == "ready"
        program = Path(f"/proc/{process.shim_pid}/exe").readlink()
        assert program == Path(f"/proc/{template_of(warming).pid}/exe").readlink()
        assert os.waitpid(process.shim_pid, os.WNOHANG) == (0, 0)  # would raise for somebody else's
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        assert str(tmp_path / "job" / "lib").encode() in shown
        assert await process.stop(0.5) == ()


# ---- the same as by exec -------------------------------------------------------------------

WHAT_I_AM = """
    import locale, os, resource, signal, sys, threading
    signals = {n.name: str(signal.getsignal(n)) for n in signal.Signals if n.name[:5] != "SIGRT"}
    tell({
        "environment": {k: v for k, v in os.environ.items() if k[:6] != "FLPROV" and k != "TMPDIR"},
        "stated": sorted(x.split("=")[0] for x in open("/proc/self/environ").read().split("\\0") if x),
        "cwd": os.getcwd(), "umask": os.umask(0o77), "argv": sys.argv, "flags": str(sys.flags),
        "path": sys.path, "locale": locale.getlocale(), "threads": threading.active_count(),
        "nice": os.nice(0), "policy": os.sched_getscheduler(0),
        "core": resource.getrlimit(resource.RLIMIT_CORE), "signals": signals,
        "session": os.getsid(0) == os.getpid(), "mask": str(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "open": sorted(os.readlink(f"/proc/self/fd/{n}").split(":")[0] for n in os.listdir("/proc/self/fd")
                       if os.path.exists(f"/proc/self/fd/{n}")),
        "status": [line for line in open("/proc/self/status") if line[:3] in ("Cap", "NoN", "Sec")],
        "oom": open("/proc/self/oom_score_adj").read(), "streams": [sys.stdout.encoding, sys.stderr.errors],
    })
    channel.receive()
"""


@forking
@shared_loop
async def test_a_forked_worker_finds_what_one_that_was_executed_finds(launcher, tmp_path):
    forked = await answer_of(launcher, tmp_path / "a" / "job", WHAT_I_AM)
    executed = await answer_of(ProcessLauncher(), tmp_path / "b" / "job", WHAT_I_AM)
    for found in (forked, executed):
        found["environment"].pop("LC_CTYPE", None)  # Python's own (PEP 538)
    same = json.loads(json.dumps(executed).replace(str(tmp_path / "b"), str(tmp_path / "a")))
    assert forked == same


@forking
@shared_loop
async def test_numpy_has_as_many_threads_and_gives_the_same_bits(launcher, tmp_path):
    script = """
        import hashlib, os, numpy as np
        a = np.arange(250_000, dtype=np.float64).reshape(500, 500) / 7
        tell([hashlib.sha256((a @ a).tobytes()).hexdigest(), len(os.listdir("/proc/self/task"))])
        channel.receive()
    """
    forked = await answer_of(launcher, tmp_path / "a", script)
    assert forked == await answer_of(ProcessLauncher(), tmp_path / "b", script)


DRAWN = """
    import multiprocessing, os, random, uuid
    import numpy as np
    tell([random.random(), float(np.random.random()), float(np.random.default_rng().random()),
          uuid.uuid4().hex, uuid.uuid1().hex, os.urandom(8).hex(),
          multiprocessing.current_process().authkey.hex()])
    channel.receive()
"""


@forking
@shared_loop
async def test_no_two_forked_workers_draw_the_same(launcher, tmp_path):
    one = await answer_of(launcher, tmp_path / "one", DRAWN)
    two = await answer_of(launcher, tmp_path / "two", DRAWN)
    assert not set(one) & set(two)


@forking
@shared_loop
async def test_what_one_job_did_to_its_modules_no_other_sees(launcher, tmp_path):
    spoil = "import json, numpy, sys; numpy.mine = json.mine = 1; sys.path.insert(0, '/x'); tell('done')"
    look = "import json, numpy, sys; tell([hasattr(numpy, 'mine'), hasattr(json, 'mine'), '/x' in sys.path])"
    wait = "; channel.receive()"
    assert await answer_of(launcher, tmp_path / "one", spoil + wait) == "done"
    assert await answer_of(launcher, tmp_path / "two", look + wait) == [False, False, False]


# ---- job code and the template -------------------------------------------------------------


@pytest.mark.skipif(confinement_method() != "landlock", reason="the machine's own confinement is another")
@shared_loop
async def test_job_code_cannot_reach_the_template(launcher, warming, tmp_path):
    pid = template_of(warming).pid
    script = f"""
        import ctypes, os, signal
        libc = ctypes.CDLL(None, use_errno=True)
        def attempt(step):
            try:
                return step() and "done"
            except OSError as error:
                return type(error).__name__
        def ptrace():
            if libc.ptrace(16, {pid}, 0, 0) < 0:
                raise OSError(ctypes.get_errno(), "")
            return True
        tell({{
            "memory": attempt(lambda: open("/proc/{pid}/mem", "rb")),
            "environment": attempt(lambda: open("/proc/{pid}/environ", "rb").read()),
            "descriptors": attempt(lambda: os.listdir("/proc/{pid}/fd")),
            "handle": attempt(lambda: os.open("/proc/{pid}/root", os.O_PATH)),
            "signal": attempt(lambda: os.kill({pid}, 0) is None),
            "ptrace": attempt(ptrace),
            "parent": os.getppid() == {pid},
        }})
        channel.receive()
    """
    found = await answer_of(launcher, tmp_path / "job", script)
    assert found.pop("parent") is False
    if landlock.abi() < 6:
        found.pop("signal")  # which older kernels do not hold off: see confinement_gaps
    assert set(found.values()) <= {"PermissionError", "FileNotFoundError"}, found


@forking
@shared_loop
async def test_nothing_of_a_job_stays_in_the_template(launcher, warming, tmp_path):
    mark = "b7e1-mark-of-the-job"
    folder = tmp_path / mark
    assert await answer_of(launcher, folder, f"tell('{mark}'); channel.receive()") == mark
    pid = template_of(warming).pid
    before = sorted(Path(f"/proc/{pid}/fd").iterdir())
    assert len(before) == 4  # nothing in, the output twice, the line
    os.kill(pid, signal.SIGSTOP)
    try:
        assert not _holds(pid, mark.encode())
        assert _holds(pid, b"flprov.workers.site_main")  # it would be found
    finally:
        os.kill(pid, signal.SIGCONT)


def _holds(pid: int, mark: bytes) -> bool:
    """Whether the mark is in what the process may have written."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            span, rights, *rest = line.split()
            if rights.startswith("rw") and not (len(rest) > 3 and rest[3].startswith("[v")):
                begin, end = (int(word, 16) for word in span.split("-"))
                memory.seek(begin)
                if mark in memory.read(end - begin):
                    return True
    return False


# ---- a template that is not there ------------------------------------------------------------


@forking
@shared_loop
async def test_a_template_that_was_killed_delays_no_job_and_is_replaced(launcher, warming, tmp_path):
    first = await ready(warming)
    running = await launcher.launch(order_for(tmp_path / "before", ECHO))
    os.kill(first, signal.SIGKILL)
    process = await launcher.launch(order_for(tmp_path / "job", WAIT))
    assert await told(process) == "ready"
    assert await process.stop(0.5) == ()
    assert await running.stop(0.5) == ()  # it has outlived the template
    assert await ready(warming, other_than=first) != first


@forking
@shared_loop
async def test_a_template_that_dies_in_the_middle_of_an_order_fails_no_job(
    launcher, warming, tmp_path, monkeypatch
):
    first = await ready(warming)
    os.kill(first, signal.SIGSTOP)  # the order is sent, and never read
    launching = asyncio.create_task(launcher.launch(order_for(tmp_path / "job", WAIT)))
    while not warming._template._answers:
        await asyncio.sleep(0.001)
    os.kill(first, signal.SIGKILL)
    process = await launching
    assert await told(process) == "ready"
    assert await process.stop(0.5) == ()
    await ready(warming, other_than=first)


@forking
@shared_loop
async def test_a_template_that_hangs_is_given_up(launcher, warming, tmp_path, monkeypatch):
    monkeypatch.setattr(warming_module, "_ANSWER", 0.1)
    first = await ready(warming)
    os.kill(first, signal.SIGSTOP)
    assert await answer_of(launcher, tmp_path / "job", WAIT) == "ready"
    assert gone(first)
    await ready(warming, other_than=first)


@forking
@shared_loop
async def test_changed_packages_are_never_old_ones_in_a_job(launcher, warming, tmp_path, monkeypatch):
    first = await ready(warming)
    program = tmp_path / "touched"
    program.touch()
    stamp = warming_module._stamp
    monkeypatch.setattr(warming_module, "_stamp", lambda python: (*stamp(python), program.stat().st_mtime_ns))
    assert await answer_of(launcher, tmp_path / "job", WAIT) == "ready"
    second = await ready(warming, other_than=first)
    assert await answer_of(launcher, tmp_path / "again", WAIT) == "ready"
    assert template_of(warming).pid == second  # nothing has changed since
    monkeypatch.undo()
    assert await answer_of(launcher, tmp_path / "third", WAIT) == "ready"
    await ready(warming, other_than=second)


@forking
@shared_loop
@pytest.mark.parametrize("error", [LocalError, FileNotFoundError])
async def test_packages_that_are_gone_fail_no_job(launcher, warming, tmp_path, monkeypatch, error):
    def stamp(_):
        raise error("a folder of it is gone")

    first = await ready(warming)
    with monkeypatch.context() as patch:
        patch.setattr(warming_module, "_stamp", stamp)
        assert await answer_of(launcher, tmp_path / "job", WAIT) == "ready"
    await ready(warming, other_than=first)


@shared_loop
async def test_what_libraries_read_when_they_are_loaded_is_told_to_a_new_process(launcher, tmp_path):
    order = order_for(tmp_path / "job", WAIT, variables={"OMP_NUM_THREADS": "1"})
    process = await launcher.launch(order)
    try:
        assert Path(f"/proc/{process.shim_pid}/cmdline").read_bytes().endswith(b"flprov-shim:job\0")
        assert b"flprov.workers.shim" in Path(f"/proc/{process.shim_pid}/cmdline").read_bytes()
    finally:
        assert await process.stop(0.5) == ()


async def test_bubblewrap_and_a_switch_mean_no_template_and_say_so(monkeypatch):
    monkeypatch.setattr(warming_module, "detect_method", lambda: Method.BUBBLEWRAP)
    for modules, why in (((), "bubblewrap confines jobs here"), (None, "switched off")):
        warming = Warming("site", modules, delay=0)
        warming.prepare(PYTHON)
        while warming.describe().state != "off":
            await asyncio.sleep(0.01)
        assert why in warming.describe().note
        await warming.close()


# ---- a template that is at fault ---------------------------------------------------------------


def change_template(monkeypatch, code: str) -> None:
    """Run this in templates before they import anything but our own."""
    before, main, arguments = warming_module._TEMPLATE.rpartition("main(")
    text = f"{before}exec({textwrap.dedent(code)!r}); {main}{arguments}"
    monkeypatch.setattr(warming_module, "_TEMPLATE", text)


@forking
async def test_an_openblas_that_is_replaced_or_out_of_sight_ends_no_job(tmp_path, monkeypatch):
    library = tmp_path / "libopenblas-of-the-test.so"
    shutil.copy(numpy.random._common.__file__, library)  # one that needs no other
    change_template(monkeypatch, f"import ctypes; ctypes.CDLL({str(library)!r})")
    warming = Warming("site", (), delay=0)
    await ready(warming)
    launcher = ProcessLauncher(warming=warming)
    assert await answer_of(launcher, tmp_path / "out_of_sight", WAIT) == "ready"
    library.unlink()  # as dpkg does, which then puts another in its place
    library.touch()
    assert await answer_of(launcher, tmp_path / "replaced", WAIT) == "ready"
    await warming.close()


@forking
async def test_why_a_worker_failed_after_it_was_started_is_in_its_log(tmp_path, monkeypatch):
    change_template(
        monkeypatch,
        """
        from flprov.workers import forked
        def fail():
            raise OSError("no such luck")
        forked._be_different = fail
        """,
    )
    warming = Warming("site", (), delay=0)
    await ready(warming)
    process = await ProcessLauncher(warming=warming).launch(order_for(tmp_path / "job", WAIT))
    assert (await process.wait()).code == 127
    assert re.search(r"flprov: starting .*python.* failed: no such luck\n", process.log.read_text())
    assert await process.stop(0) == ()
    await warming.close()


@forking
async def test_a_template_that_is_killed_as_it_forks_leaves_nothing_but_the_shim(tmp_path, monkeypatch):
    change_template(
        monkeypatch,
        """
        import os, signal, subprocess
        from flprov.workers import template
        subprocess.Popen(["sleep", "600"])
        def send_and_kill(line, message, send=template.send):
            send(line, message)
            if "shim" in message:
                os.kill(os.getppid(), signal.SIGKILL)
        template.send = send_and_kill
        """,
    )
    warming = Warming("site", (), delay=0)
    first = await ready(warming)
    process = await ProcessLauncher(warming=warming).launch(order_for(tmp_path / "job", WAIT))
    assert await told(process) == "ready"
    await ready(warming, other_than=first)
    ours = children(os.getpid())
    assert process.shim_pid in ours
    assert [pid for pid in ours if os.getsid(pid) == first] == []
    assert await process.stop(0.5) == ()
    await warming.close()


@forking
@pytest.mark.parametrize("at_once", [False, True], ids=["before the answer", "with the answer"])
async def test_a_stopped_shim_that_nobody_waits_for_any_more_is_ended(tmp_path, monkeypatch, at_once):
    shims = []
    answer = warming_module._Template._answer

    def answer_and_cancel(template, number, pid):
        os.kill(pid, signal.SIGSTOP)
        shims.append(pid)
        if at_once:
            answer(template, number, pid)
            launching.cancel()
        else:
            launching.cancel()
            answer(template, number, pid)

    monkeypatch.setattr(warming_module._Template, "_answer", answer_and_cancel)
    warming = Warming("site", (), delay=0)
    await ready(warming)
    launching = asyncio.create_task(
        ProcessLauncher(warming=warming).launch(order_for(tmp_path / "job", WAIT))
    )
    with pytest.raises(asyncio.CancelledError):
        await launching
    await warming.close()
    await asyncio.get_running_loop().shutdown_default_executor()  # as at the end of asyncio.run
    assert len(shims) == 1
    assert not set(shims) & set(children(os.getpid()))  # nor is it a zombie


@forking
async def test_a_worker_heeds_the_stop_that_comes_as_it_begins(tmp_path, monkeypatch):
    change_template(
        monkeypatch,
        """
        import time
        from flprov.workers import forked
        def close_and_wait(kept, close=forked._close_all_but):
            close(kept)  # now the shim says that it is started
            time.sleep(60)
        forked._close_all_but = close_and_wait
        """,
    )
    warming = Warming("site", (), delay=0)
    await ready(warming)
    process = await ProcessLauncher(warming=warming).launch(order_for(tmp_path / "job", WAIT))
    assert await process.stop(5) == ()
    assert (await process.wait()).signal == signal.SIGTERM
    await warming.close()


# ---- the process itself ----------------------------------------------------------------------


@forking
@shared_loop
async def test_it_states_its_memory_and_has_one_thread_and_nothing_of_its_parents(warming, monkeypatch):
    pid = await ready(warming)
    said = warming.describe()
    assert (said.state, said.python, said.modules, said.note) == ("ready", str(PYTHON), (), "")
    assert 10 << 20 < said.memory < 200 << 20
    assert len(os.listdir(f"/proc/{pid}/task")) == 1
    names = {text.split(b"=")[0] for text in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if text}
    assert names == {b"LANG", b"OPENBLAS_NUM_THREADS", b"OPENBLAS_THREAD_TIMEOUT", b"FLPROV_ROOM"}
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)


THREADED = "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"


@forking
async def test_modules_that_start_threads_or_are_broken_are_named(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "threaded.py").write_text(THREADED)
    (folder / "broken.py").write_text("raise RuntimeError('no such luck')")
    (folder / "leaving.py").write_text("raise SystemExit(3)")
    before = f"import sys; sys.path.append({str(folder)!r}); "
    monkeypatch.setattr(warming_module, "_TEMPLATE", before + warming_module._TEMPLATE)
    warming = Warming("site", ("broken", "leaving", "not_there"), delay=0)
    await ready(warming)
    assert warming.describe().modules == ()
    assert warming.describe().note == "broken: RuntimeError: no such luck; leaving: SystemExit: 3"
    await warming.close()
    warming = Warming("site", ("threaded",), delay=0)
    warming.prepare(PYTHON)
    async with asyncio.timeout(30):
        while warming.describe().state != "off":
            await asyncio.sleep(0.01)
    assert "threaded started 1 threads" in warming.describe().note
    await warming.close()


PARENT = """
    import asyncio, sys
    from pathlib import Path
    from flprov.testing.launcher_conformance import MAIN, told
    from flprov.workers import LaunchOrder, ProcessLauncher, Warming

    async def main():
        warming = Warming("site", (), delay=0)
        warming.prepare(Path(sys.executable))
        while warming.describe().state != "ready":
            await asyncio.sleep(0.01)
        order = LaunchOrder(job_id="job", folder=Path(sys.argv[1]), main=MAIN, orphan_seconds=60)
        process = await ProcessLauncher(warming=warming).launch(order)
        await told(process)
        print(warming._template.process.pid, process.shim_pid, flush=True)
        await process.wait()

    asyncio.run(main())
"""


@forking
async def test_after_its_parent_was_killed_the_template_ends_and_the_job_is_taken_over(tmp_path):
    folder = write_job(tmp_path / "job", "tell('begun')\n" + textwrap.dedent(ECHO))
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(folder)]
    parent = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    template, shim = map(int, (await parent.stdout.readline()).split())
    parent.kill()
    await parent.communicate()
    async with asyncio.timeout(10):
        while not gone(template):
            await asyncio.sleep(0.01)
    assert not gone(shim)
    process = await ProcessLauncher().adopt(folder)
    await process.channel.send(pb.ToWorker(quit=pb.Quit(reason="still there")))
    assert await told(process) == "still there"
    assert await process.stop(0.5) == ()
    assert alive_with(str(folder)) == []


@forking
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
async def test_torch_is_there_at_once_without_cuda_and_with_its_threads(tmp_path):
    warming = Warming("site", ("torch",), delay=0)
    pid = await ready(warming)
    assert warming.describe().modules == ("torch",)
    assert len(os.listdir(f"/proc/{pid}/task")) == 1
    script = """
        import sys
        there = "torch" in sys.modules
        import os, torch
        tell([there, torch.cuda.is_initialized(), torch.cuda._is_in_bad_fork(),
              torch.get_num_threads() == len(os.sched_getaffinity(0)) or torch.get_num_threads(),
              float((torch.ones(400, 400) @ torch.ones(400, 400)).sum()), torch.initial_seed()])
        channel.receive()
    """
    launcher = ProcessLauncher(warming=warming)
    *found, seed = await answer_of(launcher, tmp_path / "one", script)
    other = await answer_of(launcher, tmp_path / "two", script)
    await warming.close()
    assert found == [True, False, False, True, 400.0**3]
    assert seed != other[-1]
