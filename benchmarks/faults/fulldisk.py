# SPDX-License-Identifier: Apache-2.0
"""A disk that is full for real (a small ext4 on a loop device), at the server and at a site.

Changes are refused with a reason, reads and the commands of safety are served, and once there is room
again everything goes on by itself: nobody starts anything again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.apps import write_steps
from faults.cases import Settings, summary, try_case
from faults.history import Expectation, History
from faults.rig import Rig
from flprov.errors import FlprovError

SIZE = "32M"
RECOVERY = 30.0  # seconds after the disk has room again
SITE = "site-1"


def missing() -> str:
    """Why this cannot be done here; empty: it can."""
    if os.geteuid() != 0:
        return "not root"
    lacking = [tool for tool in ("mkfs.ext4", "mount", "umount") if shutil.which(tool) is None]
    if lacking:
        return f"no {', '.join(lacking)} here"
    with tempfile.TemporaryDirectory() as name:
        try:
            with _small_disk(Path(name) / "disk"):
                return ""
        except subprocess.CalledProcessError:
            return "this machine does not let us mount a file system"


def run(settings: Settings) -> dict[str, Any]:
    """Fill the disks; the part's line in the report."""
    lacking = missing()
    if lacking:
        return summary([], part="fulldisk", name="full disk", target="-", measured=lacking, met=False)
    cases: list[tuple[str, Callable[[Path], Any]]] = [
        ("the server's disk is full while a job runs", server_full),
        ("a site's disk is full", site_full),
    ]
    verdicts = [
        try_case(settings, "fulldisk", number, name, play)
        for number, (name, play) in enumerate(cases)
        if settings.case in (None, number)
    ]
    green = sum(verdict.green for verdict in verdicts)
    return summary(
        verdicts,
        part="fulldisk",
        name="a full disk (ext4 on a loop device), at the server and at a site",
        target="changes refused; reads, abort, revoke, lock and drain served; recovers by itself",
        measured=f"{green} of {len(verdicts)}",
        met=True,
        said={verdict.case: verdict.details for verdict in verdicts},
    )


@contextmanager
def _small_disk(place: Path) -> Iterator[Path]:
    """A file system of its own at `place`."""
    image = place.with_name(f"{place.name}.img")
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["truncate", "-s", SIZE, str(image)], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True, capture_output=True)
    (place / "lost+found").rmdir()
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _fill(place: Path) -> Path:
    """Take every byte that is left."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 512, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast


def _refusal(call: Callable[[], Any]) -> str:
    """What a call that must be refused says; empty: it was not refused."""
    try:
        call()
    except FlprovError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def server_full(folder: Path) -> tuple[History, list[str], dict[str, Any]]:
    """The server's state is on a disk of its own; a job runs while it fills up."""
    broken: list[str] = []
    rig = Rig(folder, "server's disk full")
    state = rig.network.local("server") / "state"
    with _small_disk(state), rig:
        running = rig.submit(write_steps(folder / "long", rounds=500), "running")
        rig.expect(running, Expectation(states=("aborted", "failed")))
        rig.insist(lambda admin: next(j for j in admin.watch(running) if j.rounds_done >= 2))
        other = write_steps(folder / "other")
        ballast = _fill(state)
        said = {}
        for what, call in (
            ("submit", lambda admin: admin.submit("long", token="refused")),
            ("upload", lambda admin: admin.upload(other)),
        ):
            said[what] = _refusal(lambda call=call: rig.insist(call))
            if "disk" not in said[what] and "space" not in said[what]:
                broken.append(f"disk-silent: {what} said {said[what]!r}")
        for what, call in (
            ("status", lambda admin: admin.status()),
            ("job ls", lambda admin: admin.jobs()),
            ("job show", lambda admin: admin.job(running)),
            ("job why", lambda admin: admin.why(running)),
            ("lock", lambda admin: admin.lock_site("site-3", reason="full")),
            ("revoke", lambda admin: admin.revoke_certificate("obi", reason="key-compromise")),
        ):
            refused = _refusal(lambda call=call: rig.insist(call))
            if refused:
                broken.append(f"unserved: {what}: {refused}")
        rig.acknowledge("lock", "site-3")
        try:
            rig.abort(running)
            said["abort"] = rig.wait(running, 30)
        except FlprovError as error:
            broken.append(f"unserved: abort: {error}")
        ballast.unlink()
        rig.insist(lambda admin: admin.unlock_site("site-3"))
        rig.acknowledge("unlock", "site-3")
        rig.acknowledge("upload", rig.insist(lambda admin: admin.upload(other)).digest)
        broken += _goes_on(rig, folder)
        rig.look_until_clean()
        return rig.history(), broken, said


def _goes_on(rig: Rig, folder: Path) -> list[str]:
    """Whether a job can be submitted and completed soon, with nothing started again."""
    began = time.monotonic()
    after = rig.submit(write_steps(folder / "after", rounds=2), "after")
    rig.expect(after, Expectation(rounds=2, contributors=tuple(rig.sites), quorum=3))
    if rig.wait(after, RECOVERY) == "completed":
        rig.take_result(after)
    took = time.monotonic() - began
    return [f"recovery-slow: {took:.0f} s"] if took > RECOVERY else []


def site_full(folder: Path) -> tuple[History, list[str], dict[str, Any]]:
    """A site's state is on a disk of its own, and full before the job comes."""
    broken: list[str] = []
    rig = Rig(folder, "site's disk full")
    state = rig.network.local(SITE) / "state"
    with _small_disk(state), rig:
        ballast = _fill(state)
        job = rig.submit(write_steps(folder / "steps", rounds=2, sites="min: 2, absence: 5s"), "first")
        rig.expect(job, Expectation(states=("degraded", "completed"), quorum=2))
        seen = rig.wait(job, 60)
        why = rig.insist(lambda admin: admin.why(job))
        said = " ".join([why.answer, *(f"{cause.party} {cause.message}" for cause in why.causes)])
        site = rig.insist(lambda admin: admin.site(SITE))
        shown = [rung.reason for rung in site.ladder if not rung.ok]
        if not any("disk" in text or "space" in text for text in (*shown, said)):
            broken.append(f"disk-silent: neither the ladder {shown} nor why ({said!r}) names the disk")
        if seen in ("completed", "degraded"):
            rig.take_result(job)
        ballast.unlink()
        broken += _goes_on(rig, folder)
        rig.look_until_clean()
        return rig.history(), broken, {"state": seen, "ladder": shown, "why": said}
