# SPDX-License-Identifier: Apache-2.0
"""Updates that only the workflow itself can judge: the bad ones are refused, and the round goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flprov.errors import JobFailed, UpdateRefused
from flprov.messages import Update
from flprov.sdk.sites import Sites


def keep_sound(
    sites: Sites, updates: Sequence[Update], verify: Callable[[Update], object], *, hint: str = ""
) -> list[Update]:
    """The updates that `verify` accepts; for the others it raises UpdateRefused, and their sites are absent.

    Raises:
        JobFailed: there is none; it says why the first one was refused.
    """
    sound, reasons = [], []
    for update in updates:
        try:
            verify(update)
        except UpdateRefused as error:
            sites.refuse(update, str(error))
            reasons.append(str(error))
        else:
            sound.append(update)
    if not sound:
        raise JobFailed(
            f"no update of this round can be used: {reasons[0] if reasons else 'there is none'}",
            hint=hint or None,
        )
    return sound
