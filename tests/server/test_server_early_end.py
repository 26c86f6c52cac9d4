# SPDX-License-Identifier: Apache-2.0
"""A workflow that ends before its last round says why, and the job's reason is that."""

from __future__ import annotations

import pytest
from server_world import close_round, train

from flprov.jobs import JobState
from flprov.wire import pb

REASON = "ended early, after 1 rounds: accuracy has not become better than the 0.9 of round 1 in 2 rounds"


async def end(world, *, names=("site-1", "site-2"), lost=(), reason=REASON):
    running = await train(world, *names)
    run, workflow = running.run, running.workflow
    for name in names:
        if name in lost:
            running[name].fails(run, "train/0/0", "boom")
        else:
            running[name].updates(run, "train/0/0")
    for _ in names:
        await workflow.hears("answer")
    workflow.say(close_round())
    await workflow.hears("saved")
    workflow.say(pb.FromWorker(finished=pb.Finished(reason=reason)))
    await world.reaches(run, JobState.FINISHING)
    for fake in running.sites.values():
        fake.stops(run)
    await world.reaches(run, JobState.DEGRADED if lost else JobState.COMPLETED)
    return run.record


async def test_a_job_that_ended_early_is_completed_with_its_reason(world):
    record = await end(world)
    assert (record.state, record.reason) == (JobState.COMPLETED, REASON)


async def test_who_missed_rounds_is_still_said(world):
    record = await end(world, names=("site-1", "site-2", "site-3"), lost=("site-3",))
    assert record.reason.startswith(f"{REASON}; site-3 missed round 1")


@pytest.mark.parametrize(("reason", "kept"), [("", ""), ("two\nlines\x1b[31m", "two lines")])
async def test_a_reason_is_one_line_without_control_characters(world, reason, kept):
    record = await end(world, reason=reason)
    assert record.reason.startswith(kept)
    assert "\n" not in record.reason
    assert "\x1b" not in record.reason
