# SPDX-License-Identifier: Apache-2.0
"""Space held back on the disk, so that an abort or a lock can be written when nothing else can."""

from __future__ import annotations

import os
from pathlib import Path

_SIZE = 1 << 20  # an urgent commit needs some ten pages of 4 KiB


class Reserve:
    """A file of nothing; urgent commits give it up, and no other commit may use its room."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = False

    @property
    def held(self) -> bool:
        """Whether it was held back when somebody looked last."""
        return self._held

    def hold(self) -> bool:
        """Whether the space is held back, now or again."""
        if not self._held:
            self._held = self._allocate()
        return self._held

    def release(self) -> None:
        """Give the space to whoever writes next."""
        self._path.unlink(missing_ok=True)
        self._held = False

    def _allocate(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            os.posix_fallocate(descriptor, 0, _SIZE)
        except OSError:
            self._path.unlink(missing_ok=True)
            return False
        finally:
            os.close(descriptor)
        return True
