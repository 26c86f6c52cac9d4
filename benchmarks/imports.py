# SPDX-License-Identifier: Apache-2.0
"""What commands cost before they do anything: the processor time of each import and each command.

    python benchmarks/imports.py [--runs 20] [--json FILE]

Each figure is the median over processes of its own, in turn with an empty one, which is subtracted. Processor
time, since it hardly depends on what else the machine does. Commands that need one get a network of two
sites, which is started in a temporary folder. The first table is the one in docs/operating.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# What stands between a command and its first act, and what only some parts of flprov need.
PACKAGES = (
    "click",
    "asyncio, ssl",
    "google.protobuf.descriptor_pool, google.protobuf.symbol_database",
    "cryptography.x509",
    "yaml",
    "grpc.aio",
    "flprov.wire.documents.network",
    "flprov.kits",
    "flprov.admin",
    "blake3",
    "sqlite3",
    "jinja2",
    "paramiko",
    "packaging.requirements",
    "prompt_toolkit",
    "numpy",
    "flprov.server.server",
    "flprov.agent.agent",
    "matplotlib.figure",
    "torch",
)
COMMANDS = ("--help", "job --help", "status", "site ls", "job ls", "events", "audit ls")
_FLPROV = (sys.executable, "-P", "-m", "flprov")
_TAB = {"_FLPROV_COMPLETE": "bash_complete", "COMP_CWORD": "2"}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One row: medians, without those of an empty Python."""

    name: str
    processor: float  # ms, of all of its threads
    wall: float  # ms


@dataclass(frozen=True, kw_only=True)
class _Run:
    processor: float  # seconds
    wall: float


def run_once(command: Sequence[str], environment: Mapping[str, str]) -> _Run:
    """One process, accounted for by the kernel. Raises RuntimeError when it fails."""
    began = time.perf_counter()
    actions = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in (0, 1, 2)]
    pid = os.posix_spawn(command[0], command, environment, file_actions=actions)
    _, status, used = os.wait4(pid, 0)
    wall = time.perf_counter() - began
    if status:
        raise RuntimeError(f"exit status {os.waitstatus_to_exitcode(status)}: {' '.join(command)}")
    return _Run(processor=used.ru_utime + used.ru_stime, wall=wall)


def measure(name: str, command: Sequence[str], *, runs: int, environment: Mapping[str, str]) -> Cost:
    """One row; `-c pass` runs in turn with the command."""
    run_once(command, environment)  # writes the .pyc files, fills the page cache
    pairs = [
        (run_once(command, environment), run_once((sys.executable, "-c", "pass"), environment))
        for _ in range(runs)
    ]
    return Cost(
        name=name,
        processor=_median([1000 * (one.processor - empty.processor) for one, empty in pairs]),
        wall=_median([1000 * (one.wall - empty.wall) for one, empty in pairs]),
    )


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 1)


def measure_imports(runs: int) -> list[Cost]:
    """A row for each of PACKAGES that is installed, everything that it imports included."""
    rows = []
    for names in PACKAGES:
        command = (sys.executable, "-c", f"import {names}")
        try:
            rows.append(measure(names, command, runs=runs, environment=os.environ))
        except RuntimeError:
            print(f"not installed: {names}", file=sys.stderr)
    return rows


def measure_commands(runs: int) -> list[Cost]:
    """A row for each of COMMANDS, acting on a network of two sites, and one for Tab."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_CONFIG_HOME": folder}
        network = ("-o", str(Path(folder) / "network"))
        run_once((*_FLPROV, "poc", "up", "-n", "2", *network), environment)
        try:
            rows = [
                measure(f"flprov {words}", (*_FLPROV, *words.split()), runs=runs, environment=environment)
                for words in COMMANDS
            ]
            for line in ("job ", "site show "):
                tab = {**_TAB, "COMP_WORDS": f"flprov {line}", "COMP_CWORD": str(len(line.split()) + 1)}
                rows.append(
                    measure(f"flprov {line}<Tab>", _FLPROV, runs=runs, environment={**environment, **tab})
                )
        finally:
            run_once((*_FLPROV, "poc", "down", *network), environment)
    return rows


def table(title: str, rows: Sequence[Cost]) -> str:
    """Markdown."""
    lines = [f"| {title} | processor, ms | wall, ms |", "|---|---|---|"]
    lines += [f"| `{row.name}` | {row.processor:.0f} | {row.wall:.0f} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What imports and commands cost.")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the rows there")
    asked = parser.parse_args()
    commands, imports = measure_commands(asked.runs), measure_imports(asked.runs)
    print(table("command", commands), table("import", imports), sep="\n\n")
    if asked.json:
        rows = {"commands": [asdict(row) for row in commands], "imports": [asdict(row) for row in imports]}
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
