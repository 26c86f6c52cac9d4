# SPDX-License-Identifier: Apache-2.0
"""The shim: the small parent of one job's processes. It outlives the agent and sees them all end.

It is the subreaper of everything that the job starts, also of what calls setsid and forks twice. So
"all are gone" is a statement of the kernel: wait(2) says that there is no child left. It speaks with
its parent over a SOCK_SEQPACKET socket, one JSON object per packet:

    parent: the order, then any number of {"stop": grace in seconds}
    shim:   {"started": pid} or {"failed": {"code", "message"}}, then {"exited": the exit record}

When the parent goes away, the shim waits as long as the order says for another one to knock at shim.sock:

    parent: {"adopt": true} with a descriptor, the worker's end of new frames
    shim:   {"adopted": {"pid", "method"}}, then as before

The descriptor goes on to the worker over its lifeline, a socket on which the shim says nothing else.
If nobody comes, the shim stops the job and leaves the record in the job's folder.
Started as `python -I -S`, or forked from the template; imports the standard library's quick modules only.
"""

from __future__ import annotations

import contextlib
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
from flprov.workers.child import CHANNEL_VARIABLE, LIFELINE_VARIABLE, LaunchFailed, execute, start_worker
from flprov.workers.confinement import drop_short_name
from flprov.workers.joblog import JobLog
from flprov.workers.parent import PACKET, ParentLine, parent_gone, send
from flprov.workers.processes import boot_id, descendants, kill_all, send_signal, start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from flprov.workers.child import Begin

_KILL_AGAIN = 0.05  # seconds between two rounds of killing
_GIVE_UP = 10.0  # seconds after the first round: what is left then hangs inside the kernel
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# What a machine, its operator or another program ends processes with; the others are a job's own faults.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
_TERMINATED = 128 + signal.SIGTERM  # the exit status of a worker that has heeded SIGTERM


