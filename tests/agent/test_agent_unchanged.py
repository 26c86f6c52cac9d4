# SPDX-License-Identifier: Apache-2.0
"""Tensors that the other side has are not sent again, either way; the digest vouches for the whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from agent_parties import NOW
from agent_rig import PATIENCE, FakeServer

from flprov.agent import bulk as bulk_module
from flprov.agent.bulk import Bulk
from flprov.blobs import BlobStore, digest_of
from flprov.errors import PermissionRefused
from flprov.rpc import methods as m
from flprov.server.comparing import Comparisons
from flprov.server.transfers import receive_blob
from flprov.testing.clock import FakeClock
from flprov.wire import encode_tensors, pb

FROZEN = {f"frozen{n}": np.random.default_rng(n).normal(size=20_000) for n in range(10)}  # 1.6 MB
HEAD = 80_000  # bytes
SLACK = 4_000  # of the header


def model(head: float) -> bytes:
    return encode_tensors(FROZEN | {"head": np.full(HEAD // 8, head)}, {})


OLD, NEW = model(1.0), model(2.0)


class Comparer(FakeServer):
    """A server that has `given` models and compares them with others."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.given: set[str] = set()
        self.store = BlobStore(folder / "store")
        self.comparisons = Comparisons(self.store)
        self.brought = 0  # bytes of updates

    def more(self):
        return {m.COMPARE_BLOB: self._compare, m.SEND_BLOB: self._take}

    async def give(self, data: bytes) -> str:
        self.given.add(await self.store.put(data))
        return self.add(data)

    async def _compare(self, call: object, request: pb.CompareRequest) -> pb.CompareReply:
        return await self.comparisons.compare(self._had(request.base), request.digest)

    def _had(self, digest: str) -> str:
        if digest not in self.given:
            raise PermissionRefused("it was never given that")
        return digest

    async def _take(self, call: object, requests) -> AsyncIterator[pb.UploadReply]:
        breaks = self._line()

        async def counted():
            async for piece in requests:
                if isinstance(piece, bytes):
                    breaks()
                    self.brought += len(piece)
                yield piece

        def base_of(header: pb.UploadHeader) -> Path | None:
            digest = self._had(header.base)
            return self.store.path(digest) if self.store.has(digest) else None

        taken = receive_blob(
            self.received, counted(), owner="site-1", verify=self._know, most=1 << 30, base_of=base_of
        )
        async for reply in taken:
            yield reply

    @property
    def fetched(self) -> int:
        return sum(ask.length for ask in self.fetches)


@pytest.fixture
async def server(tmp_path):
    made = Comparer(tmp_path / "server")
    made.chunk = 10_000
    yield made
    await made.network.stop()


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def clock():
    return FakeClock(start=NOW)


@pytest.fixture
async def bulk(server, blobs, clock):
    made = Bulk(server.connect, blobs, clock)
    async with asyncio.timeout(PATIENCE):
        yield made
    await made.close()


def spoil(path: Path) -> None:
    """Another byte in the middle, as of a disk that forgets."""
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\x55")
    path.chmod(0o444)


# ---- to the site -------------------------------------------------------------------------------


async def test_frozen_layers_cost_no_bytes_on_the_way_down(bulk, server, blobs):
    base, new = await server.give(OLD), await server.give(NEW)
    await blobs.put(OLD)
    await bulk.fetch("j1", new, len(NEW), base=base)
    assert blobs.path(new).read_bytes() == NEW
    assert HEAD <= server.fetched <= HEAD + SLACK


async def test_a_model_that_has_changed_everywhere_comes_whole(bulk, server, blobs):
    other = encode_tensors({name: array + 1 for name, array in FROZEN.items()}, {})
    base, new = await server.give(OLD), await server.give(other)
    await blobs.put(OLD)
    await bulk.fetch("j1", new, len(other), base=base)
    assert server.fetched == len(other)


