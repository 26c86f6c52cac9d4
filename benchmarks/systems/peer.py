# SPDX-License-Identifier: Apache-2.0
"""What the two peers have in common: commands in an environment of their own, a folder, and processes.

Whatever is started has the folder in its environment, so it can be found, and ended, whoever its parent is.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from systems.processes import end_all, marked, run_command
from systems.system import Failed

PATIENCE = 300.0  # seconds for a command, unless a job says otherwise


class Place:
    """A folder in which a peer works, and its commands there."""

    def __init__(self, folder: Path, commands: Path, extra: Mapping[str, str]) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.marks = folder / "marks"
        self._commands = commands
        kept = {
            name: os.environ[name] for name in ("LANG", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ
        }
        self.environment = {
            **kept,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "HOME": str(folder),  # both keep settings there, which are not to be the user's own
            "BENCHMARK_MARKS": str(self.marks),
            **extra,
        }

    def command(self, *words: str | Path, patience: float = PATIENCE) -> str:
        """Run one of the peer's commands; what it printed.

        Raises:
            Failed: it did, or took too long.
        """
        name, *rest = words
        try:
            return run_command(
                [self._commands / name, *rest],
                environment=self.environment, folder=self.folder, patience=patience,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            said = (error.stderr or error.stdout).strip().splitlines() or ["nothing"]
            raise Failed(
                f"`{name} {' '.join(map(str, rest[:2]))}` ended with {error.returncode}: {said[-1][:200]}"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise Failed(
                f"`{name} {' '.join(map(str, rest[:2]))}` was not done after {patience:.0f} s"
            ) from error

    def start(self, log: str, *words: str | Path) -> subprocess.Popen[bytes]:
        """Begin one of the peer's commands; what it prints goes to the file `log`."""
        name, *rest = words
        with (self.folder / log).open("wb") as file:
            return subprocess.Popen(
                [str(self._commands / name), *map(str, rest)],
                env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def processes(self) -> dict[int, str]:
        """What runs here, with command lines."""
        return marked(self.folder)

    def end(self) -> None:
        """SIGKILL for all of it."""
        end_all(self.folder)

    def wait_gone(self, pids: set[int], patience: float) -> float:
        """The time (of time.monotonic) at which the last of these had ended.

        Raises:
            Failed: some have not.
        """
        deadline = time.monotonic() + patience
        while left := pids & running(self.processes()):
            if time.monotonic() > deadline:
                raise Failed(f"{len(left)} processes of the job still ran {patience:.0f} s after the command")
            time.sleep(0.02)
        return time.monotonic()


def running(pids: Mapping[int, str]) -> set[int]:
    """Those that are not zombies, which nobody has waited for yet."""
    return {pid for pid, command in pids.items() if command}
