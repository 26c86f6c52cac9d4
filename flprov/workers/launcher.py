# SPDX-License-Identifier: Apache-2.0
"""Launchers: how a parent (server or agent) starts a worker, watches it and ends it.

`ProcessLauncher` starts processes on this machine. Others (Slurm, Kubernetes, Docker) will speak
the same frames; all pass `flprov.testing.launcher_conformance`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flprov._base import from_document
from flprov.errors import LocalError, error_class
from flprov.workers import linux
from flprov.workers.adoption import adopt_shim
from flprov.workers.channel import Channel, StreamChannel, open_channel
from flprov.workers.confinement import drop_short_name
from flprov.workers.detection import PACKAGE, Method
from flprov.workers.logsegments import log_segments
from flprov.workers.order import LaunchOrder
from flprov.workers.plan import plan_launch
from flprov.workers.processes import mounts_of, start_time
from flprov.workers.reaping import collect, drop_door, sweep, write_exit_record
from flprov.workers.record import EXIT_RECORD, SHIM_RECORD, ExitRecord, read_exit_record

if TYPE_CHECKING:
    from flprov.workers.warming import Warming

_PACKET = 1 << 17  # as in shim.py
_MOST_STARTS = 3  # of a shim that somebody else kills before it has started the worker
_OVERDUE = 15.0  # seconds after its grace in which a shim that lives has reported, or given up
# -I -S: no site packages, nothing from the environment. The argument is the folder that holds flprov.
_SHIM = (
    "import sys; sys.path.append(sys.argv[1]); from flprov.workers.shim import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]))"
)


class Process(Protocol):
    """A worker that was started, with everything that it starts."""

    @property
    def channel(self) -> Channel:
        """The frames to and from it."""
        ...

    @property
    def log(self) -> Path:
        """What it prints."""
        ...

    @property
    def confinement(self) -> str:
        """How it is confined: `landlock`, `bubblewrap` or `none`."""
        ...

    def on_log(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the log has grown; a call may stand for several growths."""
        ...

    async def wait(self) -> ExitRecord:
        """How it ended; returns when all its processes are gone."""
        ...

    async def stop(self, grace: float) -> tuple[int, ...]:
        """End it and everything that it has started; again and afterwards is fine.

        Args:
            grace: seconds between asking (SIGTERM) and killing.

        Returns:
            The processes that are still there. Empty is proof that none is.
        """
        ...

    async def leave(self) -> None:
        """Let go of it without ending it: it waits for `Launcher.adopt`, as long as its order says."""
        ...


class Launcher(Protocol):
    """Starts workers."""

    async def launch(self, order: LaunchOrder) -> Process:
        """Start a worker; it is confined before its first instruction. End it with `stop`.

        It may be cancelled: nothing is left then.

        Raises:
            ConfinementRefused: it cannot be confined here, and the order does not waive it.
            LocalError: the interpreter, a dataset or a GPU is missing, or the machine refused.
        """
        ...

    async def adopt(self, folder: Path) -> Process | None:
        """Take the place of a parent that is gone, also by SIGKILL. The worker goes on as if nothing was.

        Only for a folder that this process has launched nothing in, or whose process it has left.

        Returns:
            The process of the job in `folder`, with new frames; None when none lives there that waits for
            a parent. Then `reap_leftovers` ends what else there is, and tells how it ended.
        """
        ...


