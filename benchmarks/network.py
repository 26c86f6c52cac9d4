#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long people wait for a network: readiness, status, first task, rounds, abort, provisioning.

    python benchmarks/network.py [--runs 5] [-o benchmarks/results]

Two sites and a server as real processes on this machine, asked through real commands; nothing else
should run meanwhile. Every number is a median over the runs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from report import Measure, show, write_report
from trial import FLPROV, Trial, Watch

HERE = Path(__file__).resolve().parent
ROUNDS_APP = HERE / "apps" / "rounds"
STUBBORN_APP = HERE / "apps" / "stubborn"
SITES = 2
ROUNDS = 200
MANY_SITES = 1000
PATIENCE = 30.0  # seconds for processes to end


def main() -> int:
    """Measure and write; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description="How long people wait for a network.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the job without work")
    parser.add_argument("--sites", type=int, default=MANY_SITES, help="that are provisioned")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="flprov-benchmark-") as name:
        folder = Path(name)
        measures = [
            measure_help(options.runs),
            measure_ready(folder, options.runs),
            *measure_running(folder, options.runs, options.rounds),
            measure_provision(folder, options.runs, options.sites),
        ]
    command = " ".join(["python benchmarks/network.py", *sys.argv[1:]])
    title = f"A network of a server and {SITES} sites on one machine"
    table = write_report(
        options.output, "network", title=title, command=command, measures=measures, load=load
    )
    print(f"\n{table.read_text()}\n{table}")
    return int(any(measure.verdict == "MISSED" for measure in measures))


def repeat(name: str, runs: int, once: Callable[[], float]) -> tuple[float, ...]:
    """The seconds of each run, shown as they come."""
    found = []
    for _ in range(runs):
        found.append(once())
        print(f"{name}: {show(found[-1])}", flush=True)
    return tuple(found)


def timed(command: Sequence[str]) -> float:
    """Wall time of a command, from before it is started until it has ended."""
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


# ---- one measure each ----------------------------------------------------------------------


def measure_help(runs: int) -> Measure:
    """`flprov --help`."""
    return Measure(
        name="`flprov --help`",
        definition="Wall time of the command.",
        values=repeat("help", runs, lambda: timed([*FLPROV, "--help"])),
    )


def measure_ready(folder: Path, runs: int) -> Measure:
    """A network from nothing."""

    def once() -> float:
        trial = Trial(folder, sites=SITES)
        began = time.monotonic()
        trial.up()
        took = time.monotonic() - began
        trial.down()
        return took

    return Measure(
        name="network ready",
        definition="Wall time of `flprov poc up` in a new folder: provisioning, start, and until the server "
        "serves and every site is connected, which the command waits for.",
        values=repeat("ready", runs, once),
        target=2.0,
    )


def measure_running(folder: Path, runs: int, rounds: int) -> list[Measure]:
    """What is measured in one network that runs."""
    trial = Trial(folder, sites=SITES)
    trial.up()
    try:
        trial.run(ROUNDS_APP, "--set", "rounds=1")  # what comes first on a new network is measured nowhere
        return [
            measure_status(trial, runs),
            measure_first_task(trial, runs),
            measure_rounds(trial, runs, rounds),
            measure_abort(trial, runs),
        ]
    finally:
        trial.down()


def measure_status(trial: Trial, runs: int) -> Measure:
    """`flprov status`."""

    def once() -> float:
        began = time.monotonic()
        trial.command("status")
        return time.monotonic() - began

    return Measure(
        name="`flprov status`",
        definition="Wall time of the command.",
        values=repeat("status", runs, once),
        target=0.5,
    )


def measure_first_task(trial: Trial, runs: int) -> Measure:
    """From typing `job submit` until job code runs at a site."""

    def once() -> float:
        began = time.time()
        job = trial.run(ROUNDS_APP, "--set", "rounds=1")
        first = job["rounds"][0]
        return float(min(line["metrics"]["began"] for line in first["contributors"])) - began

    return Measure(
        name="submit until the first task runs",
        definition="From before `flprov job submit APP` is started until the first line of the train "
        "function at the site that is first. A numpy app that the server has already.",
        values=repeat("first task", runs, once),
        target=1.5,
    )


def measure_rounds(trial: Trial, runs: int, rounds: int) -> Measure:
    """Rounds that do no work."""
    jobs = [trial.run(ROUNDS_APP, "--set", f"rounds={rounds}") for _ in range(runs)]
    per_round = tuple(seconds_per_round(job) for job in jobs)
    print("round: " + ", ".join(show(value) for value in per_round), flush=True)
    inside = sorted(span(record) for job in jobs for record in job["rounds"][1:])
    note = f"Inside a round (`started_at` to `finished_at`): median {show(inside[len(inside) // 2])}."
    return Measure(
        name="a durable round without work",
        definition=f"From the end of the first round to the end of the last, divided by {rounds - 1}; "
        "one job per run, ten float32 each way, every round committed to disk at the server.",
        values=per_round,
        target=0.020,
        notes=(note, f"That is {1 / sorted(per_round)[runs // 2]:.0f} rounds a second."),
    )


def seconds_per_round(job: dict[str, Any]) -> float:
    """The mean over all rounds but the first, with what lies between them."""
    ends = [datetime.fromisoformat(record["finished_at"]) for record in job["rounds"]]
    return (ends[-1] - ends[0]).total_seconds() / (len(ends) - 1)


def span(record: dict[str, Any]) -> float:
    """Seconds from a round's start to its end."""
    started, finished = (datetime.fromisoformat(record[key]) for key in ("started_at", "finished_at"))
    return (finished - started).total_seconds()


