# SPDX-License-Identifier: Apache-2.0
"""Kits to their hosts, many at once. What happens to one delivery disturbs no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from flprov.errors import FlprovError
from flprov.kits.hosts import Destination
from flprov.kits.parcel import Parcel, open_parcel
from flprov.kits.services import Service, install_service, verify_service
from flprov.kits.ssh import Access, Keys, Link, connect, load_keys
from flprov.kits.transfer import DeliveryOutcome, Placed, place_kit

_AT_ONCE = 8

DeliveryProgress = Callable[
    [Destination, str, int, int], None
]  # what is being done, bytes done, bytes in all


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One kit and what became of it."""

    destination: Destination
    outcome: DeliveryOutcome
    path: str = ""  # of the kit at the host
    sent: int = 0  # bytes
    kept: int = 0  # files that were there already
    service: str = ""  # "installed", "started", or nothing
    note: str = ""
    seconds: float = 0.0
    error: FlprovError | None = None


@dataclass(frozen=True, kw_only=True)
class _Round:
    """What all deliveries of one call share."""

    access: Access
    keys: Keys
    now: datetime
    service: Service | None
    progress: DeliveryProgress
    links: Links


class Links:
    """The connections that are open, so that they can be closed from outside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[Link] = []
        self._over = False

    def add(self, link: Link) -> None:
        """One more; after `close` it is closed as well."""
        with self._lock:
            self._open.append(link)
            if self._over:
                link.close()

    def close(self) -> None:
        """Hang up everywhere."""
        with self._lock:
            self._over = True
            for link in self._open:
                link.close()


def deliver(
    destinations: Sequence[Destination],
    access: Access,
    *,
    now: datetime,
    progress: DeliveryProgress,
    service: Service | None = None,
    done: Callable[[Delivery], None] | None = None,
    at_once: int = _AT_ONCE,
) -> tuple[Delivery, ...]:
    """Bring each kit to its host. Returns what became of each, in the order of `destinations`.

    Args:
        progress: called from several threads.
        service: what to do about the service; None leaves the host's services alone.
        done: called with each delivery that ended, one at a time.

    Raises:
        NotFound, Misuse: a private key cannot be used. What concerns one kit or host is in its Delivery.
    """
    links = Links()
    shared = _Round(
        access=access, keys=load_keys(access), now=now, service=service, progress=progress, links=links
    )
    one_at_a_time = threading.Lock()

    def run(destination: Destination) -> Delivery:
        delivery = _deliver_one(destination, shared)
        if done is not None:
            with one_at_a_time:
                done(delivery)
        return delivery

    pool = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="deliver")
    try:
        return tuple(pool.map(run, destinations))
    except BaseException:
        links.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _deliver_one(destination: Destination, shared: _Round) -> Delivery:
    start = time.monotonic()
    placed: Placed | None = None
    error: FlprovError | None = None
    service = ""
    try:
        shared.progress(destination, "verifying the kit", 0, 0)
        parcel = open_parcel(destination.kit, now=shared.now)
        if shared.service is not None:
            verify_service(shared.service, parcel.kit)
        shared.progress(destination, "connecting", 0, 0)
        with _connect(destination, shared) as link:
            placed = place_kit(link, parcel, destination.folder, step=_step(destination, shared.progress))
            service = _serve(link, parcel, placed, destination, shared)
    except FlprovError as caught:
        error = caught
    return Delivery(
        destination=destination,
        outcome=DeliveryOutcome.FAILED if placed is None else placed.outcome,
        path=placed.path if placed else "",
        sent=placed.sent if placed else 0,
        kept=placed.kept if placed else 0,
        note=placed.note if placed else "",
        service=service,
        seconds=time.monotonic() - start,
        error=error,
    )


def _connect(destination: Destination, shared: _Round) -> Link:
    return connect(destination.login, destination.jumps, shared.access, shared.keys, opened=shared.links.add)


def _step(destination: Destination, progress: DeliveryProgress) -> Callable[[str, int, int], None]:
    return lambda what, done, total: progress(destination, what, done, total)


def _serve(link: Link, parcel: Parcel, placed: Placed, destination: Destination, shared: _Round) -> str:
    if shared.service is None:
        return ""
    shared.progress(destination, "installing the service", 0, 0)
    return install_service(link, parcel, placed.path, shared.service)
