# SPDX-License-Identifier: Apache-2.0
"""The picture of a simulation's metrics, drawn in a process beside it.

To import matplotlib takes longer than a small simulation. So that begins at once, at a low priority, and the
numbers come when there are some.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from flprov.errors import FlprovError

_LOW = 10  # nice(2)


class Drawing:
    """The process. Make it early; `close` it in any case."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "flprov.simulator.drawing"],  # -P: not what lies in this folder
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is for us, and we close it
        )

    def draw(self, metrics: Path, target: Path) -> bool:
        """Draw what `metrics.json` holds; whether there is a picture."""
        order = json.dumps([str(metrics.absolute()), str(target.absolute())])
        self._process.communicate(order.encode())
        return target.is_file()

    def close(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.communicate()


def main() -> None:
    """What the process calls."""
    os.nice(_LOW)
    from flprov.admin import draw_metrics, prepare_drawing  # late: the parent needs none of it

    prepare_drawing()
    order = sys.stdin.read()
    if order:
        metrics, target = json.loads(order)
        with contextlib.suppress(FlprovError):  # a picture is no reason to fail: everything else is here
            picture = draw_metrics(json.loads(Path(metrics).read_bytes()))
            Path(target).write_bytes(picture)
    os._exit(0)  # there is nothing to tidy up, and matplotlib takes its time over that


if __name__ == "__main__":
    main()
