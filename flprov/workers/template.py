# SPDX-License-Identifier: Apache-2.0
"""The template: a process that has imported what workers need, and from which each job's is forked.

A job gets its shim and its worker by fork instead of by exec, so that nothing is imported again. What is
in the template's memory is readable to every job that comes from it. So nothing of a job gets there: an
order is three descriptors, and what they bring is read by the child alone. It has no key and no
descriptor of its parent's, and one thread, since fork(2) copies no other.

It speaks with its parent over a SOCK_SEQPACKET socket, one JSON object per packet, and ends with it:

    template: {"ready": the modules} once, or {"failed": why} and its end
    parent:   {"order": number} with three descriptors: the shim's line, the worker's frames, the log
    shim's starter: {"order": number, "shim": pid}
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import threading
import time

from flprov.workers import shim
from flprov.workers.descriptors import receive_descriptors
from flprov.workers.parent import send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn

# What our mains import when a job has come so far: better now.
OURS = {
    "site": ("flprov.workers.site_main", "flprov.client", "numpy.random"),
    "workflow": ("flprov.workers.workflow_main", "flprov.sdk.workflows.fedavg", "numpy.random"),
}
_SHIMS = ("flprov.workers.broker", "flprov.workers.logsegments")
_LOWEST = 19  # nice(2)
_SETTLE = 1.0  # seconds in which a thread that has ended is gone from /proc


def main(arguments: Sequence[str]) -> NoReturn:
    """The template's process: the number of its line to the parent, then the modules."""
    line = socket.socket(fileno=int(arguments[0]))
    line.set_inheritable(False)
    modules = [name for name in arguments[1:] if importlib.util.find_spec(name.partition(".")[0])]
    lacking = _load(line, modules)
    if (threads := _count_threads()) > 1:
        send(line, {"failed": f"importing {', '.join(modules)} started {threads - 1} threads"})
        os._exit(1)
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, every page with an object
    with contextlib.suppress(AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)
    send(line, {"ready": [name for name in modules if name not in lacking], "lacking": lacking})
    poller = select.poll()
    poller.register(line, select.POLLIN)
    while True:
        poller.poll()
        _heed(line)


def _load(line: socket.socket, modules: Sequence[str]) -> dict[str, str]:
    """Import; returns what could not be, and why. Ends the process when the parent goes away meanwhile.

    In a thread of its own and at the lowest priority: a priority is a thread's on Linux, and a process
    that has lowered its own needs a right to get it back. That thread ends here.
    """
    done, ours = socket.socketpair()
    lacking: dict[str, str] = {}

    def load() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
        for name in (*_SHIMS, *modules):
            try:
                importlib.import_module(name)
            except Exception as error:  # a package may raise anything
                lacking[name] = f"{type(error).__name__}: {error}"[:300]
        ours.close()

    thread = threading.Thread(target=load)
    thread.start()
    poller = select.poll()
    for sock in (line, done):
        poller.register(sock, select.POLLIN)
    found = dict(poller.poll())
    if done.fileno() not in found:  # nobody gives orders before we are ready: it is gone
        os._exit(0)
    thread.join()
    done.close()
    return lacking


def _count_threads() -> int:
    """Of this process; what has ended just now is given a moment to be gone."""
    deadline = time.monotonic() + _SETTLE
    while (found := len(os.listdir("/proc/self/task"))) > 1 and time.monotonic() < deadline:  # noqa: PTH208
        time.sleep(0.001)
    return found


def _heed(line: socket.socket) -> None:
    """One order, or the end."""
    try:
        packet, handed = receive_descriptors(line, 4096)
    except BlockingIOError:
        return
    except OSError:
        packet, handed = b"", []
    if not packet:
        os._exit(0)
    _fork(line, json.loads(packet)["order"], handed)
    for descriptor in handed:
        os.close(descriptor)


def _fork(line: socket.socket, number: int, handed: Sequence[int]) -> None:
    """Fork twice: when the one between has ended, the shim is a child of our parent, as if it had made it.

    Our parent is a subreaper, and nobody but it waits for the shim, so the number stays the shim's.
    """
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return
    try:
        pid = os.fork()
        if pid:
            send(line, {"order": number, "shim": pid})
        else:
            line.close()
            _become_shim(*handed)
    finally:
        os._exit(0)


