# SPDX-License-Identifier: Apache-2.0
"""Who belongs to the project: its sites, live; and the gate of every call.

The sites are those of the server's kit and those that were added since. A site that was removed stays so,
whatever a newer kit says, until it is added again. People are known by their certificate alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from flprov._base import from_document, to_document
from flprov.errors import IdentityRefused, LocalError, NotFound, SiteLocked
from flprov.kits import Kit
from flprov.pki import Identity, Kind, Leaf, Reason
from flprov.server.durable import commit_through
from flprov.server.records import Enrolment, Mark, SiteRecord
from flprov.server.revocations import Revocation, Revocations, refusal
from flprov.server.sessions import Session
from flprov.store import Change, Put, Row, Store

logger = logging.getLogger(__name__)

ENROLMENT = "enrolment"
DRAINED = ("server", "drained")  # the record of why the server starts no jobs


@dataclass(frozen=True, kw_only=True)
class Barred:
    """Why a site that belongs to the project is not let in now."""

    state: str  # locked | refused: as in a site's document
    since: datetime
    reason: str
    rung: str = "enrolled"  # of its ladder, that does not hold


class Registry:
    """The enrolled sites, who is locked, and what was revoked."""

    def __init__(self, kit: Kit, store: Store) -> None:
        self._trust_domain = kit.trust_domain
        self._store = store
        self._provisioned = {entry.name: entry.org for entry in kit.registry}
        self._sites = {name: SiteRecord(name=name, org=org) for name, org in self._provisioned.items()}
        self._queued: dict[str, SiteRecord] = {}  # as they will be once all that is under way is on disk
        self._enrolments: dict[str, Enrolment] = {}
        self.drained: Mark | None = None  # of the server: nothing starts
        self.revocations = Revocations(store)
        # What becomes of a row that says that a site came or went; None: it is counted elsewhere.
        self.pass_on: Callable[[Row], Row | None] = lambda row: row

    def load(self) -> None:
        """Read what admins have decided, what was revoked, and what was remembered of each site."""
        self.revocations.load()
        drained = self._store.get(*DRAINED)
        self.drained = from_document(Mark, drained) if drained else None
        for value in self._store.load(ENROLMENT).values():
            self.enrol(from_document(Enrolment, value))
        for name, value in self._store.load("site").items():
            if name in self._sites:
                known = from_document(SiteRecord, value)
                self._sites[name] = replace(known, org=self._sites[name].org)

    # ---- looking up ----------------------------------------------------------------------

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
            removed = self.enrolment(name).removed
            if removed is not None:
                raise NotFound(
                    f"site {name} was removed {removed.said}",
                    hint=f"flprov site add {name} --org {self.enrolment(name).org}",
                ) from None
            raise NotFound(f"no site {name!r} in this project", hint="flprov site ls") from None

    def enrolment(self, name: str) -> Enrolment:
        """What admins have decided about this name; nothing, for one that nobody has heard of."""
        known = self._enrolments.get(name)
        return known or Enrolment(name=name, org=self._provisioned.get(name, ""))

    @property
    def removed(self) -> tuple[str, ...]:
        """The names of the sites that were removed and not added again."""
        return tuple(sorted(name for name, found in self._enrolments.items() if found.removed is not None))

    def provisioned_org(self, name: str) -> str | None:
        """The organisation that the server's kit gives this site; None when it has no such site."""
        return self._provisioned.get(name)

    def former_org(self, name: str) -> str:
        """Whose site of this name was here before, also before it left the kit; empty: nobody's."""
        known = self._store.get("site", name)
        return self.enrolment(name).org or (str(known["org"]) if known else "")

    def identity(self, site: SiteRecord) -> Identity:
        """Who a site says it is."""
        return Identity(trust_domain=self._trust_domain, kind=Kind.SITE, org=site.org, name=site.name)

    def barred(self, name: str) -> Barred | None:
        """Why this site is not let in; None when nothing is known against it."""
        site, lock = self._sites[name], self.enrolment(name).locked
        if lock is not None:
            return Barred(state="locked", since=lock.at, reason=f"locked {lock.said}")
        identity = self.identity(site)
        cutoff = self.revocations.cutoff(identity.uri)
        found: Revocation | None = cutoff
        if site.cert_issued_at is not None:
            found = self.revocations.find(identity.uri, site.cert_serial, site.cert_issued_at)
        if found is None:
            return None
        if cutoff is not None and cutoff.reason is Reason.SUPERSEDED and cutoff.at >= found.at:
            return None  # it has joined anew since, and is awaited with the newer certificate
        return Barred(state="refused", since=found.at, reason=str(refusal(identity, found)))

    def closed(self, name: str) -> str:
        """Why this site gets no new jobs: `drained by ada since 12:03`; empty: it does."""
        drained = self.enrolment(name).drained
        return f"drained {drained.since}" if drained else ""

    @property
    def hold(self) -> str:
        """Why no job starts anywhere; empty: jobs do."""
        return f"the server is drained {self.drained.since}" if self.drained else ""

    # ---- the gate ------------------------------------------------------------------------

    def verify_enrolled(self, caller: Identity, leaf: Leaf | None = None) -> None:
        """The gate of every call, after the certificate's own checks. `leaf`: None without certificates.

        Raises:
            SiteLocked: an admin has locked the site.
            IdentityRefused: another trust domain, a site that this project does not have, or a
                certificate that was revoked.
        """
        if caller.trust_domain != self._trust_domain:
            raise IdentityRefused(f"{caller} belongs to another project; this one is {self._trust_domain}")
        if caller.kind in (Kind.SITE, Kind.INVITE):
            self._verify_site(caller)
        if leaf is not None:
            self.revocations.verify_not_revoked(caller, leaf)

    def _verify_site(self, caller: Identity) -> None:
        site = self._sites.get(caller.name)
        decided = self.enrolment(caller.name)
        if site is None and decided.removed is not None:
            raise removal(decided, decided.removed)
        if site is None or site.org != caller.org:
            raise IdentityRefused(
                f"{caller} is not enrolled in this project",
                hint=f"an admin types: flprov site add {caller.name} --org {caller.org}",
            )
        if decided.locked is not None:
            raise locked(caller.name, decided.locked)

    # ---- changes -------------------------------------------------------------------------

    def enrol(self, enrolment: Enrolment) -> None:
        """Act on a decision from now on: after the commit of `put_enrolment`."""
        name = enrolment.name
        self._enrolments[name] = enrolment
        if enrolment.removed is not None:
            self._sites.pop(name, None)
        elif enrolment.added is not None and name not in self._sites:
            self._sites[name] = self._recall(name, enrolment.org)

    def _recall(self, name: str, org: str) -> SiteRecord:
        known = self._store.get("site", name)  # from before it was removed
        return replace(from_document(SiteRecord, known), org=org) if known else SiteRecord(name=name, org=org)

    async def saw(self, session: Session, cert_not_after: datetime | None) -> None:
        """A site connected: remember from where and with what."""
        known, leaf = self.find(session.name), session.leaf
        changes: dict[str, object] = {
            "first_connected": known.first_connected or session.since,
            "last_seen": session.since,
            "host": session.hello.host,
            "version": session.hello.version,
            "cert_not_after": cert_not_after,
            "cert_serial": f"{leaf.serial:x}" if leaf else "",
            "cert_issued_at": leaf.issued_at if leaf else None,
            "gone_at": None,
            "gone_because": "",
            "left_by_itself": False,
        }
        row = Row(
            who=session.identity.uri,
            what="site.connect",
            object=session.name,
            data={"host": session.hello.host},
        )
        await self._tell(session.name, row, changes)

    async def lost(self, session: Session, now: datetime, *, gone: bool = True) -> None:
        """A site's control stream ended, because it said that it goes or by itself.

        Not `gone`: it has a newer one, so only the row is written.
        """
        left = bool(session.leaving)
        reason = session.leaving or session.closed_because or "connection lost"
        row = Row(
            who=session.identity.uri,
            what="site.leave" if left else "site.disconnect",
            object=session.name,
            reason=reason,
        )
        changes: dict[str, object] = {
            "last_seen": session.last_seen,
            "gone_at": now,
            "gone_because": reason,
            "left_by_itself": left,
        }
        if not gone:
            changes = {}
        await self._tell(session.name, row, changes)

    async def renewed(self, name: str, leaf: Leaf, row: Row, more: Sequence[Change] = ()) -> None:
        """A site has a newer certificate, which is remembered together with `more`."""
        changes: dict[str, object] = {
            "cert_not_after": leaf.not_after,
            "cert_serial": f"{leaf.serial:x}",
            "cert_issued_at": leaf.issued_at,
        }
        await self._remember(name, row, changes, more)

    async def _tell(self, name: str, row: Row, changes: Mapping[str, object]) -> None:
        """A site came or went. It is told also when the disk is full: how else would an abort get there?"""
        try:
            await self._remember(name, self.pass_on(row), changes)
        except LocalError as error:
            logger.warning("%s of site %s could not be recorded: %s", row.what, name, error)
            if name in self._sites:
                self._sites[name] = replace(self._sites[name], **changes)  # type: ignore[arg-type]

    async def _remember(
        self, name: str, row: Row | None, changes: Mapping[str, object], more: Sequence[Change] = ()
    ) -> None:
        known = self._sites.get(name)
        if known is None:  # it was removed meanwhile; that it went is told all the same
            await self._store.commit(more, row)
            return
        # What is being written of this site already counts as written: this goes to disk after it.
        site = self._queued[name] = replace(self._queued.get(name, known), **changes)  # type: ignore[arg-type]
        # Through: a call that is cut off is cancelled in here, and what is on disk must also be shown.
        try:
            await commit_through(self._store, [Put("site", name, to_document(site)), *more], row)
        finally:
            if self._queued.get(name) is site:
                del self._queued[name]
        if name in self._sites:
            self._sites[name] = replace(self._sites[name], **changes)  # type: ignore[arg-type]


def put_enrolment(enrolment: Enrolment) -> Put:
    """The change that keeps it."""
    return Put(ENROLMENT, enrolment.name, to_document(enrolment))


def locked(name: str, lock: Mark) -> SiteLocked:
    """What a locked site reads."""
    return SiteLocked(
        f"site {name} was locked {lock.said}",
        hint=f"it connects again by itself after an admin types: flprov site unlock {name}",
    )


def removal(enrolment: Enrolment, removed: Mark) -> IdentityRefused:
    """What a removed site reads."""
    name, org = enrolment.name, enrolment.org
    return IdentityRefused(
        f"site {name} was removed from this project {removed.said}",
        hint=f"an admin types: flprov site add {name} --org {org}, then: flprov invite create {name}",
    )
