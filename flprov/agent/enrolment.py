# SPDX-License-Identifier: Apache-2.0
"""Joining: ask the server with the invite's certificate, and wait for its answer on the open call.

Nothing is asked twice in the meantime: where an admin must approve the key, the server keeps the call
open and answers when that was done. A connection that breaks while it waits is opened again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta

from flprov._base import Clock, SystemClock, backoff
from flprov.errors import (
    FlprovError,
    IdentityRefused,
    Nature,
    PermissionRefused,
    ProtocolError,
    Refused,
    SiteLocked,
)
from flprov.kits import Answer, Attempt, Invitation, Kit, SignedTrust, read_settings
from flprov.project import DIRECT, Route
from flprov.rpc import Connection, connect
from flprov.rpc import methods as m
from flprov.wire import pb

logger = logging.getLogger(__name__)

_SECOND = timedelta(seconds=1)
_SAID_EVERY = 10  # tries that are told although nothing is new


async def ask_to_join(
    attempt: Attempt,
    *,
    on_pending: Callable[[str], None],
    on_trouble: Callable[[str], None] = lambda _reason: None,
    route: Route = DIRECT,
    clock: Clock | None = None,
    dial: Callable[[], Connection] | None = None,
) -> Answer:
    """The server's answer to a site that joins. Nothing in it was verified.

    Args:
        attempt: the invite, and the key that was made for it.
        on_pending: told once, with the fingerprint, that an admin has to approve the key.
        on_trouble: told why the wait was interrupted, which try that was and when the next one is.
        route: the proxy on the way to the server.
        clock: the machine's own when None.
        dial: how the server is reached; over mTLS when None.

    Raises:
        IdentityRefused: the server is another one, or the invite cannot be used: the message says why.
        ServerUnavailable: the server does not answer, and nothing was waited for yet.
    """
    invitation, clock = attempt.invitation, clock or SystemClock()
    verify_in_time(invitation, clock)
    waits, is_pending, tries, told = backoff(), False, 0, ""
    while True:
        try:
            async with contextlib.aclosing(
                _ask(attempt, dial or (lambda: _dial(invitation, route)))
            ) as replies:
                async for reply in replies:
                    if reply.WhichOneof("body") == "issued":
                        return _read(reply.issued)
                    if not is_pending:
                        on_pending(attempt.fingerprint)
                    is_pending, waits, tries = True, backoff(), 0
            reason = "the server ended the call"
        except FlprovError as error:
            if not is_pending or error.nature is not Nature.TRANSIENT:
                raise
            reason = str(error)
        verify_in_time(invitation, clock)
        tries, wait = tries + 1, next(waits)
        if reason != told or tries % _SAID_EVERY == 0:
            on_trouble(f"{reason} (try {tries}, next in {wait:.0f} s)")
            told = reason
        await clock.sleep(wait)


def verify_in_time(invitation: Invitation, clock: Clock) -> None:
    """Pass if the invite has not expired, by this machine's clock.

    Raises:
        IdentityRefused: it has.
    """
    if clock.now() > invitation.expires + _SECOND:
        raise IdentityRefused(
            f"the invite expired on {invitation.expires:%Y-%m-%d %H:%M:%S} UTC; this machine's clock says"
            f" {clock.now():%Y-%m-%d %H:%M:%S} UTC",
            hint=f"ask for another one: flprov invite create {invitation.site.name}",
        )


async def _ask(attempt: Attempt, dial: Callable[[], Connection]) -> AsyncGenerator[pb.JoinReply, None]:
    connection = dial()
    try:
        request = pb.JoinRequest(request=attempt.request_pem)
        async with contextlib.aclosing(connection.download(m.JOIN, request)) as replies:
            async for reply in replies:
                yield reply
    finally:
        await connection.close()


def _dial(invitation: Invitation, route: Route) -> Connection:
    return connect(
        invitation.endpoints,
        chain_pem=invitation.chain_pem,
        private_pem=invitation.private_pem,
        server_anchors=invitation.server_anchors,
        route=route,
    )


def _read(issued: pb.Issued) -> Answer:
    bundle = issued.trust
    return Answer(
        chain_pem=issued.chain,
        trust=SignedTrust(document=bundle.document, signature=bundle.signature, signer=bundle.signer),
        contact=read_settings(issued.settings).contact,
    )


async def is_refused(kit: Kit, *, route: Route = DIRECT) -> bool:
    """Whether the server refuses this site's certificate for good, so that only another invite helps.

    Asked with a call that no site may make: the server looks at the certificate first, and says what is
    wrong with that, or else that the call is not for sites. So the question changes nothing.

    Raises:
        SiteLocked: the site is locked; another certificate would not help.
        ServerUnavailable: the server does not answer.
    """
    connection = connect(
        kit.endpoints,
        chain_pem=kit.chain_pem,
        private_pem=kit.private_pem,
        server_anchors=kit.anchors["servers"],
        route=route,
    )
    try:
        await connection.unary(m.STATUS, pb.Query(), timeout=20.0)
    except SiteLocked:
        raise
    except PermissionRefused:
        return False
    except Refused:
        return True
    finally:
        await connection.close()
    raise ProtocolError("the server lets a site ask for what is for people only")
