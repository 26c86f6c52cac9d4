#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 split unevenly over eight sites, learnt by four workflows and from the pooled data; one plot.

    python examples/cifar10/run.py DATA                  small: some minutes on two cores
    python examples/cifar10/run.py DATA --size full      as many rounds as FLARE's example: an hour
    python examples/cifar10/run.py DATA --check-poc      simulated and over a network: the same bits?

DATA is a folder with cifar-10-python.tar.gz, or cifar-10-batches-py/, or cifar10_jpeg.npz; FLPROV_DATA may
name it instead. What is done is kept: started again, it goes on with the first training that is missing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agreement import MODEL, check_poc
from baseline import POOLED, POOLED_ALL, train_pooled
from experiment import WORKFLOWS, Curve, Plan, options_of, read_curve, run_workflow, write_curve
from partition import count_classes, split_labels
from pictures import Pictures
from results import judge_accuracy, judge_encryption, say, table, write_results
from sites import gather_sites, write_sites
from source import find_source, load_source, make_pictures

from flprov.errors import Conflict, FlprovError
from flprov.wire.documents import RoundDocument

DEMO = Path(__file__).resolve().parents[2] / "demo"
MADE_UP = "made-up pictures"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of it."""

    rounds: int
    epochs: int
    sites: int = 8
    training: int | None = None  # None: all pictures
    test: int | None = None


SIZES = {
    "tiny": Size(rounds=2, epochs=1, sites=2, training=600, test=300),  # whether it works at all
    "small": Size(rounds=50, epochs=2, training=10_000),
    "full": Size(rounds=50, epochs=4),  # as FLARE's example
}


def main(words: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    options = read_options(words)
    try:
        return run(options)
    except FlprovError as error:
        print(f"error: {error}" + (f"\nnext:  {error.hint}" if error.hint else ""), file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def read_options(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?", default=os.environ.get("FLPROV_DATA"), metavar="DATA")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="default: demo/cifar10-SIZE")
    parser.add_argument("--size", choices=SIZES, help="default: small; tiny with --check-poc")
    parser.add_argument(
        "--alpha", type=float, default=0.5, help="how even the split is; default: %(default)s"
    )
    parser.add_argument("--rounds", type=int, help="instead of the size's own")
    parser.add_argument("--epochs", type=int, help="passes over a site's pictures in each round, likewise")
    parser.add_argument("--pictures", type=int, metavar="N", help="train on N of the pictures only, likewise")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of all training")
    parser.add_argument(
        "--workflows",
        nargs="+",
        choices=[POOLED, *WORKFLOWS],
        default=[POOLED, *WORKFLOWS],
        help="default: all of them",
    )
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="for table and plot; default: OUT")
    parser.add_argument("--check-poc", action="store_true", help="compare a simulated with a real network")
    options = parser.parse_args(words)
    options.size = options.size or ("tiny" if options.check_poc else "small")
    options.output = options.output or DEMO / f"cifar10-{options.size}"
    options.report = options.report or options.output
    if options.data is None and options.size != "tiny":
        parser.error("name the folder with CIFAR-10, or set FLPROV_DATA to it; --size tiny can do without")
    for name in ("rounds", "epochs", "pictures"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} is at least 1")
    return options


def run(options: argparse.Namespace) -> int:
    """The whole of it."""
    folder: Path = options.output.resolve()
    plan, split = prepare(options, folder)
    if options.check_poc:
        train_once("fedavg", plan, folder)
        return 0 if check_poc("fedavg", plan, folder) else 1
    curves = {curve.name: curve for name in options.workflows for curve in train_once(name, plan, folder)}
    verdicts = judge_accuracy(curves) if options.size != "tiny" else []  # of which nothing can be wanted
    if {"fedavg", "fedavg_he"} <= curves.keys():
        verdicts.append(judge_encryption(*first_models(plan, folder)))
    print("\n".join(["", *table(curves), ""]))
    for verdict in verdicts:
        print(f"{verdict.wanted}: {verdict.found}, {say(verdict)}")
    for file in write_results(options.report, curves, verdicts, split, command=typed(options)):
        print(file)
    return 0 if all(verdict.met for verdict in verdicts) else 1


def first_models(plan: Plan, folder: Path) -> list[Path]:
    """What FedAvg and FedAvg-HE make of the same updates: their models after one round.

    Later models cannot be compared weight by weight: training is chaotic, and a difference in the eighth
    digit after round 1 is one in the second digit after 60. Two tiny rounds are too few for that.
    """
    if plan.rounds <= 2:
        return [folder / "jobs" / name / MODEL for name in ("fedavg", "fedavg_he")]
    found = []
    for name in ("fedavg", "fedavg_he"):
        label = f"{name}-first-round"
        found.append(folder / "jobs" / label / MODEL)
        if not found[-1].exists():
            print(f"{name} again, for one round, to compare the weights", flush=True)
            run_workflow(name, replace(plan, rounds=1), folder, lambda record: None, label=label)
    return found


def typed(options: argparse.Namespace) -> str:
    """The command that does this again, without this machine's folders."""
    words = ["python", "examples/cifar10/run.py", *(["DATA"] if options.data else [])]
    for name in ("size", "alpha", "rounds", "epochs", "pictures", "seed"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name}", str(value)]
    return " ".join(words)


