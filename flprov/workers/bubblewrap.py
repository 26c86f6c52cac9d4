# SPDX-License-Identifier: Apache-2.0
"""The bwrap command line that shows a worker its view, where Landlock is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from flprov.errors import ConfinementRefused
from flprov.workers.view import View

FILTER_PLACE = "{filter}"  # the shim puts the descriptor of the seccomp filter here


def bubblewrap_command(view: View, *, work: Path, short_work: str) -> list[str]:
    """What to put before the worker's own command.

    Raises:
        ConfinementRefused: bwrap is not installed.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise ConfinementRefused(
            "bubblewrap was asked for, and bwrap is not installed", hint="install the bubblewrap package"
        )
    command = [program, "--unshare-all", "--die-with-parent", "--cap-drop", "ALL"]
    command += ["--proc", "/proc", "--dev", "/dev"]
    for path in _outer_first((*view.system, *view.job, *_in_sys(view))):
        for place in dict.fromkeys((path.resolve(), path)):  # links inside may name the real place
            command += ["--ro-bind", str(path.resolve()), str(place)]
    for path in view.writable:
        command += ["--bind", str(path), str(path)]
    for path in view.gpus:
        command += ["--dev-bind", str(path), str(path)]
    command += ["--symlink", str(work), short_work]
    return [*command, "--chdir", str(work), "--seccomp", FILTER_PLACE, "--"]


def _outer_first(paths: Iterable[Path]) -> list[Path]:
    """A mount hides what was mounted below it before."""
    return sorted(set(paths), key=lambda path: (len(path.parts), path))


def _in_sys(view: View) -> list[Path]:
    """/proc is bwrap's own, of the worker's processes only."""
    return [path for path in view.kernel if path.is_relative_to("/sys")]
