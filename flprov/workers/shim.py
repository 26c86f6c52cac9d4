# SPDX-License-Identifier: Apache-2.0
"""The shim: the small parent of one job's processes. It outlives the agent and sees them all end.

It is the subreaper of everything that the job starts, also of what calls setsid and forks twice. So
"all are gone" is a statement of the kernel: wait(2) says that there is no child left. It speaks with
its parent over a SOCK_SEQPACKET socket, one JSON object per packet:

    parent: the order, then any number of {"stop": grace in seconds}
    shim:   {"started": pid} or {"failed": {"code", "message"}}, then {"exited": the exit record}

When the parent goes away, the shim stops the job and leaves the record in the job's folder.
Started as `python -I -S`; imports the standard library's quick modules and nothing else.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback

from flprov.workers import linux
from flprov.workers.child import LaunchFailed, start_worker
from flprov.workers.confinement import drop_short_name
from flprov.workers.joblog import JobLog
from flprov.workers.processes import boot_id, descendants, kill_all, send_signal, start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PACKET = 1 << 17  # bytes of the largest packet
_KILL_AGAIN = 0.05  # seconds between two rounds of killing
_GIVE_UP = 10.0  # seconds after the first round: what is left then hangs inside the kernel
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Shim:
    """One job's processes, from the order to the exit record."""

    def __init__(self, control: socket.socket, order: dict[str, Any]) -> None:
        self._control = control
        self._order = order
        self._log = JobLog(order["log"], limit=order["log_limit"])
        self._poll = select.poll()
        self._worker = 0
        self._status: int | None = None  # wait status of the worker, once it has ended
        self._empty = False
        self._stop_reason = ""
        self._kill_at: float | None = None
        self._give_up_at: float | None = None
        self._started_at = _now()
        self._oom_kills = _oom_kills()

    def run(self, channel: int) -> None:
        """Start the worker, watch until all is gone, leave the record.

        Raises:
            LaunchFailed: the worker could not be started.
        """
        wakeups = self._listen_to_signals()
        self._worker, listener = start_worker(self._order, channel=channel, log=self._log)
        self._send({"started": self._worker})
        if listener is not None:
            self._serve_connections(listener)
        for descriptor in (wakeups, self._control.fileno(), self._log.pipe):
            self._poll.register(descriptor, select.POLLIN)
        while not self._finished():
            for descriptor, _ in self._poll.poll(self._patience()):
                if descriptor == wakeups:
                    self._heed_signals(wakeups)
                elif descriptor == self._log.pipe:
                    self._copy_log()
                else:
                    self._heed_parent()
            self._kill_when_due()
            self._reap()
        self._log.drain()
        drop_short_name(self._order["tag"])
        self._leave(self._record())

    def _listen_to_signals(self) -> int:
        """A pipe that gets one byte, the number, for each signal (instead of interrupting anything)."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        return reading

    def _serve_connections(self, listener: int) -> None:
        import threading

        from flprov.workers.broker import Broker

        order = self._order
        folders = tuple(order["sockets"])
        broker = Broker(listener, folders=folders, short_name=order["short_work"], short_for=order["work"])
        threading.Thread(target=broker.serve, daemon=True).start()

    def _finished(self) -> bool:
        given_up = self._give_up_at is not None and time.monotonic() > self._give_up_at
        return self._empty or given_up

    def _patience(self) -> float | None:
        """Milliseconds until something is to be done unasked; None: until something happens."""
        if self._kill_at is None:
            return None
        return max(0.0, self._kill_at - time.monotonic()) * 1000 + 1

    def _heed_signals(self, wakeups: int) -> None:
        numbers = os.read(wakeups, 4096)
        if any(number != signal.SIGCHLD for number in numbers):
            self._stop(self._order["grace"], "the job's shim was told to stop by a signal")

    def _heed_parent(self) -> None:
        try:
            packet = self._control.recv(PACKET)
        except ConnectionError:
            packet = b""
        if packet:
            self._stop(float(json.loads(packet)["stop"]), "stopped")
        else:
            self._poll.unregister(self._control.fileno())
            self._stop(self._order["grace"], f"the {self._order['parent']} went away")

    def _copy_log(self) -> None:
        if not self._log.copy():
            self._poll.unregister(self._log.pipe)
        send(self._control, {"log": True}, flags=socket.MSG_DONTWAIT)  # dropped when the parent is behind

    def _stop(self, grace: float, reason: str) -> None:
        """Ask everything to end, and kill what is left after `grace` seconds; the first reason stands."""
        deadline = time.monotonic() + grace
        if self._status is None and not self._stop_reason:
            self._stop_reason = reason
        if self._kill_at is None and grace > 0:
            self._ask_to_end()
        self._kill_at = deadline if self._kill_at is None else min(self._kill_at, deadline)

    def _ask_to_end(self) -> None:
        for pid, started in descendants(os.getpid()).items():
            # bwrap would not pass it on, but end and take the worker with it.
            if pid != self._worker or self._order["method"] != "bubblewrap":
                send_signal(pid, started, signal.SIGTERM)
                send_signal(pid, started, signal.SIGCONT)

    def _kill_when_due(self) -> None:
        now = time.monotonic()
        if self._kill_at is None or now < self._kill_at:
            return
        kill_all(lambda: descendants(os.getpid()))
        self._kill_at = now + _KILL_AGAIN
        if self._give_up_at is None:
            self._give_up_at = now + _GIVE_UP

    def _reap(self) -> None:
        """Collect who has ended. Once the worker has, what it left behind is killed."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self._worker:
                    self._status = status
        except ChildProcessError:
            self._empty = True
            return
        if self._status is not None and self._kill_at is None:
            self._kill_at = 0.0
            self._kill_when_due()

    def _record(self) -> dict[str, Any]:
        """An ExitRecord (flprov.workers.record) as a document."""
        code, number = _how_it_ended(self._status, through_bwrap=self._order["method"] == "bubblewrap")
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        oom = number == signal.SIGKILL and not self._stop_reason and _oom_kills() > self._oom_kills
        remaining = [] if self._empty else sorted(descendants(os.getpid()))
        return {
            "reason": self._stop_reason or _describe(code, number, oom=oom),
            "code": code,
            "signal": number,
            "stopped": bool(self._stop_reason),
            "oom": oom,
            "started_at": self._started_at,
            "ended_at": _now(),
            "max_rss": usage.ru_maxrss * 1024,
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
            "log_dropped": self._log.dropped,
            "remaining": remaining,
        }

    def _leave(self, record: dict[str, Any]) -> None:
        try:
            write_record(self._order["exit_record"], record)
        except OSError as error:  # a full disk: the parent, if there is one, learns it all the same
            print(f"flprov: the exit record could not be written: {error}", file=sys.stderr)
        self._send({"exited": record})

    def _send(self, message: dict[str, Any]) -> None:
        send(self._control, message)


