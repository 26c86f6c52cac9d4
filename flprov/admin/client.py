# SPDX-License-Identifier: Apache-2.0
"""The typed client that the commands and the console are made of; use it from your own programs.

from flprov.admin import open_admin

with open_admin("kits/alice") as admin:
    job = admin.submit("my-app", settings={"rounds": "20"})
    done = admin.wait(job.job_id)
    admin.download(job.job_id, "result")
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flprov._base import Clock, SystemClock, parse_json, to_iso
from flprov.admin import jobs, operations, parties
from flprov.admin.apps import Progress, fetch_spec, upload_bundle
from flprov.admin.download import Progress as FileProgress
from flprov.admin.download import download_results
from flprov.admin.joblogs import read_logs
from flprov.admin.link import Link, read_document
from flprov.admin.plots import draw_metrics
from flprov.admin.renewals import renew_certificate
from flprov.admin.trust import PersonTrust, publish_trust, show_trust
from flprov.admin.waiting import wait_for_end
from flprov.errors import FlprovError, Misuse, NotFound, ProtocolError
from flprov.jobs import JobSpec, Origin, build_bundle
from flprov.kits import Kit, load_kit, own_anchors
from flprov.pki import Kind, join_anchors
from flprov.project import DIRECT, Route
from flprov.rpc import Connection, connect
from flprov.rpc import methods as m
from flprov.wire import documents as doc
from flprov.wire import pb
from flprov.wire.documents import TrustStatusDocument

if TYPE_CHECKING:
    from flprov.admin.audit import Progress as RowProgress
    from flprov.admin.invites import NewInvite
    from flprov.admin.log import OnRetry, Wanted
    from flprov.kits import Answer, Publication, SignedRequest
    from flprov.pki import Anchors

_COMMAND_LIFE = timedelta(minutes=2)  # a command that arrives later is not carried out


@dataclass(frozen=True, kw_only=True)
class LogText:
    """Some of one party's log; `party` is a site or "server"."""

    party: str
    offset: int
    data: bytes


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


