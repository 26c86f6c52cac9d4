# SPDX-License-Identifier: Apache-2.0
"""The state-changing operations in whose middle the server, or a site's agent, is killed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.apps import LARGE, SMALL, write_steps
from faults.history import Expectation
from faults.rig import Rig
from flprov.errors import Conflict


@dataclass
class Stage:
    """A rig, and what the operations before have left in it."""

    rig: Rig
    folder: Path
    jobs: list[str] = field(default_factory=list)
    apps: dict[tuple[int, int, float], Path] = field(default_factory=dict)
    tries: int = 0

    def app(self, *, size: int = SMALL, rounds: int = 2, seconds: float = 0.0) -> Path:
        """An app like this; the same one every time."""
        key = (size, rounds, seconds)
        if key not in self.apps:
            self.apps[key] = write_steps(
                self.folder / f"steps-{len(self.apps)}", size=size, rounds=rounds, seconds=seconds
            )
        return self.apps[key]

    def submit(self, app: Path, *, states: tuple[str, ...] = ("completed",)) -> str:
        """A job that has to end in one of these states."""
        self.tries += 1
        job = self.rig.submit(app, f"token-{self.tries}")
        self.rig.expect(job, Expectation(states=states, contributors=tuple(self.rig.sites)))
        self.jobs.append(job)
        return job

    def until(self, job: str, holds: Callable[[Any], bool]) -> None:
        """Wait until a job is as described, or has ended."""

        def watch(admin: Any) -> None:
            for seen in admin.watch(job, timeout=60):
                if holds(seen):
                    return

        self.rig.insist(watch)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One of the eight: what is made ready, and what is done while the process is to be killed."""

    name: str
    act: Callable[[Stage], None]
    ready: Callable[[Stage], None] = lambda _: None
    party: str = "server"
    sites: bool = True  # are connected meanwhile
    lasting: bool = False  # goes on by itself: nobody has to wait for `act`


def _submit(stage: Stage) -> None:
    stage.submit(stage.app())


def _upload(stage: Stage) -> None:
    stage.tries += 1
    app = write_steps(stage.folder / f"upload-{stage.tries}", rounds=1)
    (app / "noise.bin").write_bytes(random.Random(stage.tries).randbytes(700_000))
    stage.rig.acknowledge("upload", stage.rig.insist(lambda admin: admin.upload(app).digest))


def _lock(stage: Stage) -> None:
    _mark(stage, "lock")
    _mark(stage, "unlock")


def _drain(stage: Stage) -> None:
    _mark(stage, "drain")
    _mark(stage, "enable")


def _clean(stage: Stage) -> None:
    """`server gc`: what nobody needs goes, what is needed stays."""
    stage.rig.insist(lambda admin: admin.clean())


def _mark(stage: Stage, what: str) -> None:
    def call(admin: Any) -> None:
        try:
            getattr(admin, f"{what}_site")("site-3", reason="to see")
        except Conflict:  # it was done, and the answer was lost with the server
            return

    stage.rig.insist(call)
    stage.rig.acknowledge(what, "site-3")


def _long_job(stage: Stage, *, size: int = SMALL, rounds: int = 400, seconds: float = 0.05) -> None:
    """A job that goes on for as long as this stage is used."""
    if stage.jobs and stage.rig.insist(lambda admin: admin.job(stage.jobs[-1]).state) in (
        "running",
        "deploying",
    ):
        job = stage.jobs[-1]
    else:
        job = stage.submit(stage.app(size=size, rounds=rounds, seconds=seconds), states=("aborted",))
    begun = stage.rig.insist(lambda admin: admin.job(job).rounds_done)
    stage.until(job, lambda seen: seen.rounds_done > begun)


def _short_job(stage: Stage) -> None:
    """A job in its last round."""
    job = stage.submit(stage.app(rounds=2, seconds=0.4))
    stage.until(job, lambda seen: seen.rounds_done >= 1)


def _old_job(stage: Stage) -> None:
    """A job that has ended, and an app that no job needs: something to clean up."""
    stage.rig.wait(stage.submit(stage.app(rounds=1)))
    _upload(stage)


def _finish(stage: Stage) -> None:
    stage.rig.wait(stage.jobs[-1])


def _running_job(stage: Stage) -> None:
    job = stage.submit(stage.app(rounds=400, seconds=0.3), states=("aborted",))
    stage.until(job, lambda seen: seen.rounds_done >= 1)


def _abort(stage: Stage) -> None:
    stage.rig.abort(stage.jobs[-1])
    stage.rig.wait(stage.jobs[-1])


def _go_on(stage: Stage) -> None:
    """The job does it by itself: some rounds more."""
    job = stage.jobs[-1]
    begun = stage.rig.insist(lambda admin: admin.job(job).rounds_done)
    stage.until(job, lambda seen: seen.rounds_done >= begun + 3)


OPERATIONS = (
    Operation(name="submit", act=_submit, sites=False),
    Operation(name="app upload", act=_upload, sites=False),
    Operation(name="site lock", act=_lock, sites=False),
    Operation(name="site drain", act=_drain, sites=False),
    Operation(name="server gc", ready=_old_job, act=_clean),
    Operation(name="update accept", ready=lambda s: _long_job(s, size=LARGE), act=_go_on, lasting=True),
    Operation(name="round close", ready=_long_job, act=_go_on, lasting=True),
    Operation(name="job finish", ready=_short_job, act=_finish),
    Operation(name="abort", ready=_running_job, act=_abort),
    Operation(
        name="answer keep", ready=lambda s: _long_job(s, size=LARGE), act=_go_on, party="site-1", lasting=True
    ),
)
