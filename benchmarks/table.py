# SPDX-License-Identifier: Apache-2.0
"""bench.md: what bench.json holds, to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from book import Book, Cell, best_peer, verdict
from report import show
from rows import ROUNDS, ROWS, SIZES, SYSTEMS, Row

TITLES = {"flprov": "flprov", "flare": "NVIDIA FLARE", "flower": "Flower"}


def write_table(book: Book, folder: Path) -> Path:
    """Write the file; its path."""
    path = folder / "bench.md"
    path.write_text("\n".join(render(book)) + "\n")
    return path


def render(book: Book) -> Iterator[str]:
    """Its lines."""
    versions = book.head.get("versions", {})
    named = ", ".join(f"{TITLES[name]} {versions[name]}" for name in SYSTEMS if name in versions)
    yield from ("# flprov beside its peers", "")
    head = book.head
    who = named or TITLES["flprov"]
    yield f"{who}. {head.get('machine')}; load average before the start {head.get('load_before')}."
    yield f"Made by `{head.get('command')}`; each number's moment and every value are in `bench.json`."
    yield ""
    yield from ("![cost of a round](bench-rounds.png)", "", "![memory](bench-memory.png)", "")
    yield from _times(book)
    yield from _memory(book)
    yield from _limits(book)
    yield from _herd(book)
    yield from _reasons(book)
    yield from _explained(book)


def _times(book: Book) -> Iterator[str]:
    yield from ("## Time", "", "Medians. The factor is that of the faster peer to flprov.", "")
    yield f"| what | {' | '.join(TITLES[name] for name in SYSTEMS)} | factor | target | |"
    yield "|---|---|---|---|---|---|---|"
    for row in ROWS.values():
        if row.unit == "s" and row.key in book.cells:
            yield _line(row, book.cells[row.key])


def _line(row: Row, cells: Mapping[str, Cell]) -> str:
    shown = " | ".join(_cell(cells.get(name)) for name in SYSTEMS)
    target = "-" if row.target is None else f"<= {show(row.target, row.unit)}"
    return f"| {row.name} | {shown} | {_factor(cells)} | {target} | {verdict(row, cells)} |"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if cell.median is None:
        return "failed" if cell.failed else "not run"
    return show(cell.median)


def _factor(cells: Mapping[str, Cell]) -> str:
    ours = cells["flprov"].median if "flprov" in cells else None
    best = best_peer(cells)
    if not ours or best is None:
        return "-"
    return f"{best / ours:,.0f}" if best / ours >= 10 else f"{best / ours:.1f}"


def _memory(book: Book) -> Iterator[str]:
    rows = [row for row in ROWS.values() if row.unit == "MB" and row.key in book.cells]
    if not rows:
        return
    yield from ("", "## Memory", "")
    yield "The most that any process of a role had, in MB: RssAnon (no file backs it) / all resident (VmHWM)."
    yield from ("", f"| whose | {' | '.join(TITLES[name] for name in SYSTEMS)} | target for RssAnon | |")
    yield "|---|---|---|---|---|---|"
    for row in rows:
        cells = book.cells[row.key]
        shown = " | ".join(_pair(cells.get(name)) for name in SYSTEMS)
        target = "-" if row.target is None else f"<= {row.target:,.0f}"
        yield f"| {row.name.removeprefix('memory of the ')} | {shown} | {target} | {verdict(row, cells)} |"


def _pair(cell: Cell | None) -> str:
    if cell is None or cell.median is None:
        return ""
    return f"{cell.median:,.0f} / {cell.rss or 0:,.0f}"


def _limits(book: Book) -> Iterator[str]:
    probes = book.extra.get("probes", {})
    if not probes:
        return
    yield from ("", "## What this machine can carry", "")
    yield "| probe | median | flprov's round | times the probe | target | |"
    yield "|---|---|---|---|---|---|"
    for row in ROUNDS:
        probed = probes.get(f"tls/{row.size}/{row.sites}")
        ours = book.median(row.key, "flprov")
        if probed and SIZES[row.size] and ours:
            times = ours / probed["median"]
            target = (
                f"<= {row.of_tls:g} | {'met' if times <= row.of_tls else 'MISSED'}" if row.of_tls else "- | -"
            )
            yield (
                f"| raw TLS, the bytes of a round of {row.size}, {row.sites} sites "
                f"| {show(probed['median'])} | {show(ours)} | {times:.2f} | {target} |"
            )
    named = {
        "grpc/100MB/2": "gRPC alone, the bytes of a round of 100MB, 2 sites, a process each",
        "grpc-kept/100MB/2": "the same, read from files, and hashed and written where they arrive",
        "tls/trip": "a message over TLS and back",
        "commit": "a commit of SQLite, synced to disk",
        "disk/100MB": "100 MB written to a new file and synced",
        "memory/100MB": "100 MB copied in memory",
    }
    for key, name in named.items():
        if key in probes:
            yield f"| {name} | {show(probes[key]['median'])} | | | | |"


def _herd(book: Book) -> Iterator[str]:
    found = book.extra.get("herd")
    if not found:
        return
    yield from ("", "## A thousand sites on one server (flprov alone)", "")
    if "failed" in found:
        yield f"Failed: {found['failed']}"
        return
    yield from ("| what | median | target | |", "|---|---|---|---|")
    for one in found["measures"]:
        unit = one.get("unit", "s")
        target = "-" if one["target"] is None else f"<= {show(one['target'], unit)}"
        yield f"| {one['name']} | {show(one['median'], unit)} | {target} | {one['verdict']} |"


def _reasons(book: Book) -> Iterator[str]:
    lines = [
        f"- {ROWS[key].name}, {TITLES[name]}: "
        + (f"failed: {cell.failed}" if cell.failed else f"not run: {cell.not_run}")
        for key, cells in book.cells.items()
        for name, cell in cells.items()
        if key in ROWS and (cell.failed or cell.not_run)
    ]
    if lines:
        yield from ("", "## What has no number", "", *sorted(lines))


def _explained(book: Book) -> Iterator[str]:
    yield from ("", "## Settings", "")
    for name in SYSTEMS:
        for line in book.extra.get("settings", {}).get(name, ()):
            yield f"- {TITLES[name]}: {line}"
    yield from ("", "## What the rows are", "")
    seen = set()
    for row in ROWS.values():
        group = row.key.partition("/")[0]
        if row.key in book.cells and row.unit == "s" and row.definition not in seen:
            seen.add(row.definition)
            many = group in ("round", "provision", "start") and row.key != "round/p99"
            yield f"- **{group if many else row.name}**: {row.definition}"
