# SPDX-License-Identifier: Apache-2.0
"""The files of a simulated job that a server would make: its results, metrics, record and series."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from flprov.server.jobs.runfiles import metrics_json, record_json
from flprov.server.records import BlobRef
from flprov.server.series import FILE
from flprov.server.simulated.run import SimulatedRun
from flprov.server.simulated.scratch import ScratchBlobs


def write_run_files(run: SimulatedRun, output: Path) -> Iterator[Path]:
    """Write them into the folder `output`, one after the other."""
    left = Counter(ref.digest for ref in run.record.results.values())  # the last model may be the best one
    for name, ref in sorted(run.record.results.items()):
        left[ref.digest] -= 1
        yield _write_result(ref, run.blobs, output / name, last=not left[ref.digest])
    for name, make in (("metrics.json", metrics_json), ("record.json", record_json)):
        (output / name).write_bytes(make(run, run.closed))
        yield output / name
    series = run.series.path(run.record.id)
    if series.is_file():
        yield Path(shutil.move(series, output / FILE))


def _write_result(ref: BlobRef, blobs: ScratchBlobs, target: Path, *, last: bool) -> Path:
    if ref.digest:
        (shutil.move if last else shutil.copyfile)(blobs.path(ref.digest), target)
        target.chmod(0o644)
    else:
        target.write_bytes(bytes.fromhex(ref.inline))
    return target
