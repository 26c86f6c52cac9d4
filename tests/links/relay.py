# SPDX-License-Identifier: Apache-2.0
"""A relay for TCP connections that were redirected to it, which stalls on demand. See netns.py.

    python relay.py PORT MARK

It reads `stall` and `go` from stdin and answers with the same word.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys

_ORIGINAL = 80  # SO_ORIGINAL_DST
_MARK = 36  # SO_MARK: the redirection leaves our own connections alone
_PIECE = 65536


class Gate:
    """What every piece waits at."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()


async def _pass_on(gate: Gate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            await gate.open.wait()
            data = await reader.read(_PIECE)
            await gate.open.wait()
            if not data:
                break
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


async def _serve(gate: Gate, mark: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket").getsockopt(socket.SOL_IP, _ORIGINAL, 16)
    port, address = struct.unpack("!2xH4s8x", raw)
    await gate.open.wait()
    onward = socket.socket()
    onward.settimeout(0)
    onward.setsockopt(socket.SOL_SOCKET, _MARK, mark)
    try:
        await asyncio.get_running_loop().sock_connect(onward, (socket.inet_ntoa(address), port))
    except OSError:
        onward.close()
        writer.close()
        return
    far_reader, far_writer = await asyncio.open_connection(sock=onward)
    await asyncio.gather(_pass_on(gate, reader, far_writer), _pass_on(gate, far_reader, writer))


async def _obey(gate: Gate) -> None:
    loop = asyncio.get_running_loop()
    words = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(words), sys.stdin)
    while word := (await words.readline()).decode().strip():
        if word == "stall":
            gate.open.clear()
        else:
            gate.open.set()
        print(word, flush=True)


async def _run(port: int, mark: int) -> None:
    gate = Gate()
    server = await asyncio.start_server(lambda r, w: _serve(gate, mark, r, w), "127.0.0.1", port)
    print("ready", flush=True)
    async with server:
        await _obey(gate)


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]), int(sys.argv[2])))
