# SPDX-License-Identifier: Apache-2.0
"""How parts of logs become lines again: whole, apart, with what was dropped between them."""

from __future__ import annotations

import json
import time

import pytest
from click.testing import CliRunner

from flprov.cli.joblogs import _Printer, logs


def printed(capsys, *parts, begun_at=0, alone=True, as_json=False):
    printer = _Printer(alone=alone, as_json=as_json)
    for party, offset, data in parts:
        printer.take(party, offset, data, begun_at=begun_at)
    printer.finish()
    return capsys.readouterr().out.splitlines()


def test_lines_that_came_in_pieces_are_whole(capsys):
    assert printed(capsys, ("a", 0, b"on"), ("a", 2, b"e\ntwo"), ("a", 7, b" words")) == ["one", "two words"]


@pytest.mark.parametrize(
    ("parts", "begun_at", "lines"),
    [
        ([("a", 100, b"x\n")], 0, ["[flprov: 100 bytes were dropped]", "x"]),
        ([("a", 0, b"x\nhalf"), ("a", 10, b"y\n")], 0, ["x", "half", "[flprov: 4 bytes were dropped]", "y"]),
        ([("a", 100, b"x\n")], 100, ["x"]),
        ([("a", 100, b"x\n")], None, ["x"]),
    ],
)
def test_what_was_dropped_is_said(capsys, parts, begun_at, lines):
    assert printed(capsys, *parts, begun_at=begun_at) == lines


def test_json_lines_say_where_they_are(capsys):
    found = printed(capsys, ("a", 4, b"one\ntwo\n"), ("b", 4, b"x"), begun_at=4, as_json=True)
    assert [json.loads(line) for line in found] == [
        {"party": "a", "offset": 4, "text": "one"},
        {"party": "a", "offset": 8, "text": "two"},
        {"party": "b", "offset": 4, "text": "x"},
    ]


def test_a_line_that_does_not_end_costs_what_it_is_long(capsys):
    """4 MB of a progress bar, a few bytes at a time: copied for each of them, that took a minute."""
    count, piece = 40_000, b"x" * 100
    began = time.process_time()
    (line,) = printed(capsys, *(("a", number * len(piece), piece) for number in range(count)))
    assert len(line) == count * len(piece)
    assert time.process_time() - began < 10


def test_two_beginnings_are_one_too_many():
    found = CliRunner().invoke(logs, ["last", "--from", "3", "--tail", "2"])
    assert "both say where to begin" in str(found.exception)
