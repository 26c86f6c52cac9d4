# SPDX-License-Identifier: Apache-2.0
"""A server that says what a test tells it to, behind the in-process network in a loop of its own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flprov._base import canonical_json
from flprov.blobs import digest_of
from flprov.errors import NotFound
from flprov.pki import Identity
from flprov.project import Organisation, Person, Project, ServerParty, SiteParty, Validity
from flprov.rpc import Connection, InProcessNetwork
from flprov.rpc import methods as m
from flprov.wire import documents as doc
from flprov.wire import pb

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PROJECT = Project(
    name="heart",
    trust_domain="heart.example",
    organisations=(Organisation(name="org-a"),),
    server=ServerParty(name="server", org="org-a", endpoints=("localhost:1",)),
    sites=(SiteParty(name="site-1", org="org-a"), SiteParty(name="site-2", org="org-a")),
    people=(Person(name="leo", org="org-a", role="lead"),),
    validity=Validity(),
    source=Path("project.yml"),
)


def document(value: object) -> pb.Document:
    return pb.Document(json=canonical_json(value))


def make_job(state: str = "running", *, rounds: tuple[int, ...] = (), **changes: Any) -> doc.JobDocument:
    """A job of two sites; `rounds` are the numbers of those that the document carries."""
    fields: dict[str, Any] = {
        "id": "j1",
        "name": "heart",
        "app": "ab" * 32,
        "state": state,
        "reason": "",
        "submitted_at": NOW,
        "started_at": NOW,
        "finished_at": None,
        "submitted_by": "spiffe://heart.example/person/org-a/lead/leo",
        "sites": (doc.JobSiteDocument(site="site-1", state="training"),),
        "rounds": tuple(make_round(number) for number in rounds),
        "rounds_total": 3,
    }
    return doc.JobDocument(**(fields | changes))


def make_round(number: int) -> doc.RoundDocument:
    return doc.RoundDocument(
        round=number,
        started_at=NOW,
        finished_at=NOW + timedelta(seconds=1),
        metrics={"loss": 1.0 / (number + 1)},
    )


def make_site(name: str, *, state: str = "connected") -> doc.SiteDocument:
    return doc.SiteDocument(
        name=name,
        org="org-a",
        state=state,
        ladder=(doc.Rung(name="enrolled", ok=True, since=None),),
        gpus=(),
        gpu_note="",
        cpu=None,
        memory=None,
        disk=None,
        jobs=(),
        last_seen=NOW,
        cert_not_after=NOW,
        version="0.1.0",
    )


class Server:
    """Replies by method: a value (made a document), a function of the request, or an error to raise.

    For downloads and streams a list of messages; an error among them breaks off there.
    """

    def __init__(self) -> None:
        self.replies: dict[m.Method, Any] = {}
        self.asked: list[tuple[m.Method, Any]] = []
        self.ended = threading.Event()  # a download or stream was cancelled by the caller
        self.hold = threading.Event()  # until it is set, `waits` waits

    def requests(self, method: m.Method) -> list[Any]:
        return [request for called, request in self.asked if called is method]

    def service(self) -> dict[m.Method, Any]:
        makers = {m.Shape.UNARY: self._unary, m.Shape.DOWNLOAD: self._download, m.Shape.STREAM: self._stream}
        return {method: makers[method.shape](method) for method in m.METHODS}

    def _reply(self, method: m.Method, request: Any) -> Any:
        self.asked.append((method, request))
        reply = self.replies.get(method, NotFound(f"{method.path} is not part of this test"))
        reply = reply(request) if callable(reply) else reply
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _unary(self, method: m.Method) -> Callable[..., Any]:
        async def handler(call: object, request: Any) -> pb.Document:
            reply = self._reply(method, request)
            return reply if isinstance(reply, pb.Document) else document(reply)

        return handler

    def _download(self, method: m.Method) -> Callable[..., Any]:
        async def handler(call: object, request: Any) -> AsyncIterator[Any]:
            for item in self._reply(method, request):
                yield await self._item(item)

        return handler

    def _stream(self, method: m.Method) -> Callable[..., Any]:
        async def handler(call: object, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for reply in self._reply(method, requests):
                yield reply

        return handler

    async def _item(self, item: Any) -> Any:
        if item is WAITS:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.ended.set()
        if isinstance(item, Exception):
            raise item
        return item if isinstance(item, pb.Document | bytes | pb.LogMessage) else document(item)


WAITS = object()  # in a list of replies: nothing more comes


class Network:
    """The server's thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        self._ready.wait()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._network = InProcessNetwork(self._server.service())
        self._ready.set()
        await self._stop.wait()
        await self._network.stop()

    def connect(self, identity: Identity) -> Connection:
        return self._network.connect(identity)

    def stop(self) -> None:
        """The server goes away."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()


class Files:
    """Results of a job as a server serves them."""

    def __init__(self, server: Server, **files: bytes) -> None:
        self.data = {name.replace("__", "."): data for name, data in files.items()}
        self.chunk = 1000
        self.breaks: list[Exception] = []  # one per download, after its first chunk
        self.announced: tuple[doc.ResultFile, ...] | None = None
        server.replies[m.LIST_RESULTS] = lambda _: doc.ResultsDocument(job_id="j1", files=self.listed())
        server.replies[m.DOWNLOAD_RESULT] = self._send

    def listed(self) -> tuple[doc.ResultFile, ...]:
        return self.announced or tuple(
            doc.ResultFile(
                name=name, size=len(data), digest="" if name.startswith("logs/") else digest_of(data)
            )
            for name, data in self.data.items()
        )

    def _send(self, request: pb.DownloadRequest) -> list[Any]:
        data = self.data[request.name][request.offset :]
        chunks: list[Any] = [data[start : start + self.chunk] for start in range(0, len(data), self.chunk)]
        return [*chunks[:1], self.breaks.pop(0)] if self.breaks else chunks
