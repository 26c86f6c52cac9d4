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
import socket
import threading

from flprov.workers import shim
from flprov.workers.descriptors import receive_descriptors
from flprov.workers.forked import begin_worker, find_openblas
from flprov.workers.parent import send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

# What our mains import when a job has come so far: better now.
OURS = {
    "site": ("flprov.workers.site_main", "flprov.client", "numpy.random"),
    "workflow": ("flprov.workers.workflow_main", "flprov.sdk.workflows.fedavg", "numpy.random"),
}
_HUGE = 2 << 20  # bytes; where a huge page is larger the kernel refuses
_MADV_COLLAPSE = 25  # madvise(2)
_SHIMS = ("flprov.workers.broker", "flprov.workers.logsegments")


def main(arguments: Sequence[str]) -> NoReturn:
    """The template's process: the number of its line to the parent, how nice it is, then the modules."""
    line = socket.socket(fileno=int(arguments[0]))
    line.set_inheritable(False)
    modules = [name for name in arguments[2:] if importlib.util.find_spec(name.partition(".")[0])]
    lacking, loader = _load(line, modules, nice=int(arguments[1]))
    others = set(os.listdir("/proc/self/task")) - {str(os.getpid()), str(loader)}  # noqa: PTH208
    if others:
        send(line, {"failed": f"importing {', '.join(modules)} started {len(others)} threads"})
        os._exit(1)
    find_openblas()
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, every page with an object
    libc = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):  # another libc
        libc.malloc_trim(0)
        _collapse(libc)
    send(line, {"ready": [name for name in modules if name not in lacking], "lacking": lacking})
    poller = select.poll()
    poller.register(line, select.POLLIN)
    while True:
        poller.poll()
        _heed(line)


def _collapse(libc: ctypes.CDLL) -> None:
    """Have our memory in huge pages, where the kernel can (Linux 6.1): a fork copies one entry for each page,
    and the end of a child drops it, which takes a third of the time so. What a child writes is still copied
    by the small page.
    """
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.split(maxsplit=5) for line in file]
    for area, rights, _, _, inode, *name in lines:
        if rights == "rw-p" and inode == "0" and (not name or name[0].strip() == "[heap]"):
            begin, end = (int(at, 16) for at in area.split("-"))
            begin, end = -(-begin // _HUGE) * _HUGE, end // _HUGE * _HUGE
            if begin < end:  # the kernel may refuse
                libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_COLLAPSE)


def _load(line: socket.socket, modules: Sequence[str], *, nice: int) -> tuple[dict[str, str], int | None]:
    """Import. Ends the process when the parent goes away meanwhile.

    In a thread of its own, at a priority of its own: a priority is a thread's on Linux, and a process
    that has lowered its own needs a right to get it back. That thread ends here.

    Returns:
        What could not be imported, with the reason; and the number of the thread.
    """
    done, ours = socket.socketpair()
    lacking: dict[str, str] = {}

    def load() -> None:
        if nice:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
        for name in (*_SHIMS, *modules):
            try:
                importlib.import_module(name)
            except BaseException as error:  # a package may raise anything, SystemExit as well
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
    return lacking, thread.native_id


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
        os.setpgid(0, 0)  # so that our parent, who has us if the template is killed, knows us from the shim
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
