# SPDX-License-Identifier: Apache-2.0
"""What people call: status, sites, apps, jobs. Each handler checks its object rule and makes a document."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from flprov._base import Clock, canonical_json
from flprov.blobs import BlobStore
from flprov.errors import Misuse
from flprov.jobs import JobState, Submission, list_bundle, list_models, read_bundle_spec
from flprov.kits import Kit
from flprov.pki import Anchors
from flprov.rpc import Call
from flprov.rpc.methods import ObjectRule
from flprov.server.access import verify_may_touch
from flprov.server.commands import Commands
from flprov.server.foreign import foreign_line
from flprov.server.jobs.contributions import contributions
from flprov.server.jobs.jobs import Jobs
from flprov.server.jobs.results import Results
from flprov.server.jobs.run import JobRun
from flprov.server.jobs.submissions import read_submission, verify_runs
from flprov.server.logs import LogBook
from flprov.server.records import AppRecord
from flprov.server.registry import Registry
from flprov.server.sessions import Sessions
from flprov.server.sights.jobs import job_document
from flprov.server.sights.pages import list_page, newest_rounds, next_rounds
from flprov.server.sights.scene import Scene
from flprov.server.sights.sites import site_document, site_documents
from flprov.server.sights.sitewhy import site_why
from flprov.server.sights.why import why_document
from flprov.server.transfers import receive_blob, send_blob
from flprov.wire import documents as doc
from flprov.wire import pb

_MOST_APP = 512 << 20
_MOST_WAITING = 20  # jobs that `status` names


class AdminService:
    """The handlers of every method that a person may call."""

    def __init__(
        self,
        *,
        clock: Clock,
        kit: Kit,
        registry: Registry,
        sessions: Sessions,
        jobs: Jobs,
        blobs: BlobStore,
        logs: LogBook,
        commands: Commands,
        describe: Callable[[], doc.ServerDocument],
        people: Callable[[], Anchors] | None = None,
        scene: Scene | None = None,
    ) -> None:
        self._clock = clock
        self._kit = kit
        self._people = people or (lambda: kit.anchors["people"])  # the CAs of people, as of now
        self._registry = registry
        self._sessions = sessions
        self._jobs = jobs
        self._blobs = blobs
        self._logs = logs
        self._commands = commands
        self._describe = describe
        self._scene = scene or Scene(clock=clock, registry=registry, sessions=sessions, jobs=jobs)
        self._results = Results(jobs=jobs, blobs=blobs, logs=logs)

    # ---- status and sites ------------------------------------------------------------------

    async def status(self, call: Call, request: pb.Query) -> pb.Document:  # noqa: ARG002
        """The server and every site."""
        return _document(self._status())

    def _status(self) -> doc.StatusDocument:
        sites, refused = site_documents(self._scene), self._scene.refused()
        waiting = [
            doc.WaitingJob(
                id=run.record.id, name=run.record.name, state=run.record.state.value, reason=run.record.reason
            )
            for run in self._jobs.going()
            if run.record.state in (JobState.QUEUED, JobState.DEPLOYING) and run.record.reason
        ]
        return doc.StatusDocument(
            server=self._describe(), sites=sites, refused=refused, waiting=tuple(waiting[:_MOST_WAITING])
        )

    async def why_site(self, call: Call, request: pb.Query) -> pb.Document:  # noqa: ARG002
        """What keeps a site from running jobs."""
        return _document(site_why(self._scene, self._registry.find(request.id)))

    async def list_sites(self, call: Call, request: pb.Query) -> pb.Document:  # noqa: ARG002
        """Every enrolled site."""
        return _document(doc.SiteListDocument(sites=site_documents(self._scene)))

    async def show_site(self, call: Call, request: pb.Query) -> pb.Document:  # noqa: ARG002
        """One site."""
        return _document(site_document(self._scene, self._registry.find(request.id)))

    # ---- apps ------------------------------------------------------------------------------

    async def upload_app(self, call: Call, requests: AsyncIterator[Any]) -> AsyncIterator[pb.UploadReply]:
        """A bundle; it becomes an app once its job.yml was read."""
        headers: list[pb.UploadHeader] = []

        def verify(header: pb.UploadHeader) -> bool:
            headers.append(header)
            return header.digest in self._jobs.apps  # which everybody who may upload may also download

        async for reply in receive_blob(
            self._blobs, requests, owner=call.caller.uri, verify=verify, most=_MOST_APP
        ):
            if reply.complete:
                await self._add_app(call, headers[0])
            yield reply

    async def _add_app(self, call: Call, header: pb.UploadHeader) -> None:
        if header.digest in self._jobs.apps:
            return
        path = self._blobs.path(header.digest)
        try:
            spec = await asyncio.to_thread(read_bundle_spec, path)
            files = await asyncio.to_thread(list_bundle, path)
        except Exception:
            self._jobs.collect({header.digest})  # unless it is something else that a job needs
            raise
        await self._jobs.add_app(
            AppRecord(
                digest=header.digest,
                name=spec.name,
                size=path.stat().st_size,
                uploaded_at=self._clock.now(),
                uploaded_by=call.caller.uri,
                files=files,
                models=await asyncio.to_thread(list_models, path),
            )
        )

    async def list_apps(self, call: Call, request: pb.Query) -> pb.Document:  # noqa: ARG002
        """Every app, newest first, without the names of its files."""
        apps = sorted(self._jobs.apps.values(), key=lambda app: app.uploaded_at, reverse=True)
        return _document(doc.AppListDocument(apps=tuple(_app_document(app, files=()) for app in apps)))

    async def show_app(self, call: Call, request: pb.Query) -> pb.Document:  # noqa: ARG002
        """One app."""
        app = self._jobs.find_app(request.id)
        return _document(_app_document(app, files=app.files))

    async def download_app(self, call: Call, request: pb.BlobRequest) -> AsyncIterator[bytes]:  # noqa: ARG002
        """The bundle itself: whoever signs a job for it reads it first."""
        app = self._jobs.find_app(request.digest)
        async for chunk in send_blob(self._blobs, app.digest, request.offset):
            yield chunk

    # ---- jobs ------------------------------------------------------------------------------

    async def submit_job(self, call: Call, request: pb.SubmitRequest) -> pb.Document:
        """A signed submission becomes a job, once per token."""
        submission = self._read_submission(call, request)
        if submission.plan:
            raise Misuse("the submission was signed for a plan only", hint="flprov job submit APP")
        if not self._jobs.has_made(submission):  # else it was all in order then, and the reply was lost
            self._verify_new(call, submission)
        job, repeated = await self._jobs.submit(submission, request)
        return _document(
            doc.SubmitDocument(
                job_id=job.id,
                app=job.app,
                state=job.state.value,
                repeated=repeated,
                cost=self._jobs.plans.describe_cost(submission),
            )
        )

    async def plan_job(self, call: Call, request: pb.SubmitRequest) -> pb.Document:
        """What would come of a submission; it is verified as one, and none is made."""
        submission = self._read_submission(call, request)
        self._verify_runs(call, submission)
        return _document(await self._jobs.plans.plan(submission, request))

    def _read_submission(self, call: Call, request: pb.SubmitRequest) -> Submission:
        return read_submission(
            request, call.caller, kit=self._kit, people=self._people(), now=self._clock.now()
        )

    def _verify_runs(self, call: Call, submission: Submission) -> None:
        enrolled = self._registry.sites.keys()
        verify_runs(submission, call.caller, apps=self._jobs.apps, enrolled=enrolled)

    def _verify_new(self, call: Call, submission: Submission) -> None:
        self._verify_runs(call, submission)
        self._jobs.plans.verify_fits(submission)
        source = self._jobs.get(submission.origin.job_id) if submission.origin else None
        if source is not None:  # its weights are results of the organisation that ran it
            verify_may_touch(call.caller, source.record, ObjectRule.OWN_ORG_JOB, self._registry.orgs)

    async def list_jobs(self, call: Call, request: pb.Query) -> pb.Document:  # noqa: ARG002
        """Jobs, newest first, a page at a time; `id` narrows it to one app's name, `state` to a state."""
        return _document(list_page(self._jobs.all(), request))

    async def show_job(self, call: Call, request: pb.Query) -> pb.Document:
        """One job with its rounds."""
        return self._job_document(self._find(call, request.id))

    async def watch_job(self, call: Call, request: pb.Query) -> AsyncIterator[pb.Document]:
        """One job, again after each change, until it has ended; of its rounds, each once."""
        run = self._find(call, request.id)
        sent = 0
        async for changed in self._jobs.watch(run.record.id):
            fresh = next_rounds(self._jobs.rounds(changed.record.id), sent)
            sent += len(fresh)
            ended = changed.record.state.terminal
            yield _document(job_document(changed, fresh, self._contributions(changed) if ended else ()))
        while fresh := next_rounds(self._jobs.rounds(run.record.id), sent):
            sent += len(fresh)
            yield _document(job_document(run, fresh))

    async def why_job(self, call: Call, request: pb.Query) -> pb.Document:
        """What went wrong first, or what is waited for."""
        return _document(why_document(self._scene, self._find(call, request.id)))

    async def job_logs(self, call: Call, request: pb.LogsRequest) -> AsyncIterator[pb.LogMessage]:
        """Logs of all parties or of one, live when asked."""
        run = self._find(call, request.job_id)
        parties = [request.site] if request.site else [*run.record.targets, "server"]
        if request.site and request.site not in (*run.record.targets, "server"):
            raise Misuse(
                f"{request.site!r} is not a party of job {run.record.id}",
                hint=f"one of: {', '.join([*run.record.targets, 'server'])}",
            )
        offsets = {party: request.offsets.get(party, request.offset) for party in parties}
        if request.tail:
            for party in set(parties) - set(request.offsets):
                tail = await self._logs.tail(run.record.id, party, request.tail)
                offsets[party] = max(offsets[party], tail)
        async for part in self._logs.follow(run.record.id, offsets, live=request.follow):
            yield pb.LogMessage(job_id=run.record.id, site=part.party, offset=part.offset, data=part.data)

    async def watch_series(self, call: Call, request: pb.SeriesRequest) -> AsyncIterator[pb.SeriesPart]:
        """The numbers that a job tells, live when asked, from an offset on."""
        run = self._find(call, request.job_id)
        async for offset, lines in self._jobs.series.follow(
            run.record.id, request.offset, live=request.follow
        ):
            yield pb.SeriesPart(offset=offset, lines=lines)

    async def abort_job(self, call: Call, request: pb.AbortRequest) -> pb.Document:
        """End a job in any state. Repeating it has no second effect."""
        run = self._find(call, request.job_id)
        command = self._commands.verify_fresh(call, request, run.record.id)
        if command is not None:
            more = self._commands.changes(command)
            await self._jobs.abort(run, call.caller, foreign_line(request.reason, 200), more)
            self._commands.add(command)
        return self._job_document(run)

    async def list_results(self, call: Call, request: pb.Query) -> pb.Document:
        """What there is to download."""
        return _document(self._results.list(self._find(call, request.id)))

    async def download_result(self, call: Call, request: pb.DownloadRequest) -> AsyncIterator[bytes]:
        """One file of it, from an offset."""
        run = self._find(call, request.job_id)
        async for data in self._results.read(run, request.name, request.offset):
            yield data

    async def delete_job(self, call: Call, request: pb.JobChange) -> pb.Document:
        """Remove a job that has ended, and everything of it. Repeating the command has no second effect."""
        command = self._commands.verify_fresh(call, request, request.job_id)
        if command is None:
            return _document(doc.JobDeletedDocument(job_id=request.job_id, repeated=True))
        run = self._find(call, request.job_id)
        reason, more = foreign_line(request.reason, 200), self._commands.changes(command)
        rounds = await self._jobs.delete(run, call.caller.uri, reason, more)
        self._commands.add(command)
        return _document(doc.JobDeletedDocument(job_id=run.record.id, rounds=rounds))

    def _job_document(self, run: JobRun) -> pb.Document:
        rounds = newest_rounds(self._jobs.rounds(run.record.id))
        return _document(job_document(run, rounds, self._contributions(run)))

    def _contributions(self, run: JobRun) -> tuple[doc.Contribution, ...]:
        return contributions(run.record, self._jobs.rounds(run.record.id))

    def _find(self, call: Call, text: str) -> JobRun:
        run = self._jobs.find(text)
        verify_may_touch(call.caller, run.record, call.method.rule, self._registry.orgs)
        return run


def _document(value: object) -> pb.Document:
    return pb.Document(json=canonical_json(value))


def _app_document(app: AppRecord, *, files: tuple[str, ...]) -> doc.AppDocument:
    return doc.AppDocument(
        digest=app.digest,
        name=app.name,
        size=app.size,
        uploaded_at=app.uploaded_at,
        uploaded_by=app.uploaded_by,
        files=files,
    )
