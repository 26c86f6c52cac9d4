# SPDX-License-Identifier: Apache-2.0
"""Every pair of states: what the table lets through, and nothing else."""

from __future__ import annotations

import itertools

import pytest

from flprov.errors import LocalError
from flprov.jobs import TRANSITIONS, JobState, verify_step

STEPS = {
    ("queued", "deploying"),
    ("queued", "failed"),
    ("queued", "aborting"),
    ("deploying", "running"),
    ("deploying", "finishing"),
    ("deploying", "aborting"),
    ("running", "finishing"),
    ("running", "aborting"),
    ("finishing", "completed"),
    ("finishing", "degraded"),
    ("finishing", "failed"),
    ("finishing", "aborting"),
    ("aborting", "aborted"),
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(JobState, JobState)))
def test_only_the_steps_of_the_design_are_taken(old, new):
    if (old.value, new.value) in STEPS:
        assert verify_step(old, new) is new
    else:
        with pytest.raises(LocalError, match=f"cannot go from {old.value} to {new.value}"):
            verify_step(old, new)


def test_refusal_says_what_would_be_allowed():
    with pytest.raises(LocalError, match="only to deploying or failed or aborting"):
        verify_step(JobState.QUEUED, JobState.RUNNING)
    with pytest.raises(LocalError, match="no state follows"):
        verify_step(JobState.ABORTED, JobState.QUEUED)


def test_terminal_states_are_final_and_the_others_are_not():
    terminal = {state.value for state in JobState if state.terminal}
    assert terminal == {"completed", "degraded", "failed", "aborted"}


def test_table_has_a_row_for_every_state():
    assert set(TRANSITIONS) == set(JobState)


def test_every_state_is_reached_and_leads_to_an_end():
    reached = {JobState.QUEUED}
    for _ in JobState:
        reached |= {new for old in reached for new in TRANSITIONS[old]}
    assert reached == set(JobState)
    ending = {state for state in JobState if state.terminal}
    for _ in JobState:
        ending |= {old for old in JobState if TRANSITIONS[old] & ending}
    assert ending == set(JobState)


def test_any_state_that_is_no_end_can_be_aborted():
    for state in JobState:
        if not state.terminal and state is not JobState.ABORTING:
            assert JobState.ABORTING in TRANSITIONS[state]
