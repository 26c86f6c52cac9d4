# SPDX-License-Identifier: Apache-2.0
"""The process of one receiver: `python -m flprov.server.tracking.receiver KIND TARGET JOBS STATE`.

It is told on its standard input which jobs have told something, a job's id a line, and ends with it. Heavy
packages are imported here and never in the server.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flprov._base import hold_lock
from flprov.errors import FlprovError, Misuse, NotFound
from flprov.server.series import FILE
from flprov.server.tracking.feed import Feed, Target

_NICE = 10  # training and the server come first


def open_target(kind: str, where: str) -> Target:
    """The target of this kind.

    Raises:
        NotFound: its package is not installed here.
        Misuse: there is no such kind.
    """
    try:
        if kind == "tensorboard":
            from flprov.server.tracking.to_tensorboard import TensorBoard

            return TensorBoard(where)
        if kind == "mlflow":
            from flprov.server.tracking.to_mlflow import MLflow

            return MLflow(where)
    except ImportError as error:
        raise NotFound(
            f"{kind} is not installed here ({error})", hint="pip install 'flprov[tracking]'"
        ) from None
    raise Misuse(f"there is no receiver {kind!r}")


def main(words: list[str]) -> None:
    """Deliver what there is, then what comes, until the input ends."""
    kind, where, jobs, state = words
    os.nice(_NICE)
    folder = Path(state)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with hold_lock(folder / "lock"):  # the server before this one was killed, and its receiver still ends
        feed = Feed(jobs=Path(jobs), marks=folder / "marks", name=FILE, target=open_target(kind, where))
        feed.deliver_all()
        print("ready", flush=True)
        for line in sys.stdin:
            feed.deliver(line.strip())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except FlprovError as problem:
        sys.exit(f"{problem}" + (f": {problem.hint}" if problem.hint else ""))
    except BlockingIOError:
        sys.exit("another receiver of this server still runs")
