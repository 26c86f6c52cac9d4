# SPDX-License-Identifier: Apache-2.0
"""Warming: keeping a template process for the interpreter of the next job, and having it fork.

Whatever goes wrong here costs a job time and nothing else: it is then started as if there were no template.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from flprov._base import Clock, SystemClock, Tasks, backoff
from flprov.errors import FlprovError
from flprov.wire.documents import WarmStart
from flprov.workers.adoption import FoundShim, own_shim
from flprov.workers.detection import PACKAGE, Method, detect_method, try_private_mounts
from flprov.workers.interpreter import interpreter_folders
from flprov.workers.processes import children
from flprov.workers.template import OURS

logger = logging.getLogger(__name__)

_PACKET = 1 << 16
_ANSWER = 2.0  # seconds in which a template forks, or is given up
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LAST_WORDS = 2000  # bytes of what a template has printed
_FIRST_WAIT, _MOST_WAIT = 0.5, 300.0  # seconds between the end of one and the start of the next
# As a worker's own (`plan`), but for where flprov is: its real folder, which job code may read.
_TEMPLATE = (
    "import importlib.util, sys; "
    "spec = importlib.util.spec_from_file_location('flprov', sys.argv[1] + '/__init__.py'); "
    "sys.modules['flprov'] = importlib.util.module_from_spec(spec); "
    "spec.loader.exec_module(sys.modules['flprov']); "
    "from flprov.workers.template import main; main(sys.argv[2:])"
)
_LOWEST = 19  # nice(2)
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",  # it would start threads when it is loaded; a child starts them
    "OPENBLAS_THREAD_TIMEOUT": "20",  # 2^20 cycles that one looks for work before it sleeps; 2^26 is 20 ms
    "FLPROV_ROOM": "." * 8192,  # each child writes its own environment over ours
}


class Warming:
    """Keeps at most one template: of the interpreter that `prepare` or the last order has named.

    Args:
        kind: whose mains it imports: `site` or `workflow`.
        modules: of the interpreter, to import as well; None: no template is wanted.
        delay: seconds until the first one is started: what begins at the same time has precedence.
        awaited: somebody waits for it. Else it imports at the lowest priority.
        clock: for this delay, and between one that has ended and the next.
    """

    def __init__(
        self,
        kind: str,
        modules: Sequence[str] | None,
        *,
        delay: float = 0.0,
        awaited: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._kind = kind
        self._clock = clock or SystemClock()
        self._modules = modules
        self._delay = delay
        self._nice = 0 if awaited else _LOWEST
        self._python: Path | None = None
        self._template: _Template | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._tasks = Tasks("warming")
        self._off = ""  # why there will be no template
        self._settled = asyncio.Event()
        self._note = ""  # why there is none now

    def prepare(self, python: Path) -> None:
        """A job for this interpreter may come soon."""
        if self._python == python:
            return
        self._python = python
        if self._keeping is not None:
            self._keeping.cancel()
        self._keeping = self._tasks.spawn(self._keep(python))

    async def fork(self, python: Path, lines: Sequence[int]) -> FoundShim | None:
        """A new shim that has these three descriptors; None when there is no template to fork it from."""
        self.prepare(python)
        template = self._template
        if template is None or not template.ready:
            return None
        try:
            stamp = await asyncio.to_thread(_stamp, python)
        except (FlprovError, OSError):  # something of it is gone
            stamp = ()
        if stamp != template.stamp:
            logger.info("the packages of %s have changed: a new template is started", python)
            template.end()
            return None
        return await template.fork(lines)

    async def settled(self) -> None:
        """Wait until the template that `prepare` asked for is ready, or it is known that there is none."""
        await self._settled.wait()

    async def close(self) -> None:
        """End the template; jobs that came from it go on."""
        await self._tasks.close()

    def describe(self) -> WarmStart:
        """How it is now."""
        template, python = self._template, str(self._python or "")
        if template is None or not template.ready:
            state = "off" if self._off else "starting"
            return WarmStart(state=state, python=python, note=self._off or self._note)
        return WarmStart(
            state="ready",
            python=python,
            modules=tuple(name for name in template.modules if name not in OURS[self._kind]),
            memory=_resident(template.process.pid),
            note=template.lacking,
        )

    async def _keep(self, python: Path) -> None:
        """A template of `python`, and another one when that has ended."""
        waits = backoff(first=_FIRST_WAIT, most=_MOST_WAIT)
        self._off = ""
        await self._clock.sleep(self._delay)
        while True:
            self._note = ""
            try:
                self._off = await asyncio.to_thread(_look, python)
                if self._modules is None:
                    self._off = "switched off (`warm: false`)"
                if not self._off and await self._serve(python, self._modules or ()):
                    waits = backoff(first=_FIRST_WAIT, most=_MOST_WAIT)
            except (FlprovError, OSError) as error:
                self._note = str(error)
            self._settled.set()
            if self._off:
                return
            logger.warning("the template of %s has ended%s", python, f": {self._note}" if self._note else "")
            await self._clock.sleep(next(waits))

    async def _serve(self, python: Path, modules: Sequence[str]) -> bool:
        """Have a template until it ends; whether it was ever ready."""
        stamp = await asyncio.to_thread(_stamp, python)
        self._tasks.spawn(_ask_kernel())
        self._template = template = _start(python, (*OURS[self._kind], *modules), stamp, self._nice)
        try:
            self._off = await template.watch(self._settled.set)
        finally:
            self._template = None
            template.end()
            self._note = await template.wait()
        return template.ready


class _Template:
    """One template's process, and our line to it."""

    def __init__(
        self, process: subprocess.Popen[bytes], line: socket.socket, output: int, stamp: tuple[int, ...]
    ) -> None:
        self.process = process
        self.stamp = stamp  # of the interpreter's packages, before it began
        self.ready = False
        self.modules: tuple[str, ...] = ()  # what it has imported
        self.lacking = ""
        self._line = line
        self._output = output
        self._said = b""
        self._orders = 0
        self._answers: dict[int, asyncio.Future[int]] = {}

    async def watch(self, on_ready: Callable[[], None]) -> str:
        """Take what it says until it ends; returns why there is to be none, if it has told so."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._output, self._hear)
        refused = ""
        while packet := await _receive(loop, self._line):
            message = json.loads(packet)
            if "ready" in message:
                self.modules = tuple(message["ready"])
                self.lacking = "; ".join(f"{name}: {why}" for name, why in message["lacking"].items())
                self.ready = True
                on_ready()
            elif "shim" in message:
                self._answer(int(message["order"]), int(message["shim"]))
            else:
                refused = str(message["failed"])
        return refused

    async def fork(self, lines: Sequence[int]) -> FoundShim | None:
        """A new shim with these descriptors; None when it did not come: then this template is given up."""
        self._orders += 1
        number, answer = self._orders, asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            socket.send_fds(self._line, [json.dumps({"order": number}).encode()], lines)
            async with asyncio.timeout(_ANSWER):
                return own_shim(await answer)
        except OSError:  # also when it takes too long
            self.end()
            return None
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled():  # in the same moment
                self._let_go(answer.result())
            raise
        finally:
            del self._answers[number]

    def end(self) -> None:
        """Kill it; `watch` returns then."""
        self.process.kill()

    async def wait(self) -> str:
        """Until it is gone; what it has printed last."""
        asyncio.get_running_loop().remove_reader(self._output)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionError("the template has ended"))
        try:
            await asyncio.to_thread(self.process.wait)
            await asyncio.to_thread(_end_session, self.process.pid)
        finally:  # also when this was cancelled
            self._line.close()
            os.close(self._output)
        return self._said.decode(errors="replace").strip()

    def _hear(self) -> None:
        try:
            data = os.read(self._output, _PACKET)
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._output)
        self._said = (self._said + data)[-_LAST_WORDS:]

    def _answer(self, number: int, pid: int) -> None:
        answer = self._answers.get(number)
        if answer is not None and not answer.done():
            answer.set_result(pid)
        else:
            self._let_go(pid)

    def _let_go(self, pid: int) -> None:
        """Who asked for this shim is gone: it has no order yet, and we are its parent."""
        with contextlib.suppress(OSError):
            shim = own_shim(pid)
            shim.kill()  # it would end by itself, unless it is stopped
            asyncio.get_running_loop().run_in_executor(None, shim.wait)


def _end_session(session: int) -> None:
    """End what a template that is gone has left in its session: it is our child now.

    That is what stood between it and a shim, and what packages have started when they were imported. A shim
    stays: it leaves the session at its beginning, and until then it is in the group of who has forked it.
    """
    for pid in children(os.getpid()):
        with contextlib.suppress(OSError):
            if os.getsid(pid) == session and os.getpgid(pid) in (session, pid):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _start(python: Path, modules: Sequence[str], stamp: tuple[int, ...], nice: int) -> _Template:
    """A new template's process. Raises OSError."""
    line, its_line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    output, its_output = os.pipe()
    line.setblocking(False)  # noqa: FBT003 - the function takes it by position only
    command = [str(python.absolute()), "-I", "-u", "-X", "faulthandler", "-c", _TEMPLATE, str(PACKAGE)]
    try:
        process = subprocess.Popen(
            [*command, str(its_line.fileno()), str(nice), *modules],
            stdin=subprocess.DEVNULL,
            stdout=its_output,
            stderr=its_output,
            cwd="/",
            env=_ENVIRONMENT,
            pass_fds=(its_line.fileno(),),
            start_new_session=True,
        )
    except OSError:
        line.close()
        os.close(output)
        raise
    finally:
        its_line.close()
        os.close(its_output)
    return _Template(process, line, output, stamp)


def _look(python: Path) -> str:
    """Why there can be no template. Asks the interpreter what the first launch would have to ask."""
    method = detect_method()
    interpreter_folders(python)
    return "bubblewrap confines jobs here, so each one starts anew" if method is Method.BUBBLEWRAP else ""


async def _ask_kernel() -> None:
    """What the first launch would have to ask; it takes a process of its own, and need not be waited for."""
    if detect_method() is Method.LANDLOCK:
        await asyncio.to_thread(try_private_mounts)


async def _receive(loop: asyncio.AbstractEventLoop, line: socket.socket) -> bytes:
    try:
        return await loop.sock_recv(line, _PACKET)
    except ConnectionError:
        return b""


def _stamp(python: Path) -> tuple[int, ...]:
    """Another when a package was installed or removed: then a template's modules may be old ones."""
    return tuple(path.stat().st_mtime_ns for path in (python, *interpreter_folders(python)))


def _resident(pid: int) -> int:
    """Bytes of this process that are in memory; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0
