# SPDX-License-Identifier: Apache-2.0
"""What the sites are compared with: the same network, trained in one place on all of their pictures."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from experiment import LR, Curve, Plan
from learning import measure, prepare_torch, train
from model import Net
from pictures import Batches, Pictures

BASELINE = "pooled"
THREADS = 2  # the bits depend on their number, so it is not that of the cores


def train_pooled(
    plan: Plan, training: Pictures, test: Pictures, on_round: Callable[[int, float, float], None]
) -> Curve:
    """As many steps, of the same size and over as many pictures, as all sites together do.

    Args:
        on_round: told of each round's number from 0, its accuracy and its seconds.
    """
    began = time.monotonic()
    prepare_torch(THREADS)
    torch.manual_seed(plan.seed)
    net = Net().to(memory_format=torch.channels_last)
    batches, held_out = Batches(training), Batches(test)
    found = []
    for number in range(plan.rounds):
        start = time.monotonic()
        train(net, batches, epochs=plan.epochs, lr=LR)
        found.append(measure(net, held_out))
        on_round(number, found[-1]["accuracy"], time.monotonic() - start)
    return Curve(
        name=BASELINE,
        plan=plan,
        workflow={},
        accuracy=tuple(metrics["accuracy"] for metrics in found),
        loss=tuple(metrics["loss"] for metrics in found),
        seconds=round(time.monotonic() - began, 1),
    )
