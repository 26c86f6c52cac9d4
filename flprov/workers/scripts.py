# SPDX-License-Identifier: Apache-2.0
"""Scripts: a task given as `train.py`, run as `python train.py --epochs 1 --lr 0.01` would run it."""

from __future__ import annotations

import builtins
import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from flprov.errors import JobFailed

SIGTERM_STATUS = 128 + signal.SIGTERM


def command_line(args: Mapping[str, object]) -> list[str]:
    """`args` of job.yml as options: `{"epochs": 1, "nesterov": True}` -> `--epochs 1 --nesterov`.

    True is the bare option; False and None leave it out. The items of a list follow it one by one; a
    mapping is one JSON text.
    """
    words: list[str] = []
    for name, value in args.items():
        if value is False or value is None:
            continue
        words.append(f"--{name}")
        if isinstance(value, list | tuple):
            words += [_word(item) for item in value]
        elif value is not True:
            words.append(_word(value))
    return words


class Script:
    """A script of the app.

    Attributes:
        path: the file.
        module: its `__main__`, of the current or last run.
        runs: how often it was started.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.module = ModuleType("__main__")
        self.runs = 0

    def run(self, words: list[str]) -> None:
        """Run it to its end with `words` as its command line; what it raises passes through.

        Raises:
            JobFailed: it ended by sys.exit with something else than 0.
            SystemExit: SIGTERM ended it.
        """
        self.module = ModuleType("__main__")
        self.module.__dict__.update(__file__=str(self.path), __builtins__=builtins)
        self.runs += 1
        sys.argv = [str(self.path), *words]
        sys.modules["__main__"] = self.module
        if str(self.path.parent) not in sys.path:
            sys.path.insert(0, str(self.path.parent))
        code = compile(self.path.read_bytes(), str(self.path), "exec", dont_inherit=True)
        try:
            exec(code, self.module.__dict__)  # noqa: S102 - what a job's process is for
        except SystemExit as error:
            if error.code not in (None, 0, SIGTERM_STATUS):
                what = f"status {error.code}" if isinstance(error.code, int) else f"the words {error.code}"
                failed = JobFailed(f"{self.path.name} exited with {what}")
                raise failed.with_traceback(error.__traceback__) from None  # so that it names the line
            if error.code:
                raise


def _word(value: object) -> str:
    return json.dumps(value) if isinstance(value, Mapping | list | bool) or value is None else str(value)
