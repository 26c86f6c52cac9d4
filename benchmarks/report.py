# SPDX-License-Identifier: Apache-2.0
"""What a benchmark writes: `<name>.json` with every number, `<name>.md` with a table to read."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from flprov import __version__


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One thing that was measured several times, in seconds unless `unit` says otherwise."""

    name: str
    definition: str  # from when to when
    values: tuple[float, ...]
    target: float | None = None  # None: there is none
    notes: tuple[str, ...] = field(default=())
    unit: str = "s"  # s | MB

    @property
    def median(self) -> float:
        """What is compared with the target."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """Whether the target is met."""
        if self.target is None:
            return "-"
        return "met" if self.median <= self.target else "MISSED"


def repeat(name: str, runs: int, once: Callable[[], float]) -> tuple[float, ...]:
    """The seconds of each run, shown as they come."""
    found = []
    for _ in range(runs):
        found.append(once())
        print(f"{name}: {show(found[-1])}", flush=True)
    return tuple(found)


def machine() -> str:
    """This machine in words, without its name."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kernel = platform.release().split("-")[0]
    python = platform.python_version()
    words = f"{cores} cores ({processor()}), {memory:.0f} GiB of memory, Linux {kernel}, Python {python}"
    return words + (", free memory goes back to the hypervisor" if _gives_memory_back() else "")


def _gives_memory_back() -> bool:
    """Whether a hypervisor takes what is free after some seconds: memory that is new again is slow once.

    https://docs.kernel.org/mm/free_page_reporting.html
    """
    path = Path("/sys/module/page_reporting/parameters/reported_kib")
    return path.exists() and path.read_text().strip() not in ("", "0")


def processor() -> str:
    """The processor's model."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def write_report(
    folder: Path, name: str, *, title: str, command: str, measures: Sequence[Measure], load: float
) -> Path:
    """Write both files; the path of the table.

    Args:
        load: the machine's load average before the measuring began; above 0 others were at work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made_at = datetime.now(UTC).replace(microsecond=0).isoformat()
    document = {
        "benchmark": name,
        "made_at": made_at,
        "flprov": __version__,
        "machine": machine(),
        "load_before": round(load, 2),
        "command": command,
        "measures": [
            {
                "name": m.name,
                "definition": m.definition,
                "unit": m.unit,
                "median": m.median,
                "target": m.target,
                "values": list(m.values),
                "notes": list(m.notes),
            }
            for m in measures
        ],
    }
    (folder / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    table = folder / f"{name}.md"
    where = f"{machine()}; load average before the start {load:.2f}; flprov {__version__}; {made_at}."
    head = f"# {title}\n\n{where}\n\nMade by `{command}`.\n"
    table.write_text(head + "\n" + render_table(measures) + "\n" + render_definitions(measures))
    return table


def render_table(measures: Sequence[Measure]) -> str:
    """Markdown, one line per measure."""
    lines = [
        "| what | median | fastest - slowest | runs | target | |",
        "|---|---|---|---|---|---|",
    ]
    for m in measures:
        low, median, high = (show(value, m.unit) for value in (min(m.values), m.median, max(m.values)))
        spread = f"{low} - {high}" if len(m.values) > 1 else "-"
        target = "-" if m.target is None else f"<= {show(m.target, m.unit)}"
        lines.append(f"| {m.name} | {median} | {spread} | {len(m.values)} | {target} | {m.verdict} |")
    return "\n".join(lines) + "\n"


def render_definitions(measures: Sequence[Measure]) -> str:
    """Markdown: what each number is."""
    lines = [f"- **{m.name}**: {' '.join((m.definition, *m.notes))}" for m in measures]
    return "\n".join(lines) + "\n"


def show(value: float, unit: str = "s") -> str:
    """`1.23 s`, `4.5 ms`, `120 MB`."""
    if unit != "s":
        return f"{value:,.0f} {unit}"
    return f"{value * 1000:.1f} ms" if value < 0.1 else f"{value:.2f} s"
