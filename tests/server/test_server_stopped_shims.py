# SPDX-License-Identifier: Apache-2.0
"""Neither the end of a job nor that of the server waits for a workflow's process that never starts."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import pytest
from server_parties import spec

from flprov.blobs import BlobStore
from flprov.server.jobs.workflow import Workflow
from flprov.testing.launcher_conformance import alive_with
from flprov.workers import ProcessLauncher


@pytest.mark.parametrize("by", ["stop", "cancel"])
async def test_no_end_waits_for_a_workflow_s_shim_that_was_stopped(tmp_path, monkeypatch, stopped_shims, by):
    async def hear(_: object) -> None: ...

    workflow = Workflow(
        job_id="j1",
        folder=tmp_path / "j1",
        launcher=ProcessLauncher(),
        blobs=BlobStore(tmp_path / "blobs"),
        unconfined=False,
        tell=lambda _: None,
        hear=hear,
        log_grew=lambda: None,
    )
    monkeypatch.setattr(workflow, "_prepare", lambda _: workflow.folder.mkdir())
    running = asyncio.create_task(workflow.run("app", spec(), Path(sys.executable)))
    await stopped_shims.begun.wait()
    if by == "stop":
        assert await workflow.stop(1.0) == ()
    else:  # as the server does when it is shut down
        running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert running.cancelled() is (by == "cancel")
    assert stopped_shims.statuses == [-signal.SIGKILL]
    assert alive_with(str(tmp_path)) == []
    await asyncio.get_running_loop().shutdown_default_executor()  # as at the end of asyncio.run
