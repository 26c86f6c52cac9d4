# SPDX-License-Identifier: Apache-2.0
"""How long a passphrase must be that protects a key. Those of earlier runs still open what they closed."""

from __future__ import annotations

from flprov.errors import Misuse

SHORTEST_PASSPHRASE = 12


def verify_strong(passphrase: bytes | None, whose: str) -> None:
    """Nothing, unless a new key would be encrypted with what is soon guessed.

    Raises:
        Misuse: the passphrase is too short.
    """
    if passphrase is not None and len(passphrase) < SHORTEST_PASSPHRASE:
        raise Misuse(
            f"a passphrase of {len(passphrase)} characters does not protect {whose}: it is soon guessed",
            hint=f"use at least {SHORTEST_PASSPHRASE}; four words that have nothing to do with each other do",
        )
