# SPDX-License-Identifier: Apache-2.0
"""What commands cost before they do anything: the processor time of each import and each command.

    python benchmarks/imports.py [--runs 20] [--json FILE] [--docs]

Each figure is the median over processes of its own, in turn with an empty one, which is subtracted. Processor
time, since it hardly depends on what else the machine does. Commands that need one get a network of two
sites, which is started in a temporary folder. `--docs` puts both tables into docs/quick-commands.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from trial import compile_package

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
COMMANDS = ("--help", "status", "site ls", "job ls", "events", "audit ls")
PAGE = Path(__file__).parents[1] / "docs" / "quick-commands.md"
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
    run_once(command, environment)  # fills the page cache
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
        code = f"import gc; gc.disable(); import {names}; gc.freeze()"  # as in a command: flprov.cli.garbage
        command = (sys.executable, "-c", code)
        try:
            rows.append(measure(f"`{names}`", command, runs=runs, environment=os.environ))
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
            _wait_for_templates(environment)
            rows = [
                measure(f"`flprov {words}`", (*_FLPROV, *words.split()), runs=runs, environment=environment)
                for words in COMMANDS
            ]
            for what, line in (("command", "job "), ("site", "site show ")):
                tab = {**_TAB, "COMP_WORDS": f"flprov {line}", "COMP_CWORD": str(len(line.split()) + 1)}
                rows.append(
                    measure(f"Tab, for a {what}", _FLPROV, runs=runs, environment={**environment, **tab})
                )
        finally:
            run_once((*_FLPROV, "poc", "down", *network), environment)
    return rows


def table(title: str, rows: Sequence[Cost]) -> str:
    """Markdown."""
    lines = [f"| {title} | processor, ms | wall, ms |", "|---|---|---|"]
    lines += [f"| {row.name} | {row.processor:.0f} | {row.wall:.0f} |" for row in rows]
    return "\n".join(lines)


def _wait_for_templates(environment: Mapping[str, str]) -> None:
    """Server and sites import torch beside what they do, for some seconds after their start."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        said = subprocess.check_output((*_FLPROV, "status", "--json"), env=environment)
        sites = json.loads(said)["sites"]
        if not any(site["warm"] and site["warm"]["state"] == "starting" for site in sites):
            return
        time.sleep(0.5)


def write_docs(tables: Mapping[str, str]) -> None:
    """Replace the tables between the page's marks."""
    text = PAGE.read_text()
    for name, rows in tables.items():
        text = re.sub(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", rf"\g<1>{rows}\g<2>", text, flags=re.DOTALL)
    PAGE.write_text(text)


def main() -> None:
    """Measure and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the network is taken down all the same
    parser = argparse.ArgumentParser(description="What imports and commands cost.")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/quick-commands.md")
    asked = parser.parse_args()
    compile_package()
    commands, imports = measure_commands(asked.runs), measure_imports(asked.runs)
    tables = {"commands": table("command", commands), "imports": table("import", imports)}
    print(*tables.values(), sep="\n\n")
    if asked.docs:
        write_docs(tables)
    if asked.json:
        rows = {"commands": [asdict(row) for row in commands], "imports": [asdict(row) for row in imports]}
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
