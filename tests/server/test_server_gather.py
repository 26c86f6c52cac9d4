# SPDX-License-Identifier: Apache-2.0
"""The rule of membership, as a table: who answered, who is away since when, and what is done about it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from server_parties import NOW, inline, tensors, update_record

from flprov.server.jobs.gather import Asked, Gather

ABSENCE = timedelta(seconds=60)


def asked(*sites: str) -> Asked:
    return Asked(
        task_id="train/0/0",
        name="train",
        round=0,
        rounds=1,
        expects="full",
        model=inline(tensors(0)),
        scalars=b"",
        sites=sites,
    )


def gather(sites: str, *, quorum: int, required: str = "", taken: str = "", failed: str = "") -> Gather:
    """Sites are single letters."""
    found = Gather(asked(*sites), quorum=quorum, required=required, absence=ABSENCE)
    for name in taken:
        found.take(update_record(name, "train/0/0"))
    for name in failed:
        found.fail(name, f"{name} ran out of memory")
    return found


def away(**seconds: float):
    """Sites, and for how long each has been gone."""
    return {name: NOW - timedelta(seconds=ago) for name, ago in seconds.items()}


# What is asked of whom; who has answered or failed; who is away for how many seconds
# -> who is given up, seconds until the next look, hopeless.
RULE = {
    "nobody is away": (("abc", 2, "", "", ""), {}, ("", None, False)),
    "everybody answered": (("abc", 3, "", "abc", ""), {}, ("", None, False)),
    "away, but not for long": (("abc", 2, "", "ab", ""), {"c": 20}, ("", 40, False)),
    "away for exactly the absence": (("abc", 2, "", "ab", ""), {"c": 60}, ("c", None, False)),
    "away too long, and there is one to spare": (("abc", 2, "", "", ""), {"c": 61}, ("c", None, False)),
    "away too long, but the quorum needs it": (("ab", 2, "", "a", ""), {"b": 3600}, ("", None, False)),
    "two away, one to spare: the first goes, the other is waited for": (
        ("abc", 2, "", "a", ""),
        {"b": 61, "c": 61},
        ("b", None, False),
    ),
    "two away, both to spare": (("abc", 1, "", "a", ""), {"b": 61, "c": 61}, ("bc", None, False)),
    "one over time, one not yet": (("abcd", 2, "", "ab", ""), {"c": 90, "d": 10}, ("c", 50, False)),
    "the earliest deadline is the next look": (
        ("abcd", 2, "", "ab", ""),
        {"c": 10, "d": 30},
        ("", 30, False),
    ),
    "required and away too long: waited for": (("abc", 1, "c", "ab", ""), {"c": 3600}, ("", None, False)),
    "required and here; another goes": (("abc", 1, "c", "", ""), {"a": 61}, ("a", None, False)),
    "a failure eats what was to spare": (("abc", 2, "", "", "a"), {"b": 3600}, ("", None, False)),
    "failures below the quorum": (("abc", 2, "", "", "ab"), {}, ("", None, True)),
    "a required site failed": (("abc", 1, "a", "bc", "a"), {}, ("", None, True)),
    "the last hope failed although another answered": (("ab", 2, "", "a", "b"), {}, ("", None, True)),
    "away does not matter once it has answered": (("ab", 2, "", "ab", ""), {"a": 3600}, ("", None, False)),
    "asked of fewer than the job's quorum": (("a", 3, "", "", ""), {"a": 3600}, ("", None, False)),
    "a required site that was not asked": (("ab", 1, "z", "a", ""), {"b": 61}, ("b", None, False)),
}


@pytest.mark.parametrize("case", RULE)
def test_rule_of_membership(case):
    (sites, quorum, required, taken, failed), gone, (give_up, look, hopeless) = RULE[case]
    verdict = gather(sites, quorum=quorum, required=required, taken=taken, failed=failed).judge(
        away(**gone), NOW
    )
    assert "".join(sorted(verdict.give_up)) == give_up
    assert verdict.look_again == (None if look is None else NOW + timedelta(seconds=look))
    assert verdict.hopeless is hopeless


def test_judging_changes_nothing():
    found = gather("abc", quorum=2, taken="a")
    first = found.judge(away(b=61, c=61), NOW)
    assert found.judge(away(b=61, c=61), NOW) == first
    assert found.open == ("b", "c")


@pytest.mark.parametrize(
    ("setup", "gone", "reason"),
    [
        (("abc", 2, "", "", ""), {}, ""),
        (("abc", 2, "", "", ""), {"b": 5}, "waiting up to 60 s for b to return"),
        (("ab", 2, "", "", ""), {"b": 61}, "waiting for b to return: the job needs 2 sites"),
        (("abc", 2, "", "", "ab"), {}, "1 of 2 needed sites are left; a: a ran out of memory"),
        (("abc", 1, "a", "", "a"), {}, "a is required and did not contribute: a ran out of memory"),
    ],
)
def test_operator_is_told_what_is_waited_for(setup, gone, reason):
    sites, quorum, required, taken, failed = setup
    found = gather(sites, quorum=quorum, required=required, taken=taken, failed=failed)
    assert found.judge(away(**gone), NOW).waiting == reason


def test_given_up_site_is_named_with_the_time_of_its_loss():
    verdict = gather("abc", quorum=2).judge(away(c=61), NOW)
    assert verdict.give_up == {"c": "not connected since 23:58:59 UTC"}


def test_open_sites_are_in_canonical_order_whatever_the_order_of_asking():
    assert gather("cab", quorum=1).open == ("a", "b", "c")


def test_each_outcome_closes_a_site_and_all_but_an_update_are_missing():
    found = gather("abcd", quorum=1, taken="a", failed="b")
    found.refuse("c", "NaN")
    found.lose("d", "gone")
    assert found.open == ()
    assert found.missing == {"b": "b ran out of memory", "c": "NaN", "d": "gone"}


def test_refused_update_counts_against_the_quorum():
    found = gather("ab", quorum=2, taken="a")
    found.refuse("b", "tensor 'w' holds NaN or infinity")
    assert found.judge({}, NOW).hopeless
