# SPDX-License-Identifier: Apache-2.0
"""A parent in a process of its own, to be killed: launches a job or adopts it, says so, and reads frames.

python brief_parent.py FOLDER launch MAIN | adopt
"""

import asyncio
import sys
from pathlib import Path

from flprov.workers import LaunchOrder, ProcessLauncher


async def run(folder: Path, how: str, main: str) -> None:
    launcher = ProcessLauncher()
    if how == "launch":
        order = LaunchOrder(job_id=folder.name, folder=folder, main=main, orphan_seconds=60)
        process = await launcher.launch(order)
    else:
        found = await launcher.adopt(folder)
        assert found is not None
        process = found
    print(process.pid, process.shim_pid, flush=True)
    while await process.channel.receive() is not None:
        print("frame", flush=True)
    print((await process.wait()).reason, flush=True)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""))
