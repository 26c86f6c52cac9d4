# SPDX-License-Identifier: Apache-2.0
"""An exception in a worker to the Failure that its parent hears: where in the job's own code, and why."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

from flprov.errors import FlprovError, JobFailed
from flprov.wire import pb

_LONGEST_MESSAGE = 1000
_LONGEST_TRACEBACK = 32_000


def describe_failure(error: BaseException, app: Path) -> pb.Failure:
    """What `error` says, in one line that starts with file and line of the app's code, if it is in there.

    The traceback starts with the app's code too. An error of ours keeps its code, the rest is
    `job-failed`.
    """
    start = error.__traceback__
    while start is not None and not _is_own(start.tb_frame.f_code.co_filename, app):
        start = start.tb_next
    trace = start or error.__traceback__
    text = f"{_place(error, trace, app)}{_sentence(error)}"
    lines = "".join(traceback.format_exception(type(error), error, trace))
    return pb.Failure(
        code=error.code if isinstance(error, FlprovError) else JobFailed("").code,
        message=_valid(text)[:_LONGEST_MESSAGE],
        hint=_valid(error.hint or "")[:_LONGEST_MESSAGE] if isinstance(error, FlprovError) else "",
        traceback=_valid(lines)[-_LONGEST_TRACEBACK:],
    )


def _place(error: BaseException, trace: TracebackType | None, app: Path) -> str:
    """`train.py:12: `, of the innermost frame in the app's code; empty when there is none."""
    if isinstance(error, SyntaxError) and error.filename and _is_own(error.filename, app):
        return f"{_shown(error.filename, app)}:{error.lineno}: "
    own = [frame for frame in traceback.extract_tb(trace) if _is_own(frame.filename, app)]
    return f"{_shown(own[-1].filename, app)}:{own[-1].lineno}: " if own else ""


def _sentence(error: BaseException) -> str:
    if isinstance(error, FlprovError):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    lines = "".join(traceback.format_exception_only(error)).splitlines()  # also when str(error) fails
    return lines[0] if lines else type(error).__name__


def _is_own(filename: str, app: Path) -> bool:
    return Path(filename).is_relative_to(app)


def _shown(filename: str, app: Path) -> str:
    return str(Path(filename).relative_to(app))


def _valid(text: str) -> str:
    """Without lone surrogates, which protobuf refuses."""
    return text.encode(errors="backslashreplace").decode()
