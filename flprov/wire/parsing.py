# SPDX-License-Identifier: Apache-2.0
"""Bytes from a peer to a message, or a typed error."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from flprov.errors import ProtocolError

__all__ = ["Message", "parse_message"]

M = TypeVar("M", bound=Message)


def parse_message(kind: type[M], data: bytes) -> M:
    """The message of type `kind` that `data` spells, without what this version does not know.

    Nobody has checked that, and protobuf would pass it on with every copy.

    Raises:
        ProtocolError: it spells none.
    """
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        name = kind.DESCRIPTOR.name
        raise ProtocolError(f"what arrived is no {name} message ({len(data)} bytes)") from error
    message.DiscardUnknownFields()
    return message
