# SPDX-License-Identifier: Apache-2.0
"""The plots of bench.md: the cost of a round against model size and sites, and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from book import Book
from rows import MEMORY, ROUNDS, SIZES, SYSTEMS
from table import TITLES

# Okabe and Ito's colours, told apart by every kind of eye, each with a mark of its own.
COLOURS = {"flprov": "#0072B2", "flare": "#009E73", "flower": "#D55E00", "limit": "#555555"}
MARKS = {"flprov": "o", "flare": "s", "flower": "^"}
HATCHES = {"flprov": "", "flare": "//", "flower": ".."}
_SIZES = ("ten\nnumbers", "1 MB", "10 MB", "100 MB", "1 GB")
TINY = 0.1  # MB at which a model of ten numbers is drawn, so that a log axis can


def draw_all(book: Book, folder: Path) -> list[Path]:
    """Every plot for which there are numbers."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {
        "font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.color": "#dddddd", "axes.axisbelow": True, "lines.linewidth": 1.8, "lines.markersize": 7,
    }  # fmt: skip
    made = [_draw_rounds(plt, book, folder / "bench-rounds.png")]
    if any(key.startswith("memory/") for key in book.cells):
        made.append(_draw_memory(plt, book, folder / "bench-memory.png"))
    return made


def _draw_rounds(plt: Any, book: Book, path: Path) -> Path:
    figure, (by_size, by_sites) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for name in SYSTEMS:
        style = {"color": COLOURS[name], "marker": MARKS[name]}
        _line(by_size, _against_size(book, name), TITLES[name], **style)
        _line(by_sites, _against_sites(book, name, "empty"), f"{TITLES[name]}, no work", **style)
        hollow = style | {"linestyle": "--", "markerfacecolor": "white"}
        _line(by_sites, _against_sites(book, name, "100MB"), f"{TITLES[name]}, 100 MB", **hollow)
    _line(by_size, _limit(book), "raw TLS, the same bytes", color=COLOURS["limit"], linestyle=":")
    _scale(by_size, "2 sites", "model", dict(zip((TINY, 1, 10, 100, 1000), _SIZES, strict=True)))
    _scale(by_sites, "as sites come", "sites", {2: "2", 8: "8", 32: "32"})
    figure.suptitle("What a round costs")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _line(axes: Any, points: tuple[list[float], list[float]], label: str, **style: Any) -> None:
    if points[0]:
        axes.plot(*points, label=label, **style)


def _scale(axes: Any, title: str, across: str, ticks: dict[float, str]) -> None:
    axes.set(title=title, xlabel=across, ylabel="seconds a round", xscale="log", yscale="log")
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    low, high = axes.get_ylim()
    decades = [10.0**power for power in range(-4, 5) if low / 10 < 10.0**power < high * 10]
    axes.set_yticks(decades, [f"{value:g}" for value in decades])
    axes.set_ylim(max(low / 1.5, decades[0]), high * 1.5)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9, frameon=False)


def _against_size(book: Book, name: str) -> tuple[list[float], list[float]]:
    rows = [row for row in ROUNDS if row.sites == 2 and not row.eager]
    found = [(max(TINY, SIZES[row.size] / 1e6), book.median(row.key, name)) for row in rows]
    return _columns(found)


def _against_sites(book: Book, name: str, size: str) -> tuple[list[float], list[float]]:
    rows = [row for row in ROUNDS if row.size == size and not row.eager]
    return _columns([(row.sites, book.median(row.key, name)) for row in rows])


def _limit(book: Book) -> tuple[list[float], list[float]]:
    probes = book.extra.get("probes", {})
    keys = [(SIZES[size] / 1e6, f"tls/{size}/2") for size in SIZES]
    return _columns([(size, probes[key]["median"]) for size, key in keys if key in probes])


def _columns(points: list[tuple[float, float | None]]) -> tuple[list[float], list[float]]:
    there = [(x, y) for x, y in points if y is not None]
    return [x for x, _ in there], [y for _, y in there]


def _draw_memory(plt: Any, book: Book, path: Path) -> Path:
    rows = [row for row in ROUNDS if row.watch and f"memory/{row.size}/{row.sites}/server" in book.cells]
    figure, panels = plt.subplots(
        1, len(rows), figsize=(max(8, 4 * len(rows)), 4.6), layout="constrained", squeeze=False
    )
    for axes, row in zip(panels[0], rows, strict=True):
        _bars(axes, book, f"memory/{row.size}/{row.sites}")
        axes.set(title=f"{row.size}, {row.sites} sites", yscale="log", ylim=(10, 20_000))
        axes.set_yticks([10, 100, 1000, 10_000], ["10", "100", "1,000", "10,000"])
        axes.minorticks_off()
    panels[0][0].set_ylabel("MB")
    panels[0][0].legend(fontsize=9, frameon=False, loc="upper left")
    figure.suptitle("The most memory of a process: RssAnon (solid) and all that is resident (outline)")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _bars(axes: Any, book: Book, prefix: str) -> None:
    roles = [role.replace(", ", "-") for role in MEMORY]
    for offset, name in enumerate(SYSTEMS):
        cells = [book.cells.get(f"{prefix}/{role}", {}).get(name) for role in roles]
        places = [number + 0.27 * (offset - 1) for number in range(len(roles))]
        anon = [cell.median or 0.0 if cell else 0.0 for cell in cells]
        whole = [cell.rss or 0.0 if cell else 0.0 for cell in cells]
        axes.bar(places, whole, 0.25, fill=False, edgecolor=COLOURS[name], linewidth=1)
        bars = axes.bar(
            places,
            anon,
            0.25,
            color=COLOURS[name],
            hatch=HATCHES[name],
            edgecolor="white",
            label=TITLES[name],
        )
        labels = [f"{value:.0f}" if value else "" for value in anon]
        axes.bar_label(bars, labels=labels, fontsize=7, rotation=90, padding=8)
    axes.set_xticks(range(len(roles)))
    axes.set_xticklabels([role.replace("-", ",\n") for role in roles], fontsize=9)
    axes.grid(visible=False, axis="x")
