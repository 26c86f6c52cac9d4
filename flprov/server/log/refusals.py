# SPDX-License-Identifier: Apache-2.0
"""Who was refused lately, and which enrolled site that looks like. In memory, and never more than so many."""

from __future__ import annotations

import difflib
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace

from flprov._base import Clock
from flprov.errors import IdentityRefused
from flprov.pki import Identity, Kind, parse_identity
from flprov.wire.documents import RefusedDocument

_MOST = 100
_CLAIM = re.compile(r"spiffe://[a-z0-9._/-]{1,300}")
_ALIKE = 0.75  # of difflib's ratio: `hospital-a1` and `hospital-a` are, `berlin` and `bern` are not


class Refusals:
    """The latest refusals, one entry for each caller and call."""

    def __init__(self, clock: Clock, orgs: Callable[[], Mapping[str, str]] | None = None) -> None:
        """Args:
        clock: for when it was.
        orgs: the organisation of each enrolled site, as of now.
        """
        self._clock = clock
        self._orgs = orgs or dict
        self._found: OrderedDict[tuple[str, str], RefusedDocument] = OrderedDict()

    def note(self, caller: Identity | None, method: str, error: Exception) -> None:
        """Somebody was refused."""
        now, reason = self._clock.now(), str(error)[:500]
        claims = "" if caller else _claimed(reason)
        who, what = caller.uri if caller else "unknown", method[:100]
        key = (claims or who, what)
        known = self._found.pop(key, None)
        if known is None:
            looks_like = self._guess(caller or _identity(claims))
            known = RefusedDocument(
                who=who,
                what=what,
                reason=reason,
                first=now,
                last=now,
                count=0,
                looks_like=looks_like,
                claims=claims,
            )
        self._found[key] = replace(known, reason=reason, last=now, count=known.count + 1)
        if len(self._found) > _MOST:
            self._found.popitem(last=False)

    def documents(self) -> tuple[RefusedDocument, ...]:
        """All of them, the newest first."""
        return tuple(reversed(self._found.values()))

    def _guess(self, caller: Identity | None) -> str:
        """The enrolled site of that name, or with a similar name, or the only one of its organisation."""
        if caller is None or caller.kind not in (Kind.SITE, Kind.INVITE):
            return ""
        orgs = self._orgs()
        if caller.name in orgs:
            return caller.name
        alike = difflib.get_close_matches(caller.name, orgs, n=1, cutoff=_ALIKE)
        own = [name for name, org in orgs.items() if org == caller.org]
        return (alike or (own if len(own) == 1 else []) or [""])[0]


def _claimed(reason: str) -> str:
    """The identity that a certificate spells which was refused as a whole."""
    found = _CLAIM.search(reason)
    return found.group(0).rstrip("./") if found else ""


def _identity(claims: str) -> Identity | None:
    try:
        return parse_identity(claims)
    except IdentityRefused:
        return None
