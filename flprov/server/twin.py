# SPDX-License-Identifier: Apache-2.0
"""Is another server with this identity at work already? Asked before listening, so it cannot be us."""

from __future__ import annotations

import asyncio

from flprov._base import Clock
from flprov.errors import KitRefused
from flprov.kits import Credential, Kit, Trust
from flprov.rpc import probe

_PATIENCE = 1.0  # seconds; from inside a network its public endpoint often cannot be reached at all


async def verify_alone(kit: Kit, credential: Credential, trust: Trust, clock: Clock) -> None:
    """Dial every advertised endpoint, with the certificate that the server is going to show.

    Raises:
        KitRefused: a server with this kit's identity answers at one of them.
    """
    found = await asyncio.gather(
        *(_identity_at(endpoint, credential, trust, clock) for endpoint in kit.endpoints)
    )
    for endpoint, uri in zip(kit.endpoints, found, strict=True):
        if uri == kit.identity.uri:
            raise KitRefused(
                f"another server with this kit's identity answers at {endpoint}",
                hint="stop it first; two servers with one identity would split the network",
            )


async def _identity_at(endpoint: str, credential: Credential, trust: Trust, clock: Clock) -> str:
    """Who shows a certificate of ours there; empty for nobody."""
    try:
        result = await asyncio.wait_for(
            probe(
                endpoint,
                chain_pem=credential.chain_pem,
                private_pem=credential.private_pem,
                server_anchors=trust.anchors["servers"],
                clock=clock,
            ),
            _PATIENCE,
        )
    except TimeoutError:
        return ""
    return result.server.uri if result.server else ""
