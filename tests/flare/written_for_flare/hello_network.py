# SPDX-License-Identifier: Apache-2.0
"""The network of hello_trainer: two moons of points, small enough to train in a second."""

import torch
from torch import nn


class SimpleNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(2, 16)
        self.norm = nn.BatchNorm1d(16)
        self.fc2 = nn.Linear(16, 2)

    def forward(self, x):
        return self.fc2(torch.relu(self.norm(self.fc1(x))))


def points(site, count=64):
    source = torch.Generator().manual_seed(sum(site.encode()))
    x = torch.randn(count, 2, generator=source)
    return x, (x[:, 0] * x[:, 1] > 0).long()
