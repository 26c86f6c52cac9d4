# SPDX-License-Identifier: Apache-2.0
"""What a server does about identities, without a network, on a fake clock with certificates of its time."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from server_fakes import FailingStore
from server_parties import PROJECT, person, site
from server_world import hello

from flprov._base import from_document, parse_json, to_iso
from flprov.errors import FlprovError
from flprov.kits import Kit, load_kit, provision
from flprov.pki import Credential, Identity, Leaf, describe_leaf
from flprov.rpc import Call
from flprov.rpc import methods as m
from flprov.server.identities import Identities
from flprov.server.identities.book import describe, put
from flprov.server.registry import Registry
from flprov.server.sessions import Session, Sessions
from flprov.testing.clock import START, FakeClock
from flprov.wire import documents as doc
from flprov.wire import pb

T = TypeVar("T")

MADE = START + timedelta(hours=1)  # when the kits of these tests were made


def make_kits(folder: Path) -> Path:
    provision(PROJECT, folder / "ws", now=MADE)
    return folder / "ws" / "kits"


@dataclass
class Dropped:
    """What the listener was asked to end."""

    calls: list[tuple[str, FlprovError]] = field(default_factory=list)

    def __call__(self, uri: str, reason: FlprovError) -> int:
        self.calls.append((uri, reason))
        return 1

    def why(self, identity: Identity) -> FlprovError:
        """The reason that was given to this one."""
        return next(reason for uri, reason in self.calls if uri == identity.uri)


class Parts:
    """One server's identities; `restart` is SIGKILL and a new start."""

    def __init__(self, kits: Path, folder: Path) -> None:
        self.kits = kits
        self.folder = folder
        self.clock = FakeClock(MADE + timedelta(days=1))
        self.store = FailingStore(clock=self.clock)
        self.kit = self.load_kit("server")
        self.restart()

    def restart(self) -> None:
        self.sessions = Sessions()
        self.registry = Registry(self.kit, self.store)
        self.registry.load()
        self.identities = Identities(
            clock=self.clock,
            store=self.store,
            kit=self.kit,
            state=self.folder,
            registry=self.registry,
            sessions=self.sessions,
            passphrase=None,
        )
        self.identities.load()
        self.around = self.identities.around
        self.dropped = Dropped()
        self.around.drop = self.dropped

    def load_kit(self, name: str) -> Kit:
        return load_kit(self.kits / name, now=MADE)

    # ---- certificates --------------------------------------------------------------------

    def leaf(self, name: str) -> Leaf:
        """The certificate in somebody's kit."""
        return describe_leaf(self.load_kit(name).chain_pem)

    def issue(self, identity: Identity, days: float | None = None) -> Credential:
        return self.around.issuer.issue(identity, self.around.trust.current, days=days)

    async def renew(self, identity: Identity, how: str = "renewal", days: float | None = None) -> Leaf:
        """A newer certificate of a site, in the book."""
        leaf = describe_leaf(self.issue(identity, days).chain_pem)
        await self.note(leaf, how)
        return leaf

    async def note(self, leaf: Leaf, how: str = "kit") -> None:
        record = describe(leaf, how)
        await self.store.commit([put(record)], None)
        self.around.book.add(record)

    async def comes(self, *names: str) -> None:
        """These call with their kits for the first time."""
        for name in names:
            leaf = self.leaf(name)
            self.identities.gate(leaf.identity, leaf)
        await self.around.settled()

    async def connects(self, name: str) -> Session:
        """A site opens its control stream."""
        await self.comes(name)
        session = Session(site(name), hello(name, trust=0), since=self.clock.now(), leaf=self.leaf(name))
        self.sessions.add(session)
        await self.registry.saw(session, session.leaf and session.leaf.not_after)
        return session

    def admit(self, leaf: Leaf) -> None:
        """The gate, asked with this certificate."""
        self.identities.gate(leaf.identity, leaf)

    # ---- calls ---------------------------------------------------------------------------

    async def call(
        self, method: m.Method, kind: type[T], *, by: str = "ada", leaf: Leaf | None = None, **fields: Any
    ) -> T:
        """What a person's call answers."""
        call = Call(caller=person(by), method=method, peer="test", leaf=leaf)
        table = self.identities.table()
        request = method.request(**fields)
        reply = await table[method](call, request)  # type: ignore[misc,operator]
        assert isinstance(reply, pb.Document)
        return from_document(kind, parse_json(reply.json))

    async def change(self, method: m.Method, name: str, **fields: Any) -> doc.PartyChangeDocument:
        return await self.call(method, doc.PartyChangeDocument, **({"name": name} | fields))

    async def revoke(self, target: str, **fields: Any) -> doc.PartyChangeDocument:
        found = {"target": target} | fields
        return await self.call(m.REVOKE_CERTIFICATE, doc.PartyChangeDocument, **found)

    async def certificates(self, **fields: Any) -> dict[str, doc.CertificateDocument]:
        """By kind and subject."""
        found = await self.call(m.LIST_CERTIFICATES, doc.CertificateListDocument, **fields)
        return {f"{line.kind} {line.subject}": line for line in found.certificates}

    def soon(self, seconds: float = 60.0) -> str:
        """A not_after."""
        return to_iso(self.clock.now() + timedelta(seconds=seconds))
