# SPDX-License-Identifier: Apache-2.0
"""A World behind the in-process transport, and sites that speak to it in messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from server_fakes import PATIENCE, FakeProcess
from server_parties import NOW, payload, site, spec, tensors, vitals
from server_world import World, broadcast, hello, ready

from flprov._base import canonical_json
from flprov.blobs import digest_of
from flprov.jobs import Membership
from flprov.kits import Kit
from flprov.pki import Identity
from flprov.rpc import Connection
from flprov.rpc import methods as m
from flprov.server.adminservice import AdminService
from flprov.server.identities import Identities
from flprov.server.jobs.checkpoints import Retention
from flprov.server.jobs.run import JobRun
from flprov.server.log import ServerLog
from flprov.server.operations import Operations
from flprov.server.server import service_table
from flprov.server.sights.scene import Scene
from flprov.server.siteservice import SiteService
from flprov.testing.inprocess import InProcessNetwork
from flprov.wire import PROTOCOL, pb
from flprov.wire.documents import ServerDocument, Vitals

DESCRIPTION = ServerDocument(
    name="server",
    project="heart",
    trust_domain="heart.example",
    version="1.0",
    protocol=PROTOCOL,
    started_at=NOW,
    cert_not_after=NOW,
    listen="127.0.0.1:8443",
    jobs_running=0,
    jobs_queued=0,
    log_index=0,
)


class Network:
    """Both services of one world."""

    def __init__(self, world: World, kit: Kit) -> None:
        self.world = world
        jobs = {"jobs": world.jobs, "blobs": world.blobs, "logs": world.logs}
        shared: dict[str, Any] = jobs | {
            "clock": world.clock,
            "registry": world.registry,
            "sessions": world.sessions,
        }
        self.identities = Identities(
            clock=world.clock,
            store=world.store,
            kit=kit,
            state=world.folder,
            registry=world.registry,
            sessions=world.sessions,
            passphrase=None,
        )
        self.identities.load()
        self.operations = Operations(
            checkpoints=Retention(),
            server="server",
            clock=world.clock,
            store=world.store,
            registry=world.registry,
            sessions=world.sessions,
            jobs=world.jobs,
            identities=self.identities,
            blobs=world.blobs,
        )
        self.operations.load()
        self.log = ServerLog(
            clock=world.clock,
            store=world.store,
            registry=world.registry,
            sessions=world.sessions,
            project_id=kit.project_id,
            anchors=lambda: self.identities.around.trust.current.anchors["sites"],
        )
        self.log.load()
        self.site_service = SiteService(
            installation="the-server",
            heartbeat_seconds=5.0,
            witnesses=self.log.witnesses,
            note_leaving=self.operations.orders.left,
            **shared,
        )
        self.scene = Scene(
            clock=world.clock,
            registry=world.registry,
            sessions=world.sessions,
            jobs=world.jobs,
            complete=self.operations.complete,
        )
        self.admin_service = AdminService(
            kit=kit,
            describe=lambda: DESCRIPTION,
            scene=self.scene,
            commands=self.identities.around.commands,
            **shared,
        )
        self.listener = InProcessNetwork(
            service_table(self.site_service, self.admin_service, self.identities, self.operations, self.log),
            gate=world.registry.verify_enrolled,
            on_refusal=self.log.denials.note,
        )
        self.identities.attach(self.listener)

    def connect(self, identity: Identity) -> Connection:
        return self.listener.connect(identity)

    async def close(self) -> None:
        await self.listener.stop()
        await self.operations.close()
        await self.identities.close()
        await self.log.close()


class WireSite:
    """A site: one control stream, and calls beside it."""

    def __init__(self, network: Network, name: str = "site-1", *, identity: Identity | None = None) -> None:
        self.name = name
        self.world = network.world
        self.connection = network.connect(identity or site(name))
        self._outgoing: asyncio.Queue[pb.FromSite | None] = asyncio.Queue()
        self._replies = self._one_by_one(self.connection.stream(m.CONTROL, self._drain()))

    async def _drain(self) -> AsyncIterator[pb.FromSite]:
        while (message := await self._outgoing.get()) is not None:
            yield message

    async def _one_by_one(self, replies: AsyncIterator[pb.ToSite]) -> AsyncIterator[pb.ToSite]:
        async for reply in replies:
            for message in reply.several.messages if reply.HasField("several") else (reply,):
                yield message

    def say(self, **body: Any) -> None:
        self._outgoing.put_nowait(pb.FromSite(**body))

    def hang_up(self) -> None:
        """Say that no more messages come."""
        self._outgoing.put_nowait(None)

    async def next(self) -> pb.ToSite | None:
        """The next command; None when the server has ended the stream."""
        async with asyncio.timeout(PATIENCE):
            return await anext(self._replies, None)

    async def hears(self, kind: str) -> Any:
        message = await self.next()
        assert message is not None, f"the stream ended before {kind}"
        assert message.WhichOneof("body") == kind, message
        return getattr(message, kind)

    async def open(self, **words: Any) -> pb.Welcome:
        """Hello, Welcome, and a first heartbeat."""
        self.say(hello=hello(self.name, **words))
        welcome = await self.hears("welcome")
        self.beat()
        return welcome

    def beat(self, machine: Vitals | bytes | None = None) -> None:
        data = machine if isinstance(machine, bytes) else canonical_json(machine or vitals())
        self.say(heartbeat=pb.Heartbeat(vitals=data))

    async def ended(self) -> str:
        """Wait for the server to end the stream; the reason in its log."""
        while await self.next() is not None:
            pass
        async with asyncio.timeout(PATIENCE):
            while not (rows := self.world.store.told("site.disconnect")):
                await asyncio.sleep(0)
        return rows[-1].reason

    async def deploys(self, run: Any) -> None:
        await self.hears("deploy")
        self.say(deployed=pb.Deployed(job_id=run.record.id, ready=True))

    def updates(
        self, run: Any, task_id: str = "train/0/0", part: pb.Payload | None = None, **changes: Any
    ) -> None:
        found = {"kind": "full", "samples": 10, "seconds": 1.5, "metrics": {"loss": 0.5}} | changes
        update = pb.UpdateMessage(tensors=part or payload(tensors(1, 2)), **found)
        self.say(answer=pb.TaskAnswer(job_id=run.record.id, task_id=task_id, update=update))

    async def close(self) -> None:
        await self._replies.aclose()
        await self.connection.close()

    # ---- bulk ----------------------------------------------------------------------------

    async def send(self, data: bytes, job_id: str = "0job", **lies: Any) -> list[pb.UploadReply]:
        return await upload(self.connection, m.SEND_BLOB, data, job_id=job_id, **lies)

    async def fetch(self, digest: str, job_id: str = "0job", offset: int = 0) -> bytes:
        request = pb.BlobRequest(digest=digest, job_id=job_id, offset=offset)
        return b"".join([chunk async for chunk in self.connection.download(m.FETCH_BLOB, request)])


async def upload(
    connection: Connection,
    method: m.Method,
    data: bytes,
    *,
    send: bytes | None = None,
    chunk: int = 1 << 20,
    **header: Any,
) -> list[pb.UploadReply]:
    """Upload `data`, from where the server wants it; `send` to send other bytes than announced."""
    found = {"digest": digest_of(data), "size": len(data)} | header
    start: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def messages() -> AsyncIterator[pb.UploadHeader | bytes]:
        yield pb.UploadHeader(**found)
        rest = (data if send is None else send)[await start :]
        for begin in range(0, len(rest), chunk):
            yield rest[begin : begin + chunk]

    replies: list[pb.UploadReply] = []
    async with (
        asyncio.timeout(PATIENCE),
        contextlib.aclosing(connection.stream(method, messages())) as stream,
    ):
        async for reply in stream:
            replies.append(reply)
            if not start.done():
                start.set_result(reply.offset)
    return replies


async def settle(holds: Callable[[], bool]) -> None:
    """Let everybody run until this holds; for what nobody tells of."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0)


ALONE = spec(sites=Membership(min=1))


async def trained(world: World, *sites: WireSite, **changes: Any) -> tuple[JobRun, FakeProcess]:
    """A running job whose first task is with these sites, and its workflow."""
    names = tuple(one.name for one in sites)
    run = await world.run(targets=changes.pop("targets", names), **changes)
    run.choose(names)
    workflow = await world.launcher.process()
    for one in sites:
        await one.deploys(run)
    workflow.say(ready())
    await workflow.hears("start_workflow")
    workflow.say(broadcast())
    for one in sites:
        await one.hears("task")
    return run, workflow
