# SPDX-License-Identifier: Apache-2.0
"""Streams that are followed: after a break in the line a reader goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from flprov._base import backoff
from flprov.errors import FlprovError, Nature

if TYPE_CHECKING:
    from flprov.admin.link import Link
    from flprov.rpc import Method
    from flprov.wire import pb

OnRetry = Callable[[FlprovError, int, float], None]  # why, which try follows, in how many seconds


def follow_stream(
    link: Link,
    method: Method,
    request: pb.LogsRequest | pb.SeriesRequest,
    *,
    note: Callable[[Any], None],
    rest: Callable[[float], None],
    on_retry: OnRetry | None,
) -> Iterator[Any]:
    """The messages of a download.

    Args:
        link: to the server.
        method: what is asked.
        request: what is wanted; with `follow` a break is not the end.
        note: puts into the request how far a message has brought us.
        rest: waits between two tries.
        on_retry: told of each try after a break; None: a break is the end.

    Raises:
        FlprovError: what time cannot heal, or a server that has not answered at all.
    """
    waits, tries, begun = backoff(first=0.5), 0, False
    while True:
        try:
            for message in link.download(method, request):
                begun, waits, tries = True, backoff(first=0.5), 0
                note(message)
                yield message
        except FlprovError as error:
            if on_retry is None or error.nature is not Nature.TRANSIENT or not (begun and request.follow):
                raise
            tries += 1
            seconds = next(waits)
            on_retry(error, tries, seconds)
        else:
            return
        rest(seconds)