class ProcessLauncher:
    """Workers as processes on this machine.

    The calling process becomes a subreaper (prctl(2)): what a killed shim leaves behind becomes
    its child, and so is found and ended.

    Args:
        method: confine by this; the best that works here, when None.
        warming: fork shim and worker from its template, when it has one; else every job starts anew.
    """

    def __init__(self, *, method: Method | None = None, warming: Warming | None = None) -> None:
        self._method = method
        self._warming = warming

    async def launch(self, order: LaunchOrder) -> ShimProcess:
        """See `Launcher.launch`."""
        for _ in range(_MOST_STARTS):
            order = _prepare_folder(order)  # each time: a shim that was killed leaves its door
            try:
                process = await self._launch(order)
            except OSError as error:
                raise LocalError(f"the job's process could not be started: {error}") from error
            if process is not None:
                return process
        raise LocalError(
            f"the shim of job {order.job_id} was killed {_MOST_STARTS} times at its start",
            hint="who ends processes on this machine?",
        )

    async def _launch(self, order: LaunchOrder) -> ShimProcess | None:
        """None when somebody else killed the shim before it had started the worker: nothing is left of it."""
        tag = secrets.token_hex(16)
        plan = await asyncio.to_thread(plan_launch, order, self._method, tag)
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        shim, control, channel = await self._fork_shim(order, plan) or _start_shim(order)
        try:
            pid = await _start_worker(control, plan, shim)
            if pid is None:
                control.close()
                channel.close()
                await asyncio.to_thread(_clear_away, tag)
                return None
            stream = await open_channel(channel)
        except BaseException:  # also when cancelled
            control.close()
            channel.close()
            # Before whoever has cancelled goes on: it may have to prove that nothing is left.
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, _give_up, shim, tag))
            raise
        return ShimProcess(
            folder=order.folder,
            shim=shim,
            control=control,
            channel=stream,
            pid=pid,
            tag=tag,
            method=str(plan["method"]),
        )

    async def _fork_shim(self, order: LaunchOrder, plan: dict[str, Any]) -> _Started | None:
        """From the template; None when it cannot be.

        Bubblewrap is a program, which only exec enters. What libraries read from their environment when
        they are loaded cannot be told to a process that has loaded them.
        """
        if self._warming is None or plan["method"] == Method.BUBBLEWRAP.value or order.variables:
            return None
        with _Lines(order) as lines:
            shim = await self._warming.fork(order.python, lines.theirs)
            return None if shim is None else (shim, *lines.keep())

    async def adopt(self, folder: Path) -> ShimProcess | None:
        """See `Launcher.adopt`."""
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        folder = folder.resolve()
        found = await adopt_shim(folder)
        if found is None:
            return None
        return ShimProcess(
            folder=folder,
            shim=found.shim,
            control=found.control,
            channel=await open_channel(found.channel),
            pid=found.worker,
            tag=found.tag,
            method=found.method,
        )


class Shim(Protocol):
    """The shim's process, ours or found."""

    pid: int

    def kill(self) -> None: ...
    def wait(self) -> int | None: ...


class ShimProcess:
    """A `Process` behind a shim. Made by `ProcessLauncher`."""

    def __init__(
        self,
        *,
        folder: Path,
        shim: Shim,
        control: socket.socket,
        channel: StreamChannel,
        pid: int,
        tag: str,
        method: str,
    ) -> None:
        self.channel = channel
        self.log = folder / "log"
        self.confinement = method
        self.pid = pid
        self.shim_pid = shim.pid
        self._folder = folder
        self._tag = tag
        self._mounts = mounts_of(pid)
        self._shim = shim
        self._control = control
        self._collected = False  # whether somebody waits for the shim's end already
        self._log_listeners: list[Callable[[], None]] = []
        self._ended = asyncio.create_task(self._watch())

    def on_log(self, listener: Callable[[], None]) -> None:
        """See `Process.on_log`."""
        self._log_listeners.append(listener)
        listener()  # for what came before

    async def wait(self) -> ExitRecord:
        """See `Process.wait`."""
        return await asyncio.shield(self._ended)

    async def stop(self, grace: float) -> tuple[int, ...]:
        """See `Process.stop`."""
        if not self._ended.done():
            with contextlib.suppress(OSError):  # the shim is ending already
                packet = json.dumps({"stop": grace}).encode()
                await asyncio.get_running_loop().sock_sendall(self._control, packet)
            done, _ = await asyncio.wait([self._ended], timeout=grace + _OVERDUE)
            if not done:
                self._shim.kill()  # stopped, or stuck in the kernel; what it leaves is swept up
        record = await self.wait()
        await self.channel.wait_closed()
        return tuple(pid for pid in record.remaining if start_time(pid) is not None)

    async def leave(self) -> None:
        """See `Process.leave`."""
        self._ended.cancel()
        await asyncio.wait([self._ended])
        self._control.close()
        self._forget_mounts()
        await self.channel.wait_closed()
        if not self._collected:
            # Somebody has to take note of its end, as long as it is our child. The thread ends with us.
            threading.Thread(target=self._shim.wait, name="shim", daemon=True).start()

    async def _watch(self) -> ExitRecord:
        """Listen to the shim until it has ended."""
        loop = asyncio.get_running_loop()
        record: ExitRecord | None = None
        failure = ""
        with self._control as control:
            while packet := await _receive(loop, control):
                message = json.loads(packet)
                if "log" in message:
                    self._tell_log_grew()
                failure = message.get("failed", {}).get("message", failure)
                if "exited" in message:
                    record = from_document(ExitRecord, message["exited"])
        self._collected = True
        status = await asyncio.to_thread(self._shim.wait)
        self._tell_log_grew()  # what was in the pipe at the end comes without a word
        if record is None:
            record = await asyncio.to_thread(self._clear_up, failure or _how_killed(status))
        self._forget_mounts()
        return record

    def _forget_mounts(self) -> None:
        if self._mounts is not None:
            os.close(self._mounts)
            self._mounts = None

    def _tell_log_grew(self) -> None:
        for listener in self._log_listeners:
            listener()

    def _clear_up(self, reason: str) -> ExitRecord:
        """The shim ended before the job, so nobody but us sees what it left."""
        remaining = sweep(self._tag, adopted=True, mounts=self._mounts).remaining
        collect([self.pid])
        drop_short_name(self._tag)
        drop_door(self._folder)
        if written := read_exit_record(self._folder):
            return written
        record = ExitRecord(reason=reason, stopped=True, outside=True, remaining=remaining)
        write_exit_record(self._folder, record)
        return record


