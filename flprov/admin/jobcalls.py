# SPDX-License-Identifier: Apache-2.0
"""What a person's client does about apps and jobs; `Admin` has it together with all the rest."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flprov._base import Clock, dataclass, parse_json, to_iso, write_atomic
from flprov.admin import jobs
from flprov.admin.apps import Progress, fetch_spec, upload_bundle
from flprov.admin.joblogs import read_logs
from flprov.admin.link import Link, read_document
from flprov.admin.trust import PersonTrust
from flprov.errors import FlprovError, Misuse, NotFound, ProtocolError
from flprov.kits import Kit
from flprov.pki import join_anchors
from flprov.rpc import methods as m
from flprov.wire import documents as doc
from flprov.wire import pb

if TYPE_CHECKING:
    from flprov.admin.download import Progress as FileProgress
    from flprov.admin.log import OnRetry
    from flprov.jobs import JobSpec
    from flprov.wire import SeriesLine

_COMMAND_LIFE = timedelta(minutes=2)  # a command that arrives later is not carried out


@dataclass(frozen=True, kw_only=True)
class LogText:
    """Some of one party's log; `party` is a site or "server"."""

    party: str
    offset: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class _Site:
    name: str


@dataclass(frozen=True, kw_only=True)
class _Sites:
    """What is read of a SiteListDocument where the names will do: the whole of 1,000 sites takes 0.1 s."""

    sites: tuple[_Site, ...]


class JobCalls:
    """Apps and jobs."""

    def __init__(self, kit: Kit, link: Link, clock: Clock, trust: PersonTrust | None) -> None:
        self.kit = kit
        self._clock = clock
        self._link = link
        self._trust = trust  # None: nothing is learnt
        self._specs: dict[str, JobSpec] = {}  # of apps that were read here, by digest

    # ---- apps ------------------------------------------------------------------------------

    def upload(self, folder: str | Path, *, progress: Progress | None = None) -> doc.AppDocument:
        """Build the app in `folder` and bring it to the server, if it is not there yet.

        Raises:
            ConfigError: job.yml has mistakes.
        """
        from flprov.jobs import build_bundle  # late: many commands need none of this

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
        from flprov.workers import change_spec  # late: see `upload`

        digest, spec = self._resolve(app, progress)
        spec = change_spec(spec, settings, min_sites)
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
        from flprov.workers import change_spec  # late: see `upload`

        digest, spec = self._resolve(app, progress)
        spec = change_spec(spec, settings, min_sites)
        return jobs.plan_job(
            self._link, self.kit, self._clock, app=digest, spec=spec, sites=self._targets(sites)
        )

    def _targets(self, sites: Sequence[str]) -> tuple[str, ...]:
        chosen = tuple(sorted(sites)) or self._enrolled()
        if not chosen:
            raise Misuse("the project has no site yet", hint="add one to project.yml and provision again")
        return chosen

    def _enrolled(self) -> tuple[str, ...]:
        return tuple(site.name for site in self._link.document(_Sites, m.LIST_SITES, pb.Query()).sites)

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
        from flprov.jobs import Origin  # late, as the next two: see `upload`
        from flprov.kits import own_anchors
        from flprov.workers import change_spec

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
            spec=change_spec(signed.spec, settings, min_sites),
            sites=tuple(sites) or signed.sites,
            token=token,
            origin=Origin(job_id=source.id, round=from_round or 0),
        )

    def _resolve(self, app: str | Path, progress: Progress | None) -> tuple[str, JobSpec]:
        """The digest and the spec to sign: of bytes that were read here, never the server's word."""
        if not str(app):  # $APP may be empty, and the current folder a folder with a job.yml
            raise Misuse("the app to run has no name", hint="flprov app ls")
        folder = Path(app)
        if folder.is_dir():
            from flprov.jobs import build_bundle  # late: see `upload`

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
        from flprov.admin.waiting import wait_for_end  # late: see `upload`

        known = job_id

        def watch(seconds: float | None) -> Iterator[doc.JobDocument]:
            nonlocal known
            for job in self.watch(known, timeout=seconds):
                known = job.id  # after a break "last", or a prefix, may name another one
                yield job

        return wait_for_end(
            watch,
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

    def series(
        self, job_id: str, *, follow: bool = False, on_retry: OnRetry | None = None
    ) -> Iterator[list[SeriesLine]]:
        """The numbers that a job has told, in parts; with `follow` as they come, until it has ended.

        Args:
            job_id: which job.
            follow: go on until the job has ended.
            on_retry: told of each try after the connection broke; None: that is the end.
        """
        from flprov.admin.series import fetch_series  # late: see `upload`

        request = pb.SeriesRequest(job_id=job_id, follow=follow)
        return fetch_series(self._link, request, rest=self._rest, on_retry=on_retry)

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
        from flprov.admin.download import PLOT, download_results  # late, as the next: see `upload`
        from flprov.admin.plots import draw_metrics

        target = Path(folder)
        files = download_results(self._link, job_id, target, progress)
        try:
            picture = draw_metrics(_read_metrics(target / "metrics.json", files))
        except FlprovError as error:  # a picture is no reason to fail: everything else is here
            return files, f"{error}" + (f" ({error.hint})" if error.hint else "")
        plot = target / PLOT
        write_atomic(plot, picture)
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
