# SPDX-License-Identifier: Apache-2.0
"""Apps on their way to the server and back: resumed, and never another app than the one that was meant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from admin_server import NOW, Server

from flprov.admin import Admin
from flprov.admin.apps import fetch_spec
from flprov.blobs import digest_of
from flprov.errors import ConfigError, FlprovError, NotFound, ProtocolError, ServerUnavailable
from flprov.jobs import Bundle, build_bundle
from flprov.rpc import methods as m
from flprov.wire import documents as doc
from flprov.wire import pb


@pytest.fixture
def app(tmp_path) -> Path:
    folder = tmp_path / "heart"
    folder.mkdir()
    (folder / "job.yml").write_text("name: heart\ntasks: train.py\n")
    (folder / "train.py").write_text("x = 1\n" * 2000)
    return folder


@pytest.fixture
def bundle(app) -> Bundle:
    return build_bundle(app)


class Shelf:
    """The apps of a server; an upload goes on from `has`."""

    def __init__(self, server: Server, *, has: bytes = b"") -> None:
        self.has = has
        self.whole = False
        self.header: pb.UploadHeader | None = None
        self.pieces: list[int] = []
        self.breaks_after: int | None = None
        self.confirms = True
        server.replies[m.SHOW_APP] = self._show
        server.replies[m.UPLOAD_APP] = self._receive

    def _show(self, query: pb.Query) -> doc.AppDocument:
        if not self.whole:
            raise NotFound(f"no app {query.id[:12]}")
        return make_app(digest_of(self.has), size=len(self.has))

    async def _receive(self, requests: AsyncIterator[Any]) -> AsyncIterator[pb.UploadReply]:
        self.header = await anext(requests)
        yield pb.UploadReply(offset=len(self.has))
        async for message in requests:
            if self.breaks_after is not None and len(self.pieces) >= self.breaks_after:
                raise ServerUnavailable("the line broke")
            self.pieces.append(len(message))
            self.has += message
        self.whole = self.confirms
        if self.confirms:
            yield pb.UploadReply(offset=len(self.has), complete=True)


def make_app(digest: str, *, name: str = "heart", size: int = 3) -> doc.AppDocument:
    return doc.AppDocument(digest=digest, name=name, size=size, uploaded_at=NOW, uploaded_by="x")


# ---- upload ------------------------------------------------------------------------------------


def test_an_app_is_built_and_brought_to_the_server(admin: Admin, server: Server, app: Path, bundle: Bundle):
    shelf = Shelf(server)
    seen = []
    found = admin.upload(app, progress=lambda done, total: seen.append((done, total)))
    assert found.digest == bundle.digest
    assert shelf.has == bundle.data
    assert shelf.header == pb.UploadHeader(digest=bundle.digest, size=len(bundle.data), kind="app")
    assert seen == [(len(bundle.data), len(bundle.data))]


def test_an_app_that_is_there_is_not_sent(admin: Admin, server: Server, app: Path, bundle: Bundle):
    shelf = Shelf(server, has=bundle.data)
    shelf.whole = True
    assert admin.upload(app).digest == bundle.digest
    assert server.requests(m.UPLOAD_APP) == []


def test_an_upload_goes_on_where_an_earlier_one_broke_off(
    admin: Admin, server: Server, app: Path, bundle: Bundle, monkeypatch
):
    monkeypatch.setattr("flprov.admin.apps.CHUNK", 4000)
    shelf = Shelf(server)
    shelf.breaks_after = 2
    with pytest.raises(ServerUnavailable):
        admin.upload(app)
    assert len(shelf.has) == 8000
    shelf.breaks_after = None
    seen = []
    admin.upload(app, progress=lambda done, total: seen.append(done))
    assert shelf.has == bundle.data
    assert seen == [12000, len(bundle.data)]


@pytest.mark.parametrize("offset", [1 << 20, 2**63])
def test_a_server_that_claims_more_than_there_is_gets_nothing_and_is_not_believed(
    admin: Admin, server: Server, app: Path, offset
):
    Shelf(server)

    async def claims(requests: AsyncIterator[Any]) -> AsyncIterator[pb.UploadReply]:
        await anext(requests)
        yield pb.UploadReply(offset=offset)
        assert [message async for message in requests] == []

    server.replies[m.UPLOAD_APP] = claims
    with pytest.raises(ProtocolError, match="without having all of it"):
        admin.upload(app)


def test_an_upload_that_is_not_confirmed_has_failed(admin: Admin, server: Server, app: Path):
    Shelf(server).confirms = False
    with pytest.raises(ProtocolError, match="without having all of it"):
        admin.upload(app)


def test_a_server_that_speaks_of_another_app_is_not_believed(admin: Admin, server: Server, app: Path):
    server.replies[m.SHOW_APP] = make_app("cd" * 32)
    with pytest.raises(ProtocolError, match="cdcdcdcdcdcd"):
        admin.upload(app)


def test_an_app_with_mistakes_is_not_sent(admin: Admin, server: Server, app: Path):
    (app / "job.yml").write_text("name: heart\ntask: train.py\n")
    with pytest.raises(ConfigError, match="task"):
        admin.upload(app)
    assert server.asked == []


# ---- the spec of an app that is there ----------------------------------------------------------


def serve_app(server: Server, data: bytes) -> None:
    server.replies[m.DOWNLOAD_APP] = [data[start : start + 1000] for start in range(0, len(data), 1000)]


def test_what_is_signed_was_read_from_the_app_s_own_bytes(link, server: Server, bundle: Bundle):
    serve_app(server, bundle.data)
    assert fetch_spec(link, make_app(bundle.digest)) == bundle.spec
    [request] = server.requests(m.DOWNLOAD_APP)
    assert request.digest == bundle.digest


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b""])
def test_other_bytes_than_the_app_s_are_found_out(link, server: Server, bundle: Bundle, change):
    serve_app(server, change(bundle.data))
    with pytest.raises(ProtocolError, match="other bytes"):
        fetch_spec(link, make_app(bundle.digest))


def test_bytes_that_are_no_app_are_refused(link, server: Server):
    serve_app(server, b"no zip")
    with pytest.raises(FlprovError, match=r"\S"):
        fetch_spec(link, make_app(digest_of(b"no zip")))
