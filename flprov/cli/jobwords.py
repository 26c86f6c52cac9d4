# SPDX-License-Identifier: Apache-2.0
"""What commands that run a job share, on a network or simulated: its settings, and what its end means."""

from __future__ import annotations

from collections.abc import Sequence

from flprov.errors import ExitCode, Misuse

WAIT_CODES = {"completed": ExitCode.DONE, "degraded": ExitCode.ATTENTION}  # of others: FAILED


def parse_settings(pairs: Sequence[str]) -> dict[str, str]:
    """What `--set` said. Raises Misuse."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Misuse(f"--set takes key=value, not {pair!r}", hint="for example: --set rounds=5")
        found[key] = value
    return found
