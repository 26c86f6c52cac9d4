# SPDX-License-Identifier: Apache-2.0
"""The main of a job's workflow beside the server: build the controller, run it, hand over the model.

Everything that a crash must not lose is in the state that the server saves at each round boundary;
this process can be killed at any time and started again.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import NoReturn

from flprov._base import keep_freed_memory
from flprov.errors import JobFailed, ProtocolError, StateDamaged, Unavailable
from flprov.jobs import JobSpec
from flprov.sdk import (
    Selection,
    Sites,
    State,
    build_controller,
    build_result_filters,
    build_task_filters,
    load_model,
    read_state,
    results_in,
)
from flprov.wire import pb, read_metadata
from flprov.workers.channel import WorkerChannel
from flprov.workers.failures import describe_failure
from flprov.workers.modelfiles import ModelFiles
from flprov.workers.payloads import open_payload
from flprov.workers.start import run_main
from flprov.workers.tasks import read_spec
from flprov.workers.workflow_port import ChannelPort, Stopped


def run_workflow(channel: WorkerChannel, folder: Path) -> int:
    """Run one job's workflow in its `folder` (app/, in/, out/, work/); the exit status."""
    app = folder / "app"
    sys.path.insert(0, str(app))  # after our own imports: an app cannot replace what we use
    try:
        _run(channel, folder, _receive_start(channel))
    except Stopped:
        return 0
    except Unavailable:  # the server is gone: nobody left to tell
        return 1
    except BaseException as error:  # the outermost loop: the job's code may raise anything
        channel.send(pb.FromWorker(failure=describe_failure(error, app)))
        return 1
    return 0


def _receive_start(channel: WorkerChannel) -> pb.StartWorkflow:
    channel.send(pb.FromWorker(ready=pb.Ready()))  # imports are done; the job itself is still to come
    message = channel.receive()
    if message is None:
        raise Unavailable("the server has closed the channel")
    if message.WhichOneof("body") != "start_workflow":
        raise ProtocolError(f"a workflow's process was sent {message.WhichOneof('body')!r} first")
    return message.start_workflow


def _run(channel: WorkerChannel, folder: Path, start: pb.StartWorkflow) -> None:
    keep_freed_memory()  # for the next piece of a mean
    spec = read_spec(start.spec)
    workflow = spec.workflow
    controller = build_controller(workflow.type, workflow.entry, workflow.options)
    files = ModelFiles(folder)
    state = _first_state(start, spec, folder, files)
    port = ChannelPort(
        channel,
        folder,
        job_id=start.job_id,
        args=spec.args,
        state=state,
        files=files,
        task_filters=build_task_filters(spec.filters.task_server, "filters.task.server"),
        result_filters=build_result_filters(spec.filters.result_server, "filters.result.server"),
    )
    selection = Selection(
        best=workflow.best, mode=workflow.mode, patience=workflow.patience, min_delta=workflow.min_delta
    )
    sites = Sites(
        port,
        names=start.sites,
        tasks=list(spec.tasks),
        total=workflow.rounds,
        seed=workflow.seed,
        selection=selection,
    )
    before = signal.signal(signal.SIGTERM, port.on_sigterm)
    try:
        with results_in(files):
            controller.run(sites, state)
    finally:
        signal.signal(signal.SIGTERM, before)
    if port.aborted():
        raise Stopped
    if port.state.round == 0:
        raise JobFailed("the workflow ended before it committed a round")
    early = port.state.round < sites.total
    port.finish(port.state, selection.reason_to_end(port.state) if early else "")


def _first_state(start: pb.StartWorkflow, spec: JobSpec, folder: Path, files: ModelFiles) -> State:
    """The state to go on with: what was saved, or else the job's model."""
    if start.HasField("state"):
        source = open_payload(start.state, folder)
        files.format = read_metadata(source).get("format", "")
        apart = {
            part: files.adopt(open_payload(payload, folder))
            for part, payload in (("model", start.model), ("best", start.best))
            if start.HasField(part)
        }
        state = read_state(source, **apart)
        if state.round != start.round:
            raise StateDamaged(f"the saved state is of round {state.round}, not of {start.round}")
        return state
    if start.round:
        raise StateDamaged(f"the job goes on with round {start.round}, but no state came with that")
    if spec.model is None:
        return State()
    model, files.format = load_model(spec.model, folder / "app", spec.workflow.seed)
    return State(model=files.keep(model)[0])


def main() -> NoReturn:
    """What the process calls."""
    run_main(run_workflow)


if __name__ == "__main__":
    main()
