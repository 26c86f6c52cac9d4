# SPDX-License-Identifier: Apache-2.0
"""How long until a revoked or locked party is refused: on open streams, on new calls, after a SIGKILL.

A real server process, real mTLS. Sites hold control streams open and people watch a job; an admin
locks, unlocks, revokes and removes them one after the other, with the commands' own client. Measured from
the moment at which the command is sent until the open stream has ended, and until a new call is refused,
each with a reason that the refused side can read.

    python benchmarks/identity/revocation.py [--small]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flprov.admin import Admin, open_admin
from flprov.errors import FlprovError, IdentityRefused
from flprov.kits import Kit, load_kit, provision
from flprov.project import Organisation, Person, Project, ServerParty, SiteParty
from flprov.rpc import Connection, connect
from flprov.rpc import methods as m
from flprov.wire import PROTOCOL, pb

TARGET = 5.0  # seconds
FULL, SMALL = 100, 12  # refusals; a quarter of each kind
KILLED, KILLED_SMALL = 8, 2  # of them, those after which the server is killed at once
PATIENCE = 30.0
CHANGES = ("lock", "revoke", "remove", "user")


def run(folder: Path, *, small: bool = False) -> dict[str, object]:
    """Measure; see the module."""
    count, killed = (SMALL, KILLED_SMALL) if small else (FULL, KILLED)
    network = _Network(folder, count)
    try:
        found = asyncio.run(_measure(network, count, killed))
    finally:
        network.close()
    slowest = max((trial.slowest for trial in found), default=float("inf"))
    refused = sum(trial.readable and trial.slowest <= TARGET for trial in found)
    return {
        "name": "revocation to refusal",
        "target": f"<= {TARGET:g} s, {count} of {count}",
        "measured": f"{refused} of {count}, the slowest {slowest * 1000:.0f} ms",
        "met": refused == count == len(found),
        "details": {
            "stream_ms": _spread([trial.stream for trial in found if not trial.killed]),
            "new_call_ms": _spread([trial.call for trial in found if not trial.killed]),
            "after_sigkill_ms": _spread([trial.call for trial in found if trial.killed]),
            "by_change": {change: sum(trial.change == change for trial in found) for change in CHANGES},
            "killed": sum(trial.killed for trial in found),
            "unlocked_again": sum(trial.back for trial in found),
            "unreadable": [(trial.word, trial.said) for trial in found if not trial.readable],
        },
    }


@dataclass(kw_only=True)
class _Trial:
    change: str
    party: str
    killed: bool
    stream: float  # seconds until the open stream ended
    call: float  # seconds until a new call was refused
    word: str  # that the admin gave as the reason
    said: str  # what the refused side read
    back: bool  # a lock was opened, and the party is in again

    @property
    def slowest(self) -> float:
        return max(self.stream, self.call)

    @property
    def readable(self) -> bool:
        """Whether the admin's reason stood in all that was said."""
        return all(self.word in said for said in self.said.split(" / "))


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    if not ordered:
        return {}
    middle = ordered[len(ordered) // 2]
    return {"median": round(middle * 1000, 1), "most": round(ordered[-1] * 1000, 1), "count": len(ordered)}


class _Network:
    """A project with a party for each trial, and its server process."""

    def __init__(self, folder: Path, count: int) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.folder = folder
        self.kits = folder / "ws" / "kits"
        self._log = folder / "server.log"
        address = f"127.0.0.1:{self.port}"
        project = Project(
            name="revoke",
            trust_domain="revoke.example",
            organisations=(Organisation(name="org"),),
            server=ServerParty(name="server", org="org", listen=address, endpoints=(address,)),
            sites=tuple(SiteParty(name=f"site-{n}", org="org") for n in range(count) if n % 4 != 3),
            people=(
                Person(name="ada", org="org", role="project_admin"),
                *(Person(name=f"leo-{n}", org="org", role="lead") for n in range(3, count, 4)),
            ),
            source=folder / "project.yml",
        )
        provision(project, folder / "ws", now=datetime.now(UTC))
        self._pid = 0
        self.start()

    def start(self) -> None:
        """Start the server and wait until it says that it is ready."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind("")
            notify.settimeout(PATIENCE)
            name = "@" + notify.getsockname()[1:].decode()
            words = [sys.executable, "-m", "flprov", "server", "start", str(self.kits / "server")]
            log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            files = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
            environment = {**os.environ, "NOTIFY_SOCKET": name}
            self._pid = os.posix_spawn(sys.executable, words, environment, file_actions=files)
            os.close(log)
            while b"READY=1" not in notify.recv(4096):
                pass

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._pid = 0

    def kit(self, name: str) -> Kit:
        return load_kit(self.kits / name, now=datetime.now(UTC))

    def admin(self) -> Admin:
        return open_admin(self.kits / "ada")

    def close(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGTERM)
            os.waitpid(self._pid, 0)


def _dial(kit: Kit) -> Connection:
    return connect(
        kit.endpoints,
        chain_pem=kit.chain_pem,
        private_pem=kit.private_pem,
        server_anchors=kit.anchors["servers"],
    )


async def _measure(network: _Network, count: int, killed: int) -> list[_Trial]:
    kits = [network.kit(f"leo-{n}" if n % 4 == 3 else f"site-{n}") for n in range(count)]
    parties = [_Party(kit) for kit in kits]
    admin = network.admin()
    found = []
    try:
        await asyncio.to_thread(_submit, admin, network.folder / "app")
        for party in parties:
            await party.come()
        for n, party in enumerate(parties):
            last = n >= count - killed
            found.append(await _try(network, admin, party, CHANGES[n % 4], killed=last))
            if last:
                admin.close()
                network.start()
                admin = network.admin()
                found[-1].call, found[-1].said = await _refused(party.kit, time.monotonic())
    finally:
        for party in parties:
            await party.leave()
        admin.close()
    return found


async def _try(network: _Network, admin: Admin, party: _Party, change: str, *, killed: bool) -> _Trial:
    if party.ended.done():  # a server that was killed before took every stream with it
        await party.come()
    word = f"because-{secrets.token_hex(4)}"
    begun = time.monotonic()
    await asyncio.to_thread(_carry_out, admin, change, party.kit.name, word)
    trial = _Trial(
        change=change,
        party=party.kit.name,
        killed=killed,
        stream=0.0,
        call=0.0,
        word=word,
        said="",
        back=False,
    )
    if killed:
        network.kill()  # right after the acknowledgement
        return trial
    error = await asyncio.wait_for(party.ended, PATIENCE)
    trial.stream = party.ended_at - begun
    trial.call, said = await _refused(party.kit, begun)
    trial.said = f"{error} / {said}"
    if change == "lock":
        await asyncio.to_thread(admin.unlock_site, party.kit.name)
        await party.come()
        trial.back = True
    return trial


def _submit(admin: Admin, folder: Path) -> None:
    """A job that waits for sites which never tell what they have: something to watch."""
    folder.mkdir()
    (folder / "job.yml").write_text(
        "name: waits\nworkflow: {type: fedavg, rounds: 1}\ntasks: {train: train.py}\n"
    )
    (folder / "train.py").write_text("")
    admin.submit(folder)


def _carry_out(admin: Admin, change: str, name: str, word: str) -> None:
    if change == "lock":
        admin.lock_site(name, reason=word)
    elif change == "revoke":
        admin.revoke_certificate(name, reason="key-compromise", comment=word)
    elif change == "remove":
        admin.remove_site(name, reason=word)
    else:
        admin.remove_person(name, reason=word)


async def _refused(kit: Kit, begun: float) -> tuple[float, str]:
    """Seconds until a new connection of this party is refused, and what it is told."""
    connection = _dial(kit)
    try:
        while True:
            try:
                await _knock(connection, kit)
            except IdentityRefused as error:
                return time.monotonic() - begun, str(error)
            if time.monotonic() - begun > PATIENCE:
                return float("inf"), "it was let in"
    finally:
        await connection.close()


async def _knock(connection: Connection, kit: Kit) -> None:
    """A call that ends at once."""
    if kit.role is not None:
        await connection.unary(m.LIST_SITES, pb.Query(), timeout=PATIENCE)
        return
    request = pb.BlobRequest(digest="00", job_id="none")
    with contextlib.suppress(FlprovError):
        async for _ in connection.download(m.FETCH_BLOB, request):
            pass
    async for _ in connection.download(m.FETCH_BLOB, request):
        pass


class _Party:
    """Somebody with a stream that stays open until the server ends it."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.ended: asyncio.Future[FlprovError] = asyncio.get_running_loop().create_future()
        self.ended_at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def come(self) -> None:
        """Open the stream and wait until the server has let it in."""
        await self.leave()
        self.ended = asyncio.get_running_loop().create_future()
        inside: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._stay(inside))
        await asyncio.wait_for(inside, PATIENCE)

    async def leave(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _stay(self, inside: asyncio.Future[None]) -> None:
        connection = _dial(self.kit)
        try:
            await self._hold(connection, inside)
        except FlprovError as error:
            self.ended_at = time.monotonic()
            if not inside.done():
                inside.set_exception(error)
            else:
                self.ended.set_result(error)
        finally:
            await connection.close()

    async def _hold(self, connection: Connection, inside: asyncio.Future[None]) -> None:
        stream = (
            connection.stream(m.CONTROL, self._says())
            if self.kit.role is None
            else connection.download(m.WATCH_JOB, pb.Query(id="last"))
        )
        async with contextlib.aclosing(stream):
            async for _ in stream:
                if not inside.done():
                    inside.set_result(None)

    async def _says(self) -> AsyncIterator[pb.FromSite]:
        hello = pb.Hello(
            protocol=PROTOCOL, version="1", installation=f"bench-{self.kit.name:>10}", host=self.kit.name
        )
        yield pb.FromSite(hello=hello)
        await asyncio.Event().wait()


def main(words: list[str]) -> Iterator[str]:
    """What the script prints."""
    with tempfile.TemporaryDirectory() as folder:
        yield json.dumps(run(Path(folder), small="--small" in words), indent=2)


if __name__ == "__main__":
    for line in main(sys.argv[1:]):
        print(line)
