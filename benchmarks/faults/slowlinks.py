# SPDX-License-Identifier: Apache-2.0
"""An abort at 64 kbit/s, while 10 MB are on their way up the same link: it arrives within seconds."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from faults.apps import GATE, write_steps
from faults.badlinks import bad_links, missing
from faults.cases import Settings, summary, try_case
from faults.history import Expectation, History
from faults.rig import Rig
from faults.sightings import see_processes

COUNT = 5
TARGET = 5.0  # seconds
KBIT = 64
ENOUGH = 60_000  # bytes; some 7 s
NUMBERS = 2_500_000  # 10 MB
SITE = "site-1"


def run(settings: Settings) -> dict[str, Any]:
    """Abort some times; the slowest counts."""
    lacking = missing()
    if lacking:
        return summary([], part="slowlinks", name="slow abort", target="-", measured=lacking, met=False)
    count = settings.count or (1 if settings.small else COUNT)
    verdicts = [
        try_case(settings, "slowlinks", n, f"abort at {KBIT} kbit/s with 10 MB under way", play)
        for n in range(count)
        if settings.case in (None, n)
    ]
    slowest = max((v.details.get("seconds", float("inf")) for v in verdicts), default=float("inf"))
    return summary(
        verdicts,
        part="slowlinks",
        name=f"abort over a link of {KBIT} kbit/s with a 10 MB upload under way, {count} times",
        target=f"no process at the site after {TARGET:g} s",
        measured=f"{slowest:.2f} s at most",
        met=slowest <= TARGET,
        seconds=[v.details.get("seconds") for v in verdicts],
        confirmed=[v.details.get("confirmed") for v in verdicts],
    )


def play(folder: Path) -> tuple[History, list[str], dict[str, Any]]:
    """The model comes quickly; then the link is made slow, and the update begins to go up."""
    with bad_links() as links, Rig(folder, "slow abort", links=links) as rig:
        app = write_steps(folder / "large", size=NUMBERS, rounds=3, seconds=0.0, first=GATE)
        job = rig.submit(app, "slow")
        rig.expect(job, Expectation(states=("aborted",)))
        _wait_for_task(rig, job)
        links.slow(SITE, kbit=KBIT)
        rig.note("shake", SITE, f"{KBIT} kbit/s")
        rig.network.open_gate(SITE)
        _wait_for_upload(links)
        began = time.monotonic()
        asking = threading.Thread(target=_abort, args=(rig, job))
        asking.start()
        gone = _wait_until_gone(rig, job, began)
        asking.join()
        rig.wait(job)
        confirmed = time.monotonic() - began
        links.fast(SITE)
        rig.note("heal", SITE)
        rig.look_until_clean()
        broken = [f"abort-slow: {gone:.1f} s"] if gone > TARGET else []
        return rig.history(), broken, {"seconds": round(gone, 2), "confirmed": round(confirmed, 2)}


def _wait_for_task(rig: Rig, job: str) -> None:
    """Until the site has the model, and its task waits at the gate."""
    log = rig.network.local(SITE) / "state/jobs" / job / "log"
    deadline = time.monotonic() + 60
    while not (log.exists() and b"round 0" in log.read_bytes()):
        if time.monotonic() > deadline:
            raise TimeoutError("the task never began")
        time.sleep(0.1)


def _abort(rig: Rig, job: str) -> None:
    rig.abort(job)
    rig.drop_admin()


def _wait_for_upload(links: Any) -> None:
    """Until the router has passed on some of the update, and its buffer is full of it."""
    deadline = time.monotonic() + 60
    while _passed_on(links) < ENOUGH:
        if time.monotonic() > deadline:
            raise TimeoutError("the update was never sent")
        time.sleep(0.1)


def _passed_on(links: Any) -> int:
    """Bytes that the slow router has sent towards the server."""
    words = ["ip", "netns", "exec", links.router(SITE), "tc", "-s", "-j", "qdisc", "show", "dev", "server"]
    return int(json.loads(subprocess.check_output(words))[0]["bytes"])


def _wait_until_gone(rig: Rig, job: str, began: float) -> float:
    """Seconds until the kernel shows no process of the job at the slow site."""
    while any(seen.job == job and seen.party == SITE for seen in see_processes(rig.folder)):
        if time.monotonic() - began > 60:
            break
        time.sleep(0.02)
    return time.monotonic() - began
