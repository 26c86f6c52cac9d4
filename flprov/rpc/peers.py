# SPDX-License-Identifier: Apache-2.0
"""Who is calling: our own check of a caller's certificate, on every call.

gRPC has checked the signature and little else (see flprov.pki's rules for what it lets pass), and only
once, when the connection began. A stream's connection may be older than the certificate's last day.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta

from flprov._base import Clock
from flprov.errors import IdentityRefused
from flprov.pki import Anchors, Kind, Leaf, describe_leaf, verify_peer

_MOST = 4096  # verdicts kept; one is about 2 KB
_FRESH = timedelta(hours=1)  # bounds how long an expired CA goes unnoticed


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    leaf: Leaf
    since: datetime
    until: datetime


class PeerCheck:
    """Turns a leaf certificate into what it proves, or refuses it.

    A certificate that was found good is not parsed again within the hour, only its dates are compared
    with the clock. A bad one is checked again each time: its dates may come.
    """

    def __init__(self, anchors: Anchors, *, kinds: frozenset[Kind], clock: Clock) -> None:
        self._anchors = anchors
        self._kinds = kinds
        self._clock = clock
        self._verdicts: OrderedDict[bytes, _Verdict] = OrderedDict()

    def trust(self, anchors: Anchors) -> None:
        """Believe these CAs from now on, and judge everybody anew."""
        self._anchors = anchors
        self._verdicts.clear()

    def identify(self, leaf_pem: bytes) -> Leaf:
        """Whose certificate this is, and which one.

        Raises:
            IdentityRefused: there is none, or it is not acceptable here.
        """
        if not leaf_pem:
            raise IdentityRefused("the call came without a certificate")
        now = self._clock.now()
        known = self._verdicts.get(leaf_pem)
        if known is not None and known.since <= now <= known.until:
            self._verdicts.move_to_end(leaf_pem)
            return known.leaf
        verify_peer(leaf_pem, self._anchors, now=now, kinds=self._kinds)
        leaf = describe_leaf(leaf_pem)
        until = min(leaf.not_after, now + _FRESH)
        self._verdicts[leaf_pem] = _Verdict(leaf=leaf, since=now, until=until)
        if len(self._verdicts) > _MOST:
            self._verdicts.popitem(last=False)
        return leaf
