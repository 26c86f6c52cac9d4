# SPDX-License-Identifier: Apache-2.0
"""Drain, stop, clean up: the calls behind `flprov site drain`, `flprov server gc` and their like."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import timedelta

from flprov._base import Clock, to_iso
from flprov.admin.link import Link, read_document
from flprov.rpc import methods as m
from flprov.wire import documents as doc
from flprov.wire import pb

_LIFE = timedelta(minutes=2)  # a command that arrives later is not carried out


def change_drain(
    link: Link, clock: Clock, method: m.Method, *, name: str = "", reason: str = ""
) -> doc.DrainDocument:
    """Drain or enable a site, or the server, as `method` says. Durable when this returns."""
    request = pb.PartyChange(name=name, reason=reason, key=secrets.token_hex(8), not_after=_not_after(clock))
    return link.document(doc.DrainDocument, method, request)


def watch_drain(link: Link, name: str) -> Iterator[doc.DrainDocument]:
    """How it stands, again after each change, until it is safe to stop or not drained any more."""
    for reply in link.download(m.WATCH_DRAIN, pb.Query(id=name)):
        yield read_document(doc.DrainDocument, reply)


def order_site(
    link: Link, clock: Clock, name: str, *, restart: bool, now: bool, reason: str = ""
) -> Iterator[doc.SiteOrderDocument]:
    """Stop or restart an agent; how it goes, until it is over. The order stays when this is left early."""
    request = pb.SiteOrder(
        name=name,
        restart=restart,
        now=now,
        reason=reason,
        key=secrets.token_hex(8),
        not_after=_not_after(clock),
    )
    for reply in link.download(m.ORDER_SITE, request):
        yield read_document(doc.SiteOrderDocument, reply)


def clean(link: Link, clock: Clock, *, older_than: timedelta | None, dry_run: bool) -> doc.CleanDocument:
    """Have the server throw away what nobody needs. None: jobs as old as its server.yml says."""
    request = pb.CleanRequest(
        older_than_seconds=older_than.total_seconds() if older_than else 0.0,
        dry_run=dry_run,
        key=secrets.token_hex(8),
        not_after=_not_after(clock),
    )
    return link.document(doc.CleanDocument, m.CLEAN, request)


def _not_after(clock: Clock) -> str:
    return to_iso(clock.now() + _LIFE)
