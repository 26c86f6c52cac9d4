# SPDX-License-Identifier: Apache-2.0
"""One attempt to reach a server, stage by stage: name, TCP, proxy, TLS, first bytes.

Each failure is a finding.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from flprov.errors import IdentityRefused, ServerUnavailable
from flprov.pki import Identity
from flprov.project import DIRECT, Proxy, Route
from flprov.rpc.addresses import Address, connect_first, resolve
from flprov.rpc.endpoints import join_endpoint, split_endpoint
from flprov.rpc.findings import Cause, Found, Stage, Step

_SETTINGS = 4
_NOT_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"}
)


class Dial:
    """One attempt, stage by stage. `steps` are those that it has passed."""

    def __init__(self, endpoint: str, route: Route = DIRECT) -> None:
        self.endpoint = endpoint
        self.host, self.port = split_endpoint(endpoint)
        self.proxy = route.proxy_for(self.host, self.port)
        named_in_file = route.source.endswith(".yml")
        self._directly = "`proxy: none` in site.yml" if named_in_file else "FLPROV_PROXY=none"
        self.place = f"{endpoint} (through the proxy {self.proxy})" if self.proxy else endpoint
        self.stage = Stage.NAME
        self.steps: list[Step] = []
        self.trip = 0.0  # seconds there and back, once connected
        self.certificate = b""
        self.server: Identity | None = None  # whose certificate it is, once our own rules took it
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def awaited(self) -> str:
        """Who should have answered by now, and with what."""
        of_proxy = self.proxy is not None and self.stage in (Stage.NAME, Stage.TCP, Stage.PROXY)
        who = f"the proxy {self.proxy}" if of_proxy else self.place
        return f"{who} does not answer: no {self.stage.value}"

    def passed(self, found: str) -> None:
        """The present stage is behind us."""
        self.steps.append(Step(stage=self.stage, found=found))

    async def connect(self) -> socket.socket:
        """A TCP connection to the first of the addresses that takes it, or a tunnel through the proxy."""
        addresses = await self._resolve()
        self.passed(", ".join(dict.fromkeys(str(address[0]) for _family, address in addresses)))
        self.stage, began = Stage.TCP, time.perf_counter()
        try:
            connected = await connect_first(addresses)
            self.passed(f"connected to {_address_of(connected)}")
        except OSError as error:  # also of a server that was killed in this moment
            raise self._explain_tcp(error) from error
        if self.proxy is not None:
            began = time.perf_counter()
            await self._tunnel(connected, self.proxy)
        self.trip = time.perf_counter() - began
        return connected

    async def _resolve(self) -> Sequence[Address]:
        self.stage = Stage.NAME
        host, port = (self.proxy.host, self.proxy.port) if self.proxy else (self.host, self.port)
        try:
            return await resolve(host, port)
        except (OSError, UnicodeError) as error:  # the latter for what is no name at all
            reason = getattr(error, "strerror", None) or "it is no name"
            who, cause = self.endpoint, Cause.NAME
            if self.proxy:
                who, cause = f"the proxy {self.proxy}", Cause.PROXY_UNREACHABLE
            text = f"{who}: the name {host} does not resolve ({reason})"
            hint = f"check the name, and DNS: getent hosts {host}"
            raise Found(cause, ServerUnavailable(text, hint=hint)) from error

    async def _tunnel(self, connected: socket.socket, proxy: Proxy) -> None:
        from flprov.rpc.proxy import open_tunnel  # late: most networks have no proxy

        self.stage = Stage.PROXY
        try:
            await open_tunnel(connected, proxy, join_endpoint(self.host, self.port))
        except BaseException:
            connected.close()
            raise
        self.passed(f"{proxy} opens a tunnel to {self.endpoint}")

    def _explain_tcp(self, error: OSError) -> Found:
        who = f"the proxy {self.proxy}" if self.proxy else self.endpoint
        if isinstance(error, ConnectionRefusedError):
            text = f"nothing listens at {who}"
            hint = "is the server running, and is this its port?"
            if self.proxy:
                hint = f"ask its owners for its address, or dial directly: {self._directly}"
            cause = Cause.NOTHING_LISTENS
        else:
            # Where the kernel's answer came later, strerror holds words of asyncio's own.
            reason = os.strerror(error.errno) if error.errno else str(error)
            text = f"{who} cannot be reached ({reason})"
            hint = "is this machine's network up, and its VPN if it needs one? A firewall may say so, too"
            cause = Cause.TIMEOUT if isinstance(error, TimeoutError) else Cause.UNREACHABLE
        cause = Cause.PROXY_UNREACHABLE if self.proxy else cause
        return Found(cause, ServerUnavailable(text, hint=hint))

    async def shake_hands(self, connected: socket.socket, context: ssl.SSLContext) -> None:
        """TLS. Raises ssl.SSLCertVerificationError when the server's certificate does not stand.

        From here on the socket is asyncio's, which closes it when this fails: a moment later, and until then
        its number cannot be another one's.
        """
        self.stage = Stage.TLS
        try:
            self._reader, self._writer = await asyncio.open_connection(
                sock=connected, ssl=context, server_hostname=self.host
            )
        except ssl.SSLCertVerificationError:
            raise
        except OSError as error:
            raise self._explain_handshake(error) from error
        found = self._writer.get_extra_info("ssl_object")
        self.certificate = ssl.DER_cert_to_PEM_cert(found.getpeercert(binary_form=True)).encode()

    def _explain_handshake(self, error: OSError) -> Found:
        reason = str(getattr(error, "reason", "") or "")
        if reason in _NOT_TLS:
            text = f"what listens at {self.place} does not speak TLS"
            return Found(Cause.NOT_TLS, ServerUnavailable(text, hint="is this the server's port?"))
        if "PROTOCOL" in reason and ("VERSION" in reason or "UNSUPPORTED" in reason):
            text = f"what listens at {self.place} does not speak TLS 1.3"
            hint = "an intercepting proxy or an old load balancer may stand between"
            return Found(Cause.TLS_VERSION, ServerUnavailable(text, hint=hint))
        text = f"{self.place} hung up during the TLS handshake ({reason or type(error).__name__})"
        return Found(Cause.NOT_TLS, ServerUnavailable(text, hint="is this the server's port?"))

    async def read_greeting(self, own: Identity) -> None:
        """The first frame, which must be HTTP/2's SETTINGS (RFC 9113 section 3.4)."""
        assert self._reader is not None
        self.stage = Stage.GREETING
        try:
            frame = await self._reader.read(9)
        except OSError as error:
            raise _own_refused(self.place, own, str(getattr(error, "reason", "") or error)) from error
        if not frame:
            raise _own_refused(self.place, own, "it hung up")
        if len(frame) < 4 or frame[3] != _SETTINGS:
            text = f"{self.place} shows a certificate of our server, but does not speak HTTP/2"
            raise Found(Cause.NOT_OURS, ServerUnavailable(text))

    def close(self) -> None:
        """Let go, without a goodbye."""
        if self._writer is not None:
            self._writer.transport.abort()


