# SPDX-License-Identifier: Apache-2.0
"""`examine`: every check that fits the kit, side by side, each within its time.

A check that hangs (a dead network share, a driver, a resolver) costs its own row and nothing else:
blocking ones run in threads that nobody waits for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from flprov import __version__
from flprov._base import Clock, SystemClock, run_aside
from flprov.doctor.holdings import check_interpreter, check_policy, check_settings
from flprov.doctor.machine import check_confinement, check_disk, check_gpus, check_python
from flprov.doctor.network import check_network
from flprov.doctor.papers import check_certificate, check_clock, check_kit
from flprov.doctor.patient import Patient, describe_patient
from flprov.doctor.rows import Check, Rows, from_error, problem, worst
from flprov.doctor.standing import check_process, check_state
from flprov.errors import FlprovError, NotFound
from flprov.kits import sketch_kit
from flprov.pki import Kind
from flprov.project import Route
from flprov.wire.documents import DoctorDocument, DoctorRow

LIMIT = 10.0  # seconds for everything
_FOR_THE_NETWORK = 0.8  # of it for one endpoint, so that the finding is told by the probe

Progress = Callable[[int, Sequence[str]], None]  # how many checks there are, and which still run


def examine(
    folder: Path | None,
    *,
    machine: bool = False,
    environment: Route | None = None,
    passphrase: bytes | None = None,
    clock: Clock | None = None,
    limit: float = LIMIT,
    progress: Progress | None = None,
) -> DoctorDocument:
    """Look at a kit and what it needs of this machine; at the machine alone when `folder` is None.

    Args:
        machine: everything about this machine too, whoever's kit it is.
        environment: the proxy that the environment names.
        passphrase: opens the key, if it is encrypted; without one the server is not shown a certificate.
        limit: seconds for all of it.
        progress: told when a check has ended.

    Raises:
        NotFound: there is no such folder.
    """
    clock = clock or SystemClock()
    started = time.monotonic()
    patient, rows = asyncio.run(
        _examine(
            None if folder is None else partial(_meet, folder, environment, passphrase, clock),
            machine=machine or folder is None,
            clock=clock,
            limit=limit,
            progress=progress or (lambda _total, _left: None),
        )
    )
    kit = patient.kit if patient else None
    return DoctorDocument(
        verdict=worst(rows).value,
        kit=str(kit.folder) if kit else "",
        kind=kit.kind.value if kit and kit.kind else "",
        name=kit.name if kit else "",
        version=__version__,
        checked_at=clock.now(),
        seconds=round(time.monotonic() - started, 3),
        rows=rows,
    )


async def _examine(
    meet: Callable[[], Patient] | None, *, machine: bool, clock: Clock, limit: float, progress: Progress
) -> tuple[Patient | None, Rows]:
    deadline = asyncio.get_running_loop().time() + limit
    patient: Patient | None = None
    if meet is not None:
        try:
            async with asyncio.timeout_at(deadline):
                patient = await run_aside(meet)
        except TimeoutError:
            text = f"the kit cannot be read within {limit:g} seconds"
            return None, (problem("kit", text, "is it on a network share that does not answer?"),)
    left = max(deadline - asyncio.get_running_loop().time(), 0.1)
    checks = _choose(patient, machine=machine, clock=clock, left=left)
    return patient, await _run_all(checks, deadline, limit, progress)


def _meet(folder: Path, environment: Route | None, passphrase: bytes | None, clock: Clock) -> Patient:
    if not folder.exists():
        raise NotFound(f"there is no kit at {folder}", hint="give the path of a kit's folder")
    now = clock.now()
    sketch = sketch_kit(folder, now=now, passphrase=passphrase)
    return describe_patient(sketch, environment=environment, now=now)


def _choose(patient: Patient | None, *, machine: bool, clock: Clock, left: float) -> list[Check]:
    """The checks that fit, in the order in which their rows are shown."""
    kind = patient.kit.kind if patient else None
    runs_jobs = machine or kind in (Kind.SERVER, Kind.SITE)
    checks: list[Check] = []
    if patient is not None:
        checks.append(Check(name="kit", blocking=partial(check_kit, patient)))
        checks.append(Check(name="certificate", blocking=partial(check_certificate, patient)))
    checks.append(Check(name="clock", blocking=partial(check_clock, clock.now(), patient)))
    if patient is not None:
        network = partial(check_network, patient, clock=clock, patience=left * _FOR_THE_NETWORK)
        checks.append(Check(name="network", awaiting=network))
    if patient is not None and kind in (Kind.SERVER, Kind.SITE):
        checks.append(Check(name="process", blocking=partial(check_process, patient)))
        checks.append(Check(name="state", blocking=partial(check_state, patient)))
    checks.append(Check(name="python", blocking=check_python))
    if runs_jobs:
        place = Path.cwd() if patient is None or kind is Kind.PERSON else patient.kit.local / "state"
        checks.append(Check(name="disk", blocking=partial(check_disk, place)))
        checks.append(Check(name="confinement", blocking=partial(check_confinement, patient)))
    if machine or kind is Kind.SITE:
        checks.append(Check(name="gpu", blocking=check_gpus))
    if patient is not None and kind is Kind.SITE:
        checks.append(Check(name="policy.yml", blocking=partial(check_policy, patient)))
        checks.append(Check(name="site.yml", blocking=partial(check_settings, patient)))
        checks.append(Check(name="packages", blocking=partial(check_interpreter, patient)))
    return checks


async def _run_all(checks: Sequence[Check], deadline: float, limit: float, progress: Progress) -> Rows:
    running = [check.name for check in checks]

    async def run(check: Check) -> Rows:
        try:
            async with asyncio.timeout_at(deadline):
                return await _run(check)
        except TimeoutError:
            return (_late(check, limit),)
        except FlprovError as error:
            return (from_error(check.name, error),)
        except (OSError, ValueError) as error:
            return (problem(check.name, f"it could not be looked at: {error}"),)
        finally:
            running.remove(check.name)
            progress(len(checks), tuple(running))

    found = await asyncio.gather(*(run(check) for check in checks))
    return tuple(row for rows in found for row in rows)


async def _run(check: Check) -> Rows:
    if check.awaiting is not None:
        return await check.awaiting()
    assert check.blocking is not None
    return await run_aside(check.blocking)


def _late(check: Check, limit: float) -> DoctorRow:
    advice = "something behind it hangs: a network share, a driver, a resolver"
    return problem(check.name, f"no answer within {limit:g} seconds", advice)
