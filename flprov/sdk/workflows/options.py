# SPDX-License-Identifier: Apache-2.0
"""Options that several workflows have, and what they may be."""

from __future__ import annotations

from flprov.errors import ConfigError


def verify_fraction(fraction: float) -> None:
    """Check which part of the sites a round is to ask. Raises ConfigError."""
    if not 0 < fraction <= 1:
        raise ConfigError(f"workflow.fraction is {fraction}; it must be above 0 and at most 1")
