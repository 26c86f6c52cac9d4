# SPDX-License-Identifier: Apache-2.0
"""One attempt to reach a server, stage by stage: name, TCP, TLS, first bytes. Each failure is a finding."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flprov.errors import IdentityRefused, ServerUnavailable
from flprov.pki import Identity
from flprov.rpc.endpoints import split_endpoint
from flprov.rpc.findings import Cause, Found, identity_refused

_SETTINGS = 4
_NOT_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"}
)


class Dial:
    """One attempt, stage by stage."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.host, self.port = split_endpoint(endpoint)
        self.awaited = "answer from DNS"
        self.certificate = b""
        self.server: Identity | None = None  # whose certificate it is, once our own rules took it
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self) -> socket.socket:
        """A TCP connection to the first of the host's addresses that takes it."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # the latter for what is no name at all
            reason = getattr(error, "strerror", None) or "it is no name"
            text = f"{self.endpoint}: the name {self.host} does not resolve ({reason})"
            hint = f"check the name, and DNS: getent hosts {self.host}"
            raise Found(Cause.NAME, ServerUnavailable(text, hint=hint)) from error
        self.awaited = "TCP connection"
        failure: OSError | None = None
        for family, kind, protocol, _name, address in found:
            try:
                return await _connect_tcp(family, kind, protocol, address)
            except OSError as error:
                failure = failure or error
        assert failure is not None
        raise self._explain_tcp(failure) from failure

    def _explain_tcp(self, error: OSError) -> Found:
        if isinstance(error, ConnectionRefusedError):
            text = f"nothing listens at {self.endpoint}"
            hint = "is the server running, and is this its port?"
            return Found(Cause.NOTHING_LISTENS, ServerUnavailable(text, hint=hint))
        cause = Cause.TIMEOUT if isinstance(error, TimeoutError) else Cause.UNREACHABLE
        return Found(cause, ServerUnavailable(f"{self.endpoint} cannot be reached ({error.strerror})"))

    async def shake_hands(self, connected: socket.socket, context: ssl.SSLContext) -> None:
        """TLS. Raises ssl.SSLCertVerificationError when the server's certificate does not stand."""
        self.awaited = "TLS handshake"
        try:
            self._reader, self._writer = await asyncio.open_connection(
                sock=connected, ssl=context, server_hostname=self.host
            )
        except ssl.SSLCertVerificationError:
            raise
        except OSError as error:
            raise self._explain_handshake(error) from error
        finally:
            if self._writer is None:
                connected.close()
        found = self._writer.get_extra_info("ssl_object")
        self.certificate = ssl.DER_cert_to_PEM_cert(found.getpeercert(binary_form=True)).encode()

    def _explain_handshake(self, error: OSError) -> Found:
        reason = str(getattr(error, "reason", "") or "")
        if reason in _NOT_TLS:
            text = f"what listens at {self.endpoint} does not speak TLS"
            return Found(Cause.NOT_TLS, ServerUnavailable(text, hint="is this the server's port?"))
        if "PROTOCOL" in reason and ("VERSION" in reason or "UNSUPPORTED" in reason):
            text = f"what listens at {self.endpoint} does not speak TLS 1.3"
            hint = "an intercepting proxy or an old load balancer may stand between"
            return Found(Cause.TLS_VERSION, ServerUnavailable(text, hint=hint))
        text = f"{self.endpoint} hung up during the TLS handshake ({reason or type(error).__name__})"
        return Found(Cause.NOT_TLS, ServerUnavailable(text, hint="is this the server's port?"))

    async def fetch_certificate(self) -> bytes:
        """The certificate that was not accepted, to say what is wrong with it."""
        address = (self.host, self.port)
        try:
            return (await asyncio.to_thread(ssl.get_server_certificate, address, timeout=5.0)).encode()
        except OSError as error:
            text = f"its certificate is not accepted, and it cannot be looked at ({error})"
            raise Found(Cause.OTHER_CA, identity_refused(self.endpoint, text)) from error

    async def read_greeting(self, own: Identity) -> None:
        """The first frame, which must be HTTP/2's SETTINGS (RFC 9113 section 3.4)."""
        assert self._reader is not None
        self.awaited = "HTTP/2"
        try:
            frame = await self._reader.read(9)
        except OSError as error:
            raise _own_refused(self.endpoint, own, str(getattr(error, "reason", "") or error)) from error
        if not frame:
            raise _own_refused(self.endpoint, own, "it hung up")
        if len(frame) < 4 or frame[3] != _SETTINGS:
            text = f"{self.endpoint} shows a certificate of our server, but does not speak HTTP/2"
            raise Found(Cause.NOT_OURS, ServerUnavailable(text))

    def close(self) -> None:
        """Let go, without a goodbye."""
        if self._writer is not None:
            self._writer.transport.abort()


def _own_refused(endpoint: str, own: Identity, how: str) -> Found:
    return Found(
        Cause.OWN_REFUSED,
        IdentityRefused(
            f"the server at {endpoint} does not take the certificate of {own} ({how})",
            hint="the server trusts other CAs, or its clock differs: ask the project's admin for a new kit",
        ),
    )


async def _connect_tcp(family: int, kind: int, protocol: int, address: Any) -> socket.socket:  # noqa: ANN401 - of its family's form
    connected = socket.socket(family, kind, protocol)
    try:
        connected.settimeout(0)
        await asyncio.get_running_loop().sock_connect(connected, address)
    except BaseException:
        connected.close()
        raise
    return connected


def tls_context(chain_pem: bytes, private_pem: bytes, anchors_pem: bytes) -> ssl.SSLContext:
    """How one party dials: TLS 1.3, its certificate, and the issuing CAs in `anchors_pem` as anchors."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the issuing CA is the anchor, not the root
    context.load_verify_locations(cadata=anchors_pem.decode("ascii"))
    context.set_alpn_protocols(["h2"])
    with _readable(chain_pem + private_pem) as path:
        context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def _readable(data: bytes) -> Iterator[str]:
    """A path to secret bytes: the ssl module takes keys from files only."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("flprov", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            yield f"/proc/self/fd/{descriptor}"
        return
    with tempfile.TemporaryDirectory() as folder:  # mode 0700
        path = Path(folder) / "key.pem"
        path.write_bytes(data)
        yield str(path)
