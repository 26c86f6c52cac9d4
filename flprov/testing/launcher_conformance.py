# SPDX-License-Identifier: Apache-2.0
"""What every launcher must do. Subclass `LauncherConformance` in a test module with a `launcher` fixture.

The workers are scripts (`scripted_worker`), so a launcher under test has to run on a machine that
sees the same package and the job's folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import textwrap
import time
from pathlib import Path
from typing import Any

from flprov.errors import JobFailed
from flprov.wire import pb
from flprov.workers import Launcher, LaunchOrder, Process, read_exit_record

MAIN = "flprov.testing.scripted_worker"
ECHO = """
    while (message := channel.receive()) is not None:
        tell(message.quit.reason)
"""
WAIT = "tell('ready'); channel.receive()"
IGNORE_TERM = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell('ready')
    while True:
        time.sleep(60)
"""
DAEMON = """
    import os, signal, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            tell('ready')
            while True:
                time.sleep(60)
        os._exit(0)
    os.wait()
"""
STOP_GRACE = 0.5


def write_job(folder: Path, script: str) -> Path:
    """A job's folder whose app is this script."""
    (folder / "app").mkdir(parents=True)
    (folder / "app" / "main.py").write_text(textwrap.dedent(script))
    return folder


def order_for(folder: Path, script: str, **settings: Any) -> LaunchOrder:  # noqa: ANN401 - of any field
    """The order that runs `script` in a new job's folder."""
    return LaunchOrder(job_id=folder.name, folder=write_job(folder, script), main=MAIN, **settings)


async def told(process: Process) -> Any:  # noqa: ANN401 - whatever the script gave to tell()
    """The next value that the script has told."""
    message = await asyncio.wait_for(process.channel.receive(), 60)
    assert message is not None, f"the worker ended: {process.log.read_text()}"
    return json.loads(message.failure.message)


