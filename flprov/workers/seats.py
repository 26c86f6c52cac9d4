# SPDX-License-Identifier: Apache-2.0
"""The main of a process in which many simulated sites live, and do their tasks one after the other.

Each site has a session, executors, a folder, a log, modules and random numbers of its own, as if the process
were its own. Scripts are not run here: a script keeps what it knows on its stack.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from flprov._base import keep_freed_memory
from flprov.errors import Misuse, ProtocolError, Unavailable
from flprov.wire import pb
from flprov.workers.belongings import AppModules, Belongings, Generators
from flprov.workers.channel import WorkerChannel
from flprov.workers.failures import describe_failure
from flprov.workers.owncheck import OwnCheck
from flprov.workers.scripts import SIGTERM_STATUS
from flprov.workers.seatlogs import SEAT_LOGS
from flprov.workers.session import Session, use_session
from flprov.workers.site_main import find_closers, load_functions, plain_error
from flprov.workers.start import run_main


def run_seats(channel: WorkerChannel, folder: Path) -> int:
    """Serve the sites that the parent names, in the job's `folder`, until it says quit; the exit status."""
    keep_freed_memory(one_heap=False)  # for the update of the next site; threads are the job's own
    room = _Room(channel, folder)
    signal.signal(signal.SIGTERM, room.on_sigterm)
    try:
        return room.serve()
    except Unavailable:  # the parent is gone: nobody left to tell
        return 1
    except SystemExit:
        return SIGTERM_STATUS


class _Seat:
    """One site."""

    def __init__(self, start: pb.StartSite, belongings: Belongings) -> None:
        self.start = start
        self.belongings = belongings
        self.session: Session | None = None
        self.placed = False  # its folder is there


class _Room:
    """All of them."""

    def __init__(self, channel: WorkerChannel, folder: Path) -> None:
        self._channel = channel
        self._folder = folder
        app = folder / "app"
        self._modules = AppModules(app)
        self._generators = Generators()
        self._seats: dict[str, _Seat] = {}
        self._busy: Session | None = None
        self._order = pb.TaskOrder()  # what is being done
        self._check = OwnCheck(folder)
        self._over = False
        self._output = os.dup(1)
        (folder / "out" / SEAT_LOGS).mkdir(exist_ok=True)
        sys.path.insert(0, str(app))  # after our own imports: an app cannot replace what we use
        sys.meta_path.insert(0, self._modules)
        sys.pycache_prefix = str(folder / "work" / ".pycache")  # what one site compiles, all of them have

    def serve(self) -> int:
        """Do what the parent says; the exit status."""
        while (message := self._channel.receive()) is not None:
            match message.WhichOneof("body"):
                case "start_site":
                    self._seats[message.site] = _Seat(message.start_site, self._new_belongings())
                case "task":
                    self._do(message.site, message.task)
                case "quit":
                    break
                case other:
                    raise ProtocolError(f"a process of simulated sites was sent {other!r}")
        self._over = True
        for name, seat in self._seats.items():
            if seat.session is not None and (closers := find_closers(seat.session)):
                with self._at(name, seat):
                    for close in closers:
                        close()
        return 0

    def _do(self, name: str, order: pb.TaskOrder) -> None:
        seat = self._seats[name]
        with self._at(name, seat):
            try:
                if seat.session is None:
                    seat.session = self._open(name, seat)
                use_session(seat.session)
                self._busy, self._order = seat.session, order
                seat.session.begin(order)
            except Unavailable:
                raise
            except BaseException as error:  # the outermost loop: the job's code may raise anything
                if self._over:
                    raise
                self._give_up(name, seat, plain_error(error))
            finally:
                self._busy = None
                use_session(None)

    def _open(self, name: str, seat: _Seat) -> Session:
        session = Session(_Frames(self, name), self._folder, seat.start)
        session.site = replace(session.site, folder=Path.cwd())
        load_functions(session)
        return session

    def send(self, name: str, message: pb.FromWorker) -> None:
        """Tell the parent what a site says; its update is checked before."""
        if message.HasField("answer"):
            session = self._seats[name].session
            assert session is not None  # who has none cannot answer
            self._check.check(message.answer, self._order, session.spec.sites.max_weight)
        message.site = name
        self._channel.send(message)

    def _give_up(self, name: str, seat: _Seat, error: BaseException) -> None:
        """The task has failed in a way that ends a process: the site's next one finds a new one."""
        if seat.session is not None and seat.session.open is not None:
            seat.session.fail(error)
        else:
            failure = describe_failure(error, self._folder / "app")
            self._channel.send(pb.FromWorker(site=name, failure=failure))
        seat.session, seat.belongings = None, self._new_belongings()

    def _new_belongings(self) -> Belongings:
        return Belongings(self._modules, self._generators)

    @contextlib.contextmanager
    def _at(self, name: str, seat: _Seat) -> Iterator[None]:
        """Inside, this process is the site's: its folder, its output, its belongings."""
        work = self._folder / "work" / name
        if not seat.placed:
            work.mkdir(exist_ok=True)
            seat.placed = True
        os.chdir(work)
        log = self._folder / "out" / SEAT_LOGS / f"{name}.log"
        self._print_to(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        try:
            with seat.belongings.in_place():
                yield
        finally:
            self._print_to(os.dup(self._output))

    def _print_to(self, descriptor: int) -> None:
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or taken away by the job
                stream.flush()
            os.dup2(descriptor, number)
        os.close(descriptor)

    def on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGTERM: as in a process that is one site's."""
        self._over = True
        if self._busy is None:
            raise SystemExit(SIGTERM_STATUS)
        self._busy.on_sigterm(number, frame)


class _Frames:
    """What a session needs of a channel; the sites share one."""

    def __init__(self, room: _Room, site: str) -> None:
        self._room = room
        self._site = site

    def send(self, message: pb.FromWorker) -> None:
        self._room.send(self._site, message)

    def receive(self) -> pb.ToWorker | None:
        raise Misuse("a function was given its task; there is no other to receive")


def main() -> NoReturn:
    """What the process calls."""
    run_main(run_seats)


if __name__ == "__main__":
    main()
