# SPDX-License-Identifier: Apache-2.0
"""The step from the shim to the worker: fork, confine, begin. Runs in the shim."""

from __future__ import annotations

import json
import os
import signal
import socket

from flprov.workers import confinement, linux
from flprov.workers.joblog import JobLog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Order = dict[str, Any]  # a JSON object, made by `plan`
    # With the order and the descriptors that the worker keeps; does not return, closes all others.
    Begin = Callable[[Order, Iterable[int]], None]

# The kernel rather kills a job than the agent, the shim or the operator's shell (proc_pid_oom_score_adj(5)).
_OOM_SCORE = "500"
_FAILED_TO_START = 127
CHANNEL_VARIABLE = "FLPROV_CHANNEL_FD"
LIFELINE_VARIABLE = "FLPROV_LIFELINE_FD"


class LaunchFailed(Exception):
    """The worker did not come to its first instruction. Carries an error code of flprov.errors."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def start_worker(
    order: Order, handed: tuple[int, ...], *, log: JobLog, begin: Begin
) -> tuple[int, int | None]:
    """Start the worker of `order`, confined as it says, and let go of the descriptors that it is handed.

    Returns:
        Its process number, and the listener for `broker.serve` if its connect(2) is to be supervised.

    Raises:
        LaunchFailed: a step between fork and `begin` failed; nothing runs.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    shim = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_worker(order, handed, log=log, report=theirs, shim=shim, begin=begin)
    theirs.close()
    log.close_inlet()
    for descriptor in handed:
        os.close(descriptor)
    with ours:
        return pid, _read_report(ours, pid)


def _read_report(report: socket.socket, pid: int) -> int | None:
    """Nothing but the end of the stream, and perhaps the listener before it, is a worker that begins."""
    listener: int | None = None
    while True:
        data, descriptors, _, _ = socket.recv_fds(report, 4096, 1)
        if descriptors:
            listener = descriptors[0]
        elif data:
            os.waitpid(pid, 0)
            failure = json.loads(data)
            raise LaunchFailed(failure["code"], failure["message"])
        else:
            return listener


def _become_worker(
    order: Order,
    handed: tuple[int, ...],
    *,
    log: JobLog,
    report: socket.socket,
    shim: int,
    begin: Begin,
) -> None:
    """In the child: everything up to the worker's own beginning. Does not return."""
    code, doing = "local-error", "preparing the worker"
    try:
        _prepare(order, log)
        code, doing = "confinement-refused", "confining the worker"
        _confine(order, report)
        code, doing = "local-error", f"starting {order['command'][0]}"
        # Last: a change of credentials clears it. If the shim is killed, so is the worker.
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == shim:
            begin(order, handed)
    except Exception as error:  # the outermost loop of this process
        message = f"{doing} failed: {error}"
        try:
            report.send(json.dumps({"code": code, "message": message}).encode())
        except OSError:  # the line is closed, and the worker counts as started: its log is left
            os.write(2, f"flprov: {message}\n".encode())
    finally:
        os._exit(_FAILED_TO_START)


def execute(order: Order, handed: Iterable[int]) -> None:
    """Begin by exec(2): another program in this process."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would pass that on
        signal.signal(number, signal.SIG_DFL)
    for descriptor in handed:
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - the function takes it by position only
    command: list[str] = order["command"]
    os.execve(command[0], command, order["environment"])  # noqa: S606


def _prepare(order: Order, log: JobLog) -> None:
    os.setsid()  # kill(0, ...) in job code is not to reach the shim
    signal.set_wakeup_fd(-1)
    os.umask(0o077)
    os.chdir(order["work"])
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(_OOM_SCORE)
    confinement.forbid_core_dumps()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log.inlet, 1), (log.inlet, 2)):
        os.dup2(source, target)


def _confine(order: Order, report: socket.socket) -> None:
    """Confine this process by the order's method, or have bubblewrap do so."""
    if order["method"] == "bubblewrap":
        place, descriptor = order["filter_place"], str(confinement.bubblewrap_filter())
        order["command"] = [descriptor if word == place else word for word in order["command"]]
        return
    if order["private_mounts"]:
        confinement.make_private_mounts()
    os.symlink(order["work"], order["short_work"])  # noqa: PTH211 - pathlib is slow to import
    if order["method"] == "landlock":
        listener = confinement.enter_landlock(order["rules"])
        socket.send_fds(report, [b"listener"], [listener])
    else:
        confinement.enter_unconfined()
