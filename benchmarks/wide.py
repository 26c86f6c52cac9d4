#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Memory of server and workflow worker while many sites move a large model.

    python benchmarks/wide.py [--sites 32] [--mb 1000] [--rounds 2] [-o benchmarks/results]

Server and workflow worker are real, and so is all that comes to the server's disk: one update of that size
from each site, in files of their own, checked and folded. The sites only move bytes (see movers.py), because
the machine has no room for so many trainers. In the first round there is no model yet; in the others each
site fetches it. The disk in TMPDIR needs sites + 5 times the model.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from herd import HERE, ROUNDS_APP, Herd, herd
from report import Measure, write_report
from systems.processes import SERVER, SERVER_JOB, SERVER_WARM, Peaks

from flprov.wire import write_tensors

MOVERS = HERE / "movers.py"
TENSORS = 10
PROCESSES = 2  # that the sites are spread over
TARGET = 250.0  # MB


def measure(folder: Path, *, sites: int, mb: int, rounds: int) -> Sequence[Measure]:
    """A network in `folder`, and one job in it.

    Raises:
        RuntimeError: the disk has no room for it, or the job did not complete with all sites.
    """
    needed, free = (sites + 5) * mb * 1_000_000, shutil.disk_usage(folder).free
    if free < needed:
        raise RuntimeError(f"{folder} has {free / 1e9:.0f} GB left, and this takes {needed / 1e9:.0f} GB")
    model = folder / "update.safetensors"
    random = np.random.default_rng(0)
    count = mb * 1_000_000 // (4 * TENSORS)
    write_tensors(model, {f"layer{n}": random.random(count, np.float32) for n in range(TENSORS)})
    program = [str(MOVERS), "--model", str(model)]
    with herd(folder, sites, droves=PROCESSES, drove=program) as made:
        made.up()
        before = made.cpu()
        with Peaks({made.server().pid: SERVER}) as peaks:
            seconds = _run(made, rounds)
        found, cpu = peaks.by_role(), made.cpu() - before
    what = f"{sites} sites, a model of {mb:,} MB"
    return [
        Measure(
            name=f"{name}, {what}",
            definition=f"The most RssAnon in {rounds} rounds, as the kernel counts it, sampled every 20 ms.",
            values=(found[role].anon,),
            target=TARGET,
            notes=(f"All that was resident, mapped files too (VmHWM): {found[role].rss:,.0f} MB.",),
            unit="MB",
        )
        for role, name in ((SERVER, "memory of the server"), (SERVER_JOB, "memory of the workflow worker"))
        for role in (role if role in found else SERVER_WARM,)
    ] + [
        Measure(
            name=f"a round, {what}",
            definition="From its start to its end on the server; all sites share the machine with it.",
            values=tuple(seconds),
            notes=(f"The server's processor time for all of them: {cpu:.1f} s.",),
        )
    ]


def _run(made: Herd, rounds: int) -> list[float]:
    """The seconds of each round."""
    job = made.run(ROUNDS_APP, "--set", f"rounds={rounds}")
    lacking = sum(made.sites - len(record["contributors"]) for record in job["rounds"])
    if job["state"] != "completed" or lacking:
        raise RuntimeError(f"the job is {job['state']}, {lacking} updates are missing: {job['reason']}")
    moments = [
        [datetime.fromisoformat(record[key]).timestamp() for key in ("started_at", "finished_at")]
        for record in job["rounds"]
    ]
    return [end - start for start, end in moments]


def main() -> int:
    """Measure and write; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description="Memory while many sites move a large model.")
    parser.add_argument("--sites", type=int, default=32)
    parser.add_argument("--mb", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="flprov-wide-") as folder:
        measures = measure(Path(folder), sites=options.sites, mb=options.mb, rounds=options.rounds)
    command = " ".join(["python benchmarks/wide.py", *sys.argv[1:]])
    title = f"{options.sites} sites and a model of {options.mb:,} MB, all on one machine"
    table = write_report(options.output, "wide", title=title, command=command, measures=measures, load=load)
    print(f"\n{table.read_text()}\n{table}")
    return int(any(found.verdict == "MISSED" for found in measures))


if __name__ == "__main__":
    sys.exit(main())
