#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The campaign on identities: what must hold every time, tried often. Takes some twenty minutes.

    python benchmarks/campaign.py [--small] [--only NAME]... [-o benchmarks/results]

Each part is a module in benchmarks/identity/ with a `run`, and can be run alone. The result files are
`identity.json`, with every detail, and `identity.md`, a table to read.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from report import machine

from flprov import __version__

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "identity"))

PARTS = ("scale", "tampering", "delivery", "invites", "revocation", "renewal", "containers", "lint")


def main() -> int:
    """Run the parts; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description="The campaign on identities.")
    parser.add_argument("--small", action="store_true", help="a few of each: to see that the parts run")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; may be repeated")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    found = []
    with tempfile.TemporaryDirectory(prefix="flprov-campaign-") as folder:
        for part in options.only or PARTS:
            found.append(_run(part, Path(folder) / part, small=options.small))
            print(_line(found[-1]), flush=True)
    command = " ".join(["python benchmarks/campaign.py", *sys.argv[1:]])
    table = _write(options.output, command, found, load)
    print(f"\n{table}")
    return int(not all(one["met"] for one in found))


def _run(part: str, folder: Path, *, small: bool) -> dict[str, Any]:
    folder.mkdir()
    began = time.monotonic()
    found: dict[str, Any] = importlib.import_module(part).run(folder, small=small)
    return found | {"part": part, "seconds": round(time.monotonic() - began, 1)}


def _line(one: dict[str, Any]) -> str:
    verdict = "met" if one["met"] else "MISSED"
    return f"| {one['name']} | {one['target']} | {one['measured']} | {one['seconds']:.0f} s | {verdict} |"


def _write(folder: Path, command: str, found: list[dict[str, Any]], load: float) -> Path:
    made_at = datetime.now(UTC).replace(microsecond=0).isoformat()
    head = {
        "campaign": "identity",
        "made_at": made_at,
        "flprov": __version__,
        "machine": machine(),
        "load_before": round(load, 2),
        "command": command,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "identity.json").write_text(json.dumps(head | {"parts": found}, indent=2, default=str) + "\n")
    lines = [
        "# Identities: what must hold every time",
        "",
        f"{machine()}; load average before the start {load:.2f}; flprov {__version__}; {made_at}.",
        "",
        f"Made by `{command}`.",
        "",
        "| what | target | measured | took | |",
        "|---|---|---|---|---|",
        *map(_line, found),
    ]
    table = folder / "identity.md"
    table.write_text("\n".join(lines) + "\n")
    return table


if __name__ == "__main__":
    sys.exit(main())
