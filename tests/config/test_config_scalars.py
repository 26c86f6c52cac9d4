# SPDX-License-Identifier: Apache-2.0
"""Durations, sizes and near misses."""

from __future__ import annotations

from datetime import timedelta

import pytest

from flprov.config import nearest, parse_duration, parse_size, shown


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("0s", 0), ("1s", 1), ("1.5h", 5400), ("10m", 600), ("24h", 86400), ("90d", 90 * 86400)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "-1s",
        "1 s",
        "1S",
        "1w",
        "s",
        "1h30m",
        "1e3s",
        "10:00",
        "99999999d",
        "١s",
        "1s\n",
        "9" * 50 + "s",
    ],
)
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match=r"duration|longer than"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        ("0", 0),
        (4096, 4096),
        ("512MiB", 512 * 2**20),
        ("1GiB", 2**30),
        ("10GB", 10**10),
        ("1.5GiB", 3 * 2**29),
        ("2 TB", 2 * 10**12),
        ("7B", 7),
        ("0.1GB", 10**8),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "10G", "1gib", "-1", -1, "1.5", "1.5B", "GiB", "1e9", "1,000", "99999999TiB", "1GiBx"]
)
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match=r"size|more than"):
        parse_size(text)


def test_nearest_finds_slips_and_other_spellings():
    keys = ["org_name", "name", "trust_domain", "endpoints"]
    assert nearest("org_nmae", keys) == "org_name"
    assert nearest("Trust-Domain", keys) == "trust_domain"
    assert nearest("endpoint", keys) == "endpoints"
    assert nearest("zebra", keys) is None
    assert nearest("x", []) is None


def test_nearest_is_quick_with_endless_words():
    assert nearest("x" * 1_000_000, ["a" * 60] * 100) is None


def test_what_is_shown_is_one_visible_line():
    assert shown("a") == "'a'"
    assert shown("ö") == "'ö'"
    assert shown("a\nb\u202e") == r"'a\nb\u202e'"
    assert shown("x" * 100) == "'" + "x" * 60 + "...'"
