# SPDX-License-Identifier: Apache-2.0
"""What every blob store must do. Subclass `BlobConformance` in a test module with a `blobs` fixture."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

from flprov.blobs import BlobStore, digest_file, digest_of
from flprov.errors import Conflict, FlprovError, NotFound, ProtocolError

HELLO = b"hello"
HELLO_DIGEST = "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f"
ABSENT = "0" * 64
NO_DIGESTS = (
    "",
    "../x",
    "ea8f163d",
    "0" * 63,
    "0" * 65,
    "0" * 64 + "\n",
    "A" * 64,
    "g" * 64,
    "../" + "0" * 61,
    "/" + "0" * 63,
    "\u0661" * 64,
)


def _raised(kind: type[FlprovError], error: BaseException | None) -> str:
    assert isinstance(error, kind), f"expected {kind.__name__}, found {error!r}"
    return str(error)


class BlobConformance:
    """The suite. Each test takes a fresh blob store."""

    def test_digest_is_blake3_256_in_hex(self, tmp_path: Path) -> None:
        (tmp_path / "hello").write_bytes(HELLO)
        assert digest_of(HELLO) == digest_file(tmp_path / "hello") == HELLO_DIGEST

    async def test_what_is_put_can_be_read(self, blobs: BlobStore) -> None:
        assert not blobs.has(HELLO_DIGEST)
        assert await blobs.put(HELLO) == HELLO_DIGEST
        assert blobs.has(HELLO_DIGEST)
        assert blobs.size(HELLO_DIGEST) == 5
        assert blobs.path(HELLO_DIGEST).read_bytes() == HELLO
        assert blobs.digests() == {HELLO_DIGEST}

    async def test_empty_blob_is_a_blob(self, blobs: BlobStore) -> None:
        digest = await blobs.put(b"")
        assert (blobs.size(digest), list(blobs.read(digest))) == (0, [])

    async def test_same_bytes_are_kept_once(self, blobs: BlobStore) -> None:
        first = await blobs.put(HELLO)
        number = blobs.path(first).stat().st_ino
        assert await asyncio.gather(*(blobs.put(HELLO) for _ in range(10))) == [first] * 10
        assert blobs.path(first).stat().st_ino == number

    async def test_blobs_put_at_once_are_all_there(self, blobs: BlobStore) -> None:
        pieces = [bytes([n]) * n for n in range(60)]
        digests = await asyncio.gather(*(blobs.put(piece) for piece in pieces))
        assert [b"".join(blobs.read(digest)) for digest in digests] == pieces

    async def test_blob_is_read_only_and_its_folders_are_private(self, blobs: BlobStore) -> None:
        path = blobs.path(await blobs.put(HELLO))
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        assert [stat.S_IMODE(folder.stat().st_mode) for folder in path.parents[:2]] == [0o700, 0o700]

    async def test_read_goes_in_pieces_from_an_offset(self, blobs: BlobStore) -> None:
        digest = await blobs.put(b"abcdefgh")
        assert list(blobs.read(digest, chunk=3)) == [b"abc", b"def", b"gh"]
        assert list(blobs.read(digest, 5, 2)) == [b"fg", b"h"]
        assert list(blobs.read(digest, 8)) == []

    async def test_read_beyond_the_end_is_refused(self, blobs: BlobStore) -> None:
        digest = await blobs.put(HELLO)
        for offset in (6, 2**63, -1):
            assert "5 bytes" in _raised(ProtocolError, _error_of(blobs.read, digest, offset))

    async def test_blob_removed_while_it_is_read_is_read_whole(self, blobs: BlobStore) -> None:
        digest = await blobs.put(b"abcdef")
        reading = blobs.read(digest, chunk=3)
        assert next(reading) == b"abc"
        blobs.remove(digest)
        assert list(reading) == [b"def"]

    async def test_removed_blob_is_absent_and_may_come_again(self, blobs: BlobStore, tmp_path: Path) -> None:
        digest = await blobs.put(HELLO)
        blobs.link(digest, tmp_path / "kept")
        blobs.remove(digest)
        blobs.remove(digest)
        assert not blobs.has(digest)
        assert blobs.digests() == set()
        assert (tmp_path / "kept").read_bytes() == HELLO
        assert await blobs.put(HELLO) == digest
        assert blobs.has(digest)

    def test_absent_blob_is_not_found(self, blobs: BlobStore, tmp_path: Path) -> None:
        for call in (blobs.path, blobs.size, blobs.read):
            assert ABSENT[:12] in _raised(NotFound, _error_of(call, ABSENT))
        _raised(NotFound, _error_of(blobs.link, ABSENT, tmp_path / "x"))

    def test_what_is_no_digest_is_refused_everywhere(self, blobs: BlobStore, tmp_path: Path) -> None:
        for name in NO_DIGESTS:
            for call in (blobs.has, blobs.path, blobs.size, blobs.read, blobs.remove):
                assert "64 lower-case hex" in _raised(ProtocolError, _error_of(call, name))
            _raised(ProtocolError, _error_of(blobs.link, name, tmp_path / "x"))
            for size in (0, -1, 5):
                _raised(ProtocolError, _error_of(blobs.upload, name, size))

    async def test_link_is_the_blob_and_read_only(self, blobs: BlobStore, tmp_path: Path) -> None:
        digest = await blobs.put(HELLO)
        blobs.link(digest, tmp_path / "in")
        assert (tmp_path / "in").read_bytes() == HELLO
        assert stat.S_IMODE((tmp_path / "in").stat().st_mode) == 0o444

    async def test_link_replaces_nothing(self, blobs: BlobStore, tmp_path: Path) -> None:
        digest = await blobs.put(HELLO)
        (tmp_path / "in").write_bytes(b"mine")
        _raised(Conflict, _error_of(blobs.link, digest, tmp_path / "in"))
        assert (tmp_path / "in").read_bytes() == b"mine"

    # ---- adopting a file from a folder that others may write to ----

    async def test_adopted_file_is_a_copy(self, blobs: BlobStore, tmp_path: Path) -> None:
        source = tmp_path / "out"
        source.write_bytes(HELLO)
        assert await blobs.adopt(source, limit=5) == (HELLO_DIGEST, 5)
        source.write_bytes(b"other")
        assert blobs.path(HELLO_DIGEST).read_bytes() == HELLO
        assert await blobs.adopt(source, limit=5) == (digest_of(b"other"), 5)

    async def test_file_over_the_limit_is_not_adopted(self, blobs: BlobStore, tmp_path: Path) -> None:
        (tmp_path / "out").write_bytes(HELLO)
        error = await _adopting(blobs, tmp_path / "out", limit=4)
        assert "limit of 4 bytes" in _raised(ProtocolError, error)
        assert blobs.digests() == set()

    async def test_only_a_file_of_one_name_is_adopted(self, blobs: BlobStore, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_bytes(b"key")
        (tmp_path / "link").symlink_to(secret)
        (tmp_path / "hard").hardlink_to(secret)
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        for name in ("link", "hard", "folder", "pipe", "x" * 300, "zero\0byte"):
            _raised(ProtocolError, await _adopting(blobs, tmp_path / name))
        _raised(NotFound, await _adopting(blobs, tmp_path / "absent"))
        assert blobs.digests() == set()

    # ---- uploads ----

    async def test_uploaded_pieces_become_the_blob(self, blobs: BlobStore) -> None:
        upload = blobs.upload(HELLO_DIGEST, 5)
        assert upload.offset == 0
        for piece in (b"he", b"", b"l", b"lo"):
            await upload.write(piece)
        assert not blobs.has(HELLO_DIGEST)
        await upload.finish()
        assert blobs.path(HELLO_DIGEST).read_bytes() == HELLO
        assert stat.S_IMODE(blobs.path(HELLO_DIGEST).stat().st_mode) == 0o444

    async def test_upload_of_nothing_makes_the_empty_blob(self, blobs: BlobStore) -> None:
        await blobs.upload(digest_of(b""), 0).finish()
        assert blobs.has(digest_of(b""))

    async def test_upload_of_what_is_here_is_complete_at_once(self, blobs: BlobStore) -> None:
        await blobs.put(HELLO)
        upload = blobs.upload(HELLO_DIGEST, 5)
        assert upload.offset == 5
        await upload.write(b"")
        await upload.finish()
        _raised(ProtocolError, await _error(upload.write(b"x")))
        assert blobs.path(HELLO_DIGEST).read_bytes() == HELLO

    async def test_size_that_differs_from_the_blob_is_refused(self, blobs: BlobStore) -> None:
        await blobs.put(HELLO)
        for size in (4, 2**63, -1):
            _raised(ProtocolError, _error_of(blobs.upload, HELLO_DIGEST, size))

    async def test_broken_upload_goes_on_where_it_stopped(self, blobs: BlobStore) -> None:
        first = blobs.upload(HELLO_DIGEST, 5)
        await first.write(b"hel")
        first.close()
        second = blobs.upload(HELLO_DIGEST, 5)
        assert second.offset == 3
        await second.write(b"lo")
        await second.finish()
        assert blobs.path(HELLO_DIGEST).read_bytes() == HELLO

    async def test_newer_upload_takes_over_from_one_that_hangs(self, blobs: BlobStore) -> None:
        older = blobs.upload(HELLO_DIGEST, 5)
        await older.write(b"hel")
        newer = blobs.upload(HELLO_DIGEST, 5)
        for call in (older.write(b"XX"), older.finish()):
            _raised(Conflict, await _error(call))
        assert newer.offset == 3
        await newer.write(b"lo")
        await newer.finish()
        assert blobs.path(HELLO_DIGEST).read_bytes() == HELLO

    async def test_owners_cannot_spoil_each_others_uploads(self, blobs: BlobStore) -> None:
        honest = blobs.upload(HELLO_DIGEST, 5, owner="site/a")
        await honest.write(b"he")
        villain = blobs.upload(HELLO_DIGEST, 5, owner="site/b")
        assert villain.offset == 0
        await villain.write(b"XXXXX")
        _raised(ProtocolError, await _error(villain.finish()))
        await honest.write(b"llo")
        await honest.finish()
        assert blobs.path(HELLO_DIGEST).read_bytes() == HELLO

    async def test_two_owners_may_bring_the_same_blob(self, blobs: BlobStore) -> None:
        uploads = [blobs.upload(HELLO_DIGEST, 5, owner=owner) for owner in ("a", "b", "c")]
        await asyncio.gather(*(upload.write(HELLO) for upload in uploads))
        await asyncio.gather(*(upload.finish() for upload in uploads))
        assert blobs.digests() == {HELLO_DIGEST}

    async def test_wrong_bytes_are_refused_and_not_kept(self, blobs: BlobStore) -> None:
        upload = blobs.upload(HELLO_DIGEST, 5)
        await upload.write(b"hellO")
        assert "another digest" in _raised(ProtocolError, await _error(upload.finish()))
        assert not blobs.has(HELLO_DIGEST)
        assert blobs.upload(HELLO_DIGEST, 5).offset == 0

    async def test_too_many_bytes_are_refused_and_not_kept(self, blobs: BlobStore) -> None:
        upload = blobs.upload(HELLO_DIGEST, 5)
        await upload.write(b"hell")
        assert "longer than" in _raised(ProtocolError, await _error(upload.write(b"oo")))
        assert blobs.upload(HELLO_DIGEST, 5).offset == 0

    async def test_upload_that_ends_early_is_no_blob_and_can_go_on(self, blobs: BlobStore) -> None:
        upload = blobs.upload(HELLO_DIGEST, 5)
        await upload.write(b"hell")
        assert "4 of 5 bytes" in _raised(ProtocolError, await _error(upload.finish()))
        assert not blobs.has(HELLO_DIGEST)
        assert blobs.upload(HELLO_DIGEST, 5).offset == 4

    async def test_upload_announced_smaller_than_what_is_there_begins_anew(self, blobs: BlobStore) -> None:
        await blobs.upload(HELLO_DIGEST, 50).write(b"X" * 40)
        upload = blobs.upload(HELLO_DIGEST, 5)
        assert upload.offset == 0
        await upload.write(HELLO)
        await upload.finish()
        assert blobs.path(HELLO_DIGEST).read_bytes() == HELLO

    async def test_finished_upload_takes_no_more(self, blobs: BlobStore) -> None:
        upload = blobs.upload(HELLO_DIGEST, 5)
        await upload.write(HELLO)
        await upload.finish()
        await upload.finish()
        upload.close()
        _raised(ProtocolError, await _error(upload.write(b"more")))
        assert blobs.path(HELLO_DIGEST).read_bytes() == HELLO


def _error_of(call: object, *args: object) -> BaseException | None:
    try:
        call(*args)  # type: ignore[operator]
    except FlprovError as error:
        return error
    return None


async def _error(call: object) -> BaseException | None:
    try:
        await call  # type: ignore[misc]
    except FlprovError as error:
        return error
    return None


async def _adopting(blobs: BlobStore, path: Path, limit: int = 100) -> BaseException | None:
    return await _error(blobs.adopt(path, limit=limit))
