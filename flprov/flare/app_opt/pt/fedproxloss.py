# SPDX-License-Identifier: Apache-2.0
"""PTFedProxLoss: FedProx's term of a loss (Li et al., 2020, eq. 2)."""

from __future__ import annotations

from typing import Any

from flprov.errors import Misuse


class PTFedProxLoss:
    """`mu / 2` times the squared distance between the parameters of two modules."""

    def __init__(self, mu: float = 0.01) -> None:
        if mu < 0:
            raise Misuse(f"mu is {mu}; it must not be negative")
        self.mu = mu

    def __call__(self, input: Any, target: Any) -> Any:  # noqa: A002, ANN401 - FLARE's; torch modules, a tensor
        """The term of `input`, the module that is trained, and `target`, a copy of the one received."""
        pairs = zip(input.parameters(), target.parameters(), strict=True)
        return self.mu / 2 * sum(((own - its.detach()) ** 2).sum() for own, its in pairs)
