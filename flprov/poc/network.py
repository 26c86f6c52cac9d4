# SPDX-License-Identifier: Apache-2.0
"""One trial network in one folder: make it and start it, look at it, end it and prove that.

The processes are those that a service file would start, `flprov server start KIT` and
`flprov site start KIT`; nothing here is between them and the network.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flprov._base import Clock, SystemClock, hold_lock
from flprov.errors import Conflict, LocalError, NotFound
from flprov.poc.asking import ask
from flprov.poc.ending import end_network, find_started
from flprov.poc.place import Party, Place, Record
from flprov.poc.processes import end_all, start_detached
from flprov.poc.readiness import VARIABLE, Child, Notifications, wait_until_ready
from flprov.poc.states import DownReport, NetworkState, UpReport

if TYPE_CHECKING:
    from flprov.poc.sitefiles import Dataset

_MOST_WARM = 4  # sites on one machine that keep torch in memory
_GIVE_UP_GRACE = 5.0  # seconds for what was started, when some of it does not come up


@dataclass(frozen=True, kw_only=True)
class Starter:
    """How a process of flprov is started here."""

    command: tuple[str, ...]  # is `flprov`: words such as `server start KIT` follow
    environment: Mapping[str, str]


class Poc:
    """The network in `folder`, which need not exist yet."""

    def __init__(self, folder: Path, *, clock: Clock | None = None) -> None:
        self.place = Place(folder=Path(os.path.realpath(folder)))
        self._clock = clock or SystemClock()

    @property
    def admin_kit(self) -> Path:
        """The kit of the person who may do everything. Raises NotFound when there is no network."""
        return self.place.kit(self.place.read().admin)

    def up(
        self,
        starter: Starter,
        *,
        sites: int | None = None,
        datasets: Sequence[Dataset] = (),
        timeout: float = 60.0,
        on_ready: Callable[[str, float], None] = lambda name, seconds: None,  # noqa: ARG005
    ) -> UpReport:
        """Make the network if there is none, start what does not run, and wait until all is ready.

        Args:
            sites: how many; None: as many as it has, two in a new one.
            timeout: seconds until what is not ready is given up and ended.
            on_ready: told of each party and the seconds it took.

        Raises:
            Conflict: the folder holds other things; it runs and has another number of sites; a file
                that would have to change was edited.
            LocalError: a process ended at once; the message has its last lines.
            TimedOut: a process was not ready in time.
        """
        began = self._clock.monotonic()
        created = self._claim()
        with self._hold():
            record = self.place.read()
            if record.alive:
                self._verify_same(record, sites)
            else:
                record = self._prepare(sites)
            missing = [party for party in record.parties if party.name not in record.alive]
            written = self._write_site_files(record, datasets)
            self._start(
                record,
                missing,
                starter,
                timeout=timeout,
                on_ready=lambda name: on_ready(name, self._clock.monotonic() - began),
            )
        return UpReport(
            folder=str(self.place.folder),
            project=record.project,
            endpoint=record.endpoint,
            admin_kit=str(self.admin_kit),
            started=tuple(party.name for party in missing),
            ready_after=round(self._clock.monotonic() - began, 3),
            created=created,
            written=tuple(str(path) for path in written),
            parties=self.state().parties,
        )

    def state(self) -> NetworkState:
        """How it is now: each process is asked itself. Raises NotFound."""
        record = self.place.read()
        parties = tuple(ask(self.place, record, party) for party in record.parties)
        up = [party.state in ("serving", "connected") for party in parties]
        some = any(party.state != "stopped" for party in parties)
        return NetworkState(
            folder=str(self.place.folder),
            state="running" if up and all(up) else "partial" if some else "stopped",
            project=record.project,
            endpoint=record.endpoint,
            admin_kit=str(self.place.kit(record.admin)),
            parties=parties,
        )

    def down(self, *, grace: float = 10.0, delete: bool = False) -> DownReport:
        """End every process, those of jobs too, and prove it; what they have written stays.

        Args:
            grace: seconds between asking and killing.
            delete: remove the network's files as well, identities included; a project.yml that somebody
                has written or edited stays.

        Raises:
            NotFound: there is no network.
            LocalError: a process could not be ended.
        """
        began = self._clock.monotonic()
        record = self.place.read()
        with self._hold():
            ended = end_network(self.place, record, grace=grace)
            if delete:
                self._delete()
        return DownReport(
            folder=str(self.place.folder),
            stopped=ended.stopped,
            killed=ended.killed,
            job_processes=ended.job_processes,
            seconds=round(self._clock.monotonic() - began, 3),
            deleted=delete,
        )

    # ---- up, step by step ------------------------------------------------------------------

    def _claim(self) -> bool:
        """Make the folder ours: it is new, or holds a project.yml at most. False if it is ours already."""
        place = self.place
        if place.exists():
            return False
        try:
            place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # keys will be in here
            present = {path.name for path in place.folder.iterdir()}
            if others := sorted(present - {place.lock.name, place.project.name}):
                raise Conflict(
                    f"{place.folder} holds other things ({', '.join(others[:3])}) and no network",
                    hint="name another folder (-o DIR), which may hold a project.yml",
                )
            place.write(Record())  # first: what dies after this has made a network
        except OSError as error:
            raise LocalError(f"{place.folder} cannot be used: {error.strerror}") from error
        return True

    @contextlib.contextmanager
    def _hold(self) -> Iterator[None]:
        try:
            with hold_lock(self.place.lock):
                yield
        except BlockingIOError:
            raise Conflict(
                f"another `flprov poc` is at work in {self.place.folder}", hint="wait until it is done"
            ) from None

    def _verify_same(self, record: Record, sites: int | None) -> None:
        """Of a network of which something runs nothing changes; what does not run is started again."""
        if sites not in (None, len(record.sites)):
            raise Conflict(
                f"this network runs with {len(record.sites)} sites, not {sites}",
                hint=f"flprov poc down, then flprov poc up -n {sites}",
            )

    def _prepare(self, sites: int | None) -> Record:
        """Provision a network that is new or stopped."""
        from flprov.kits import provision  # late, as the next: a network that runs needs neither
        from flprov.poc.projectfile import admin_of, prepare_project

        project = prepare_project(self.place.project, sites=sites)
        provision(project, self.place.workspace, now=self._clock.now())
        parties = [Party(name=project.server.name, kind="server")]
        parties += [Party(name=site.name, kind="site") for site in project.sites]
        return Record(
            project=project.name,
            endpoint=project.server.endpoints[0],
            admin=admin_of(project),
            organisations=tuple(organisation.name for organisation in project.organisations),
            parties=tuple(parties),
        )

    def _write_server_file(self, record: Record) -> list[Path]:
        from flprov.poc.sitefiles import write_server_settings

        names = [party.name for party in record.parties if party.kind == "server"]
        files = [self.place.local(name) / "server.yml" for name in names]
        for path in files:
            path.parent.mkdir(mode=0o700, exist_ok=True)
        return [path for path in files if write_server_settings(path)]

    def _write_site_files(self, record: Record, datasets: Sequence[Dataset]) -> list[Path]:
        from flprov.config import WARM
        from flprov.poc.sitefiles import write_policy, write_settings

        names = record.sites
        warm = WARM if len(names) <= _MOST_WARM else ()  # each holds 220 MiB with torch
        for dataset in datasets:
            if dataset.site not in (None, *names):
                raise NotFound(f"no site {dataset.site} here (there are: {', '.join(names)})")
        unconfined = _cannot_confine()
        written = self._write_server_file(record)
        for name in names:
            local = self.place.local(name)
            local.mkdir(mode=0o700, exist_ok=True)
            wanted = {d.name: d.path for d in datasets if d.site in (None, name)}
            organisations = record.organisations
            if write_policy(local / "policy.yml", organisations=organisations, unconfined=unconfined):
                written.append(local / "policy.yml")
            if write_settings(local / "site.yml", wanted, warm=warm):
                written.append(local / "site.yml")
        return written

    def _start(
        self,
        record: Record,
        parties: Sequence[Party],
        starter: Starter,
        *,
        timeout: float,
        on_ready: Callable[[str], None],
    ) -> None:
        if not parties:
            return
        self.place.logs.mkdir(mode=0o700, exist_ok=True)
        children: dict[int, Child] = {}
        processes = dict(record.alive)
        self.place.write(record)  # by its parties `down` finds what we start, should we be killed in between
        with Notifications() as news:
            told = replace(starter, environment={**starter.environment, VARIABLE: news.address})
            try:
                for party in parties:
                    child = self._start_one(party, told)
                    children[child.process.pid] = child
                    processes[party.name] = child.process
                self.place.write(replace(record, processes=processes))
                wait_until_ready(children, news, timeout=timeout, on_ready=on_ready)
            except BaseException:  # also Ctrl-C: half a network is of no use
                between = parties[len(children) : len(children) + 1]  # started, and not noted yet
                started = [child.process for child in children.values()]
                started += [process for party in between for process in find_started(self.place, party)]
                end_all(started, grace=_GIVE_UP_GRACE)
                raise

    def _start_one(self, party: Party, starter: Starter) -> Child:
        log = self.place.log(party.name)
        start = log.stat().st_size if log.exists() else 0
        command = [*starter.command, party.kind, "start", str(self.place.kit(party.name))]
        try:
            process = start_detached(
                command, log=log, environment=starter.environment, folder=self.place.folder
            )
        except OSError as error:
            raise LocalError(f"{command[0]} could not be started: {error.strerror}") from error
        return Child(name=party.name, process=process, log=log, log_start=start)

    def _delete(self) -> None:
        from flprov.poc.projectfile import is_edited

        place = self.place
        try:
            for tree in (place.workspace, place.logs):
                if tree.exists():  # of an `up` that did not come so far, or somebody has tidied up
                    shutil.rmtree(tree)
            made = () if is_edited(place.project) else (place.project,)
            for file in (*made, place.lock, place.record):
                file.unlink(missing_ok=True)
            if not any(place.folder.iterdir()):
                place.folder.rmdir()
        except OSError as error:
            raise LocalError(f"{error.filename} cannot be removed: {error.strerror}") from error


def _cannot_confine() -> bool:
    from flprov.workers import confinement_method

    return confinement_method() == "none"
