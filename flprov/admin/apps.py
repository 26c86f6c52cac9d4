# SPDX-License-Identifier: Apache-2.0
"""Apps on their way to the server, and the spec of one that is there already."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flprov.admin.link import Link
from flprov.errors import NotFound, ProtocolError
from flprov.rpc import Connection
from flprov.rpc import methods as m
from flprov.wire import documents as doc
from flprov.wire import pb

if TYPE_CHECKING:
    from flprov.jobs import Bundle, JobSpec

CHUNK = 1 << 20

Progress = Callable[[int, int], None]  # bytes done, bytes in all


def upload_bundle(link: Link, bundle: Bundle, progress: Progress | None = None) -> doc.AppDocument:
    """Bring a bundle to the server, from where an earlier try broke off; nothing if it is there.

    Raises:
        ProtocolError: the server speaks of another app than this one.
    """
    with contextlib.suppress(NotFound):
        return _show(link, bundle)
    link.run(_upload(link.connection, bundle, progress))
    return _show(link, bundle)


def _show(link: Link, bundle: Bundle) -> doc.AppDocument:
    found = link.document(doc.AppDocument, m.SHOW_APP, pb.Query(id=bundle.digest))
    if found.digest != bundle.digest:
        raise ProtocolError(f"the server answered with app {found.digest[:12]} for {bundle.digest[:12]}")
    return found


async def _upload(connection: Connection, bundle: Bundle, progress: Progress | None) -> None:
    size = len(bundle.data)
    start: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def messages() -> AsyncIterator[pb.UploadHeader | bytes]:
        yield pb.UploadHeader(digest=bundle.digest, size=size, kind="app")
        offset = await start
        while offset < size:
            data = bundle.data[offset : offset + CHUNK]
            yield data
            offset += len(data)
            if progress:
                progress(offset, size)

    complete = False
    async for reply in connection.stream(m.UPLOAD_APP, messages()):
        complete = reply.complete
        if not start.done():
            start.set_result(reply.offset)
    if not complete:
        raise ProtocolError("the server ended the upload without having all of it")


def fetch_spec(link: Link, app: doc.AppDocument) -> JobSpec:
    """What an uploaded app's job.yml says, read from its own bytes: what a person signs was seen here.

    Raises:
        ProtocolError: the server sent other bytes than the app's.
    """
    import tempfile

    from flprov.blobs import digest_file  # late, all of these: many commands need none
    from flprov.jobs import read_bundle_spec

    with tempfile.TemporaryDirectory(prefix="flprov-") as folder:
        path = Path(folder) / "bundle"
        with path.open("wb") as file:
            for chunk in link.download(m.DOWNLOAD_APP, pb.BlobRequest(digest=app.digest)):
                file.write(chunk)
        if digest_file(path) != app.digest:
            raise ProtocolError(
                f"the server's copy of app {app.digest[:12]} has other bytes than its name says"
            )
        return read_bundle_spec(path)
