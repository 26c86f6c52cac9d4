# SPDX-License-Identifier: Apache-2.0
"""A worker main that runs `app/main.py` of its job's folder: for tests of launchers and confinement."""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path

from flprov.wire import pb
from flprov.workers import adopt_channel


def main() -> None:
    """Run the script. It finds its end of the frames as `channel`, and `tell`, which sends JSON."""
    lifeline = os.environ.get("FLPROV_LIFELINE_FD")
    channel = adopt_channel(int(os.environ["FLPROV_CHANNEL_FD"]), int(lifeline) if lifeline else None)
    channel.outlive(tuple)  # nothing is said again

    def tell(value: object) -> None:
        channel.send(pb.FromWorker(failure=pb.Failure(code="told", message=json.dumps(value))))

    names = {"channel": channel, "pb": pb, "tell": tell}
    runpy.run_path(str(Path("../app/main.py")), init_globals=names, run_name="__main__")
