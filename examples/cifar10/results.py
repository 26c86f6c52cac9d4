# SPDX-License-Identifier: Apache-2.0
"""What the experiment shows: a table, a plot, what was wanted and found, and files with all of it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from baseline import POOLED, POOLED_ALL
from experiment import Curve

from flprov.wire import read_tensors

NAME = "cifar10"  # of the files
LABELS = {
    POOLED: "pooled data, steps of one site",
    POOLED_ALL: "pooled data, steps of all sites",
    "fedavg": "FedAvg",
    "fedprox": "FedProx",
    "fedopt": "FedOpt",
    "fedavg_he": "FedAvg-HE",
}
BEHIND = 5.0  # points that a federated curve may end below the baseline
CLOSE = 1e-4  # largest difference between a weight under encryption and in the clear


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Something that was wanted, and what was found."""

    wanted: str
    found: str
    met: bool


def judge_accuracy(curves: Mapping[str, Curve]) -> list[Verdict]:
    """What was wanted of how these curves end; of those that are there."""
    ends = {name: 100 * curve.accuracy[-1] for name, curve in curves.items()}
    found = []
    for name in ends:
        if name not in (POOLED, POOLED_ALL) and POOLED in ends:
            behind = ends[POOLED] - ends[name]
            found.append(
                Verdict(
                    wanted=f"{LABELS[name]} ends at most {BEHIND:.0f} points below the pooled data",
                    found=f"{behind:.1f} below" if behind > 0 else f"{-behind:.1f} above",
                    met=behind <= BEHIND,
                )
            )
    if {"fedavg", "fedopt"} <= ends.keys():
        ahead = ends["fedopt"] - ends["fedavg"]
        found.append(
            Verdict(wanted="FedOpt ends not below FedAvg", found=f"{ahead:+.1f} points", met=ahead >= 0)
        )
    return found


def judge_encryption(clear: Path, encrypted: Path) -> Verdict:
    """Whether FedAvg-HE has come to FedAvg's model, from the same updates."""
    difference = largest_difference(clear, encrypted)
    return Verdict(
        wanted=f"no weight of FedAvg-HE's mean is further than {CLOSE:g} from FedAvg's",
        found=f"{difference:.1e}",
        met=difference <= CLOSE,
    )


def largest_difference(one: Path, other: Path) -> float:
    """Between the weights in two files, which have the same names and shapes."""
    first, second = read_tensors(one), read_tensors(other)
    if first.keys() != second.keys():
        raise ValueError(f"{one} and {other} hold other tensors: {sorted(first)} and {sorted(second)}")
    return max(
        float(np.abs(first[name].astype(np.float64) - second[name].astype(np.float64)).max())
        for name in first
    )


def table(curves: Mapping[str, Curve]) -> list[str]:
    """The curves as lines of markdown."""
    rounds = max(len(curve.accuracy) for curve in curves.values())
    shown = sorted({number for number in (1, rounds // 5, rounds // 2, rounds) if number})
    heads = [f"round {number}" for number in shown]
    lines = [
        "| | workflow | " + " | ".join(heads) + " | mean of the last five | loss at the end | time |",
        "|---" * (len(heads) + 5) + "|",
    ]
    for name, curve in curves.items():
        cells = [f"{100 * curve.accuracy[number - 1]:.2f} %" for number in shown]
        last = 100 * float(np.mean(curve.accuracy[-5:]))
        workflow = json.dumps(dict(curve.workflow)) if curve.workflow else "-"
        lines.append(
            f"| {LABELS[name]} | `{workflow}` | {' | '.join(cells)} | {last:.2f} % | {curve.loss[-1]:.3f}"
            f" | {curve.seconds:.0f} s |"
        )
    return lines


def draw(file: Path, curves: Mapping[str, Curve]) -> None:
    """The curves in one plot: accuracy on all test pictures after each round."""
    from matplotlib.figure import Figure  # late: it takes a second

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        rounds = range(1, len(curve.accuracy) + 1)
        percent = [100 * value for value in curve.accuracy]
        label = f"{LABELS[name]}: {percent[-1]:.1f} %"
        if name in (POOLED, POOLED_ALL):
            axes.plot(rounds, percent, color="0.35", linestyle="--" if name == POOLED else ":", label=label)
        else:
            width = 3.5 if name == "fedavg" else 1.5  # FedAvg-HE is to lie on it
            axes.plot(rounds, percent, linewidth=width, alpha=0.8, label=label)
    plan = next(iter(curves.values())).plan
    axes.set_title(f"CIFAR-10 over {plan.sites} sites, Dirichlet({plan.alpha:g})")
    axes.set_xlabel(f"round ({plan.epochs} passes over the pictures each)")
    axes.set_ylabel(f"accuracy on {plan.test:,} test pictures, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=120)


def write_results(
    folder: Path,
    curves: Mapping[str, Curve],
    verdicts: Sequence[Verdict],
    split: Sequence[str],
    *,
    command: str,
) -> list[Path]:
    """All of it, as .json, .md and .png."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{NAME}.{suffix}" for suffix in ("json", "md", "png")]
    now, plan = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", next(iter(curves.values())).plan
    document = {
        "command": command,
        "machine": machine(),
        "made_at": now,
        "plan": asdict(plan),
        "curves": {name: asdict(curve) for name, curve in curves.items()},
        "verdicts": [asdict(verdict) for verdict in verdicts],
    }
    files[0].write_text(json.dumps(document, indent=1) + "\n")
    pictures = f"{plan.training:,} pictures of {plan.pictures} over {plan.sites} sites, alpha {plan.alpha:g}"
    lines = [
        "# CIFAR-10, split unevenly, by four workflows",
        f"{pictures}; {plan.rounds} rounds of {plan.epochs} local passes; accuracy on {plan.test:,} others.",
        f"{machine()}; {now}.",
        f"Made by `{command}`.",
        f"![accuracy by round]({NAME}.png)",
        "\n".join(table(curves)),
        "\n".join(f"- {verdict.wanted}: {verdict.found}, {say(verdict)}" for verdict in verdicts),
        "How many pictures of each class each site has:",
        "\n".join(split),
    ]
    files[1].write_text("\n\n".join(line for line in lines if line) + "\n")
    draw(files[2], curves)
    return files


def say(verdict: Verdict) -> str:
    """In a word."""
    return "met" if verdict.met else "MISSED"


def machine() -> str:
    """This machine in words, without its name."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in ("flprov", "torch", "numpy"))
    python = platform.python_version()
    return f"{cores} cores ({processor()}), {memory:.0f} GiB of memory, Python {python}, {packages}"


def processor() -> str:
    """The processor's model."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
