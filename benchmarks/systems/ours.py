# SPDX-License-Identifier: Apache-2.0
"""flprov, as a network of `flprov poc`: mutual TLS, every round durable, job code confined."""

from __future__ import annotations

import subprocess
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from trial import FLPROV, CommandFailed, Trial, Watch, compile_package, large_project

from flprov import __version__
from systems.processes import SERVER, SITE, Peaks
from systems.system import Failed, Job, Ran

APPS = Path(__file__).resolve().parents[1] / "apps"
PATIENCE = 60.0  # seconds, for the end of an aborted job
WARM_UP = 120.0  # seconds; torch is imported by all parties of this machine at once, at the lowest priority


class Ours:
    """The commands of flprov."""

    name = "flprov"
    title = "flprov"
    settings = (
        "`flprov poc`: mutual TLS, every round committed to disk before the next, bytes checked by their "
        "digests, job code confined, everything logged. No setting is changed.",
        "A round's model is new in every number, so that no byte can be spared.",
        "What comes after the start is measured once server and sites hold the processes that jobs are "
        "forked from, some seconds later; the command that started them has returned long before.",
    )

    def __init__(self) -> None:
        compile_package()

    def version(self) -> str:
        """Of this tree."""
        return __version__

    def help(self) -> None:
        """`flprov --help`."""
        subprocess.run([*FLPROV, "--help"], check=True, capture_output=True)

    def provision(self, folder: Path, sites: int) -> None:
        """`flprov provision`."""
        project = folder / "project.yml"
        project.write_text(large_project(sites))
        subprocess.run(
            [*FLPROV, "provision", str(project), "-o", str(folder / "workspace")],
            check=True, capture_output=True,
        )  # fmt: skip

    def up(self, folder: Path, sites: int) -> OurNetwork:
        """`flprov poc up`, which makes the identities too."""
        network = OurNetwork(Trial(folder, sites=sites))
        try:
            network.start()
        except BaseException:
            network.down()
            raise
        return network

    def simulate(self, folder: Path, *, sites: int, rounds: int, size: int) -> tuple[float, ...]:
        """`flprov simulate`."""
        options = ["--set", f"rounds={rounds}", "--set", f"args.size={size}", "-o", str(folder / "simulated")]
        options += ["--set", "args.keep=false"]  # a thousand sites would keep a thousand models
        subprocess.run(
            [*FLPROV, "simulate", str(APPS / "rounds"), "-n", str(sites), *options],
            check=True, capture_output=True,
        )  # fmt: skip
        return ()


class OurNetwork:
    """`flprov poc` in a folder."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self.ready_after = 0.0

    def start(self) -> None:
        """From nothing until all are ready."""
        began = time.monotonic()
        self._trial.up()
        self.ready_after = time.monotonic() - began
        self._warm_up()

    def _warm_up(self) -> None:
        """Wait until no party is about to prepare the process that jobs are forked from."""
        deadline = time.monotonic() + WARM_UP
        with self._trial.admin() as admin:
            while time.monotonic() < deadline:
                seen = admin.status()
                found = (seen.server.warm, *(site.warm for site in seen.sites))
                if not any(warm is not None and warm.state == "starting" for warm in found):
                    return
                time.sleep(0.5)
        raise Failed(f"a party had no process to fork jobs from {WARM_UP:.0f} s after the start")

    def status(self) -> None:
        """`flprov status`."""
        self._trial.command("status")

    def run(self, job: Job, *, watch: bool = False) -> Ran:
        """`flprov job submit`, and what `flprov job show` says after its end."""
        words = ["--set", f"rounds={job.rounds}", "--set", f"args.size={job.size}"]
        words += ["--set", f"args.torch={str(job.torch).lower()}"]
        peaks = Peaks(self._roots())
        with peaks if watch else nullcontext():
            submitted = time.time()
            try:
                done = self._trial.run(APPS / "rounds", *words, patience=job.patience)
            except CommandFailed as error:
                raise Failed(str(error)) from error
            except subprocess.TimeoutExpired as error:
                raise Failed(f"the job had not ended after {job.patience:.0f} s") from error
        began = tuple(_first_began(record) for record in done["rounds"])
        return Ran(submitted=submitted, began=began, peaks=peaks.by_role() if watch else {})

    def abort(self) -> float:
        """`flprov job abort`; a child at each site has escaped into its own session, too."""
        before = self._trial.processes()
        job = self._trial.submit(APPS / "stubborn")["job_id"]
        self._wait_for_line(job, b"stubborn", times=2 * self._trial.sites)
        watch = Watch(self._trial.processes() - before)
        began = time.monotonic()
        command = self._trial.start("job", "abort", job)
        ended = watch.wait(PATIENCE)
        command.wait(PATIENCE)
        return ended - began

    def down(self) -> None:
        """`flprov poc down --delete`."""
        if self._trial.folder.exists():
            self._trial.down()

    def _wait_for_line(self, job: str, word: bytes, *, times: int) -> None:
        """Until the job's processes have printed the word that often."""
        seen = 0
        with self._trial.admin() as admin:
            for part in admin.logs(job, follow=True):
                seen += part.data.count(word)
                if seen >= times:
                    return
        raise Failed(f"job {job} ended before it said {word!r} {times} times")

    def _roots(self) -> dict[int, str]:
        return {
            party["pid"]: SERVER if party["kind"] == "server" else SITE for party in self._trial.parties()
        }


def _first_began(record: dict[str, Any]) -> float:
    return min(float(line["metrics"]["began"]) for line in record["contributors"])
