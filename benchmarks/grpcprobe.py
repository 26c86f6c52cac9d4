#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What gRPC carries at all: the bytes of a round between a server and a process per site, TLS on both sides.

Nothing of flprov's is measured: certificates come from it, and the settings of gRPC are its own.

    python benchmarks/grpcprobe.py          for 100 MB and two sites
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from blake3 import blake3
from probe import PIECE, TRIES, certify


def grpc_round(size: int, sites: int, *, kept: bool) -> float:
    """Seconds for the bytes of a round: `size` to each of so many sites at once, then as many back.

    Args:
        size: bytes of the model, and of each update.
        sites: how many processes fetch and bring.
        kept: they come out of files, and are hashed and written over a file where they arrive; else the
            same MiB is sent again and again, and forgotten.
    """
    with tempfile.TemporaryDirectory(prefix="probe-", dir=".") as place, ExitStack() as stack:
        folder = Path(place)
        certify(folder)
        if kept:
            for name in ("model", *(f"update{number}" for number in range(sites))):
                _fill(folder / name, size)
        server = stack.enter_context(_Process("server", folder, str(int(kept))))
        port = server.hear()
        lines = [
            stack.enter_context(_Process("site", folder, str(int(kept)), port, str(number), str(size)))
            for number in range(sites)
        ]
        taken = []
        for _ in range(TRIES + 1):  # in the first of them all dial
            began = time.perf_counter()
            for step in ("down", "up"):
                for line in lines:
                    line.say(step)
                for line in lines:
                    line.hear()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken[1:])


class _Process:
    """One end, in a process of its own, that is told what to do line by line."""

    def __init__(self, *words: object) -> None:
        command = [sys.executable, __file__, *map(str, words)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")

    def hear(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise EOFError("a process of the probe went away")
        return line.strip()


class _Kept:
    """A file that is written over with what comes, and its hash."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        self._hash = blake3()
        self._offset = 0

    def take(self, data: bytes) -> None:
        os.pwrite(self._file, data, self._offset)
        self._hash.update(data)
        self._offset += len(data)

    def __del__(self) -> None:
        os.close(self._file)


class _Forgotten:
    def take(self, data: bytes) -> None:
        """Nothing is done with it."""


def _pieces(path: Path | None, size: int) -> Iterator[bytes]:
    if path is None:
        piece = os.urandom(PIECE)
        for offset in range(0, size, PIECE):
            yield piece[: size - offset]
        return
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            yield piece


def _fill(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for piece in _pieces(None, size):
            file.write(piece)


async def _serve(folder: Path, kept: bool) -> None:
    import grpc

    async def down(_: object, call: Any) -> None:
        size = int(await call.read())
        for piece in _pieces(folder / "model" if kept else None, size):
            await call.write(piece)

    async def up(_: object, call: Any) -> None:
        number = int(await call.read())
        sink = _Kept(folder / f"at-server{number}") if kept else _Forgotten()
        while (piece := await call.read()) is not grpc.aio.EOF:
            sink.take(piece)
        await call.write(b"k")

    class Methods(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.stream_stream_rpc_method_handler(down if details.method.endswith("down") else up)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Methods(),))
    pair = (_read(folder, "server.key"), _read(folder, "server.pem"))
    credentials = grpc.ssl_server_credentials([pair], _read(folder, "sites.pem"), require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


async def _be_site(folder: Path, kept: bool, port: int, number: int, size: int) -> None:
    import grpc

    files = ("servers.pem", "site.key", "site.pem")
    credentials = grpc.ssl_channel_credentials(*(_read(folder, name) for name in files))
    options = (("grpc.ssl_target_name_override", "localhost"),)
    channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options)
    while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
        call = channel.stream_stream(f"/probe/{word}")()
        if word == "down":
            sink = _Kept(folder / f"at-site{number}") if kept else _Forgotten()
            await call.write(b"%d" % size)
            await call.done_writing()
            while (piece := await call.read()) is not grpc.aio.EOF:
                sink.take(piece)
        else:
            await call.write(b"%d" % number)
            for piece in _pieces(folder / f"update{number}" if kept else None, size):
                await call.write(piece)
            await call.done_writing()
            await call.read()
        print("done", flush=True)


def _read(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        for keep, what in ((False, "gRPC alone"), (True, "gRPC, files read, hashed and written")):
            print(f"{what}: {grpc_round(100 << 20, 2, kept=keep):.3f} s")
    elif sys.argv[1] == "server":
        asyncio.run(_serve(Path(sys.argv[2]), sys.argv[3] == "1"))
    else:
        asyncio.run(_be_site(Path(sys.argv[2]), sys.argv[3] == "1", *map(int, sys.argv[4:7])))