def alive_with(text: str) -> list[int]:
    """Processes that have `text` in their command line or environment, as far as we may read them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


class LauncherConformance:
    """The suite. Each test takes a fresh launcher."""

    async def test_frames_go_both_ways(self, launcher: Launcher, tmp_path: Path) -> None:
        process = await launcher.launch(order_for(tmp_path / "job", ECHO))
        try:
            for word in ("one", "two"):
                await process.channel.send(pb.ToWorker(quit=pb.Quit(reason=word)))
                assert await told(process) == word
        finally:
            assert await process.stop(STOP_GRACE) == ()

    async def test_worker_ends_by_itself(self, launcher: Launcher, tmp_path: Path) -> None:
        process = await launcher.launch(order_for(tmp_path / "job", "print('hello'); raise SystemExit(3)"))
        assert await process.channel.receive() is None
        record = await process.wait()
        assert (record.code, record.signal, record.reason) == (3, None, "exited with status 3")
        assert not record.stopped
        assert not record.clean
        assert process.log.read_text() == "hello\n"
        assert await process.stop(STOP_GRACE) == ()

    async def test_exit_zero_is_clean(self, launcher: Launcher, tmp_path: Path) -> None:
        process = await launcher.launch(order_for(tmp_path / "job", ""))
        record = await process.wait()
        assert record.clean
        assert record == read_exit_record(tmp_path / "job")
        assert await process.stop(STOP_GRACE) == ()

    async def test_crash_is_named(self, launcher: Launcher, tmp_path: Path) -> None:
        script = "import ctypes; ctypes.string_at(0)"
        process = await launcher.launch(order_for(tmp_path / "job", script))
        record = await process.wait()
        assert (record.code, record.signal, record.reason) == (None, 11, "killed by SIGSEGV")
        assert "Segmentation fault" in process.log.read_text()
        assert await process.stop(STOP_GRACE) == ()

    async def test_stop_ends_a_willing_worker_before_its_grace(
        self, launcher: Launcher, tmp_path: Path
    ) -> None:
        process = await launcher.launch(order_for(tmp_path / "job", WAIT))
        assert await told(process) == "ready"
        begun = time.monotonic()
        assert await process.stop(30.0) == ()
        assert time.monotonic() - begun < 10
        record = await process.wait()
        assert (record.stopped, record.reason, record.remaining) == (True, "stopped", ())

    async def test_stop_kills_a_worker_that_ignores_term(self, launcher: Launcher, tmp_path: Path) -> None:
        process = await launcher.launch(order_for(tmp_path / "job", IGNORE_TERM))
        assert await told(process) == "ready"
        begun = time.monotonic()
        assert await process.stop(STOP_GRACE) == ()
        assert time.monotonic() - begun >= STOP_GRACE
        assert (await process.wait()).signal == 9
        assert alive_with(str(tmp_path / "job")) == []

    async def test_stop_twice_at_once_and_after_the_end(self, launcher: Launcher, tmp_path: Path) -> None:
        process = await launcher.launch(order_for(tmp_path / "job", WAIT))
        assert await told(process) == "ready"
        both = await asyncio.gather(process.stop(STOP_GRACE), process.stop(STOP_GRACE))
        assert list(both) == [(), ()]
        assert await process.stop(STOP_GRACE) == ()

    async def test_nothing_outlives_the_worker(self, launcher: Launcher, tmp_path: Path) -> None:
        process = await launcher.launch(order_for(tmp_path / "job", DAEMON))
        record = await process.wait()
        assert record.remaining == ()
        assert alive_with(str(tmp_path / "job")) == []
        assert await process.stop(STOP_GRACE) == ()

    async def test_log_growth_is_announced(self, launcher: Launcher, tmp_path: Path) -> None:
        script = (
            "print('first', flush=True); channel.receive(); print('second', flush=True); channel.receive()"
        )
        process = await launcher.launch(order_for(tmp_path / "job", script))
        grown = asyncio.Event()
        process.on_log(grown.set)
        try:
            await self._wait_for_log(process, grown, "first\n")
            await process.channel.send(pb.ToWorker(quit=pb.Quit()))
            await self._wait_for_log(process, grown, "first\nsecond\n")
        finally:
            assert await process.stop(STOP_GRACE) == ()

    async def _wait_for_log(self, process: Process, grown: asyncio.Event, text: str) -> None:
        while not process.log.exists() or process.log.read_text() != text:
            await asyncio.wait_for(grown.wait(), 30)
            grown.clear()

    async def test_closing_the_channel_is_the_end_of_the_stream(
        self, launcher: Launcher, tmp_path: Path
    ) -> None:
        process = await launcher.launch(order_for(tmp_path / "job", ECHO))
        process.channel.close()
        assert (await process.wait()).clean
        assert await process.stop(STOP_GRACE) == ()

    async def test_sending_to_a_worker_that_is_gone_is_its_failure(
        self, launcher: Launcher, tmp_path: Path
    ) -> None:
        process = await launcher.launch(order_for(tmp_path / "job", ""))
        await process.wait()
        raised = None
        try:
            for _ in range(100):  # the first ones may go into the socket's buffer
                await process.channel.send(pb.ToWorker(quit=pb.Quit(reason="x" * 100_000)))
        except JobFailed as error:
            raised = error
        assert raised is not None
        assert await process.stop(STOP_GRACE) == ()

    # ---- a parent that comes back ----------------------------------------------------------

    async def test_a_parent_that_left_takes_its_process_back(
        self, launcher: Launcher, tmp_path: Path
    ) -> None:
        process = await launcher.launch(order_for(tmp_path / "job", ECHO, orphan_seconds=60))
        await process.channel.send(pb.ToWorker(quit=pb.Quit(reason="one")))
        assert await told(process) == "one"
        await process.leave()
        again = await launcher.adopt(tmp_path / "job")
        assert again is not None
        try:
            assert (again.log, again.confinement) == (process.log, process.confinement)
            await again.channel.send(pb.ToWorker(quit=pb.Quit(reason="two")))
            assert await told(again) == "two"
        finally:
            assert await again.stop(STOP_GRACE) == ()
        assert (await again.wait()).reason == "stopped"
        assert alive_with(str(tmp_path / "job")) == []

    async def test_a_process_that_is_taken_back_again_and_again_goes_on(
        self, launcher: Launcher, tmp_path: Path
    ) -> None:
        process: Process | None = await launcher.launch(order_for(tmp_path / "job", ECHO, orphan_seconds=60))
        for number in range(5):
            assert process is not None
            await process.channel.send(pb.ToWorker(quit=pb.Quit(reason=str(number))))
            assert await told(process) == str(number)
            await process.leave()
            process = await launcher.adopt(tmp_path / "job")
        assert process is not None
        assert await process.stop(STOP_GRACE) == ()

    async def test_a_worker_goes_on_working_while_its_parent_is_away(
        self, launcher: Launcher, tmp_path: Path
    ) -> None:
        script = """
            import pathlib, time
            tell('begun')
            while not pathlib.Path('../out/go').exists():
                time.sleep(0.01)
            tell('said to nobody')
            pathlib.Path('../out/done').write_text('x')
            assert channel.receive() is not None
            tell('back')
        """
        process = await launcher.launch(order_for(tmp_path / "job", script, orphan_seconds=60))
        assert await told(process) == "begun"
        await process.leave()
        (tmp_path / "job" / "out" / "go").touch()
        while not (tmp_path / "job" / "out" / "done").exists():
            await asyncio.sleep(0.01)
        again = await launcher.adopt(tmp_path / "job")
        assert again is not None
        await again.channel.send(pb.ToWorker(quit=pb.Quit()))
        assert await told(again) == "back"
        assert (await again.wait()).clean
        assert await again.stop(STOP_GRACE) == ()

    async def test_nothing_is_there_to_adopt_where_nothing_runs(
        self, launcher: Launcher, tmp_path: Path
    ) -> None:
        (tmp_path / "job").mkdir()
        assert await launcher.adopt(tmp_path / "job") is None
        process = await launcher.launch(order_for(tmp_path / "other", "", orphan_seconds=60))
        assert (await process.wait()).clean
        assert await process.stop(STOP_GRACE) == ()
        assert await launcher.adopt(tmp_path / "other") is None
        record = read_exit_record(tmp_path / "other")
        assert record is not None
        assert record.clean

    async def test_a_process_whose_parent_does_not_come_back_ends_and_says_so(
        self, launcher: Launcher, tmp_path: Path
    ) -> None:
        process = await launcher.launch(order_for(tmp_path / "job", WAIT, orphan_seconds=0.3))
        assert await told(process) == "ready"
        await process.leave()
        while (record := read_exit_record(tmp_path / "job")) is None:
            await asyncio.sleep(0.02)
        assert record.reason == "the agent went away and did not come back within 0.3 s"
        assert record.stopped
        assert await launcher.adopt(tmp_path / "job") is None
        assert alive_with(str(tmp_path / "job")) == []