class Shim:
    """One job's processes, from the order to the exit record."""

    def __init__(self, control: socket.socket, order: dict[str, Any], begin: Begin) -> None:
        self._order = order
        self._begin = begin
        self._log = JobLog(order["log"], limit=order["log_limit"])
        self._poll = select.poll()
        waits = order["orphan_seconds"] > 0
        self._parent = ParentLine(control, self._poll, order["door"] if waits else None)
        self._lifeline: socket.socket | None = None
        self._worker = 0
        self._status: int | None = None  # wait status of the worker, once it has ended
        self._empty = False
        self._stop_reason = ""
        self._outside = False  # what stopped us was a signal from elsewhere
        self._ended = 0
        self._orphan_until: float | None = None
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
        lifeline = self._make_lifeline()
        self._order["environment"][CHANNEL_VARIABLE] = str(channel)
        handed = (channel,) if lifeline is None else (channel, lifeline)
        self._worker, listener = start_worker(self._order, handed, log=self._log, begin=self._begin)
        self._parent.send({"started": self._worker})
        if listener is not None:
            self._serve_connections(listener)
        for descriptor in (wakeups, self._log.pipe):
            self._poll.register(descriptor, select.POLLIN)
        while not self._finished():
            for descriptor, _ in self._poll.poll(self._patience()):
                if descriptor == wakeups:
                    self._heed_signals(wakeups)
                elif descriptor == self._log.pipe:
                    self._copy_log()
                elif descriptor == self._parent.door:
                    self._parent.let_in()
                else:
                    self._heed_parent()
            self._stop_when_orphaned()
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

    def _make_lifeline(self) -> int | None:
        """The worker's end of a socket that brings it new channels; None when no parent is waited for."""
        if self._order["orphan_seconds"] <= 0:
            return None
        self._lifeline, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lifeline.shutdown(socket.SHUT_RD)  # the job has nothing to say to us
        self._order["environment"][LIFELINE_VARIABLE] = str(theirs.fileno())
        return theirs.detach()

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
        due = [at for at in (self._kill_at, self._orphan_until) if at is not None]
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else None

    def _heed_signals(self, wakeups: int) -> None:
        numbers = os.read(wakeups, 4096)
        if any(number != signal.SIGCHLD for number in numbers):
            self._outside = self._outside or not self._stop_reason
            self._stop(self._order["grace"], "the job's shim was told to stop by a signal")

    def _heed_parent(self) -> None:
        message = self._parent.receive()
        if message is None:
            self._lose_parent()
        elif "stop" in message:
            self._stop(float(message["stop"]), "stopped")
        elif "adopt" in message:
            self._go_on_with_parent()

    def _lose_parent(self) -> None:
        if self._lifeline is None:
            self._stop(self._order["grace"], f"the {self._order['parent']} went away")
        elif self._orphan_until is None and self._kill_at is None:
            self._orphan_until = time.monotonic() + self._order["orphan_seconds"]

    def _stop_when_orphaned(self) -> None:
        if self._orphan_until is None or time.monotonic() < self._orphan_until:
            return
        self._orphan_until = None
        parent, seconds = self._order["parent"], self._order["orphan_seconds"]
        self._stop(self._order["grace"], f"the {parent} went away and did not come back within {seconds:g} s")

    def _go_on_with_parent(self) -> None:
        """A parent has come: it and the worker get to know each other."""
        self._orphan_until = None
        self._parent.send({"adopted": {"pid": self._worker, "method": self._order["method"]}})
        if self._parent.channel is None or self._lifeline is None:
            return
        try:
            flags = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
            socket.send_fds(self._lifeline, [b"channel"], [self._parent.channel], flags)
        except BrokenPipeError:  # the worker has ended, or is about to
            pass
        except OSError as error:
            self._stop(self._order["grace"], f"the job's process could not be reached: {error}")
        self._parent.drop_channel()

    def _copy_log(self) -> None:
        if not self._log.copy():
            self._poll.unregister(self._log.pipe)
        self._parent.send({"log": True}, flags=socket.MSG_DONTWAIT)  # dropped when the parent is behind

    def _stop(self, grace: float, reason: str) -> None:
        """Ask everything to end, and kill what is left after `grace` seconds; the first reason stands."""
        deadline = time.monotonic() + grace
        if self._status is None and not self._stop_reason:
            self._stop_reason = reason
            self._ended = len(descendants(os.getpid()))
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
        struck = not self._stop_reason and not oom and (number in _FROM_OUTSIDE or code == _TERMINATED)
        remaining = [] if self._empty else sorted(descendants(os.getpid()))
        return {
            "reason": self._stop_reason or _describe(code, number, oom=oom),
            "code": code,
            "signal": number,
            "stopped": bool(self._stop_reason),
            "oom": oom,
            "outside": self._outside or struck,
            "ended": self._ended,
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
            self._log.write(f"flprov: the exit record could not be written: {error}\n")
        self._parent.send({"exited": record})

    def close(self) -> None:
        """Nobody is let in any more."""
        self._parent.close_door()


def write_record(path: str, record: dict[str, Any]) -> None:
    """Whole or not at all. Not synced: after a power cut nothing of the job is alive anyway."""
    partial = path + ".partial"
    try:
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(record, file)
        os.replace(partial, path)  # noqa: PTH105 - pathlib is slow to import
    except OSError:  # a full disk
        with contextlib.suppress(OSError):
            os.unlink(partial)  # noqa: PTH108
        raise


def _how_it_ended(status: int | None, *, through_bwrap: bool) -> tuple[int | None, int | None]:
    """Exit status and signal; one of them is None, or both if the worker cannot even be killed."""
    if status is None:
        return None, None
    code = os.waitstatus_to_exitcode(status)
    if through_bwrap and code > 128:  # as shells do, bwrap reports a signal as a status
        code = 128 - code
    return (code, None) if code >= 0 else (None, -code)


def _describe(code: int | None, number: int | None, *, oom: bool) -> str:
    if code == _TERMINATED:
        number = signal.SIGTERM
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


def main(control_descriptor: int, channel: int, begin: Begin = execute) -> None:
    """The shim process, from the first packet on. `begin`: how a process becomes the worker."""
    control = socket.socket(fileno=control_descriptor)
    control.set_inheritable(False)  # the worker could speak in our name
    packet = control.recv(PACKET)
    if not packet:
        return
    if parent_gone(control):  # we are late: the folder may be another launch's by now
        return
    order = json.loads(packet)
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    us = os.getpid()
    record = {"job_id": order["job_id"], "pid": us, "started": start_time(us)}
    write_record(order["shim_record"], record | {"boot": boot_id(), "tag": order["tag"]})
    shim: Shim | None = None
    try:
        shim = Shim(control, order, begin)
        shim.run(channel)
    except LaunchFailed as error:
        send(control, {"failed": {"code": error.code, "message": str(error)}})
    except Exception as error:  # the outermost loop of this process
        traceback.print_exc()
        send(control, {"failed": {"code": "local-error", "message": f"the job's shim failed: {error}"}})
    finally:
        if shim is not None:
            shim.close()
        sys.stderr.flush()
        os._exit(0)  # a thread may hang in a connection that the job's code never accepts
