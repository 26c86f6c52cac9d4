# SPDX-License-Identifier: Apache-2.0
"""The picture of a simulation's metrics, drawn in a process beside it.

To import matplotlib takes longer than a small simulation. So that begins at once, at a low priority; the
numbers come when the job is over, and while its processes end, they are drawn.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

from flprov.errors import FlprovError

_LOW = 10  # nice(2)


class Drawing:
    """The process: it reads what `metrics.json` holds, and writes a picture. `close` it in any case."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "flprov.simulator.drawing"],  # -P: not what lies in this folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is for us, and we close it
        )
        self._answer: asyncio.Future[tuple[bytes, bytes]] | None = None

    def begin(self, metrics: bytes) -> None:
        """Draw these; once."""
        loop = asyncio.get_running_loop()
        self._answer = loop.run_in_executor(None, self._process.communicate, metrics)

    async def finish(self) -> bytes:
        """What has been drawn; empty: nothing."""
        return (await self._answer)[0] if self._answer is not None else b""

    def close(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        if self._answer is None:
            self._process.communicate()


def main() -> None:
    """What the process calls."""
    os.nice(_LOW)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # to start others is a quarter of what the import takes
    from flprov.admin import draw_metrics, prepare_drawing  # late: the parent needs none of it

    prepare_drawing()
    metrics = sys.stdin.buffer.read()
    if metrics:
        try:
            sys.stdout.buffer.write(draw_metrics(json.loads(metrics)))
            sys.stdout.buffer.flush()
        except (FlprovError, BrokenPipeError):  # a picture is no reason to fail: everything else is there
            pass
    os._exit(0)  # there is nothing to tidy up, and matplotlib takes its time over that


if __name__ == "__main__":
    main()
