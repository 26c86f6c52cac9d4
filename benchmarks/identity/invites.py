# SPDX-License-Identifier: Apache-2.0
"""One invite, many who come with it: does anybody ever get a second certificate?

A real server process, real mTLS, a connection of its own for each who comes. First an invite that was
used comes back a thousand times, with its own key and with others. Then fifty keys at once race for one
invite, twenty times; in every fourth race the server is killed (SIGKILL) as soon as one of them has its
answer, started again, and all fifty come again. In the end the server's own records are counted.

    python benchmarks/identity/invites.py [--small]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from flprov._base import SystemClock
from flprov.admin import Admin, open_admin
from flprov.errors import FlprovError, IdentityRefused, Unavailable
from flprov.kits import Invitation, decode_invitation, provision
from flprov.pki import create_key, create_request, describe_leaf, verify_key_matches
from flprov.project import Organisation, Person, Project, ServerParty
from flprov.rpc import connect
from flprov.rpc import methods as m
from flprov.store import open_store
from flprov.wire import pb

REPLAYS, RACES, RACERS = 1000, 20, 50
SMALL = (40, 4, 8)
AT_ONCE = 20  # replays under way
KILLED_EVERY = 4
PATIENCE = 60.0


@dataclass
class Outcome:
    """What came of everybody who came with one invite."""

    chains: set[bytes] = field(default_factory=set)
    answers: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)  # refusals that do not say why
    wrong: int = 0  # certificates for another key than the one that came
    gone: int = 0  # the server was killed meanwhile

    def add(self, other: Outcome) -> None:
        """Count those of `other` as well."""
        self.chains |= other.chains
        self.answers += other.answers
        self.refused += other.refused
        self.unreadable += other.unreadable
        self.wrong += other.wrong
        self.gone += other.gone


def run(folder: Path, *, small: bool = False) -> dict[str, object]:
    """Measure; see the module."""
    replays, races, racers = SMALL if small else (REPLAYS, RACES, RACERS)
    network = Network(folder)
    began = time.monotonic()
    try:
        network.start()
        replayed = asyncio.run(replay(network, replays))
        raced = [
            asyncio.run(race(network, n, racers, killed=n % KILLED_EVERY == KILLED_EVERY - 1))
            for n in range(races)
        ]
    finally:
        network.close()
    issued = asyncio.run(network.count_certificates())
    everything = [replayed, *raced]
    single = sum(len(one.chains) == 1 for one in everything)
    unreadable = [text for one in everything for text in one.unreadable]
    return {
        "name": "one certificate per invite",
        "target": f"exactly one after {replays} replays, and in each of {races} races of {racers}",
        "measured": f"one in {single} of {len(everything)}; the server issued {sum(issued.values())} in all",
        "met": single == len(everything)
        and issued == Counter({f"site-{n}": 1 for n in range(len(everything))})
        and not unreadable
        and not any(one.wrong for one in everything),
        "details": {
            "replays": {"answers": replayed.answers, "refused": dict(replayed.refused)},
            "races": {
                "answers": [one.answers for one in raced],
                "refused": sum(sum(one.refused.values()) for one in raced),
                "cut_off_by_sigkill": sum(one.gone for one in raced),
            },
            "unreadable": unreadable[:3],
            "seconds": round(time.monotonic() - began, 1),
        },
    }


async def replay(network: Network, count: int) -> Outcome:
    """A used invite comes back: every tenth time with the key that used it."""
    invitation, key = network.invite("site-0"), create_key()
    outcome = await come(invitation, key)
    room = asyncio.Semaphore(AT_ONCE)

    async def again(n: int) -> Outcome:
        async with room:
            return await come(invitation, key if n % 10 == 0 else create_key())

    for found in await asyncio.gather(*(again(n) for n in range(count))):
        outcome.add(found)
    return outcome


async def race(network: Network, number: int, racers: int, *, killed: bool) -> Outcome:
    """Everybody at once; where the server is killed, everybody once more with the same keys."""
    invitation = network.invite(f"site-{number + 1}")
    keys = [create_key() for _ in range(racers)]
    outcome = await all_come(invitation, keys, network if killed else None)
    if killed:
        network.start()
        outcome.add(await all_come(invitation, keys, None))
    return outcome


async def all_come(invitation: Invitation, keys: Sequence[bytes], victim: Network | None) -> Outcome:
    """What came of all of them; `victim` is killed at the first answer."""
    outcome = Outcome()
    for ended in asyncio.as_completed([come(invitation, key) for key in keys]):
        found = await ended
        if victim is not None and found.answers:
            victim.kill()
            victim = None
        outcome.add(found)
    if victim is not None:
        victim.kill()
    return outcome


async def come(invitation: Invitation, key: bytes) -> Outcome:
    """One comes with an invite and a key, over a connection of its own."""
    connection = connect(
        invitation.endpoints,
        chain_pem=invitation.chain_pem,
        private_pem=invitation.private_pem,
        server_anchors=invitation.server_anchors,
        connect_timeout=PATIENCE,
    )
    outcome = Outcome()
    try:
        request = pb.JoinRequest(request=create_request(key))
        async with contextlib.aclosing(connection.download(m.JOIN, request)) as replies:
            reply = await anext(replies)
        outcome.answers += 1
        outcome.chains.add(reply.issued.chain)
        verify_key_matches(reply.issued.chain, key)
    except Unavailable:
        outcome.gone += 1
    except IdentityRefused as error:
        note_refusal(outcome, error)
    finally:
        await connection.close()
    return outcome


def note_refusal(outcome: Outcome, error: FlprovError) -> None:
    """A refusal that its reader can use, or not."""
    text = str(error)
    if "is not the key of the certificate" in text:
        outcome.wrong += 1
    elif "by another key, fingerprint SHA256:" in text:
        outcome.refused["another key"] += 1
    else:
        outcome.unreadable.append(text)


class Network:
    """A project without sites, and its server process."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        self.folder = folder
        self.kits = folder / "ws" / "kits"
        self._pid = 0
        address = f"127.0.0.1:{port}"
        project = Project(
            name="invites",
            trust_domain="invites.example",
            organisations=(Organisation(name="org"),),
            server=ServerParty(name="server", org="org", listen=address, endpoints=(address,)),
            sites=(),
            people=(Person(name="ada", org="org", role="project_admin"),),
            source=folder / "project.yml",
        )
        provision(project, folder / "ws", now=datetime.now(UTC))

    def start(self) -> None:
        """Start the server and wait until it is ready."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind("")
            notify.settimeout(PATIENCE)
            name = "@" + notify.getsockname()[1:].decode()
            words = [sys.executable, "-m", "flprov", "server", "start", str(self.kits / "server")]
            log = os.open(self.folder / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            files = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
            environment = {**os.environ, "NOTIFY_SOCKET": name}
            self._pid = os.posix_spawn(sys.executable, words, environment, file_actions=files)
            os.close(log)
            while b"READY=1" not in notify.recv(4096):
                pass

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the server process."""
        if self._pid:
            os.kill(self._pid, number)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def close(self) -> None:
        """Stop the server."""
        self.kill(signal.SIGTERM)

    def admin(self) -> Admin:
        """A project_admin's client."""
        return open_admin(self.kits / "ada")

    def invite(self, site: str) -> Invitation:
        """A new invite; the site is added."""
        with self.admin() as admin:
            return decode_invitation(admin.create_invite(site, org="org").line)

    async def count_certificates(self) -> Counter[str]:
        """How many certificates joins have brought to each site, by the records on the server's disk."""
        store = open_store(self.kits / "server.local" / "state", clock=SystemClock())
        try:
            records = store.load("certificate").values()
            chains = [str(record["chain"]) for record in store.load("invite").values() if record["chain"]]
        finally:
            await store.close()
        by_book = Counter(
            str(record["identity"]).rpartition("/")[2] for record in records if record["how"] == "join"
        )
        by_invite = Counter(describe_leaf(chain.encode()).identity.name for chain in chains)
        return by_book if by_book == by_invite else by_book + by_invite  # never one each if they differ


def main(words: Sequence[str]) -> int:
    """Print the result as JSON; 0 when the target is met."""
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), small="--small" in words)
    print(json.dumps(found, indent=2))
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
