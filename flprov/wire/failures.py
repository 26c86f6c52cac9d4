# SPDX-License-Identifier: Apache-2.0
"""An error as it travels in a message, and back: class, words and hint stay together.

In calls that fail, errors travel in the call's status instead (flprov/rpc/status.py).
"""

from __future__ import annotations

from flprov.errors import ConfigError, FlprovError, error_class
from flprov.wire import flprov_pb2 as pb


def failure_of(error: FlprovError, *, traceback: str = "") -> pb.Failure:
    """The message for an error: never its cause."""
    return pb.Failure(code=error.code, message=str(error), hint=error.hint or "", traceback=traceback)


def error_of(failure: pb.Failure) -> FlprovError:
    """The error that a message reports, of the class that it had; so its nature is known here as well."""
    kind, hint = error_class(failure.code), failure.hint or None
    message = failure.message or "the other side gave no reason"
    if issubclass(kind, ConfigError):
        return kind(message.split("\n"), hint=hint)
    return kind(message, hint=hint)
