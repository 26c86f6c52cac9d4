# SPDX-License-Identifier: Apache-2.0
"""FLARE's serialiser: of it there is only `register`, which jobs call; tensors travel as safetensors."""

from __future__ import annotations


def register(decomposer: object) -> None:
    """Nothing: no type has to be made known."""
