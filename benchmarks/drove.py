# SPDX-License-Identifier: Apache-2.0
"""Many agents in one process, for benchmarks of the server: `python drove.py KITS STATES NAME...`.

Each is a whole `Agent` with its own kit, store, control stream and bulk connection. Only its job workers are
not processes: one coroutine stands for them and answers every task at once, with ten numbers.

Talks in JSON lines. In: `{"connected_after": t}`, a time of day in seconds. Out, as soon as every agent has a
link that came up after that: `{"links": [t, ...]}`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np

from flprov.agent import Agent, load_agent_config
from flprov.agent.control import Link, LinkState
from flprov.wire import encode_tensors, pb
from flprov.workers import ExitRecord, LaunchOrder

T = TypeVar("T")
_LOOK = 0.05  # seconds; the moments themselves are the agents' own
_TENSORS = encode_tensors({"weights": np.zeros(10, dtype=np.float32)})


class Channel:
    """Frames to a worker that answers at once."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[pb.FromWorker | None] = asyncio.Queue()

    async def send(self, message: pb.ToWorker) -> None:
        """A task is answered; nothing else needs an answer."""
        if message.HasField("task"):
            update = pb.UpdateMessage(kind="full", samples=1, tensors=pb.Payload(inline=_TENSORS))
            answer = pb.TaskAnswer(job_id=message.task.job_id, task_id=message.task.task_id, update=update)
            self._said.put_nowait(pb.FromWorker(answer=answer))

    async def receive(self) -> pb.FromWorker | None:
        """The next answer."""
        return await self._said.get()

    def close(self) -> None:
        """The worker says nothing more."""
        self._said.put_nowait(None)


class Process:
    """A worker that is no process."""

    confinement = "none"

    def __init__(self, order: LaunchOrder) -> None:
        self.channel = Channel()
        self.log = order.folder / "log"
        self.log.touch()
        self._ended = asyncio.Event()

    def on_log(self, listener: Callable[[], None]) -> None:
        """It prints nothing."""

    async def wait(self) -> ExitRecord:
        """It runs until it is stopped."""
        await self._ended.wait()
        return ExitRecord(reason="was stopped", stopped=True)

    async def stop(self, grace: float) -> tuple[int, ...]:  # noqa: ARG002
        """At once."""
        self._ended.set()
        self.channel.close()
        return ()

    async def leave(self) -> None:
        """There is nothing to come back to."""


class Launcher:
    """Starts such workers."""

    async def launch(self, order: LaunchOrder) -> Process:
        """In the job's folder, as any other."""
        return Process(order)

    async def adopt(self, folder: Path) -> None:  # noqa: ARG002
        """None outlives its agent."""
        return


class Drove:
    """The agents of this process."""

    def __init__(self, kits: Path, states: Path, names: Sequence[str]) -> None:
        now, launcher = datetime.now(UTC), Launcher()
        configs = [load_agent_config(kits / name, now=now) for name in names]
        self._agents = [
            Agent(replace(config, state=states / config.kit.name), launcher=launcher, local_status=False)
            for config in configs
        ]

    async def run(self) -> None:
        """Until nobody asks any more."""
        running = [asyncio.create_task(agent.run()) for agent in self._agents]
        await asyncio.gather(*(agent.ready.wait() for agent in self._agents))
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            after = float(json.loads(line)["connected_after"])
            links = await connected_after(after, self._agents, lambda agent: agent.outlook().link)
            print(json.dumps({"links": links}), flush=True)
        for agent in self._agents:
            agent.stop()
        await asyncio.gather(*running)


async def connected_after(after: float, sites: Sequence[T], link_of: Callable[[T], Link]) -> list[float]:
    """Wait until the link of each site is one that came up after this time of day; when each did."""
    waiting, found = list(sites), list[float]()
    while waiting:
        still = []
        for site in waiting:
            link = link_of(site)
            if link.state is LinkState.CONNECTED and link.since.timestamp() > after:
                found.append(link.since.timestamp())
            else:
                still.append(site)
        waiting = still
        await asyncio.sleep(_LOOK if waiting else 0)
    return found


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(Drove(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]).run())
