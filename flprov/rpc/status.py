# SPDX-License-Identifier: Apache-2.0
"""Errors across gRPC: our classes to status and trailing metadata, and back.

    flprov-code           the class, e.g. `policy-refused`
    flprov-message-bin    str(error), UTF-8, cut
    flprov-hint-bin       its hint, if any, likewise

The status code is for tools that know nothing of us; our own client reads the metadata. A status
without it comes from gRPC itself, or from something between that is not ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flprov.errors import (
    ConfigError,
    ConfinementRefused,
    Conflict,
    FlprovError,
    IdentityRefused,
    JobFailed,
    KitRefused,
    LocalError,
    Misuse,
    NoRoom,
    NotFound,
    PermissionRefused,
    PolicyRefused,
    ProtocolError,
    Refused,
    RemoteError,
    ServerUnavailable,
    SiteLocked,
    SiteUnavailable,
    StateDamaged,
    TimedOut,
    Unavailable,
    UpdateRefused,
)
from flprov.rpc.crossing import Report, clean_text, cut_text, from_report, to_report
from flprov.rpc.grpc_settings import grpc

CODE, MESSAGE, HINT = "flprov-code", "flprov-message-bin", "flprov-hint-bin"
_DETAILS_LIMIT = 200

_S = grpc.StatusCode
STATUS: Mapping[type[FlprovError], grpc.StatusCode] = {
    FlprovError: _S.FAILED_PRECONDITION,
    Misuse: _S.INVALID_ARGUMENT,
    ConfigError: _S.INVALID_ARGUMENT,
    Conflict: _S.ALREADY_EXISTS,
    Refused: _S.PERMISSION_DENIED,
    IdentityRefused: _S.UNAUTHENTICATED,
    SiteLocked: _S.UNAUTHENTICATED,
    PermissionRefused: _S.PERMISSION_DENIED,
    PolicyRefused: _S.PERMISSION_DENIED,
    KitRefused: _S.PERMISSION_DENIED,
    UpdateRefused: _S.INVALID_ARGUMENT,
    ConfinementRefused: _S.PERMISSION_DENIED,
    NoRoom: _S.RESOURCE_EXHAUSTED,
    Unavailable: _S.UNAVAILABLE,
    ServerUnavailable: _S.UNAVAILABLE,
    SiteUnavailable: _S.UNAVAILABLE,
    NotFound: _S.NOT_FOUND,
    TimedOut: _S.DEADLINE_EXCEEDED,
    LocalError: _S.INTERNAL,
    StateDamaged: _S.DATA_LOSS,
    RemoteError: _S.ABORTED,
    ProtocolError: _S.INVALID_ARGUMENT,
    JobFailed: _S.ABORTED,
}

# What gRPC says by itself. Retrying may help where the connection or the server went away.
WITHOUT_CODE: Mapping[grpc.StatusCode, type[FlprovError]] = {
    _S.OK: ProtocolError,
    _S.CANCELLED: ServerUnavailable,
    _S.UNKNOWN: ServerUnavailable,
    _S.INVALID_ARGUMENT: ProtocolError,
    _S.DEADLINE_EXCEEDED: TimedOut,
    _S.NOT_FOUND: ProtocolError,
    _S.ALREADY_EXISTS: ProtocolError,
    _S.PERMISSION_DENIED: PermissionRefused,
    _S.RESOURCE_EXHAUSTED: ProtocolError,
    _S.FAILED_PRECONDITION: ProtocolError,
    _S.ABORTED: ServerUnavailable,
    _S.OUT_OF_RANGE: ProtocolError,
    _S.UNIMPLEMENTED: ProtocolError,
    _S.INTERNAL: ServerUnavailable,
    _S.UNAVAILABLE: ServerUnavailable,
    _S.DATA_LOSS: ProtocolError,
    _S.UNAUTHENTICATED: IdentityRefused,
}

Metadata = tuple[tuple[str, str | bytes], ...]


def to_status(error: FlprovError) -> tuple[grpc.StatusCode, str, Metadata]:
    """Status code, details and trailing metadata that carry `error`."""
    report = to_report(error)
    trailers: Metadata = ((CODE, report.code), (MESSAGE, report.message))
    if report.hint:
        trailers = (*trailers, (HINT, report.hint))
    details = cut_text(str(error), _DETAILS_LIMIT).decode().encode("ascii", "replace").decode()
    return STATUS[type(error)], details, trailers


def from_status(
    code: grpc.StatusCode, details: str, trailers: Iterable[tuple[str, str | bytes]], *, server: str
) -> FlprovError:
    """The error that a failed call reports. `server` is its address, for the message."""
    found = dict(trailers)
    if CODE in found:
        report = Report(code=str(found[CODE]), message=_data(found, MESSAGE), hint=_data(found, HINT))
        return from_report(report)
    kind = WITHOUT_CODE[code]
    said = clean_text(details)[:_DETAILS_LIMIT]
    if kind is ServerUnavailable:
        return ServerUnavailable(f"the server at {server} does not answer ({said or code.name})")
    if kind is TimedOut:
        return TimedOut(f"the server at {server} did not answer in time")
    return kind(f"the call to {server} failed with {code.name}: {said}")


def _data(trailers: Mapping[str, str | bytes], key: str) -> bytes:
    value = trailers.get(key, b"")
    return value if isinstance(value, bytes) else value.encode()
