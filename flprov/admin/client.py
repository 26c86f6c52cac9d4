# SPDX-License-Identifier: Apache-2.0
"""The typed client that the commands and the console are made of; use it from your own programs.

from flprov.admin import open_admin

with open_admin("kits/alice") as admin:
    job = admin.submit("my-app", settings={"rounds": "20"})
    done = admin.wait(job.job_id)
    admin.download(job.job_id, "result")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from flprov._base import Clock, SystemClock
from flprov.admin import operations, parties
from flprov.admin.jobcalls import JobCalls
from flprov.admin.link import Link
from flprov.admin.renewals import renew_certificate
from flprov.admin.trust import PersonTrust, publish_trust, show_trust
from flprov.kits import Kit, load_kit
from flprov.pki import Kind
from flprov.project import DIRECT, Route
from flprov.rpc import Connection, connect
from flprov.rpc import methods as m
from flprov.wire import documents as doc
from flprov.wire import pb

if TYPE_CHECKING:
    from flprov.admin.audit import Progress as RowProgress
    from flprov.admin.invites import NewInvite
    from flprov.admin.log import OnRetry, Wanted
    from flprov.kits import Answer, Publication, SignedRequest
    from flprov.pki import Anchors

_COMMAND_LIFE = timedelta(minutes=2)  # a command that arrives later is not carried out


def open_admin(
    kit: str | Path,
    *,
    passphrase: bytes | Callable[[Path], bytes | None] | None = None,
    route: Route | None = None,
    clock: Clock | None = None,
) -> Admin:
    """A client that acts with the person's kit in this folder.

    Args:
        kit: the folder.
        passphrase: of a key that is encrypted, or what to ask for it.
        route: the proxy on the way to the server; None: as the kit says, else none.
        clock: the machine's own when None.

    Raises:
        KitRefused: the kit is not a person's, or was changed.
        Misuse: its key is encrypted, and the passphrase is missing or wrong.
    """
    clock = clock or SystemClock()
    loaded = load_kit(Path(kit), now=clock.now(), kind=Kind.PERSON, passphrase=passphrase)
    trust = PersonTrust(loaded, clock.now())
    connection = connect(
        loaded.endpoints,
        chain_pem=loaded.chain_pem,
        private_pem=loaded.private_pem,
        server_anchors=trust.servers,
        route=loaded.route or route or DIRECT,
    )
    return Admin(loaded, connection, clock=clock, trust=trust)


class Admin(JobCalls):
    """One person's calls. Not for several threads at once."""

    def __init__(
        self,
        kit: Kit,
        connection: Connection,
        *,
        clock: Clock | None = None,
        trust: PersonTrust | None = None,
    ) -> None:
        super().__init__(kit, Link(connection), clock or SystemClock(), trust)
        self._link.prepare()

    def __enter__(self) -> Admin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Learn whether the project's CAs have changed, and let go of the connection."""
        if self._trust is not None and self._link.answered:
            self._link.answered = False  # once
            self._trust.learn(self._link, self._clock.now())
        self._link.close()

    # ---- status and sites ------------------------------------------------------------------

    def status(self) -> doc.StatusDocument:
        """The server and every site, as they are now."""
        return self._link.document(doc.StatusDocument, m.STATUS, pb.Query())

    def sites(self) -> tuple[doc.SiteDocument, ...]:
        """Every enrolled site."""
        return self._link.document(doc.SiteListDocument, m.LIST_SITES, pb.Query()).sites

    def site(self, name: str) -> doc.SiteDocument:
        """One site. Raises NotFound."""
        return self._link.document(doc.SiteDocument, m.SHOW_SITE, pb.Query(id=name))

    def why_site(self, name: str) -> doc.SiteWhyDocument:
        """What keeps a site from running jobs, and what to do about it. Raises NotFound."""
        return self._link.document(doc.SiteWhyDocument, m.WHY_SITE, pb.Query(id=name))

    def add_site(self, name: str, *, org: str, reason: str = "") -> doc.PartyChangeDocument:
        """Let the project have this site, from now on; an invite gives it its kit. Raises Conflict."""
        return parties.change_site(self._link, self._clock, "add", name, org=org, reason=reason)

    def remove_site(self, name: str, *, reason: str = "") -> doc.PartyChangeDocument:
        """Take a site out; its certificates are revoked. Raises NotFound."""
        return parties.change_site(self._link, self._clock, "remove", name, reason=reason)

    def lock_site(self, name: str, *, reason: str = "") -> doc.PartyChangeDocument:
        """Keep a site out until it is unlocked. Raises NotFound."""
        return parties.change_site(self._link, self._clock, "lock", name, reason=reason)

    def unlock_site(self, name: str, *, reason: str = "") -> doc.PartyChangeDocument:
        """Let a locked site come back; it does so by itself. Raises NotFound."""
        return parties.change_site(self._link, self._clock, "unlock", name, reason=reason)

    def drain_site(self, name: str, *, reason: str = "") -> doc.DrainDocument:
        """No new jobs there, from now on; those that run there go on. Raises NotFound."""
        return operations.change_drain(self._link, self._clock, m.DRAIN_SITE, name=name, reason=reason)

    def enable_site(self, name: str, *, reason: str = "") -> doc.DrainDocument:
        """New jobs may start there again; an order to stop that is open is taken back. Raises NotFound."""
        return operations.change_drain(self._link, self._clock, m.ENABLE_SITE, name=name, reason=reason)

    def stop_site(self, name: str, *, now: bool = False, reason: str = "") -> Iterator[doc.SiteOrderDocument]:
        """Drain a site, and end its agent when no job runs there any more, or `now`; how it goes.

        The first document says that the order is on the server's disk; it stands when you leave early.

        Raises:
            SiteUnavailable: the site is not connected.
        """
        return operations.order_site(self._link, self._clock, name, restart=False, now=now, reason=reason)

    def restart_site(self, name: str, *, reason: str = "") -> Iterator[doc.SiteOrderDocument]:
        """Start the agent of a site anew, while its jobs go on; how it goes. Raises SiteUnavailable."""
        return operations.order_site(self._link, self._clock, name, restart=True, now=True, reason=reason)

    # ---- operations ------------------------------------------------------------------------

    def drain_server(self, *, reason: str = "") -> doc.DrainDocument:
        """No job starts anywhere, from now on."""
        return operations.change_drain(self._link, self._clock, m.DRAIN_SERVER, reason=reason)

    def enable_server(self, *, reason: str = "") -> doc.DrainDocument:
        """Jobs start again."""
        return operations.change_drain(self._link, self._clock, m.ENABLE_SERVER, reason=reason)

    def clean(self, *, older_than: timedelta | None = None, dry_run: bool = False) -> doc.CleanDocument:
        """Have the server throw away what no job needs; jobs that ended longer ago than `older_than`."""
        return operations.clean(self._link, self._clock, older_than=older_than, dry_run=dry_run)

    def watch_drain(self, site: str = "") -> Iterator[doc.DrainDocument]:
        """How a site, or the server, stands: until it is safe to stop or is not drained any more."""
        return operations.watch_drain(self._link, site)

    # ---- the log ---------------------------------------------------------------------------

    def events(self, wanted: Wanted, *, start: int = 0, last: int = 0) -> doc.EventListDocument:
        """What happened to jobs and sites: from an index on, or the newest `last`."""
        from flprov.admin.log import read_events  # late: few commands need it

        pages = list(read_events(self._link, wanted, start=start, last=last))
        events = tuple(event for page in pages for event in page.events)
        return doc.EventListDocument(events=events, next=pages[-1].next if pages else start)

    def follow_events(
        self, wanted: Wanted, *, start: int = 0, last: int = 0, on_retry: OnRetry
    ) -> Iterator[doc.EventDocument]:
        """Events and then each as it is written, without end, also across restarts of the server."""
        from flprov.admin.log import follow_events

        for page in follow_events(self._link, self._clock, wanted, start=start, last=last, on_retry=on_retry):
            yield from page.events

    def audit(
        self, wanted: Wanted, *, start: int = 0, last: int = 0, limit: int = 0
    ) -> doc.AuditListDocument:
        """Rows of the log with their digests: all of them, or for an org_admin the organisation's own."""
        from flprov.admin.log import read_audit

        pages = list(read_audit(self._link, wanted, start=start, last=last, limit=limit))
        rows = tuple(row for page in pages for row in page.rows)
        return doc.AuditListDocument(rows=rows, head=pages[-1].head if pages else 0)

    def verify_log(
        self, *, on_retry: OnRetry, progress: RowProgress | None = None
    ) -> doc.AuditVerdictDocument:
        """Whether the server's log is as it was written, judged here. Memory does not grow with it."""
        from flprov.admin.audit import Judge, verify_log
        from flprov.admin.log import fetch_lines, fetch_witnesses

        witnesses = fetch_witnesses(self._link)
        judge = Judge(project_id=self.kit.project_id, anchors=self._site_anchors())
        lines = fetch_lines(self._link, self._clock, start=1, on_retry=on_retry)
        return verify_log(lines, witnesses, judge, source=self.kit.server, progress=progress)

    def export_log(
        self, path: Path, *, on_retry: OnRetry, progress: RowProgress | None = None
    ) -> doc.AuditExportDocument:
        """Write the whole log to a file, or what is new of it.

        Raises:
            Conflict: the file is there and is not the beginning of a log.
            RemoteError: the server's log does not continue the file.
        """
        from flprov.admin.exports import export_log
        from flprov.admin.log import fetch_lines, fetch_witnesses

        witnesses = fetch_witnesses(self._link)
        return export_log(
            path,
            lambda start: fetch_lines(self._link, self._clock, start=start, on_retry=on_retry),
            witnesses,
            progress=progress,
        )

    def _site_anchors(self) -> Anchors | None:
        """The CAs of sites, as the newest trust bundle has them that the kit's root vouches for."""
        if self._trust is None:
            return None
        self._trust.learn(self._link, self._clock.now())
        return self._trust.sites

    # ---- people ----------------------------------------------------------------------------

    def people(self) -> tuple[doc.PersonDocument, ...]:
        """Everybody whom the server knows."""
        return parties.list_people(self._link)

    def remove_person(self, name: str, *, reason: str = "") -> doc.PartyChangeDocument:
        """Revoke every certificate that a person of this name has had. Raises NotFound, Refused."""
        return parties.remove_person(self._link, self._clock, name, reason=reason)

    # ---- certificates ----------------------------------------------------------------------

    def certificates(self, *, every: bool = False) -> doc.CertificateListDocument:
        """Every certificate that matters now, with its days left; `every`: also those that were replaced."""
        return parties.list_certificates(self._link, every=every)

    def revoke_certificate(
        self, target: str, *, reason: str = "", comment: str = ""
    ) -> doc.PartyChangeDocument:
        """Revoke every certificate of a party, or one by its serial number.

        Args:
            target: a site's or person's name, its SPIFFE URI, or a serial number in hex.
            reason: one of X.509's, such as `key-compromise`.
            comment: in words, for whoever is refused.

        Raises:
            NotFound, Misuse: it is nothing that is known, or several things.
            Refused: it is the server, a CA or the last project_admin.
        """
        return parties.revoke_certificate(self._link, self._clock, target, reason=reason, comment=comment)

    def crls(self) -> tuple[doc.CRLDocument, ...]:
        """The revocation lists of now, signed."""
        return parties.export_crls(self._link)

    def renew_certificate(self, name: str, *, reason: str = "") -> doc.RenewalDocument:
        """Have a site or the server renew now: its new certificate. Raises NotFound, SiteUnavailable."""
        return renew_certificate(self._link, self._clock, name, reason=reason)

    # ---- trust -----------------------------------------------------------------------------

    def trust(self) -> doc.TrustStatusDocument:
        """What the live network believes, and who has heard of it."""
        return show_trust(self._link)

    def publish_trust(self, publication: Publication) -> doc.TrustStatusDocument:
        """Bring a workspace's trust bundle to the live network; you go by it yourself from now on.

        Raises:
            Refused, Conflict: the server does not take it, and says why.
        """
        found = publish_trust(self._link, self._clock, publication)
        if self._trust is not None:
            self._trust.keep(publication.signed, self._clock.now())
        return found

    # ---- invites ---------------------------------------------------------------------------

    def create_invite(
        self, site: str, *, org: str = "", lifetime: timedelta = timedelta(hours=24), approval: bool = False
    ) -> NewInvite:
        """A new invite: one line, with which the hospital makes its kit.

        Args:
            site: whom it is for.
            org: its organisation; when given, the site is added if the project does not have it.
            lifetime: how long it can be used.
            approval: whether you will compare the fingerprint of the hospital's key first.
        """
        from flprov.admin.invites import create_invite  # late, here and below: few commands need it

        return create_invite(
            self._link,
            self.kit,
            self._clock,
            site=site,
            org=org,
            lifetime=lifetime,
            approval=approval,
            trust=self._trust.newest if self._trust else None,
        )

    def invites(self) -> tuple[doc.InviteDocument, ...]:
        """Every invite that you may decide on, the newest first."""
        from flprov.admin.invites import list_invites

        return list_invites(self._link)

    def approve_invite(self, invite: str, *, fingerprint: str) -> doc.InviteDocument:
        """Let the key that came with an invite have its certificate. Raises Refused, Conflict, NotFound."""
        from flprov.admin.invites import decide_invite

        return decide_invite(self._link, self._clock, invite=invite, approve=True, fingerprint=fingerprint)

    def revoke_invite(self, invite: str, *, reason: str = "") -> doc.InviteDocument:
        """Take an invite back. Raises Conflict when it was used."""
        from flprov.admin.invites import decide_invite

        return decide_invite(self._link, self._clock, invite=invite, approve=False, reason=reason)

    def relay_join(self, signed: SignedRequest) -> Answer:
        """The server's answer to a request that came as a file; you have compared its fingerprint."""
        from flprov.admin.invites import relay_join

        return relay_join(self._link, self._clock, signed)
