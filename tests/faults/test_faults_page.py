# SPDX-License-Identifier: Apache-2.0
"""docs/what-happens-when.md: every row names a test or a case of the campaign that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from faults.badlinks import CASES
from faults.kills import KINDS
from faults.operations import OPERATIONS
from faults.run import PARTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "what-happens-when.md"
COLUMNS = ["what fails", "who notices, after how long", "the job", "what is shown", "what to do", "shown by"]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
CASE = re.compile(r"`faults (\w+)`(?:: ([^;|]+))?")


def rows() -> list[list[str]]:
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = (
            [cell.strip() for cell in line.strip().strip("|").split(" | ")] if line.startswith("| ") else []
        )
        if cells and cells != COLUMNS:
            found.append(cells)
    return found


def cases_of(part: str) -> set[str]:
    if part == "badlinks":
        return {case.name for case in CASES}
    if part == "kills":
        return set(KINDS)
    if part == "syscalls":
        return {operation.name for operation in OPERATIONS}
    return set()


def test_the_page_has_a_row_for_each_fault():
    assert len(rows()) >= 25
    assert all(len(row) == len(COLUMNS) and all(row) for row in rows())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_what_a_row_says_is_shown_by_something_that_exists(row):
    tests, cases = TEST.findall(row[-1]), CASE.findall(row[-1])
    assert tests or cases, f"nothing shows {row[0]!r}"
    for path, name in tests:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), (
            f"{path}::{name}"
        )
    for part, case in cases:
        assert part in PARTS
        assert (Path(ROOT) / "benchmarks/faults" / f"{part}.py").exists()
        assert not case or case.strip() in cases_of(part), f"{part} has no case {case.strip()!r}"


def test_every_case_of_a_bad_link_and_every_killed_process_has_a_row():
    shown = {(part, case.strip()) for row in rows() for part, case in CASE.findall(row[-1])}
    assert {("badlinks", case.name) for case in CASES} <= shown
    assert {("kills", kind) for kind in KINDS} <= shown
