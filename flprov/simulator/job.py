# SPDX-License-Identifier: Apache-2.0
"""A simulated job from its app to its results: read, placed, run, written out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flprov._base import Clock, canonical_json
from flprov.errors import NoRoom
from flprov.jobs import JobSpec, build_bundle, check_needs, job_needs, unpack_bundle
from flprov.messages import StatisticsRules
from flprov.server import (
    ScratchBlobs,
    SimulatedRun,
    SimulatedSurroundings,
    metrics_json,
    simulated_record,
)
from flprov.simulator.drawing import Drawing
from flprov.simulator.hosts import Host
from flprov.simulator.outcome import make_output, write_results
from flprov.simulator.placing import place, python, runs_script
from flprov.simulator.simulation import Simulation, site_names
from flprov.wire import pb
from flprov.wire.documents import JobDocument
from flprov.workers import LaunchOrder, ProcessLauncher, Warming, change_spec

_EVERY = 0.1  # seconds between two looks at a job whose sites move, at least
_SHARE = 50  # so many times as long as a look takes passes until the next one: it takes long at many sites


async def simulate_job(
    wanted: Simulation,
    folder: Path,
    *,
    clock: Clock,
    warming: Warming,
    drawing: Drawing,
    show: Callable[[JobDocument], None],
) -> tuple[JobDocument, list[Path]]:
    """The job once it has ended, and the files of its results.

    Args:
        folder: for everything that goes with the simulation.
        warming: whose template forks the processes.
        drawing: draws the curves.
        show: told the job after each change that matters, and from time to time.
    """
    bundle = build_bundle(wanted.app)
    spec = change_spec(bundle.spec, wanted.settings, wanted.min_sites)
    names = sorted(site_names(wanted.sites))
    data = {site: {**wanted.datasets, **wanted.site_datasets.get(site, {})} for site in names}
    refusals = _refusals(spec, data)
    placed = place(spec, [site for site in names if site not in refusals], wanted.workers)
    make_output(wanted.output)
    blobs = ScratchBlobs(folder / "blobs")
    app = await blobs.put(bundle.data)
    around = SimulatedSurroundings(
        folder=folder,
        blobs=blobs,
        launcher=ProcessLauncher(warming=warming),
        clock=clock,
        python=python(),
        show=lambda: shown.changed(),
        over=lambda: drawing.begin(metrics_json(run, run.closed)),
    )
    run = SimulatedRun(simulated_record(spec, app, names, refusals, clock), around)
    shown = _Shown(run, show)
    shown.changed()
    unpack_bundle(blobs.path(app), folder / "app")
    hosts = _Hosts(run, around, data, await _gpus(spec)).make(placed)
    await warming.settled()
    await run.run(hosts)
    shown.close()
    files = await write_results(run, hosts, wanted.output, drawing)
    return run.document(), files


def _refusals(spec: JobSpec, data: Mapping[str, Mapping[str, Path]]) -> dict[str, str]:
    """Why some sites will not run the job."""
    needs = job_needs(spec)
    problems = check_needs(needs, python()) if needs else []
    if problems:
        return dict.fromkeys(data, "; ".join(problems))
    found: dict[str, str] = {}
    for site, named in data.items():
        for name in spec.data:
            if name not in named:
                found.setdefault(site, f"the job needs dataset {name!r}, which this site does not name")
            elif not named[name].exists():
                found.setdefault(site, f"dataset {name!r} is {named[name]}, which does not exist")
    return found


async def _gpus(spec: JobSpec) -> tuple[str, ...]:
    """The GPUs that the sites share, if the job asks for some."""
    if not spec.resources.gpus:
        return ()
    from flprov.agent import read_gpus  # late: few ask

    gpus, note = await asyncio.to_thread(read_gpus)
    if len(gpus) < spec.resources.gpus:
        why = f" ({note})" if note else ""
        raise NoRoom(f"a site needs {spec.resources.gpus} GPUs; this machine has {len(gpus)}{why}")
    return tuple(gpu.uuid for gpu in gpus)


class _Hosts:
    """Makes the hosts of one run."""

    def __init__(
        self,
        run: SimulatedRun,
        around: SimulatedSurroundings,
        data: Mapping[str, Mapping[str, Path]],
        gpus: Sequence[str],
    ) -> None:
        self._run = run
        self._around = around
        self._data = {
            site: {name: path.resolve() for name, path in named.items()} for site, named in data.items()
        }
        self._gpus = gpus
        self._spec = canonical_json(run.record.spec)
        self._statistics = canonical_json(StatisticsRules())

    def make(self, placed: Sequence[Sequence[str]]) -> dict[str, Host]:
        """A host for each group of sites; by site."""
        found: dict[str, Host] = {}
        for number, sites in enumerate(placed):
            found |= dict.fromkeys(sites, self._host(number, sites))
        return found

    def _host(self, number: int, sites: Sequence[str]) -> Host:
        record = self._run.record
        alone = sites[0] if runs_script(record.spec) else ""
        folder = self._around.folder / "hosts" / str(number)
        folder.mkdir(parents=True)
        (folder / "app").symlink_to(self._around.folder / "app")
        wanted = record.spec.data
        readable = {self._data[site][name]: None for site in sites for name in wanted}
        order = LaunchOrder(
            job_id=record.id,
            folder=folder,
            main="site" if alone else "seats",
            python=self._around.python,
            readable=tuple(readable),
            gpus=self._share(number),
            unconfined=True,  # where nothing confines: it is the user's own code, on the user's own machine
            grace=record.spec.resources.grace_seconds,
        )
        return Host(
            self._around.launcher,
            order,
            self._start,
            answered=self._run.answered,
            told=self._run.told,
            lend=self._around.blobs.lend,
            alone=alone,
        )

    def _share(self, number: int) -> tuple[str, ...]:
        count = self._run.record.spec.resources.gpus
        return tuple(self._gpus[(number * count + place) % len(self._gpus)] for place in range(count))

    def _start(self, site: str) -> pb.StartSite:
        wanted = self._run.record.spec.data
        return pb.StartSite(
            job_id=self._run.record.id,
            site=site,
            spec=self._spec,
            datasets={name: str(self._data[site][name]) for name in wanted},
            statistics=self._statistics,
        )


class _Shown:
    """Tells of changes: of each that matters at once, of others now and then."""

    def __init__(self, run: SimulatedRun, show: Callable[[JobDocument], None]) -> None:
        self._run = run
        self._show = show
        self._said: object = None
        self._timer: asyncio.TimerHandle | None = None
        self._rest = _EVERY

    def changed(self) -> None:
        """Something has."""
        record = self._run.record
        standing = (record.state, record.round)
        if standing != self._said:
            self._said = standing
            self._tell()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._rest, self._tell)

    def _tell(self) -> None:
        self.close()
        began = time.perf_counter()
        self._show(self._run.document())
        self._rest = max(_EVERY, _SHARE * (time.perf_counter() - began))

    def close(self) -> None:
        """No later telling."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
