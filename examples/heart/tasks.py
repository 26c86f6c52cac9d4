# SPDX-License-Identifier: Apache-2.0
"""The two tasks of a hospital, in function style: a task and a site in, an update out."""

import functools

import torch
from model import Net
from patients import Patients, load_patients
from torch import nn

from flprov.sdk import Site, Task, Update, to_state_dict

BATCH = 32

load = functools.cache(load_patients)  # a process serves all rounds: read the file once


def train(task: Task, site: Site, epochs: int, lr: float) -> Update:
    """Train the model that came with the task on this hospital's patients."""
    patients, _ = load(site.data("heart"))
    net = received(task)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for _ in range(epochs):
        for rows in shuffled(patients, task.round).split(BATCH):
            optimizer.zero_grad()
            logits = net(patients.features[rows])
            loss = nn.functional.binary_cross_entropy_with_logits(logits, patients.labels[rows])
            loss.backward()
            optimizer.step()
    return Update(params=net.state_dict(), samples=len(patients.labels))


def evaluate(task: Task, site: Site) -> Update:
    """Measure the model on the patients that this hospital holds out."""
    _, patients = load(site.data("heart"))
    with torch.no_grad():
        logits = received(task)(patients.features)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, patients.labels)
    right = (logits > 0) == (patients.labels > 0)
    metrics = {"accuracy": right.float().mean().item(), "loss": loss.item()}
    return Update(metrics=metrics, samples=len(patients.labels))


def received(task: Task) -> Net:
    """The model with the task's weights."""
    net = Net()
    net.load_state_dict(to_state_dict(task.params))
    return net


def shuffled(patients: Patients, seed: int) -> torch.Tensor:
    """Row numbers in an order of its own for each round, the same when the round is repeated."""
    return torch.randperm(len(patients.labels), generator=torch.Generator().manual_seed(seed))
