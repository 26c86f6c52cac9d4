# SPDX-License-Identifier: Apache-2.0
"""The texts of one project's kits: the same templates, whoever makes the kit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from flprov._base import canonical_json
from flprov.kits.manifest import Files
from flprov.kits.rendering import Renderer, template_dir
from flprov.pki import Identity, Kind


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """What a project's kits have in common."""

    project: str
    project_id: str
    trust_domain: str
    contact: str  # whom the receiver of a kit can ask
    server: str  # the server's name
    endpoints: tuple[str, ...]
    listen: str = ""  # what only the server's kit says
    server_days: float = 90.0
    site_days: float = 90.0


class Texts:
    """Renders the texts of any party's kit."""

    def __init__(self, facts: NetworkFacts) -> None:
        self._renderer = Renderer(template_dir())
        self._shared = {
            "project": {
                "name": facts.project,
                "id": facts.project_id,
                "trust_domain": facts.trust_domain,
                "contact": facts.contact,
            },
            "server": {
                "name": facts.server,
                "listen": facts.listen,
                "endpoints": facts.endpoints,
                "server_days": facts.server_days,
                "site_days": facts.site_days,
            },
        }

    def render(
        self, identity: Identity, *, org: str, not_after: datetime, proxy: str = "", joined: bool = False
    ) -> Files:
        """The texts of one party's kit: name -> bytes and mode.

        Args:
            identity: whose kit it is.
            org: its organisation; also the server's, whose identity has none.
            not_after: the last moment of its certificate.
            proxy: of a site, on its way to the server.
            joined: whether the site made this kit itself, with an invite.
        """
        own = _own_facts(identity, org=org, not_after=not_after, proxy=proxy, joined=joined)
        return self._renderer.render(identity.kind, {**self._shared, **own})

    def recipe(self, identity: Identity, *, org: str, not_after: datetime, proxy: str = "") -> str:
        """A digest of all that `render` makes its texts from: the same recipe, the same texts."""
        own = _own_facts(identity, org=org, not_after=not_after, proxy=proxy, joined=False)
        return hashlib.sha256(self._start + canonical_json(own)).hexdigest()

    def names(self, kind: Kind) -> Sequence[str]:
        """The texts that a kit of this kind has."""
        return self._renderer.names(kind)

    @cached_property
    def _start(self) -> bytes:
        return self._renderer.digest.encode() + canonical_json(self._shared)


def _own_facts(
    identity: Identity, *, org: str, not_after: datetime, proxy: str, joined: bool
) -> dict[str, object]:
    """What one party's texts say of it."""
    return {
        "kind": identity.kind.value,
        "name": identity.name,
        "org": org,
        "role": identity.role.value if identity.role else "",
        "identity": identity.uri,
        "proxy": proxy,
        "joined": joined,
        "certificate_not_after": f"{not_after:%Y-%m-%d %H:%M} UTC",
    }
