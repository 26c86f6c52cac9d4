#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The fault campaign: processes killed, links cut, disks full, logs forged; and nothing promised is broken.

    python benchmarks/faults/run.py [--only kills]... [--count 50] [--seed 7] [--case 3] [--small]

Each part is a module here with a `run(settings)`, and can be run alone. A case that fails keeps its
recorded history, and prints the command that repeats exactly this case. The result files are
`faults.json`, with every detail, and `faults.md`, a table to read.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)  # not this folder itself: its modules are faults.something

from report import machine  # noqa: E402

from faults.cases import Settings  # noqa: E402
from flprov import __version__  # noqa: E402

PARTS = ("kills", "workflows", "syscalls", "queueing", "slowlinks", "badlinks", "fulldisk", "audit")


def main() -> int:
    """Run the parts; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description="The fault campaign.")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; may be repeated")
    parser.add_argument("--count", type=int, help="how often, in the part's own unit")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--case", type=int, help="only this case of the part")
    parser.add_argument("--small", action="store_true", help="a few of each: to see that the parts run")
    parser.add_argument("--kept", type=Path, default=Path("faults-kept"), help="for what fails")
    parser.add_argument("-o", "--output", type=Path, default=HERE.parent / "results")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every network is stopped, too
    load = os.getloadavg()[0]
    found = []
    with tempfile.TemporaryDirectory(prefix="flprov-faults-") as folder:
        settings = Settings(
            folder=Path(folder),
            kept=options.kept,
            count=options.count,
            seed=options.seed,
            case=options.case,
            small=options.small,
        )
        for part in options.only or PARTS:
            found.append(_run(part, settings))
            print(_line(found[-1]), flush=True)
    if options.case is None:
        print(f"\n{_write(options.output, _command(options), found, load)}")
    return int(not all(one["met"] for one in found))


def _run(part: str, settings: Settings) -> dict[str, Any]:
    began = time.monotonic()
    print(f"---- {part}", flush=True)
    found: dict[str, Any] = importlib.import_module(f"faults.{part}").run(settings)
    return found | {"seconds": round(time.monotonic() - began, 1)}


def _command(options: argparse.Namespace) -> str:
    """What makes the same result again, wherever it is written to."""
    words = [f"--only {part}" for part in options.only or ()]
    words += [f"--count {options.count}"] if options.count is not None else []
    words += ["--small"] if options.small else []
    return " ".join(["python benchmarks/faults/run.py", *words, f"--seed {options.seed}"])


def _line(one: dict[str, Any]) -> str:
    verdict = "met" if one["met"] else "MISSED"
    return f"| {one['name']} | {one['target']} | {one['measured']} | {one['seconds']:.0f} s | {verdict} |"


def _write(folder: Path, command: str, found: list[dict[str, Any]], load: float) -> Path:
    """Both files; parts that were not run this time keep what they had."""
    made_at = datetime.now(UTC).replace(microsecond=0).isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "faults.json"
    older = json.loads(file.read_text())["parts"] if file.exists() else []
    fresh = {one["part"] for one in found}
    here = {"machine": machine(), "command": command, "made_at": made_at, "load_before": round(load, 2)}
    parts = [one for one in older if one["part"] not in fresh] + [one | here for one in found]
    parts.sort(key=lambda one: PARTS.index(one["part"]))
    head = {"campaign": "faults", "flprov": __version__}
    file.write_text(json.dumps(head | {"parts": parts}, indent=2, default=str) + "\n")
    lines = ["# Faults: what must hold whatever breaks", ""]
    lines += [f"{machine()}; flprov {__version__}. Each part says when it was run, and by which command.", ""]
    lines += ["| what | target | measured | took | |", "|---|---|---|---|---|", *map(_line, parts), ""]
    lines += [
        f"- `{one['part']}`: {one['made_at']}, load average before the start {one['load_before']:.2f}, by"
        f" `{one['command']}`."
        for one in parts
    ]
    table = folder / "faults.md"
    table.write_text("\n".join(lines) + "\n")
    return table


if __name__ == "__main__":
    sys.exit(main())
