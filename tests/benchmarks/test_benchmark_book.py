# SPDX-License-Identifier: Apache-2.0
"""benchmarks/book.py, table.py and plots.py: what is kept of a run, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from book import Book, Cell, verdict
from plots import draw_all
from rows import ROUNDS, ROWS, SYSTEMS
from table import write_table

HUNDRED = ROWS["round/100MB/2"]


def filled(folder: Path) -> Book:
    book = Book(folder)
    book.begin("python benchmarks/bench.py", {"flprov": "0.1.0", "flare": "2.9.0", "flower": "1.41.0"})
    for row in ROUNDS:
        for number, name in enumerate(SYSTEMS):
            book.add(row.key, name, [0.5 * 4**number])
    book.add("memory/100MB/2/server", "flprov", [120.0], rss=180.0)
    book.add("memory/100MB/2/server", "flare", [900.0], rss=1100.0)
    return book


def cell(*values: float) -> Cell:
    return Cell(at="now", values=values)


@pytest.mark.parametrize(
    ("ours", "peer", "said"),
    [
        (0.7, 5.0, "met, ahead"),
        (0.9, 5.0, "MISSED, ahead"),
        (0.7, 0.6, "met, behind"),
        (9.0, 5.0, "MISSED, behind"),
    ],
)
def test_verdict_names_the_target_and_the_faster_peer(ours, peer, said):
    cells = {"flprov": cell(ours), "flare": cell(peer), "flower": cell(14.0)}
    assert verdict(HUNDRED, cells) == said


def test_verdict_needs_a_number_of_ours_and_does_without_peers():
    assert verdict(HUNDRED, {"flare": cell(5.0)}) == "-"
    assert verdict(HUNDRED, {"flprov": cell(0.7), "flare": Cell(at="now", failed="no network")}) == "met"


def test_turns_of_one_run_join_and_the_next_run_replaces_them(tmp_path):
    first = Book(tmp_path)
    first.add("status", "flprov", [0.3])
    first.add("status", "flprov", [0.1, 0.2])
    assert Book(tmp_path).median("status", "flprov") == 0.2
    second = Book(tmp_path)
    second.add("status", "flprov", [0.9])
    assert Book(tmp_path).cells["status"]["flprov"].values == (0.9,)


def test_what_a_run_does_not_measure_stays_with_its_moment(tmp_path):
    Book(tmp_path).add("status", "flare", [3.0])
    before = Book(tmp_path).cells["status"]["flare"]
    Book(tmp_path).add("status", "flprov", [0.2])
    assert Book(tmp_path).cells["status"]["flare"] == before


def test_memory_keeps_the_largest_of_all_turns(tmp_path):
    book = Book(tmp_path)
    book.add("memory/100MB/2/server", "flprov", [100.0], rss=200.0)
    book.add("memory/100MB/2/server", "flprov", [90.0], rss=150.0)
    assert book.cells["memory/100MB/2/server"]["flprov"].rss == 200.0


def test_a_row_without_a_number_says_why(tmp_path):
    book = filled(tmp_path)
    book.fail("abort", "flower", "2 processes still ran")
    book.leave_out("provision/100", "flower", "has no provisioning")
    text = write_table(book, tmp_path).read_text()
    assert "Flower: failed: 2 processes still ran" in text
    assert "Flower: not run: has no provisioning" in text


def test_table_has_a_line_for_each_row_with_the_factor_to_the_faster_peer(tmp_path):
    text = write_table(filled(tmp_path), tmp_path).read_text()
    assert "| a round of 100 MB, 2 sites | 0.50 s | 2.00 s | 8.00 s | 4.0 | <= 0.80 s | met, ahead |" in text
    assert "| server, 100MB, 2 sites | 120 / 180 | 900 / 1,100 |  | <= 250 | met, ahead |" in text


def test_table_shows_rounds_beside_the_probe_of_the_same_bytes(tmp_path):
    book = filled(tmp_path)
    book.extra["probes"] = {"tls/100MB/2": {"median": 0.25, "values": [0.25]}}
    assert "| 0.25 s | 0.50 s | 2.00 |" in write_table(book, tmp_path).read_text()


def test_file_is_whole_json_after_every_row(tmp_path):
    book = filled(tmp_path)
    document = json.loads(book.path.read_text())
    assert document["cells"]["round/100MB/2"]["flare"]["median"] == 2.0
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_plots_are_pictures(tmp_path):
    made = draw_all(filled(tmp_path), tmp_path)
    assert [path.name for path in made] == ["bench-rounds.png", "bench-memory.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made)
