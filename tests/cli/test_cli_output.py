# SPDX-License-Identifier: Apache-2.0
"""How results look: tables, sizes, times, and text from elsewhere made harmless."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import click
import pytest

from flprov.cli.output import (
    ago,
    clean,
    print_fields,
    print_json,
    print_table,
    size,
    span,
    talk,
    until,
)


def now(**before: float) -> datetime:
    return datetime.now(UTC) - timedelta(**before)


def test_columns_are_as_wide_as_they_need_to_be(capsys):
    print_table(("NAME", "STATE"), [("a", "connected"), ("a-long-name", "x")])
    assert capsys.readouterr().out == "NAME         STATE\na            connected\na-long-name  x\n"


WIDE = (
    ("SITE", "REASON", "DISK"),
    [("site-1", "not connected since yesterday: nobody answers", "40 GiB free")],
)


def on_a_terminal(monkeypatch, columns: int) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))


def test_a_row_is_one_line_where_nobody_looks(capsys):
    print_table(*WIDE, spare=("DISK",))
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_long_cells_go_on_below_on_a_narrow_terminal(capsys, monkeypatch):
    on_a_terminal(monkeypatch, 50)
    print_table(*WIDE)
    found = click.unstyle(capsys.readouterr().out).splitlines()
    assert [line.split("  ")[0] for line in found[1:]] == ["site-1", ""]
    assert max(map(len, found)) <= 50
    assert "yesterday:" in found[1] + found[2]


def test_a_terminal_that_is_too_narrow_does_without_spare_columns(capsys, monkeypatch):
    on_a_terminal(monkeypatch, 36)
    print_table(*WIDE, spare=("DISK",))
    found = click.unstyle(capsys.readouterr().out)
    assert "DISK" not in found
    assert max(map(len, found.splitlines())) <= 36


def test_no_word_is_broken_however_narrow_the_terminal(capsys, monkeypatch):
    on_a_terminal(monkeypatch, 5)
    print_table(("WHO",), [("spiffe://heart.example/site/org-a/site-1",)])
    assert "spiffe://heart.example/site/org-a/site-1" in capsys.readouterr().out


def test_a_table_without_rows_is_its_header(capsys):
    print_table(("NAME", "STATE"), [])
    assert capsys.readouterr().out == "NAME  STATE\n"


def test_fields_line_up_and_empty_ones_are_left_out(capsys):
    print_fields([("site", "a"), ("organisation", "b"), ("reason", "")])
    assert capsys.readouterr().out == "site          a\norganisation  b\n"


def test_nothing_to_show_is_no_error(capsys):
    print_fields([("site", "")])
    assert capsys.readouterr().out == ""


def test_states_are_coloured_on_a_terminal_only(capsys):
    with click.Context(click.Command("x"), color=True):
        print_table(("STATE",), [("connected",)])
    assert "\x1b[32mconnected" in capsys.readouterr().out
    print_table(("STATE",), [("connected",)])
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        (
            "\x1b[2J\x1b]0;owned\x07",
            "\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}]0;owned\N{REPLACEMENT CHARACTER}",
        ),
        ("over\rwritten", "over\N{REPLACEMENT CHARACTER}written"),
        ("abc\u202egnp.exe", "abc\N{REPLACEMENT CHARACTER}gnp.exe"),
        ("\x9b31m", "\N{REPLACEMENT CHARACTER}31m"),
        ("größe 5 µm\tx\ny", "größe 5 µm\tx\ny"),
    ],
)
def test_text_from_elsewhere_cannot_drive_the_terminal(hostile, shown):
    assert clean(hostile) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-3, "0.0 s"),
        (0.42, "0.4 s"),
        (9.99, "10.0 s"),
        (10, "10 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (172_799, "48 h"),
        (172_800, "2 d"),
        (90 * 86400, "90 d"),
    ],
)
def test_a_span_has_the_unit_that_fits(seconds, shown):
    assert span(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (4404019, "4.2 MiB"),
        (1 << 40, "1.0 TiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_a_size_has_the_unit_that_fits(count, shown):
    assert size(count) == shown


def test_ago_and_until_are_words():
    assert ago(now(seconds=30.2)) == "30 s ago"
    assert until(now(days=-90.01)) == "90 d left"
    assert until(now(seconds=1)) == "expired"
    assert ago(None) == until(None) == "-"


@dataclass(frozen=True, kw_only=True)
class _Found:
    name: str
    at: datetime


def test_json_is_one_document_with_iso_times_in_utc(capsys):
    print_json(_Found(name="größe", at=datetime(2026, 1, 31, 12, tzinfo=UTC)))
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"name": "größe", "at": "2026-01-31T12:00:00.000Z"}
    assert "größe" in printed.out
    assert printed.err == ""


def test_talk_goes_to_stderr(capsys):
    talk("next")
    assert capsys.readouterr() == ("", "next\n")