def prepare(options: argparse.Namespace, folder: Path) -> tuple[Plan, list[str]]:
    """Give the sites their pictures; what is to be done with them, and the split as lines of a table."""
    size = SIZES[options.size]
    began = time.monotonic()
    training, test, origin = find_pictures(options, folder)
    training = training.sample(options.pictures or size.training, seed=options.seed)
    test = test.sample(size.test, seed=options.seed)
    plan = Plan(
        pictures=origin,
        training=len(training),
        test=len(test),
        sites=size.sites,
        alpha=options.alpha,
        rounds=options.rounds or size.rounds,
        epochs=options.epochs or size.epochs,
        seed=options.seed,
    )
    rows = split_labels(training.labels, sites=plan.sites, alpha=plan.alpha, seed=plan.seed)
    write_sites(folder / "sites", plan.names, training, test, rows)
    counts = dict(zip(plan.names, count_classes(training.labels, rows), strict=True))
    split = [
        "| site | pictures | " + " | ".join(CLASSES) + " |",
        "|---" * (len(CLASSES) + 2) + "|",
        *(f"| {site} | {sum(own)} | {' | '.join(map(str, own))} |" for site, own in counts.items()),
    ]
    print("\n".join(split))
    print(f"pictures and split: {time.monotonic() - began:.1f} s", flush=True)
    return plan, split


def find_pictures(options: argparse.Namespace, folder: Path) -> tuple[Pictures, Pictures, str]:
    """What there is to learn from and to measure on, and where it comes from."""
    if options.data is None:
        print("no DATA: made-up pictures, which say nothing about CIFAR-10")
        size = SIZES[options.size]
        return make_pictures(size.training or 0, seed=1), make_pictures(size.test or 0, seed=2), MADE_UP
    source = find_source(Path(options.data))
    watched = sys.stderr.isatty()

    def tell(part: str, done: int, total: int) -> None:
        if watched:
            end = "\n" if done == total else ""
            print(
                f"\rreading the {part} pictures: {done:6,} of {total:,}", end=end, file=sys.stderr, flush=True
            )

    cache = folder / "pictures" / source.path.name
    return *load_source(source, cache, tell), source.path.name


def train_once(name: str, plan: Plan, folder: Path) -> list[Curve]:
    """One training, or what is kept of it; a baseline has two curves."""
    names = [POOLED, POOLED_ALL] if name == POOLED else [name]
    kept = [read_kept(folder / "curves" / f"{one}.json", plan) for one in names]
    if all(kept):
        return [curve for curve in kept if curve is not None]
    curves = train(name, plan, folder)
    for curve in curves:
        write_curve(folder / "curves" / f"{curve.name}.json", curve)
    return curves


def read_kept(file: Path, plan: Plan) -> Curve | None:
    """What an earlier run has kept, if it has."""
    if not file.exists():
        return None
    kept = read_curve(file)
    if (kept.plan, dict(kept.workflow)) != (plan, dict(options_of(kept.name, plan))):
        raise Conflict(
            f"{file} is of a run with other options", hint="name another folder with -o, or delete this one"
        )
    print(f"{kept.name}: {100 * kept.accuracy[-1]:.2f} % by an earlier run, which took {kept.seconds:.0f} s")
    return kept


def train(name: str, plan: Plan, folder: Path) -> list[Curve]:
    """One training, with a line for each round."""

    def tell(curve: str, number: int, accuracy: float, seconds: float) -> None:
        percent = f"{100 * accuracy:.2f} %"
        print(f"{curve:10}  round {number + 1:2} of {plan.rounds}: {percent}, {seconds:.1f} s", flush=True)

    def tell_round(record: RoundDocument) -> None:
        began, ended = record.started_at, record.finished_at
        seconds = (ended - began).total_seconds() if began and ended else 0.0
        tell(name, record.round, record.metrics["accuracy"], seconds)

    if name == POOLED:
        parts = [gather_sites(folder / "sites", plan.names, part) for part in ("train", "test")]
        curves = train_pooled(plan, *parts, tell)
    else:
        curves = [run_workflow(name, plan, folder, tell_round)]
    seconds = curves[-1].seconds
    speed = plan.training * plan.epochs * plan.rounds / seconds
    print(f"{name}: {seconds:.0f} s, {speed:,.0f} pictures a second", flush=True)
    return curves


if __name__ == "__main__":
    sys.exit(main())
