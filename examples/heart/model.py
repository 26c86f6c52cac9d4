# SPDX-License-Identifier: Apache-2.0
"""The model: logistic regression on what `patients.py` makes of a patient."""

from patients import WIDTH
from torch import Tensor, nn


class Net(nn.Module):
    """One logit per patient: above 0 means disease."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits, shape (patients,)."""
        return self.linear(features).squeeze(1)
