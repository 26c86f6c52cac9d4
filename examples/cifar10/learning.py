# SPDX-License-Identifier: Apache-2.0
"""Training and measuring, the same for a site with its part and for the baseline with all pictures."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pictures import Batches
from torch import nn
from torch.nn import functional

BATCH = 64  # this and the momentum are those of FLARE's example
MOMENTUM = 0.9


def prepare_torch(threads: int = 1) -> None:
    """The same bits in every run: deterministic kernels, and sums split over a fixed number of threads.

    One thread is also the fastest where there are more sites than cores.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)


def train(
    net: nn.Module,
    batches: Batches,
    *,
    epochs: int,
    lr: float,
    correct: Callable[[], None] = lambda: None,
    on_epoch: Callable[[float], None] = lambda loss: None,
) -> float:
    """Stochastic gradient descent in place; the mean loss of the last epoch.

    Args:
        correct: called between gradients and step, for workflows that correct the gradients.
        on_epoch: told of each epoch's mean loss.
    """
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=MOMENTUM, fused=True)
    loss = 0.0
    for _ in range(epochs):
        total = torch.zeros(())
        for pictures, labels in batches.shuffled(BATCH):
            optimizer.zero_grad()
            found = functional.cross_entropy(net(pictures), labels)
            found.backward()
            correct()
            optimizer.step()
            total += found.detach() * len(labels)
        loss = total.item() / len(batches)
        on_epoch(loss)
    return loss


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
