#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Four hospitals on this machine: one network, each site with its own file, and the job of this folder.

    python examples/heart/run.py DATA_FOLDER
    python examples/heart/run.py DATA_FOLDER --workflow all -o benchmarks/results

The second simulates every workflow with several seeds and writes a table (docs/workflows/heart.md).
DATA_FOLDER holds the four processed.*.data files (README.md says where to get them), or a folder `heart`
with them; the environment variable FLPROV_DATA may name it instead.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flprov.admin import Admin, open_admin
from flprov.errors import FlprovError, NotFound
from flprov.poc import Dataset, Poc, Starter
from flprov.wire.documents import JobDocument

APP = Path(__file__).resolve().parent
DEMO = APP.parents[1] / "demo"
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")  # site-1 to site-4


def main() -> int:
    """Run it; the exit status."""
    options = read_options()
    if options.workflow:
        return compare_workflows(options)
    network = Poc(options.folder / "network")
    try:
        datasets = find_datasets(options.data)
        network.up(
            Starter(command=(sys.executable, "-m", "flprov"), environment=dict(os.environ)),
            sites=len(HOSPITALS),
            datasets=datasets,
            on_ready=lambda name, seconds: print(f"{name} is ready after {seconds:.1f} s", flush=True),
        )
        with open_admin(network.admin_kit) as admin:
            job = run_job(admin, options.rounds)
            show_rounds(job)
            fetch(admin, job, options.folder / "result")
    except FlprovError as error:
        print(f"error: {error}" + (f"\nnext:  {error.hint}" if error.hint else ""), file=sys.stderr)
        return int(error.exit_code)
    finally:
        if network.place.exists():
            network.down()
    return 0 if job.state == "completed" else 1


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Federated heart disease prediction at four hospitals.")
    parser.add_argument("data", type=Path, nargs="?", default=os.environ.get("FLPROV_DATA"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=DEMO / "heart", help="where everything is made")
    parser.add_argument(
        "--workflow", help="simulate these instead, with commas between, or all of them; writes a table"
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many, for --workflow")
    parser.add_argument("-o", "--output", type=Path, help="for the table of --workflow; else FOLDER")
    options = parser.parse_args()
    if options.data is None:
        parser.error("name the folder with the processed.*.data files, or set FLPROV_DATA to it")
    options.data = Path(options.data)
    return options


def compare_workflows(options: argparse.Namespace) -> int:
    """The table of workflows; the exit status."""
    sys.path.insert(0, str(APP))
    from compare import HEAD, SEEDS, STUDIES, compare, write_results

    known = list(dict.fromkeys(study.workflow for study in STUDIES))
    names = known if options.workflow == "all" else options.workflow.split(",")
    if not (set(names) <= set(known) and 0 < options.seeds <= len(SEEDS)):
        print(f"error: workflows are {', '.join(known)}; seeds 1 to {len(SEEDS)}", file=sys.stderr)
        return 2
    seeds = SEEDS[: options.seeds]
    try:
        files = {data.site: data.path for data in find_datasets(options.data) if data.site}
        print("\n".join(HEAD), flush=True)
        with tempfile.TemporaryDirectory(prefix="flprov-heart-") as folder:
            lines = compare(files, names, seeds, Path(folder), lambda row: print(row, flush=True))
    except FlprovError as error:
        print(f"error: {error}" + (f"\nnext:  {error.hint}" if error.hint else ""), file=sys.stderr)
        return int(error.exit_code)
    command = (
        f"python examples/heart/run.py DATA_FOLDER --workflow {options.workflow} --seeds {options.seeds}"
    )
    for path in write_results(lines, seeds, command, options.output or options.folder):
        print(path)
    return 0


def find_datasets(folder: Path) -> list[Dataset]:
    """Each site's file, under the name that the job asks for.

    Raises:
        NotFound: one of the files is not there.
    """
    if (folder / "heart").is_dir():
        folder /= "heart"
    found = []
    for number, hospital in enumerate(HOSPITALS, start=1):
        file = folder.absolute() / f"processed.{hospital}.data"
        if not file.is_file():
            raise NotFound(f"there is no {file}", hint=f"read {APP / 'README.md'}")
        found.append(Dataset(name="heart", path=file, site=f"site-{number}"))
    return found


def run_job(admin: Admin, rounds: int) -> JobDocument:
    """Submit the app and wait, with a line per round."""
    seen = 0

    def tell(job: JobDocument) -> None:
        nonlocal seen
        for record in job.rounds[seen:]:
            print(f"round {record.round + 1}: accuracy {record.metrics['accuracy']:.3f}", flush=True)
        seen = len(job.rounds)

    submitted = admin.submit(APP, settings={"rounds": str(rounds)})
    print(f"job {submitted.job_id}", flush=True)
    job = admin.wait(submitted.job_id, on_change=tell)
    print(f"{job.state} {job.reason}".rstrip())
    return job


def show_rounds(job: JobDocument) -> None:
    """The accuracy of each round's model on the patients that each hospital held out."""
    print_row("round", ["all", *HOSPITALS])
    for record in job.rounds:
        own = {line.site: line.metrics["accuracy"] for line in record.contributors}
        values = [record.metrics["accuracy"], *(own.get(f"site-{n}") for n in range(1, len(HOSPITALS) + 1))]
        print_row(str(record.round + 1), ["-" if value is None else f"{value:.3f}" for value in values])


def print_row(first: str, cells: Sequence[str]) -> None:
    """One line of the table."""
    print(f"{first:>5}  " + "  ".join(f"{cell:>11}" for cell in cells))


def fetch(admin: Admin, job: JobDocument, folder: Path) -> None:
    """Bring the results, in place of those of an earlier run."""
    shutil.rmtree(folder, ignore_errors=True)
    files, note = admin.download(job.id, folder)
    for file in files:
        print(file)
    if note:
        print(note)


if __name__ == "__main__":
    sys.exit(main())
