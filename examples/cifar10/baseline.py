# SPDX-License-Identifier: Apache-2.0
"""What the sites are compared with: the same network, trained in one place on all of their pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import ceil

import torch
from experiment import LR, Curve, Plan
from learning import BATCH, measure, prepare_torch, steps
from model import Net
from pictures import Batches, Pictures

# After as many steps as one site takes on average (FLARE's own comparison: 50 rounds of 4 epochs at 8
# sites are 25 epochs), and after as many as all sites take together, eight times as many.
POOLED, POOLED_ALL = "pooled", "pooled_all"


def train_pooled(
    plan: Plan, training: Pictures, test: Pictures, on_round: Callable[[str, int, float, float], None]
) -> list[Curve]:
    """The two curves, of one training.

    Args:
        on_round: told of the curve, the round's number from 0, its accuracy and the seconds until then.
    """
    began = time.monotonic()
    prepare_torch()
    torch.manual_seed(plan.seed)
    net = Net().to(memory_format=torch.channels_last)
    held_out = Batches(test)
    all_sites = [ceil(plan.training * plan.epochs * number / BATCH) for number in range(1, plan.rounds + 1)]
    wanted = {POOLED: [ceil(number / plan.sites) for number in all_sites], POOLED_ALL: all_sites}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in wanted}
    seconds = dict.fromkeys(wanted, 0.0)
    for number, _ in enumerate(steps(net, Batches(training), lr=LR), start=1):
        due = [name for name, rounds in wanted.items() for end in rounds if end == number]
        metrics = measure(net, held_out) if due else {}
        for name in due:
            seconds[name] = time.monotonic() - began
            on_round(name, len(found[name]), metrics["accuracy"], seconds[name])
            found[name].append(metrics)
        if number == all_sites[-1]:
            break
    return [
        Curve(
            name=name,
            plan=plan,
            workflow={},
            accuracy=tuple(metrics["accuracy"] for metrics in found[name]),
            loss=tuple(metrics["loss"] for metrics in found[name]),
            seconds=round(seconds[name], 1),
        )
        for name in wanted
    ]