class Admin:
    """One person's calls. Not for several threads at once."""

    def __init__(
        self,
        kit: Kit,
        connection: Connection,
        *,
        clock: Clock | None = None,
        trust: PersonTrust | None = None,
    ) -> None:
        self.kit = kit
        self._clock = clock or SystemClock()
        self._link = Link(connection)
        self._trust = trust  # None: nothing is learnt
        self._specs: dict[str, JobSpec] = {}  # of apps that were read here, by digest

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
        return operations.change_drain(self._link, self._clock, name, drain=True, reason=reason)

    def enable_site(self, name: str, *, reason: str = "") -> doc.DrainDocument:
        """New jobs may start there again; an order to stop that is open is taken back. Raises NotFound."""
        return operations.change_drain(self._link, self._clock, name, drain=False, reason=reason)

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
        return operations.change_drain(self._link, self._clock, "", drain=True, reason=reason)

    def enable_server(self, *, reason: str = "") -> doc.DrainDocument:
        """Jobs start again."""
        return operations.change_drain(self._link, self._clock, "", drain=False, reason=reason)

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

    def trust(self) -> TrustStatusDocument:
        """What the live network believes, and who has heard of it."""
        return show_trust(self._link)

    def publish_trust(self, publication: Publication) -> TrustStatusDocument:
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

    # ---- apps ------------------------------------------------------------------------------

    def upload(self, folder: str | Path, *, progress: Progress | None = None) -> doc.AppDocument:
        """Build the app in `folder` and bring it to the server, if it is not there yet.

        Raises:
            ConfigError: job.yml has mistakes.
        """
        return upload_bundle(self._link, build_bundle(Path(folder)), progress)

    def apps(self) -> tuple[doc.AppDocument, ...]:
        """Every uploaded app, newest first."""
        return self._link.document(doc.AppListDocument, m.LIST_APPS, pb.Query()).apps

    def app(self, name: str) -> doc.AppDocument:
        """An app by name, digest or unique prefix of one. Raises NotFound."""
        return self._link.document(doc.AppDocument, m.SHOW_APP, pb.Query(id=name))

    # ---- jobs ------------------------------------------------------------------------------

    def submit(
        self,
        app: str | Path,
        *,
        settings: Mapping[str, str] | None = None,
        sites: Sequence[str] = (),
        min_sites: int | None = None,
        token: str = "",
        progress: Progress | None = None,
    ) -> doc.SubmitDocument:
        """Sign a job and hand it in.

        Args:
            app: a folder, or the name or digest of an app that was uploaded.
            settings: what `--set` takes, e.g. {"rounds": "5", "args.lr": "0.1"}.
            sites: names; empty: every enrolled site.
            min_sites: how many a round needs; None: what job.yml says.
            token: the same token again gives the same job; empty: a new one each time.
            progress: told of the upload.

        Raises:
            ConfigError, Misuse: the job's own mistakes.
            NotFound: no such app or site.
            Conflict: the token was used for another job.
        """
        digest, spec = self._resolve(app, progress)
        spec = jobs.change_spec(spec, settings, min_sites)
        return jobs.submit_job(
            self._link, self.kit, self._clock, app=digest, spec=spec, sites=self._targets(sites), token=token
        )

    def plan(
        self,
        app: str | Path,
        *,
        settings: Mapping[str, str] | None = None,
        sites: Sequence[str] = (),
        min_sites: int | None = None,
        progress: Progress | None = None,
    ) -> doc.JobPlanDocument:
        """What would come of `submit` with the same arguments; the app is uploaded, and no job is made.

        Raises:
            ConfigError, Misuse: the job's own mistakes.
            NotFound: no such app or site.
        """
        digest, spec = self._resolve(app, progress)
        spec = jobs.change_spec(spec, settings, min_sites)
        return jobs.plan_job(
            self._link, self.kit, self._clock, app=digest, spec=spec, sites=self._targets(sites)
        )

    def _targets(self, sites: Sequence[str]) -> tuple[str, ...]:
        chosen = tuple(sorted(sites)) or tuple(site.name for site in self.sites())
        if not chosen:
            raise Misuse("the project has no site yet", hint="add one to project.yml and provision again")
        return chosen

    def clone(
        self,
        job_id: str,
        *,
        from_round: int | None = None,
        settings: Mapping[str, str] | None = None,
        sites: Sequence[str] = (),
        min_sites: int | None = None,
        token: str = "",
    ) -> doc.SubmitDocument:
        """Sign the same job once more, and hand it in.

        Args:
            job_id: an id, a unique prefix of one, or "last".
            from_round: start with the state saved after so many rounds; None or 0: from the start.
            settings: what `--set` takes.
            sites: names; empty: those of the job.
            min_sites: how many a round needs; None: as in the job.
            token: the same token again gives the same clone; empty: a new one each time.

        Raises:
            NotFound: no such job, or no such round.
            Conflict: the checkpoint is not kept any more; or the token was used for another job.
            PermissionRefused: the job belongs to another organisation.
            ConfigError: the clone would have fewer rounds in all than are done.
        """
        source = self.job(job_id)
        newest = self._trust.newest if self._trust else None
        people = own_anchors(self.kit)
        if newest is not None:
            people = join_anchors(people, newest.anchors["people"])
        signed = jobs.fetch_submission(self._link, source.id, people)
        return jobs.submit_job(
            self._link,
            self.kit,
            self._clock,
            app=signed.app,
            spec=jobs.change_spec(signed.spec, settings, min_sites),
            sites=tuple(sites) or signed.sites,
            token=token,
            origin=Origin(job_id=source.id, round=from_round or 0),
        )

    def _resolve(self, app: str | Path, progress: Progress | None) -> tuple[str, JobSpec]:
        """The digest and the spec to sign: of bytes that were read here, never the server's word."""
        folder = Path(app)
        if folder.is_dir():
            bundle = build_bundle(folder)
            upload_bundle(self._link, bundle, progress)
            return bundle.digest, bundle.spec
        if isinstance(app, Path) or "/" in app:
            raise NotFound(f"no folder {app}", hint="flprov app ls")
        if app in self._specs:
            return app, self._specs[app]
        found = self.app(app)
        if app != found.name and not found.digest.startswith(app):
            raise ProtocolError(f"the server answered with app {found.name} ({found.digest}) for {app!r}")
        if found.digest not in self._specs:
            self._specs[found.digest] = fetch_spec(self._link, found)
        return found.digest, self._specs[found.digest]

    def jobs(
        self, name: str = "", *, state: str = "", limit: int | None = None
    ) -> tuple[doc.JobDocument, ...]:
        """Every job, newest first, or the newest `limit`; `name` and `state` narrow it."""
        return self.list_jobs(name, state=state, limit=limit).jobs

    def list_jobs(self, name: str = "", *, state: str = "", limit: int | None = None) -> doc.JobListDocument:
        """`jobs`, and whether there are more."""
        return jobs.list_jobs(self._link, name, state, limit)

    def delete_job(self, job_id: str, *, reason: str = "") -> doc.JobDeletedDocument:
        """Remove a job that has ended: record, rounds, results, logs. Its token stays used.

        Raises:
            Conflict: it has not ended, or not everywhere.
            NotFound, PermissionRefused: it is not there, or not yours.
        """
        return jobs.delete_job(self._link, self._clock, job_id, reason=reason)

    def job(self, job_id: str) -> doc.JobDocument:
        """A job by id, unique prefix of one, or "last". Raises NotFound."""
        return self._link.document(doc.JobDocument, m.SHOW_JOB, pb.Query(id=job_id))

    def watch(self, job_id: str, *, timeout: float | None = None) -> Iterator[doc.JobDocument]:
        """The job now and after each change, until it has ended. Raises TimedOut."""
        rounds: tuple[doc.RoundDocument, ...] = ()
        for reply in self._link.download(m.WATCH_JOB, pb.Query(id=job_id), timeout=timeout):
            job = read_document(doc.JobDocument, reply)  # with those of its rounds that are new
            rounds += job.rounds
            yield replace(job, rounds=rounds)

    def wait(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        on_change: Callable[[doc.JobDocument], None] | None = None,
        on_retry: OnRetry | None = None,
    ) -> doc.JobDocument:
        """The job once it has ended, however it ended.

        Args:
            job_id: which.
            timeout: seconds.
            on_change: told the job at first and after each change.
            on_retry: told why the watch broke off, which try follows and in how many seconds; None: a
                watch that breaks off is the end. What time cannot heal always is.

        Raises:
            TimedOut: it had not ended after `timeout` seconds.
            ServerUnavailable: the server stopped; the job goes on when it is back.
        """
        return wait_for_end(
            lambda seconds: self.watch(job_id, timeout=seconds),
            clock=self._clock,
            rest=self._rest,
            timeout=timeout,
            on_change=on_change or (lambda _job: None),
            on_retry=on_retry,
            job_id=job_id,
        )

    def why(self, job_id: str) -> doc.WhyDocument:
        """The earliest cause of a job's trouble, or what it waits for."""
        return self._link.document(doc.WhyDocument, m.WHY_JOB, pb.Query(id=job_id))

    def _rest(self, seconds: float) -> None:
        self._link.run(self._clock.sleep(seconds))

    def logs(
        self,
        job_id: str,
        *,
        site: str = "",
        offset: int = 0,
        tail: int = 0,
        follow: bool = False,
        on_retry: OnRetry | None = None,
    ) -> Iterator[LogText]:
        """The logs of all parties or of one, in parts. A part that begins later than expected: what lay
        between was dropped.

        Args:
            job_id: which job.
            site: only this party's; "server" is the workflow's.
            offset: from this byte on.
            tail: instead, so many lines before the end.
            follow: as they grow, until the job has ended.
            on_retry: told of each try after the connection broke; None: that is the end.
        """
        request = pb.LogsRequest(job_id=job_id, site=site, offset=offset, tail=tail, follow=follow)
        for part in read_logs(self._link, request, rest=self._rest, on_retry=on_retry):
            yield LogText(party=part.site, offset=part.offset, data=part.data)

    def abort(self, job_id: str, *, reason: str = "") -> doc.JobDocument:
        """Ask a job to end. `wait` tells when nothing of it runs any more."""
        request = pb.AbortRequest(
            job_id=job_id,
            key=secrets.token_hex(8),
            not_after=to_iso(self._clock.now() + _COMMAND_LIFE),
            reason=reason,
        )
        return self._link.document(doc.JobDocument, m.ABORT_JOB, request)

    def download(
        self, job_id: str, folder: str | Path, *, progress: FileProgress | None = None
    ) -> tuple[list[Path], str]:
        """Bring model, metrics, plot, logs and record into `folder`.

        Returns:
            The files, and why there is no plot (empty: there is one).
        """
        target = Path(folder)
        files = download_results(self._link, job_id, target, progress)
        try:
            picture = draw_metrics(_read_metrics(target / "metrics.json", files))
        except FlprovError as error:  # a picture is no reason to fail: everything else is here
            return files, f"{error}" + (f" ({error.hint})" if error.hint else "")
        plot = target / "metrics.png"
        plot.write_bytes(picture)
        return [*files, plot], ""


def _read_metrics(path: Path, files: Sequence[Path]) -> Mapping[str, Any]:
    if path not in files:
        raise NotFound("the server has no metrics.json of this job")
    try:
        found = parse_json(path.read_bytes())
    except ValueError as error:
        raise ProtocolError(f"metrics.json is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ProtocolError("metrics.json is not a JSON object")
    return found