def _how_killed(status: int | None) -> str:
    """`status` as of `subprocess.Popen.wait`; None: it was another process's child."""
    if status is None or status >= 0:
        return "the job's shim was killed"
    return f"the job's shim was killed by {signal.Signals(-status).name}"


def _prepare_folder(order: LaunchOrder) -> LaunchOrder:
    """Make what is missing in the job's folder; the order then spells it without links."""
    folder = order.folder.resolve()
    try:
        for name in ("app", "in", "lib", "out", "work"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
        drop_door(folder)
        for name in (SHIM_RECORD, EXIT_RECORD):  # of an earlier run: they would speak for this one
            with contextlib.suppress(IsADirectoryError):
                (folder / name).unlink(missing_ok=True)
        package = folder / "lib" / "flprov"
        package.unlink(missing_ok=True)
        package.symlink_to(PACKAGE)
    except OSError as error:
        raise LocalError(f"the job's folder {folder} cannot be used: {error.strerror}") from error
    return dataclasses.replace(order, folder=folder)


_Started = tuple[Shim, socket.socket, socket.socket]  # its control line and the worker's frames: our ends


class _Lines(contextlib.ExitStack):
    """What a new shim is handed: its line, the worker's frames, the log. Closed again at the end.

    Raises:
        LocalError: the log cannot be written.
    """

    def __init__(self, order: LaunchOrder) -> None:
        super().__init__()
        self._errors = _open_log(order)
        self.callback(os.close, self._errors)
        self._control, self._control_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel, self._channel_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for sock in (self._control, self._control_end, self._channel, self._channel_end):
            self.callback(sock.close)

    @property
    def theirs(self) -> tuple[int, int, int]:
        return self._control_end.fileno(), self._channel_end.fileno(), self._errors

    def keep(self) -> tuple[socket.socket, socket.socket]:
        """Our ends, which stay open."""
        return self._control.dup(), self._channel.dup()


def _open_log(order: LaunchOrder) -> int:
    log = order.folder / "log"
    newest = [path for _, path in log_segments(log)] or [str(log)]
    try:
        return os.open(newest[-1], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise LocalError(f"the job's log {log} cannot be written: {error.strerror}") from error


def _start_shim(order: LaunchOrder) -> _Started:
    """By exec."""
    with _Lines(order) as lines:
        control, channel, errors = lines.theirs
        command = [sys.executable, "-I", "-S", "-c", _SHIM, str(PACKAGE.parent), str(control), str(channel)]
        try:
            shim = subprocess.Popen(
                [*command, f"flprov-shim:{order.job_id}"],  # for ps
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd="/",
                env={"LANG": "C.UTF-8"},
                pass_fds=(control, channel),
                start_new_session=True,  # a terminal's Ctrl-C and hang-up are for the parent
            )
        except OSError as error:
            raise LocalError(f"the job's shim could not be started: {error.strerror}") from error
        return (shim, *lines.keep())


async def _start_worker(control: socket.socket, plan: dict[str, Any], shim: Shim) -> int | None:
    """Give the order to the shim. Returns the worker's process number; None when the shim was killed."""
    loop = asyncio.get_running_loop()
    control.setblocking(False)  # noqa: FBT003 - the function takes it by position only
    with contextlib.suppress(ConnectionError):  # it is gone already: how it ended says why
        await loop.sock_sendall(control, json.dumps(plan).encode())
    packet = await _receive(loop, control)
    answer = json.loads(packet) if packet else {}
    if "started" in answer:
        return int(answer["started"])
    status = await asyncio.to_thread(shim.wait)
    if not packet and (status is None or status < 0):
        return None
    failure = answer.get("failed") or {"code": "local-error", "message": "the job's shim ended at its start"}
    raise error_class(failure["code"])(failure["message"], hint=f"read {plan['log']}")


def _give_up(shim: Shim, tag: str) -> None:
    """End a shim that nobody waits for any more, also one that is stopped and would not see that."""
    shim.kill()
    shim.wait()
    _clear_away(tag)


def _clear_away(tag: str) -> None:
    """What a shim that was killed at its start may have left."""
    sweep(tag, adopted=True)
    drop_short_name(tag)


async def _receive(loop: asyncio.AbstractEventLoop, control: socket.socket) -> bytes:
    try:
        return await loop.sock_recv(control, _PACKET)
    except ConnectionError:
        return b""
