# SPDX-License-Identifier: Apache-2.0
"""The end of a simulated job does not wait for a host's process that never starts."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from flprov.simulator.hosts import Host
from flprov.testing.launcher_conformance import alive_with
from flprov.wire import pb
from flprov.workers import LaunchOrder, ProcessLauncher


async def test_the_end_of_a_host_waits_for_no_shim_that_was_stopped(tmp_path: Path, stopped_shims):
    answers: list[str] = []

    async def answered(site: str, _: pb.TaskAnswer) -> None:
        answers.append(site)

    (tmp_path / "job").mkdir()
    order = LaunchOrder(job_id="job", folder=tmp_path / "job", main="seats")
    host = Host(
        ProcessLauncher(),
        order,
        lambda _: pb.StartSite(),
        answered=answered,
        told=lambda *_: None,
        lend=lambda _: None,
    )
    host.give("site-1", pb.TaskOrder(task_id="0/train/1"))
    running = asyncio.create_task(host.run())
    await stopped_shims.begun.wait()
    await host.stop(1.0, "finished")
    await running
    assert stopped_shims.statuses == [-signal.SIGKILL]
    assert alive_with(str(tmp_path)) == []
    assert answers == []
