# SPDX-License-Identifier: Apache-2.0
"""What tests of several layers share."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass
class StoppedShims:
    """Shims that never come to their start; `begun` is set with the first one."""

    shims: list[subprocess.Popen[bytes]] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def statuses(self) -> list[int | None]:
        """How each of them ended, as far as somebody has waited for that."""
        return [shim.returncode for shim in self.shims]


@pytest.fixture
def stopped_shims(monkeypatch: pytest.MonkeyPatch) -> Iterator[StoppedShims]:
    """Each shim that `ProcessLauncher` executes is stopped at once (SIGSTOP); killed at the end."""
    from flprov.workers import launcher

    found = StoppedShims()
    start = launcher._start_shim

    def start_and_stop(*arguments: Any) -> Any:
        shim, *lines = start(*arguments)
        os.kill(shim.pid, signal.SIGSTOP)
        found.shims.append(shim)
        found.begun.set()
        return (shim, *lines)

    monkeypatch.setattr(launcher, "_start_shim", start_and_stop)
    yield found
    for shim in found.shims:
        shim.kill()
