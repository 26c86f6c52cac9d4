# SPDX-License-Identifier: Apache-2.0
"""What a probe can find, by name."""

from __future__ import annotations

import enum

from flprov._base import dataclass
from flprov.errors import FlprovError, IdentityRefused
from flprov.pki import Identity


class Cause(enum.Enum):
    """What a probe found."""

    FINE = "fine"  # the server is ours and takes our certificate
    NAME = "name"  # the host name does not resolve
    NOTHING_LISTENS = "nothing_listens"  # TCP refused
    UNREACHABLE = "unreachable"  # no route, network down
    TIMEOUT = "timeout"  # no answer in time
    PROXY_UNREACHABLE = "proxy_unreachable"  # no name, no TCP, or it hung up
    PROXY_LOGIN = "proxy_login"  # 407: it wants another login than it got
    PROXY_REFUSED = "proxy_refused"  # it lets us through to nowhere: a rule of its own, or the server is away
    PROXY_NONSENSE = "proxy_nonsense"  # something answers there, but no HTTP proxy
    NOT_TLS = "not_tls"  # something answers, but not TLS
    TLS_VERSION = "tls_version"  # no TLS 1.3
    OTHER_CA = "other_ca"  # another CA: another project, or an interceptor
    EXPIRED = "expired"  # the server's certificate is past its last day
    NOT_YET_VALID = "not_yet_valid"  # or before its first one
    WRONG_NAME = "wrong_name"  # the certificate is for other host names
    NOT_A_SERVER = "not_a_server"  # our CA, but no server's certificate by our rules
    OWN_EXPIRED = "own_expired"  # our certificate is past its last day
    OWN_NOT_YET_VALID = "own_not_yet_valid"  # or before its first one
    OWN_REFUSED = "own_refused"  # the server hung up on our certificate
    NOT_OURS = "not_ours"  # TLS as it should be, but then it does not speak HTTP/2


class Stage(enum.Enum):
    """How far a probe came; the value is what it waits for there."""

    OWN = "own certificate"  # before anything is dialled
    NAME = "answer from DNS"
    TCP = "TCP connection"
    PROXY = "answer from the proxy"  # where there is one
    TLS = "TLS handshake"
    GREETING = "HTTP/2"  # the server's first bytes, which it sends to those whose certificate it takes


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage that a probe has passed, and what it saw there."""

    stage: Stage
    found: str


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What dialling one endpoint brought to light."""

    endpoint: str
    cause: Cause
    error: FlprovError | None = None  # None: fine. ServerUnavailable if trying again may help
    server: Identity | None = None  # whose certificate it showed, if it is one of ours
    stage: Stage = Stage.GREETING  # the last one, where it ended well or badly
    steps: tuple[Step, ...] = ()  # those that it passed


class Found(Exception):
    """Ends a probe early."""

    def __init__(self, cause: Cause, error: FlprovError) -> None:
        super().__init__(cause, error)
        self.cause = cause
        self.error = error


def identity_refused(endpoint: str, text: str, hint: str | None = None) -> IdentityRefused:
    """The error for a certificate that is not acceptable, at one endpoint."""
    return IdentityRefused(f"{endpoint}: {text}", hint=hint)
