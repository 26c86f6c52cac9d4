# SPDX-License-Identifier: Apache-2.0
"""Having a site or the server renew its certificate now."""

from __future__ import annotations

import secrets
from datetime import timedelta

from flprov._base import Clock, to_iso
from flprov.admin.link import Link
from flprov.rpc import methods as m
from flprov.wire import documents as doc
from flprov.wire import pb

_LIFE = timedelta(minutes=5)  # a command that was held up on the way must not act later


def renew_certificate(link: Link, clock: Clock, name: str, *, reason: str = "") -> doc.RenewalDocument:
    """The new certificate of this site, or of the server."""
    request = pb.PartyChange(
        name=name, reason=reason, key=secrets.token_hex(8), not_after=to_iso(clock.now() + _LIFE)
    )
    return link.document(doc.RenewalDocument, m.RENEW_CERTIFICATE, request)
