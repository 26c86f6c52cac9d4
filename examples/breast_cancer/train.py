# SPDX-License-Identifier: Apache-2.0
"""A PyTorch training script, made federated by the lines that say `fl.`."""

import argparse

import torch
from biopsies import Part, load_parts
from model import Net
from torch import nn

import flprov.client as fl

BATCH = 16


def train(net: nn.Module, part: Part, *, epochs: int, lr: float) -> float:
    """Train in place; the mean loss of the last epoch."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for _ in range(epochs):
        losses = []
        for rows in torch.randperm(len(part.labels)).split(BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(part.measurements[rows]), part.labels[rows])
            loss.backward()
            fl.correct_gradients(net, lr=lr)  # FedProx and SCAFFOLD; nothing under other workflows
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def measure(net: nn.Module, part: Part) -> dict[str, float]:
    """How good the network is on biopsies that it has not seen."""
    logits = net(part.measurements)
    return {
        "accuracy": (logits.argmax(dim=1) == part.labels).float().mean().item(),
        "loss": nn.functional.cross_entropy(logits, part.labels).item(),
    }


parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--lr", type=float, default=0.05)
args = parser.parse_args()

fl.init()
torch.manual_seed(1)
torch.set_num_threads(1)  # the network is tiny: threads would only wait for each other
training, test = load_parts(fl.site_name())
print(f"{fl.site_name()}: {len(training.labels)} biopsies to train on, {len(test.labels)} held out")
net = Net()

while fl.is_running():
    received = fl.receive()
    net.load_state_dict(received.params)
    if fl.is_evaluate():  # the round's new model, averaged over the sites
        fl.send(fl.Model(metrics=measure(net, test), samples=len(test.labels)))
        continue
    loss = train(net, training, epochs=args.epochs, lr=args.lr)
    print(f"round {received.round + 1} of {received.rounds}: loss {loss:.4f}")
    metrics = {"train_loss": loss}
    fl.send(fl.Model(params=net.state_dict(), metrics=metrics, samples=len(training.labels)))
