# SPDX-License-Identifier: Apache-2.0
"""Job ids and their prefixes."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from flprov.errors import Misuse, NotFound
from flprov.jobs import match_prefix, new_job_id

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_id_is_twelve_characters_nobody_misreads():
    assert re.fullmatch("[0-9a-hjkmnp-tv-z]{12}", new_job_id(NOW))


def test_ids_of_one_second_differ_in_their_second_half():
    ids = {new_job_id(NOW) for _ in range(500)}
    assert len(ids) == 500
    assert len({name[:6] for name in ids}) == 1


def test_later_ids_sort_later():
    moments = [NOW + timedelta(seconds=7**n) for n in range(10)]
    ids = [new_job_id(moment) for moment in moments]
    assert ids == sorted(ids)
    assert new_job_id(datetime(2058, 12, 31, tzinfo=UTC)) > ids[0]


def test_odd_clocks_still_give_ids():
    for year in (1970, 2025, 2059, 2100):
        assert len(new_job_id(datetime(year, 1, 1, tzinfo=UTC))) == 12


def test_unique_prefix_finds_its_id():
    ids = ["abc123", "abd456", "abd457"]
    assert match_prefix("abc", ids) == "abc123"
    assert match_prefix("abd456", ids) == "abd456"


def test_whole_id_wins_over_a_longer_one():
    assert match_prefix("ab", ["abc", "ab", "abd"]) == "ab"


def test_unknown_prefix_is_not_found():
    with pytest.raises(NotFound, match="no job 'x'"):
        match_prefix("x", ["abc"])
    with pytest.raises(NotFound, match="no app 'x'"):
        match_prefix("x", [], what="app")


def test_ambiguous_prefix_names_up_to_five():
    with pytest.raises(Misuse, match=r"'a' could be 2 jobs: a1, a2$"):
        match_prefix("a", ["a2", "a1", "b"])
    with pytest.raises(Misuse, match=r"could be 9 jobs: a0, a1, a2, a3, a4, \.\.\.$"):
        match_prefix("a", [f"a{n}" for n in range(9)])


def test_empty_prefix_matches_nothing():
    with pytest.raises(Misuse):
        match_prefix("", ["abc"])