def _become_shim(lines: int, channel: int, errors: int) -> None:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for source, target in ((nothing, 0), (nothing, 1), (errors, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(errors)
    shim.main(lines, channel, begin=begin_worker)


# ---- in the worker -------------------------------------------------------------------------


def begin_worker(order: dict[str, Any], handed: Iterable[int]) -> NoReturn:
    """In the worker's process, which is confined by now: what exec would do, and then its module's main."""
    _close_all_but({0, 1, 2, *handed})
    os.environ.clear()
    os.environ.update(order["environment"])
    _show(order["command"], order["environment"])
    for signalled in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signalled, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for signalled in (signal.SIGPIPE, signal.SIGXFSZ):  # as Python does at its start
        signal.signal(signalled, signal.SIG_IGN)
    lib, module = order["command"][-2:]
    sys.argv = ["-c", lib, module]
    sys.path.append(lib)
    importlib.invalidate_caches()
    _be_different()
    _give_threads(order["environment"])
    _run(module)


def _run(module: str) -> NoReturn:
    from flprov.workers.start import end_process

    status: object = 1
    try:
        status = importlib.import_module(module).main()
    except SystemExit as error:
        status = error.code
    except BaseException:  # the outermost loop of this process
        sys.excepthook(*sys.exc_info())
    if not (status is None or isinstance(status, int)):
        print(status, file=sys.stderr)  # as sys.exit does
        status = 1
    end_process(0 if status is None else status & 0xFF)


def _close_all_but(kept: set[int]) -> None:
    """Among the rest: the shim's lines, and the listener with which it answers for this process."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                os.close(int(name))


def _be_different() -> None:
    """What should differ between processes and was drawn when the template began. `random` sees to itself.

    The seed of str's hashes and the layout of the memory stay those of the template.
    """
    seen: dict[str, Any] = dict(sys.modules)
    if "numpy.random" in seen:
        seen["numpy.random"].seed()
    if "multiprocessing.process" in seen:
        seen["multiprocessing.process"].current_process().authkey = os.urandom(32)
        seen["multiprocessing.process"].ORIGINAL_DIR = os.getcwd()  # noqa: PTH109 - where its children begin
    if "tempfile" in seen:
        seen["tempfile"].tempdir = None


_OPENBLAS = [
    f"{prefix}openblas_set_num_threads{suffix}"
    for prefix in ("scipy_", "")
    for suffix in ("64_", "", "_64", "64")
]


def _give_threads(environment: dict[str, str]) -> None:
    """OpenBLAS makes its threads when it is loaded, unless it is to have one, as in the template."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    wanted = [int(environment[name]) for name in names if environment.get(name, "").isdecimal()]
    count = wanted[0] if wanted else len(os.sched_getaffinity(0))
    for path in _loaded_openblas():
        library = ctypes.CDLL(path)
        for name in _OPENBLAS:
            if function := getattr(library, name, None):
                function(count)
                break


def _loaded_openblas() -> set[str]:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        paths = {line.split(maxsplit=5)[5].rstrip("\n") for line in file if "openblas" in line}
    return {path for path in paths if os.path.basename(path).startswith(("libopenblas", "libscipy_openblas"))}  # noqa: PTH119


def _show(command: Sequence[str], environment: dict[str, str]) -> None:
    """What /proc shows of this process: its command, and its environment, by which a job's are found."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    arguments, variables = fields[45:47], fields[47:49]  # proc_pid_stat(5), fields 48 to 51
    _overwrite(int(arguments[0]), int(arguments[1]), command)
    shown = sorted(environment.items(), key=lambda item: not item[0].startswith("FLPROV_"))
    _overwrite(int(variables[0]), int(variables[1]), [f"{name}={value}" for name, value in shown])


def _overwrite(begin: int, end: int, words: Sequence[str]) -> None:
    """The strings that exec has put there; libc has its own copies of what it still needs."""
    text = b"".join(os.fsencode(word) + b"\0" for word in words)[: end - begin - 1]
    ctypes.memmove(begin, text.ljust(end - begin, b"\0"), end - begin)
