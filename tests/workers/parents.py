# SPDX-License-Identifier: Apache-2.0
"""The parent's side of a worker, blocking: starts the real main in a process and speaks frames."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from flprov._base import canonical_json
from flprov.jobs import JobSpec
from flprov.wire import (
    HEADER_SIZE,
    encode_tensors,
    frame_length,
    pack_frame,
    parse_frame,
    pb,
    read_tensors,
    write_tensors,
)

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60


class Parent:
    """One worker process in the folder of a job. Use as a context manager: it is gone afterwards."""

    def __init__(self, folder, files, spec, *, main="flprov.workers.site_main", command=None):
        self.folder = folder
        self.spec = spec
        for name in ("app", "in", "out", "work"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / "app" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "app" / name).write_text(text)
        self.command = command or [sys.executable, "-m", main]
        self.serial = 0

    def __enter__(self):
        ours, theirs = socket.socketpair()
        self.socket = ours
        ours.settimeout(SECONDS)
        self.log = (self.folder / "log").open("w+")
        self.process = subprocess.Popen(
            self.command,
            cwd=self.folder / "work",
            env={**os.environ, "PYTHONPATH": str(ROOT), "FLPROV_CHANNEL_FD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stdout=self.log,
            stderr=self.log,
        )
        theirs.close()
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        self.socket.close()
        self.log.close()

    # ---- frames --------------------------------------------------------------------------

    def send(self, **body):
        self.socket.sendall(pack_frame(pb.ToWorker(**body)))

    def receive(self):
        """The next message, or None at the end."""
        header = self._read(HEADER_SIZE)
        if not header:
            return None
        return parse_frame(pb.FromWorker, self._read(frame_length(header)))

    def expect(self, body):
        message = self.receive()
        assert message is not None, f"the worker ended: {self.output()}"
        assert message.WhichOneof("body") == body, message
        return getattr(message, body)

    def _read(self, count):
        data = b""
        while len(data) < count and (piece := self.socket.recv(count - len(data))):
            data += piece
        return data

    # ---- a site's ------------------------------------------------------------------------

    def start_site(self, site="a", datasets=None):
        spec = canonical_json(self.spec)
        self.send(start_site=pb.StartSite(job_id="j1", site=site, spec=spec, datasets=datasets or {}))
        self.expect("ready")

    def task(
        self, name="train", model=None, *, number=0, rounds=3, expects="full,diff", scalars=None, form=""
    ):
        self.serial += 1
        metadata = {"format": form} if form else {}
        self.send(
            task=pb.TaskOrder(
                job_id="j1",
                task_id=f"{number}/{name}/{self.serial}",
                name=name,
                round=number,
                rounds=rounds,
                expects=expects,
                model=self.hand_in(model or {}, metadata),
                scalars=json.dumps(scalars or {}).encode(),
            )
        )

    def hand_in(self, tensors, metadata=None):
        data = encode_tensors(tensors, metadata)
        if len(data) <= 64 << 10:
            return pb.Payload(inline=data, size=len(data))
        self.serial += 1
        size = write_tensors(self.folder / "in" / f"{self.serial}", tensors, metadata)
        return pb.Payload(file=f"{self.serial}", size=size)

    def take_out(self, payload):
        """The tensors of a payload, and what a parent does with the file: take it away."""
        if payload.WhichOneof("where") == "inline":
            return read_tensors(payload.inline)
        path = self.folder / "out" / payload.file
        tensors = read_tensors(path)
        path.unlink()
        return tensors

    def update(self):
        answer = self.expect("answer")
        assert answer.WhichOneof("outcome") == "update", answer
        return answer.update

    def failure(self):
        answer = self.expect("answer")
        assert answer.WhichOneof("outcome") == "failure", answer
        return answer.failure

    # ---- the end -------------------------------------------------------------------------

    def quit(self):
        self.send(quit=pb.Quit(reason="the job is done"))
        return self.wait()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self):
        return self.process.wait(SECONDS)

    def output(self):
        self.log.flush()
        return (self.folder / "log").read_text()


def job(tasks, **fields):
    return JobSpec(name="toy", tasks=tasks if isinstance(tasks, dict) else {"train": tasks}, **fields)