def write_record(path: str, record: dict[str, Any]) -> None:
    """Whole or not at all. Not synced: after a power cut nothing of the job is alive anyway."""
    partial = path + ".partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(record, file)
    os.replace(partial, path)  # noqa: PTH105 - pathlib is slow to import


def send(control: socket.socket, message: dict[str, Any], *, flags: int = 0) -> None:
    """One packet to the parent, which may be gone."""
    try:
        control.send(json.dumps(message).encode(), socket.MSG_NOSIGNAL | flags)
    except OSError:
        return


def _how_it_ended(status: int | None, *, through_bwrap: bool) -> tuple[int | None, int | None]:
    """Exit status and signal; one of them is None, or both if the worker cannot even be killed."""
    if status is None:
        return None, None
    code = os.waitstatus_to_exitcode(status)
    if through_bwrap and code > 128:  # as shells do, bwrap reports a signal as a status
        code = 128 - code
    return (code, None) if code >= 0 else (None, -code)


def _describe(code: int | None, number: int | None, *, oom: bool) -> str:
    if number is None:
        return f"exited with status {code}"
    if oom:
        return "killed by the kernel: the machine, or the job's share of it, was out of memory"
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:  # a real-time signal
        return f"killed by signal {number}"


def _oom_kills() -> int:
    """How often the kernel has killed for want of memory since boot, in any cgroup."""
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def _now() -> str:
    """As flprov._base.to_iso, without the modules that it needs."""
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"


def main(control_descriptor: int, channel: int) -> None:
    """The shim process, from the first packet on."""
    control = socket.socket(fileno=control_descriptor)
    control.set_inheritable(False)  # the worker could speak in our name
    packet = control.recv(PACKET)
    if not packet:
        return
    order = json.loads(packet)
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    us = os.getpid()
    record = {"job_id": order["job_id"], "pid": us, "started": start_time(us)}
    write_record(order["shim_record"], record | {"boot": boot_id(), "tag": order["tag"]})
    try:
        Shim(control, order).run(channel)
    except LaunchFailed as error:
        send(control, {"failed": {"code": error.code, "message": str(error)}})
    except Exception as error:  # the outermost loop of this process
        traceback.print_exc()
        send(control, {"failed": {"code": "local-error", "message": f"the job's shim failed: {error}"}})
    finally:
        sys.stderr.flush()
        os._exit(0)  # a thread may hang in a connection that the job's code never accepts
