# SPDX-License-Identifier: Apache-2.0
"""The apps that the campaign runs: the same bits every time, slow enough to be hit in the middle."""

from __future__ import annotations

from pathlib import Path

SMALL, LARGE = 16, 400_000  # numbers in the model: in a message, and as a blob of 1.6 MB

_MODEL = """
import numpy as np


def initial():
    return {{"w": np.linspace(-1, 1, {size}, dtype=np.float32), "b": np.zeros(3, dtype=np.float32)}}
"""

_TRAIN = """
import time
import numpy as np
from flprov.messages import Update


def flood_of(session):
    from flprov.wire import pb

    task_id = session.open.order.task_id
    update = pb.UpdateMessage(kind="full", samples=1)
    return pb.FromWorker(answer=pb.TaskAnswer(job_id=session.job_id, task_id=task_id, update=update))


STEP = {{"site-1": 1, "site-2": 2, "site-3": 4}}


def train(task, site):
    print("round", task.round, "at", site.name, flush=True)
{first}    time.sleep({seconds})
    step = STEP[site.name]
    w = task.params["w"] * np.float32(0.75) + np.float32(step) / 3
    b = task.params["b"] + np.float32(step * (task.round + 1)) / 7
    return Update(params={{"w": w, "b": b}}, samples=10 * step, metrics={{"first": float(w[0])}})
"""


# Each of these is put before the `time.sleep` of a task.
FLOODS = {
    "updates": (  # as code that wants to do harm would: frames of the same answer, again and again
        "    if site.name == 'site-2' and task.round == 1:\n"
        "        from flprov.client import _session\n"
        "        session = _session()\n"
        "        frame = flood_of(session)\n"
        "        for _ in range(50_000):\n            session._channel.send(frame)\n"
    ),
    "log lines": "    for n in range(20_000):\n        print('flood ' * 100, n)\n",
    "progress": (
        "    import flprov.client as fl\n    for n in range(20_000):\n        fl.log('loss', float(n), n)\n"
    ),
}
# Opened by the campaign.
GATE = "    while not (site.data('gate') / site.name).exists():\n        time.sleep(0.02)\n"


def write_steps(
    folder: Path,
    *,
    size: int = SMALL,
    rounds: int = 8,
    seconds: float = 0.15,
    sites: str = "absence: 60s",
    first: str = "",
) -> Path:
    """An app of `rounds` rounds, each of at least `seconds`; `first` is what a task does before."""
    folder.mkdir(parents=True)
    (folder / "job.yml").write_text(
        f"name: {folder.name}\nworkflow: {{type: fedavg, rounds: {rounds}}}\nmodel: model:initial\n"
        f"tasks: train:train\ndata: [gate]\nsites: {{{sites}}}\nresources: {{grace: 1s}}\n"
    )
    (folder / "model.py").write_text(_MODEL.format(size=size))
    (folder / "train.py").write_text(_TRAIN.format(seconds=seconds, first=first))
    return folder
