# SPDX-License-Identifier: Apache-2.0
"""Why a connection fails, in words: dialled with the standard library, which tells what gRPC does not.

Only the side that dials can know. And in TLS 1.3 a client sees a good handshake even when the server
refuses its certificate: the refusal arrives where the first byte is expected. So a probe ends with the
first bytes of HTTP/2, which a server of ours sends at once.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import Callable
from datetime import datetime

from flprov._base import Clock, SystemClock, to_iso
from flprov.errors import IdentityRefused, ServerUnavailable
from flprov.pki import (
    Anchors,
    Identity,
    Kind,
    certificate_identity,
    host_names,
    issuer_name,
    not_after,
    not_before,
    verify_peer,
)
from flprov.project import DIRECT, Route
from flprov.rpc.dial import Dial, look_at_certificate, tls_context
from flprov.rpc.findings import Cause, Found, ProbeResult, Stage, identity_refused

# OpenSSL's X509_V_ERR_* codes; whatever is not here means that no trusted CA stands behind it.
_CAUSES = {
    9: Cause.NOT_YET_VALID,
    10: Cause.EXPIRED,
    62: Cause.WRONG_NAME,  # host name
    64: Cause.WRONG_NAME,  # IP address
}


_INTERCEPTED = "if that issuer is a proxy that opens TLS, ask its owners to let this address pass unopened"


async def probe(
    endpoint: str,
    *,
    chain_pem: bytes = b"",
    private_pem: bytes = b"",
    server_anchors: Anchors | None = None,
    route: Route = DIRECT,
    clock: Clock | None = None,
    timeout: float = 10.0,
) -> ProbeResult:
    """Dial `endpoint` ("host:port") and say how far that went.

    Without a certificate of our own it ends when the server has shown its one, and without
    `server_anchors`, which say whom to believe, before that.
    """
    prober = Prober(
        chain_pem=chain_pem,
        private_pem=private_pem,
        server_anchors=server_anchors,
        route=route,
        clock=clock or SystemClock(),
        timeout=timeout,
    )
    return await prober.probe(endpoint)


def _way_back(identity: Identity) -> str:
    if identity.kind is not Kind.SITE:
        return "ask the project's admin for a new kit"
    return (
        f"ask the project's admin for a new invite: `flprov invite create {identity.name}` there, then"
        " `flprov join INVITE` here"
    )


def _with_issuer(text: str, pem: bytes) -> str:
    """`text`, with who issued the certificate: what boxes make on the fly often breaks an earlier rule."""
    try:
        issuer = issuer_name(pem)
    except IdentityRefused:
        return text
    return text if issuer in text else f"{text}; it says that it was issued by {issuer}"


class _Own:
    """Whose certificate we show, and from when to when it is good."""

    def __init__(self, chain_pem: bytes) -> None:
        self.identity = certificate_identity(chain_pem)
        self._since, self._until = not_before(chain_pem), not_after(chain_pem)

    def verify(self, now: datetime) -> None:
        if now > self._until:
            text = f"the certificate of {self.identity} expired on {to_iso(self._until)}"
            hint = _way_back(self.identity)
            raise Found(Cause.OWN_EXPIRED, IdentityRefused(text, hint=hint))
        if now < self._since:
            text = f"the certificate of {self.identity} is not valid before {to_iso(self._since)}"
            hint = f"this machine's clock says {to_iso(now)}: check it"
            raise Found(Cause.OWN_NOT_YET_VALID, IdentityRefused(text, hint=hint))


class Prober:
    """Dials as one identity (or as nobody), again and again.

    Raises:
        IdentityRefused: the own certificate cannot be read.
    """

    def __init__(
        self,
        *,
        chain_pem: bytes,
        private_pem: bytes,
        server_anchors: Anchors | None,
        clock: Clock,
        timeout: float,
        route: Route = DIRECT,
    ) -> None:
        self._anchors = server_anchors
        self._own = _Own(chain_pem) if private_pem else None
        anchors_pem = server_anchors.pem if server_anchors else b""
        self._make_context = functools.partial(tls_context, chain_pem, private_pem, anchors_pem)
        self._route = route
        self._clock = clock
        self._timeout = timeout

    @functools.cached_property
    def _context(self) -> ssl.SSLContext:
        """Made when something listens: sites that wait for their server dial again and again."""
        return self._make_context()

    async def probe(self, endpoint: str, *, on_reached: Callable[[float], None] | None = None) -> ProbeResult:
        """Dial `endpoint`: once, or twice when the server hung up, which it also does while it stops.

        Each time that somebody listens there, `on_reached` is called before the handshake, with the seconds
        that a trip there and back takes.
        """
        found = await self._probe(endpoint, on_reached)
        return await self._probe(endpoint, on_reached) if found.cause is Cause.OWN_REFUSED else found

    async def _probe(self, endpoint: str, on_reached: Callable[[float], None] | None) -> ProbeResult:
        dial = Dial(endpoint, self._route)
        cause, error = Cause.FINE, None
        try:
            async with asyncio.timeout(self._timeout):
                await self._dial(dial, on_reached)
        except Found as found:
            cause, error = found.cause, found.error
        except TimeoutError:
            cause = Cause.TIMEOUT
            error = ServerUnavailable(
                f"{dial.awaited} within {self._timeout:g} seconds",
                hint="a firewall that drops packets looks like this: ask for outgoing TCP to this address",
            )
        finally:
            dial.close()
        return ProbeResult(
            endpoint=endpoint,
            cause=cause,
            error=error,
            server=dial.server,
            stage=dial.stage,
            steps=tuple(dial.steps),
        )

    async def _dial(self, dial: Dial, on_reached: Callable[[float], None] | None) -> None:
        if self._own is not None:
            dial.stage = Stage.OWN
            self._own.verify(self._clock.now())
        connected = await dial.connect()
        if on_reached is not None:
            on_reached(dial.trip)
        if self._anchors is None:
            connected.close()
            return
        await self._shake_hands(dial, connected, self._begin(dial, connected), self._anchors)
        dial.server = self._verify_server(dial, self._anchors)
        dial.passed(
            f"TLS 1.3; the certificate of {dial.server} is good until {to_iso(not_after(dial.certificate))}"
        )
        if self._own is not None:
            await dial.read_greeting(self._own.identity)
            dial.passed(f"the server takes the certificate of {self._own.identity}")

    def _begin(self, dial: Dial, connected: socket.socket) -> ssl.SSLContext:
        """The context; to make it takes a file for a moment (the key)."""
        try:
            return self._context
        except OSError as error:
            connected.close()
            text = f"this machine cannot begin TLS with {dial.place} ({error.strerror or error})"
            hint = "how many files may this process open? ulimit -n"
            raise Found(Cause.UNREACHABLE, ServerUnavailable(text, hint=hint)) from error

    async def _shake_hands(
        self, dial: Dial, connected: socket.socket, context: ssl.SSLContext, anchors: Anchors
    ) -> None:
        try:
            await dial.shake_hands(connected, context)
        except ssl.SSLCertVerificationError as error:
            raise self._explain(dial, error, anchors, await self._look(dial)) from error
        except Found as found:
            if found.cause is not Cause.TLS_VERSION:
                raise
            raise await self._name_old_tls(dial, found, anchors) from found

    async def _look(self, dial: Dial) -> bytes:
        try:
            return await look_at_certificate(dial.endpoint, self._route)
        except (Found, OSError) as error:
            text = "its certificate is not accepted, and on a second look there was none"
            raise Found(Cause.OTHER_CA, identity_refused(dial.place, text)) from error

    async def _name_old_tls(self, dial: Dial, found: Found, anchors: Anchors) -> Found:
        """Boxes that open TLS are often old: whose certificate is shown there says whether it is one."""
        try:
            pem = await look_at_certificate(dial.endpoint, self._route)
            verify_peer(pem, anchors, now=self._clock.now(), kinds=frozenset({Kind.SERVER}))
        except IdentityRefused as error:
            text = f"{found.error}; {_with_issuer(str(error), pem)}"
            return Found(found.cause, ServerUnavailable(text, hint=_INTERCEPTED))
        except (Found, OSError):
            pass
        return found

    def _verify_server(self, dial: Dial, anchors: Anchors) -> Identity:
        """Our own rules, which want more than OpenSSL does."""
        try:
            server = verify_peer(
                dial.certificate, anchors, now=self._clock.now(), kinds=frozenset({Kind.SERVER})
            )
        except IdentityRefused as error:
            refused = identity_refused(dial.place, str(error), error.hint)
            raise Found(Cause.NOT_A_SERVER, refused) from error
        if self._own is not None and server.trust_domain != self._own.identity.trust_domain:
            text = f"its server is of {server.trust_domain}, {self._own.identity} is not"
            raise Found(Cause.NOT_A_SERVER, identity_refused(dial.place, text))
        return server

    def _explain(
        self, dial: Dial, error: ssl.SSLCertVerificationError, anchors: Anchors, pem: bytes
    ) -> Found:
        """What OpenSSL does not like, told by our own rules where they see it too."""
        cause = _CAUSES.get(error.verify_code, Cause.OTHER_CA)
        if cause is Cause.WRONG_NAME:
            names = ", ".join(host_names(pem)) or "none"
            text = f"the server's certificate is not for {dial.host}; it is for {names}"
            advice = "dial one of these names, or add this one to the server's names in project.yml"
            return Found(cause, identity_refused(dial.place, text, advice))
        text = f"its certificate is not accepted ({error.verify_message})"
        hint: str | None = None
        try:
            verify_peer(pem, anchors, now=self._clock.now(), kinds=frozenset({Kind.SERVER}))
        except IdentityRefused as found:
            text, hint = str(found), found.hint
        if cause is Cause.OTHER_CA:
            text = _with_issuer(text, pem)
            hint = _INTERCEPTED if hint is None else f"{_INTERCEPTED}; else {hint}"
        return Found(cause, identity_refused(dial.place, text, hint))