async def look_at_certificate(endpoint: str, route: Route) -> bytes:
    """The certificate that stands there, whoever's it is, to say what is wrong with it. Nothing is sent.

    Raises:
        Found: it cannot be looked at.
    """
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    dial = Dial(endpoint, route)
    try:
        await dial.shake_hands(await dial.connect(), blind)
    finally:
        dial.close()
    return dial.certificate


def _own_refused(endpoint: str, own: Identity, how: str) -> Found:
    return Found(
        Cause.OWN_REFUSED,
        IdentityRefused(
            f"the server at {endpoint} does not take the certificate of {own} ({how})",
            hint="the project has a new CA and this is of the old one, or the clocks differ:"
            " ask the project's admin for a new kit",
        ),
    )


def _address_of(connected: socket.socket) -> str:
    try:
        host, port = connected.getpeername()[:2]
    except OSError:
        connected.close()
        raise
    return join_endpoint(str(host), int(port))


def tls_context(chain_pem: bytes, private_pem: bytes, anchors_pem: bytes) -> ssl.SSLContext:
    """How one party dials: TLS 1.3, its certificate, and the issuing CAs in `anchors_pem` as anchors.

    With no `private_pem` it shows no certificate: enough to see the server's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the issuing CA is the anchor, not the root
    context.load_verify_locations(cadata=anchors_pem.decode("ascii"))
    context.set_alpn_protocols(["h2"])
    if private_pem:
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
    import tempfile  # late: not on Linux

    with tempfile.TemporaryDirectory() as folder:  # mode 0700
        path = Path(folder) / "key.pem"
        path.write_bytes(data)
        yield str(path)
