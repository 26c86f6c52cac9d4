# SPDX-License-Identifier: Apache-2.0
"""A site whose disk is full: what it cannot keep it refuses with the reason, and it obeys a stop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from agent_parties import App
from agent_rig import Rig

from flprov.errors import LocalError
from flprov.wire import encode_tensors, pb

SMALL = encode_tensors({"w": np.zeros(4, dtype=np.float32)})
WEIGHTS = pb.Payload(inline=SMALL, size=len(SMALL))


@pytest.fixture
def disk(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """The site's store, whose disk is full while `full`; urgent commits have the reserve."""
    state, commit = {"full": False}, rig.store.commit

    async def commit_if_there_is_room(changes: Any, row: Any, *, urgent: bool = False) -> int:
        if state["full"] and not urgent:
            raise LocalError("the store cannot be written: the disk is full")
        return await commit(changes, row, urgent=urgent)

    monkeypatch.setattr(rig.store, "commit", commit_if_there_is_room)
    return state


def order(number: int) -> pb.TaskOrder:
    return pb.TaskOrder(
        job_id="j1",
        task_id=f"{number}/train/1",
        name="train",
        round=number,
        rounds=3,
        expects="full,diff",
        model=WEIGHTS,
    )


def update(number: int) -> pb.TaskAnswer:
    message = pb.UpdateMessage(kind="full", tensors=WEIGHTS, samples=7)
    return pb.TaskAnswer(task_id=f"{number}/train/1", update=message)


async def test_job_is_refused_with_the_reason_while_the_disk_is_full(rig: Rig, app: App, disk):
    disk["full"] = True
    refused = await rig.deploy(app)
    assert not refused.ready
    assert "the disk is full" in refused.refused.message
    disk["full"] = False
    assert (await rig.deploy(app)).ready


async def test_update_that_cannot_be_kept_is_answered_as_a_failure_with_the_reason(rig: Rig, app: App, disk):
    assert (await rig.deploy(app)).ready
    rig.jobs.order(order(0))
    await rig.worker.sent.wait("task", 1)
    disk["full"] = True
    rig.worker.say(answer=update(0))
    answer = await rig.reports.wait("answer", 1)
    assert answer.WhichOneof("outcome") == "failure"
    assert "the disk is full" in answer.failure.message
    disk["full"] = False  # and it goes on by itself
    rig.jobs.order(order(1))
    await rig.worker.sent.wait("task", 2)
    rig.worker.say(answer=update(1))
    assert (await rig.reports.wait("answer", 2)).WhichOneof("outcome") == "update"


async def test_stop_is_obeyed_although_the_disk_is_full(rig: Rig, app: App, disk):
    assert (await rig.deploy(app)).ready
    disk["full"] = True
    stopped = await rig.stop()
    assert stopped.clean
