# SPDX-License-Identifier: Apache-2.0
"""The network: 30 measurements of a biopsy's cell nuclei in, benign or malignant out."""

from torch import Tensor, nn


class Net(nn.Module):
    """One hidden layer; its two outputs are the logits of malignant (0) and benign (1)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, measurements: Tensor) -> Tensor:
        """Logits, one row per biopsy."""
        return self.layers(measurements)
