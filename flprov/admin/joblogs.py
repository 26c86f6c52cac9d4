# SPDX-License-Identifier: Apache-2.0
"""The logs of a job, part by part; a reader that follows them goes on where a broken connection left it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from flprov._base import backoff
from flprov.errors import FlprovError, Nature
from flprov.rpc import methods as m
from flprov.wire import pb

if TYPE_CHECKING:
    from flprov.admin.link import Link

OnRetry = Callable[[FlprovError, int, float], None]  # why, which try follows, in how many seconds


def read_logs(
    link: Link, request: pb.LogsRequest, *, rest: Callable[[float], None], on_retry: OnRetry | None
) -> Iterator[Any]:
    """The messages of JobLogs.

    Args:
        link: to the server.
        request: what is wanted; `follow` goes on until the job has ended.
        rest: waits between two tries.
        on_retry: told of each try after a break; None: a break is the end.

    Raises:
        FlprovError: what time cannot heal, or a server that has not answered at all.
    """
    waits, tries, begun = backoff(first=0.5), 0, False
    while True:
        try:
            for part in link.download(m.JOB_LOGS, request):
                begun, waits, tries = True, backoff(first=0.5), 0
                request.offsets[part.site] = part.offset + len(part.data)
                yield part
        except FlprovError as error:
            if on_retry is None or error.nature is not Nature.TRANSIENT or not (begun and request.follow):
                raise
            tries += 1
            seconds = next(waits)
            on_retry(error, tries, seconds)
        else:
            return
        rest(seconds)