def measure_abort(trial: Trial, runs: int) -> Measure:
    """A job that ignores SIGTERM, until nothing of it is left."""
    found: list[int] = []  # processes of each job

    def once() -> float:
        before = trial.processes()
        job = trial.submit(STUBBORN_APP)["job_id"]
        wait_for_line(trial, job, b"stubborn", times=2 * SITES)
        pids = trial.processes() - before
        found.append(len(pids))
        watch = Watch(pids)
        began = time.monotonic()
        command = trial.start("job", "abort", job)
        ended = watch.wait(PATIENCE)
        command.wait(PATIENCE)
        return ended - began

    values = repeat("abort", runs, once)
    return Measure(
        name="abort until the last process is gone",
        definition="From before `flprov job abort` is started until the kernel reports (pidfd) the end of "
        "the last process that the job brought: workflow, workers, a child at each site that has escaped "
        "into its own session, and the shims. The code at the sites ignores SIGTERM; its grace is 1 s.",
        values=values,
        target=2.0,
        notes=(f"Processes of one job: {max(found)}.",),
    )


def wait_for_line(trial: Trial, job: str, word: bytes, *, times: int) -> None:
    """Until the job's processes have printed the word that often."""
    seen = 0
    with trial.admin() as admin:
        for part in admin.logs(job, follow=True):
            seen += part.data.count(word)
            if seen >= times:
                return
    raise TimeoutError(f"job {job} ended before it said {word!r} {times} times")


def measure_provision(folder: Path, runs: int, sites: int) -> Measure:
    """A large project, from nothing."""
    project = folder / "project.yml"
    project.write_text(large_project(sites))
    count = iter(range(runs))

    def once() -> float:
        workspace = folder / f"workspace-{next(count)}"
        return timed([*FLPROV, "provision", str(project), "-o", str(workspace)])

    return Measure(
        name=f"`flprov provision` of {sites:,} sites",
        definition="Wall time of the command in a new folder: root, issuing authorities and a signed kit for "
        "each party, everything synced to disk.",
        values=repeat("provision", runs, once),
        target=4.0 if sites == MANY_SITES else None,
    )


def large_project(sites: int) -> str:
    """A project.yml with that many sites."""
    lines = [
        "name: large",
        "trust_domain: large.example",
        "organisations: [{name: org-1}]",
        'server: {name: server, org: org-1, endpoints: ["localhost:8443"]}',
        "people: [{name: admin, org: org-1, role: project_admin}]",
        "sites:",
        *(f"  - {{name: site-{number}, org: org-1}}" for number in range(1, sites + 1)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
