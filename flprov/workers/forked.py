# SPDX-License-Identifier: Apache-2.0
"""The beginning of a worker that was forked: what exec would have done for it, and then its main.

Runs confined, in the worker's own process, before the first line of job code.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn


def begin_worker(order: dict[str, Any], handed: Iterable[int]) -> NoReturn:
    """Become the worker of `order`, with no descriptor but those that it was handed."""
    # First: until here a signal is lost in the shim's handlers, and what is closed next says that we run.
    for signalled in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signalled, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for signalled in (signal.SIGPIPE, signal.SIGXFSZ):  # as Python does at its start
        signal.signal(signalled, signal.SIG_IGN)
    _close_all_but({0, 1, 2, *handed})
    os.environ.clear()
    os.environ.update(order["environment"])
    _show(order["command"], order["environment"])
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
    if "torch" in seen:
        seen["torch"].default_generator.seed()
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
_loaded: list[ctypes.CDLL] = []  # in the template, and so in what it forks


def _give_threads(environment: dict[str, str]) -> None:
    """OpenBLAS makes its threads when it is loaded, unless it is to have one, as in the template."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    wanted = [int(environment[name]) for name in names if environment.get(name, "").isdecimal()]
    count = wanted[0] if wanted else len(os.sched_getaffinity(0))
    for library in _loaded:
        for name in _OPENBLAS:
            if function := getattr(library, name, None):
                function(count)
                break


def find_openblas() -> None:
    """In the template: a child could not open the files that are replaced, or out of its sight, by then."""
    for path in _openblas_files():
        with contextlib.suppress(OSError):  # replaced already
            _loaded.append(ctypes.CDLL(path, os.RTLD_NOW | os.RTLD_NOLOAD))


def _openblas_files() -> set[str]:
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
