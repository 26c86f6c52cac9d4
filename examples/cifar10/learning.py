# SPDX-License-Identifier: Apache-2.0
"""Training and measuring, the same for a site with its part and for the baseline with all pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from math import ceil

import torch
from pictures import Batches
from torch import Tensor, nn
from torch.nn import functional

BATCH = 64  # this and the momentum are those of FLARE's example
MOMENTUM = 0.9


def prepare_torch() -> None:
    """The same bits in every run: deterministic kernels, and sums that are not split over threads.

    A thread for each site is also the fastest where there are as many sites as cores or more.
    """
    torch.set_num_threads(1)
    # As torch.use_deterministic_algorithms, but that also imports torch's compiler: a second for each site.
    torch.set_deterministic_debug_mode("error")


def train(
    net: nn.Module,
    batches: Batches,
    *,
    epochs: int,
    lr: float,
    correct: Callable[[], None] = lambda: None,
    on_epoch: Callable[[float], None] = lambda loss: None,
) -> float:
    """Train in place; the mean loss of the last epoch.

    Args:
        correct: see `steps`.
        on_epoch: told of each epoch's mean loss.
    """
    every, total, loss = ceil(len(batches) / BATCH), torch.zeros(()), 0.0
    for number, found in islice(
        enumerate(steps(net, batches, lr=lr, correct=correct), start=1), epochs * every
    ):
        total += found
        if number % every == 0:
            loss = total.item() / every
            total.zero_()
            on_epoch(loss)
    return loss


def steps(
    net: nn.Module, batches: Batches, *, lr: float, correct: Callable[[], None] = lambda: None
) -> Iterator[Tensor]:
    """Stochastic gradient descent without end: a step for each batch, epoch after epoch; yields its loss.

    Args:
        correct: called between gradients and step, for workflows that correct the gradients.
    """
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=MOMENTUM, fused=True)
    while True:
        for pictures, labels in batches.shuffled(BATCH):
            net.train()  # who measures between two steps has changed that
            optimizer.zero_grad()
            loss = functional.cross_entropy(net(pictures), labels)
            loss.backward()
            correct()
            optimizer.step()
            yield loss.detach()


@torch.no_grad()
def measure(net: nn.Module, batches: Batches) -> dict[str, float]:
    """How good the network is on pictures that it has not learnt from."""
    net.eval()
    right, loss = 0, 0.0
    for pictures, labels in batches.in_order():
        logits = net(pictures)
        right += int((logits.argmax(dim=1) == labels).sum())
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
    return {"accuracy": right / len(batches), "loss": loss / len(batches)}
