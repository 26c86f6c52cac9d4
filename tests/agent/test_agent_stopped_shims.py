# SPDX-License-Identifier: Apache-2.0
"""Whoever ends a job whose process is being started ends the start: it may never come to its end."""

from __future__ import annotations

import asyncio
import signal

import pytest
from agent_parties import App
from agent_rig import Rig

from flprov.errors import JobFailed
from flprov.testing.launcher_conformance import alive_with
from flprov.wire import pb
from flprov.workers import ProcessLauncher


async def _stop(rig: Rig) -> None:
    assert (await rig.stop()).clean
    assert not rig.folder().exists()


ENDS = {"stop": _stop, "leave": lambda rig: rig.jobs.leave(), "close": lambda rig: rig.jobs.close()}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_no_end_waits_for_a_shim_that_was_stopped_at_its_start(rig: Rig, app: App, stopped_shims, end):
    await rig.jobs.close()
    await rig.bulk.close()
    await rig._begin(ProcessLauncher())
    rig.jobs.deploy(rig.offer(app))
    await stopped_shims.begun.wait()
    await end(rig)
    assert stopped_shims.statuses == [-signal.SIGKILL]
    assert alive_with(str(rig.folder())) == []
    assert rig.reports.of("deployed") == []


@pytest.mark.parametrize("fetching", [False, True], ids=["its process starts", "its model is fetched"])
async def test_a_task_is_not_failed_by_a_restart_of_the_agent_while(rig: Rig, app: App, fetching):
    """The next run of the agent is given it again, and does it."""
    await rig.deploy(app)
    job = rig.jobs._jobs["j1"]
    if not fetching:
        rig.process.end()
    while not fetching and job._process is not None:
        await asyncio.sleep(0)
    rig.server.hold = rig.launcher.gate = asyncio.Event()
    rig.server.asked.clear()
    rig.launcher.launching.clear()
    model = pb.Payload(digest=rig.server.add(b"x" * 100_000), size=100_000) if fetching else pb.Payload()
    rig.jobs.order(pb.TaskOrder(job_id="j1", task_id="0/train/1", name="train", model=model))
    await (rig.server.asked if fetching else rig.launcher.launching).wait()
    await rig.come_back()
    assert rig.store.load("answer") == {}
    rig.server.hold.set()


async def test_a_start_that_was_given_up_is_not_begun_again(rig: Rig, app: App):
    await rig.deploy(app)
    job = rig.jobs._jobs["j1"]
    await rig.stop()
    with pytest.raises(JobFailed, match="was stopped before its process had started"):
        await job._starting.launch(rig.process.order)
    assert len(rig.launcher.processes) == 1
