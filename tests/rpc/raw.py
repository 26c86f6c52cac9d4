# SPDX-License-Identifier: Apache-2.0
"""Calls over bare gRPC, with none of our client's manners: what a hostile peer can send."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from parties import project

from flprov.pki import Credential
from flprov.rpc.grpc_settings import EOF, PROTOCOL_METADATA, grpc


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a call ended."""

    code: grpc.StatusCode
    details: str
    trailers: dict[str, Any]
    replies: list[bytes]


class RawCaller:
    """One channel with some credential, or none."""

    def __init__(self, port: int, credential: Credential | None, *, roots: bytes | None = None) -> None:
        own = (credential.private_pem, credential.chain_pem) if credential else (None, None)
        credentials = grpc.ssl_channel_credentials(roots or project().server_anchors.pem, *own)
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options)

    async def call(self, path: str, *messages: bytes, metadata: Any = PROTOCOL_METADATA) -> Answer:
        call = self._channel.stream_stream(path)(metadata=metadata, timeout=20)
        replies: list[bytes] = []
        try:
            await call.wait_for_connection()
            with contextlib.suppress(grpc.aio.BaseError):  # refused before all was sent
                for message in messages:  # not `write`: grpc/grpc#36066
                    await call._cython_call.send_serialized_message(message)
                await call.done_writing()
            while (reply := await call.read()) is not EOF:
                replies.append(reply)
        except grpc.aio.AioRpcError as error:
            trailers = dict(error.trailing_metadata() or ())
            return Answer(code=error.code(), details=error.details(), trailers=trailers, replies=replies)
        return Answer(code=grpc.StatusCode.OK, details="", trailers={}, replies=replies)

    async def __aenter__(self) -> RawCaller:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()
