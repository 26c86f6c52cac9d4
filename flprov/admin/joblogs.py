# SPDX-License-Identifier: Apache-2.0
"""The logs of a job, part by part; a reader that follows them goes on where a broken connection left it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from flprov.admin.following import OnRetry, follow_stream
from flprov.rpc import methods as m
from flprov.wire import pb

if TYPE_CHECKING:
    from flprov.admin.link import Link


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

    def note(part: pb.LogMessage) -> None:
        request.job_id = part.job_id or request.job_id  # after a break "last" may name another one
        request.offsets[part.site] = part.offset + len(part.data)

    return follow_stream(link, m.JOB_LOGS, request, note=note, rest=rest, on_retry=on_retry)
