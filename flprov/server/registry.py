# SPDX-License-Identifier: Apache-2.0
"""Who belongs to the project, and when each site was last here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from flprov._base import from_document, to_document
from flprov.errors import IdentityRefused, NotFound
from flprov.kits import Kit
from flprov.pki import Identity, Kind, Leaf
from flprov.server.records import SiteRecord
from flprov.server.sessions import Session
from flprov.store import Put, Row, Store


class Registry:
    """The enrolled sites; people are known by their certificate alone."""

    def __init__(self, kit: Kit, store: Store) -> None:
        self._trust_domain = kit.trust_domain
        self._store = store
        self._sites = {entry.name: SiteRecord(name=entry.name, org=entry.org) for entry in kit.registry}

    def load(self) -> None:
        """Read what was remembered of each site."""
        for name, value in self._store.load("site").items():
            if name in self._sites:
                known = from_document(SiteRecord, value)
                self._sites[name] = replace(known, org=self._sites[name].org)

    @property
    def sites(self) -> Mapping[str, SiteRecord]:
        """Every enrolled site, by name."""
        return self._sites

    @property
    def orgs(self) -> Mapping[str, str]:
        """The organisation of each site."""
        return {name: site.org for name, site in self._sites.items()}

    def find(self, name: str) -> SiteRecord:
        """The enrolled site of this name."""
        try:
            return self._sites[name]
        except KeyError:
            raise NotFound(f"no site {name!r} in this project", hint="flprov site ls") from None

    def verify_enrolled(self, caller: Identity, leaf: Leaf | None = None) -> None:  # noqa: ARG002
        """The gate of every call, after the certificate's own checks.

        Raises:
            IdentityRefused: another trust domain, or a site that this project does not have.
        """
        if caller.trust_domain != self._trust_domain:
            raise IdentityRefused(f"{caller} belongs to another project; this one is {self._trust_domain}")
        if caller.kind is Kind.SITE:
            site = self._sites.get(caller.name)
            if site is None or site.org != caller.org:
                raise IdentityRefused(
                    f"{caller} is not enrolled in this project",
                    hint="the project_admin adds the site to project.yml and provisions again",
                )

    async def saw(self, session: Session, cert_not_after: datetime | None) -> None:
        """A site connected: remember from where and with what."""
        known = self._sites[session.name]
        site = replace(
            known,
            first_connected=known.first_connected or session.since,
            last_seen=session.since,
            host=session.hello.host,
            version=session.hello.version,
            cert_not_after=cert_not_after,
        )
        row = Row(
            who=session.identity.uri, what="site.connect", object=session.name, data={"host": site.host}
        )
        await self._store.commit([Put("site", site.name, to_document(site))], row)
        self._sites[session.name] = site

    async def lost(self, session: Session) -> None:
        """A site's control stream ended."""
        site = replace(self._sites[session.name], last_seen=session.last_seen)
        row = Row(
            who=session.identity.uri,
            what="site.disconnect",
            object=session.name,
            reason=session.closed_because or "connection lost",
        )
        await self._store.commit([Put("site", site.name, to_document(site))], row)
        self._sites[session.name] = site
