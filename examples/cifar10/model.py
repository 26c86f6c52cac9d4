# SPDX-License-Identifier: Apache-2.0
"""The network: the small CNN of FLARE's CIFAR-10 example, which is that of PyTorch's own tutorial.

Two convolutions and three linear layers, 62,006 weights. https://pytorch.org/tutorials/beginner/blitz/
"""

from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """Pictures of 32 x 32 pixels in three colours to the logits of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits, one row per picture of shape (3, 32, 32)."""
        # The tutorial has relu before the pooling. The largest of four is the same either way, and
        # relu of a quarter of the numbers costs a quarter.
        hidden = functional.relu(functional.max_pool2d(self.conv1(pictures), 2))
        hidden = functional.relu(functional.max_pool2d(self.conv2(hidden), 2))
        hidden = functional.relu(self.fc1(hidden.flatten(1)))
        return self.fc3(functional.relu(self.fc2(hidden)))
