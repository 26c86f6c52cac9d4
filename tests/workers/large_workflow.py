# SPDX-License-Identifier: Apache-2.0
"""A workflow with a large model in a process of its own; prints what memory it took: before, at most, rounds.

Its server takes files by removing them, and answers with links to one update: nothing of it is in memory.
"""

import os
import sys
import threading
from pathlib import Path

import numpy as np

from flprov._base import canonical_json
from flprov.jobs import JobSpec, Workflow
from flprov.wire import TensorFile, pb
from flprov.workers.workflow_main import run_workflow

SITES = ("a", "b", "c")
ROUNDS = 2


class Server:
    def __init__(self, folder: Path, spec: JobSpec) -> None:
        self.folder, self.closed, self.serial = folder, 0, 0
        self.frames = [pb.ToWorker(start_workflow=pb.StartWorkflow(spec=canonical_json(spec), sites=SITES))]

    def receive(self) -> pb.ToWorker | None:
        return self.frames.pop(0) if self.frames else None

    def pending(self) -> bool:
        return bool(self.frames)

    def send(self, message: pb.FromWorker) -> None:
        match message.WhichOneof("body"):
            case "broadcast":
                self.take(message.broadcast.model)
                self.frames += [self.answer(message.broadcast, site) for site in SITES]
            case "close":
                self.take(message.close.state, message.close.model)
                self.closed += 1
                saved = pb.RoundSaved(round=message.close.round, model=f"{self.closed:064}")
                self.frames.append(pb.ToWorker(saved=saved))
            case "failure":
                raise AssertionError(message.failure.message + message.failure.traceback)

    def take(self, *payloads: pb.Payload) -> None:
        for payload in payloads:
            if payload.file:
                (self.folder / "out" / payload.file).unlink()

    def answer(self, broadcast: pb.Broadcast, site: str) -> pb.ToWorker:
        self.serial += 1
        os.link(self.folder / "update", self.folder / "in" / str(self.serial))
        update = pb.UpdateMessage(kind="full", samples=1, tensors=pb.Payload(file=str(self.serial)))
        last = site == SITES[-1]
        return pb.ToWorker(
            answer=pb.SiteAnswer(task_id=broadcast.task_id, site=site, update=update, last=last)
        )


def anonymous() -> int:
    """Bytes of this process that are of no file."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon"))


def main(folder: Path, workflow: str, megabytes: int) -> None:
    for name in ("app", "in", "out", "work"):
        (folder / name).mkdir()
    numbers = np.linspace(0, 1, 250_000, dtype=np.float32)
    with TensorFile(folder / "update", {"w": (numbers.dtype, (megabytes, 250_000))}) as file:
        for row in range(megabytes):
            file.put("w", row * numbers.size, numbers)
    spec = JobSpec(name="x", tasks={"train": "t:f"}, workflow=Workflow(type=workflow, rounds=ROUNDS))
    server = Server(folder, spec)
    peak, over = [anonymous()], threading.Event()

    def watch() -> None:
        while not over.wait(0.003):
            peak.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert run_workflow(server, folder) == 0
    over.set()
    watcher.join()
    print(peak[0], max(peak), server.closed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
