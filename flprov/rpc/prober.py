# SPDX-License-Identifier: Apache-2.0
"""Why a connection fails, in words: dialled with the standard library, which tells what gRPC does not.

Only the side that dials can know. And in TLS 1.3 a client sees a good handshake even when the server
refuses its certificate: the refusal arrives where the first byte is expected. So a probe ends with the
first bytes of HTTP/2, which a server of ours sends at once.
"""

from __future__ import annotations

import asyncio
import ssl

from flprov._base import Clock, SystemClock, to_iso
from flprov.errors import IdentityRefused, ServerUnavailable
from flprov.pki import (
    Anchors,
    Identity,
    Kind,
    certificate_identity,
    host_names,
    not_after,
    not_before,
    verify_peer,
)
from flprov.rpc.dial import Dial, tls_context
from flprov.rpc.findings import Cause, Found, ProbeResult, identity_refused

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
    chain_pem: bytes,
    private_pem: bytes,
    server_anchors: Anchors,
    clock: Clock | None = None,
    timeout: float = 10.0,
) -> ProbeResult:
    """Dial `endpoint` ("host:port") and say how far that went."""
    prober = Prober(
        chain_pem=chain_pem,
        private_pem=private_pem,
        server_anchors=server_anchors,
        clock=clock or SystemClock(),
        timeout=timeout,
    )
    return await prober.probe(endpoint)


class Prober:
    """Dials as one identity, again and again.

    Raises:
        IdentityRefused: the own certificate cannot be read.
    """

    def __init__(
        self,
        *,
        chain_pem: bytes,
        private_pem: bytes,
        server_anchors: Anchors,
        clock: Clock,
        timeout: float,
    ) -> None:
        self._anchors = server_anchors
        self._self = certificate_identity(chain_pem)
        self._since, self._until = not_before(chain_pem), not_after(chain_pem)
        self._context = tls_context(chain_pem, private_pem, server_anchors.pem)
        self._clock = clock
        self._timeout = timeout

    async def probe(self, endpoint: str) -> ProbeResult:
        """Dial `endpoint`: once, or twice when the server hung up, which it also does while it stops."""
        found = await self._probe(endpoint)
        return await self._probe(endpoint) if found.cause is Cause.OWN_REFUSED else found

    async def _probe(self, endpoint: str) -> ProbeResult:
        dial = Dial(endpoint)
        try:
            async with asyncio.timeout(self._timeout):
                server = await self._dial(dial)
        except Found as found:
            return ProbeResult(endpoint=endpoint, cause=found.cause, error=found.error, server=dial.server)
        except TimeoutError:
            error = ServerUnavailable(
                f"{endpoint} does not answer: no {dial.awaited} within {self._timeout:g} seconds",
                hint="a firewall that drops packets looks like this: ask for outgoing TCP to this address",
            )
            return ProbeResult(endpoint=endpoint, cause=Cause.TIMEOUT, error=error)
        finally:
            dial.close()
        return ProbeResult(endpoint=endpoint, cause=Cause.FINE, server=server)

    async def _dial(self, dial: Dial) -> Identity:
        self._verify_own()
        connected = await dial.connect()
        try:
            await dial.shake_hands(connected, self._context)
        except ssl.SSLCertVerificationError as error:
            pem = await dial.fetch_certificate()
            raise self._explain(dial, error, pem) from error
        dial.server = self._verify_server(dial)
        await dial.read_greeting(self._self)
        return dial.server

    def _verify_own(self) -> None:
        now = self._clock.now()
        if now > self._until:
            text = f"the certificate of {self._self} expired on {to_iso(self._until)}"
            hint = "ask the project's admin for a new kit"
            raise Found(Cause.OWN_EXPIRED, IdentityRefused(text, hint=hint))
        if now < self._since:
            text = f"the certificate of {self._self} is not valid before {to_iso(self._since)}"
            hint = f"this machine's clock says {to_iso(now)}: check it"
            raise Found(Cause.OWN_NOT_YET_VALID, IdentityRefused(text, hint=hint))

    def _verify_server(self, dial: Dial) -> Identity:
        """Our own rules, which want more than OpenSSL does."""
        try:
            server = verify_peer(
                dial.certificate, self._anchors, now=self._clock.now(), kinds=frozenset({Kind.SERVER})
            )
        except IdentityRefused as error:
            refused = identity_refused(dial.endpoint, str(error), error.hint)
            raise Found(Cause.NOT_A_SERVER, refused) from error
        if server.trust_domain != self._self.trust_domain:
            text = f"its server is of {server.trust_domain}, {self._self} is not"
            raise Found(Cause.NOT_A_SERVER, identity_refused(dial.endpoint, text))
        return server

    def _explain(self, dial: Dial, error: ssl.SSLCertVerificationError, pem: bytes) -> Found:
        """What OpenSSL does not like, told by our own rules where they see it too."""
        cause = _CAUSES.get(error.verify_code, Cause.OTHER_CA)
        if cause is Cause.WRONG_NAME:
            names = ", ".join(host_names(pem)) or "none"
            text = f"the server's certificate is not for {dial.host}; it is for {names}"
            advice = "dial one of these names, or add this one to the server's names in project.yml"
            return Found(cause, identity_refused(dial.endpoint, text, advice))
        text = f"its certificate is not accepted ({error.verify_message})"
        hint: str | None = None
        try:
            verify_peer(pem, self._anchors, now=self._clock.now(), kinds=frozenset({Kind.SERVER}))
        except IdentityRefused as found:
            text, hint = str(found), found.hint
        if cause is Cause.OTHER_CA:
            hint = _INTERCEPTED if hint is None else f"{_INTERCEPTED}; else {hint}"
        return Found(cause, identity_refused(dial.endpoint, text, hint))