async def test_a_fetch_goes_on_in_the_middle_of_what_is_copied(bulk, server, blobs, monkeypatch):
    base, new = await server.give(OLD), await server.give(NEW)
    await blobs.put(OLD)
    half = blobs.upload(new, len(NEW), owner="j1")
    await half.write(NEW[: len(NEW) // 2])
    half.close()
    await bulk.fetch("j1", new, len(NEW), base=base)
    assert blobs.path(new).read_bytes() == NEW
    assert server.fetched <= HEAD + SLACK


async def test_a_damaged_base_is_noticed_and_all_of_it_is_fetched(bulk, server, blobs):
    base, new = await server.give(OLD), await server.give(NEW)
    spoil(blobs.path(await blobs.put(OLD)))
    await bulk.fetch("j1", new, len(NEW), base=base)
    assert blobs.path(new).read_bytes() == NEW
    assert server.fetched >= len(NEW)


@pytest.mark.parametrize(
    "lie",
    [
        pb.SameBytes(offset=0, size=1000, base_offset=7),
        pb.SameBytes(offset=0, size=2**63),
        pb.SameBytes(offset=len(NEW) - 5, size=10),
    ],
)
async def test_a_server_that_lies_about_what_is_the_same_is_not_believed(
    bulk, server, blobs, lie, monkeypatch
):
    async def compare(_base: str, _digest: str) -> pb.CompareReply:
        return pb.CompareReply(same=[lie])

    monkeypatch.setattr(server.comparisons, "compare", compare)
    base, new = await server.give(OLD), await server.give(NEW)
    await blobs.put(OLD)
    await bulk.fetch("j1", new, len(NEW), base=base)
    assert blobs.path(new).read_bytes() == NEW


@pytest.mark.parametrize("here", [True, False])
async def test_a_base_that_one_side_does_not_have_is_none(bulk, server, blobs, here):
    new = await server.give(NEW)
    base = await blobs.put(OLD) if here else await server.give(OLD)
    await bulk.fetch("j1", new, len(NEW), base=base)
    assert server.fetched == len(NEW)


async def test_about_a_small_blob_nobody_asks(bulk, server, blobs, monkeypatch):
    monkeypatch.setattr(server.comparisons, "compare", None)
    base, new = await server.give(b"old"), await server.give(b"new")
    await blobs.put(b"old")
    await bulk.fetch("j1", new, 3, base=base)
    assert bulk_module._WORTH_COMPARING > 3


# ---- to the server -----------------------------------------------------------------------------


async def test_frozen_layers_cost_no_bytes_on_the_way_up(bulk, server, blobs):
    base = await server.give(OLD)
    await blobs.put(OLD)
    update = await blobs.put(NEW)
    await bulk.send("j1", update, base=base)
    assert server.received.path(update).read_bytes() == NEW
    assert HEAD <= server.brought <= HEAD + SLACK


async def test_an_update_that_is_the_model_costs_a_header(bulk, server, blobs):
    base = await server.give(OLD)
    await blobs.put(OLD)
    same = encode_tensors(FROZEN | {"head": np.full(HEAD // 8, 1.0)}, {"note": "another file"})
    update = await blobs.put(same)
    await bulk.send("j1", update, base=base)
    assert server.received.path(update).read_bytes() == same
    assert server.brought <= SLACK


async def test_an_upload_goes_on_in_the_middle_of_what_is_copied(bulk, server, blobs):
    base = await server.give(OLD)
    await blobs.put(OLD)
    update = await blobs.put(NEW)
    half = server.received.upload(update, len(NEW), owner="j1/site-1")
    await half.write(NEW[: len(NEW) // 2])
    half.close()
    await bulk.send("j1", update, base=base)
    assert server.received.path(update).read_bytes() == NEW
    assert server.brought <= HEAD + SLACK


async def test_a_base_that_was_never_given_is_refused_and_all_of_it_is_sent(bulk, server, blobs):
    stranger = await blobs.put(OLD)
    update = await blobs.put(NEW)
    await bulk.send("j1", update, base=stranger)
    assert [header.base for header in server.uploads] == [stranger, ""]
    assert server.brought == len(NEW)


async def test_a_base_that_has_gone_at_the_server_is_none(bulk, server, blobs):
    base = await server.give(OLD)
    server.store.remove(base)
    await blobs.put(OLD)
    update = await blobs.put(NEW)
    await bulk.send("j1", update, base=base)
    assert (len(server.uploads), server.brought) == (1, len(NEW))


async def test_a_base_that_is_damaged_at_the_server_is_noticed_and_all_of_it_is_sent(bulk, server, blobs):
    base = await server.give(OLD)
    spoil(server.store.path(base))
    await blobs.put(OLD)
    update = await blobs.put(NEW)
    await bulk.send("j1", update, base=base)
    assert server.received.path(update).read_bytes() == NEW
    assert server.brought >= len(NEW)


async def test_many_sites_that_ask_are_answered_by_one_look(server, monkeypatch):
    looks: list[str] = []
    base, new = await server.give(OLD), await server.give(NEW)
    real = server.comparisons._compare
    monkeypatch.setattr(server.comparisons, "_compare", lambda *pair: (looks.append("look"), real(*pair))[1])
    replies = await asyncio.gather(*(server.comparisons.compare(base, new) for _ in range(20)))
    assert (len(looks), len({reply.SerializeToString() for reply in replies})) == (1, 1)
    assert digest_of(NEW) == new
