# SPDX-License-Identifier: Apache-2.0
"""A thousand random tamperings with the log, each of which has to be found at the first bad row."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from faults.tampering import SITES, tamper

COUNT = 1_000


def run(settings: Any = None, *, count: int = 0, seed: int = 7) -> dict[str, Any]:
    """Tamper, verify, count; the part's line in the report.

    Args:
        settings: the campaign's; None: `count` and `seed` say it.
        count: how many.
        seed: the same ones for the same seed.
    """
    only = None
    if settings is not None:
        count = settings.count or (60 if settings.small else COUNT)
        seed, only = settings.seed, settings.case
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flprov-audit-") as folder:
        cases, sound = tamper(Path(folder), count or COUNT, seed, only)
    missed = [str(case) for case in cases if not case.found]
    for line in missed:
        print(line, flush=True)
    return {
        "part": "audit",
        "name": f"{len(cases):,} random tamperings with the log, {SITES} sites as witnesses",
        "target": "each found, at the first bad row; the untouched log found sound",
        "measured": f"{len(cases) - len(missed):,} of {len(cases):,} found at the first bad row",
        "met": not missed and sound,
        "count": len(cases),
        "seed": seed,
        "missed": missed,
        "ways": dict(sorted(Counter(case.way for case in cases).items())),
        "seconds": round(time.monotonic() - began, 1),
    }


if __name__ == "__main__":
    import json

    print(json.dumps(run(seed=random.randrange(1 << 30)), indent=2))
