# SPDX-License-Identifier: Apache-2.0
"""What would come of a submission: asked of the scheduler and of every site, and kept by nobody."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flprov._base import Clock
from flprov.errors import FlprovError, NoRoom, SiteUnavailable
from flprov.jobs import (
    READY,
    JobView,
    Plan,
    Submission,
    beside_size,
    describe_cost,
    schedule,
    show_size,
    site_disk,
    state_size,
    update_size,
)
from flprov.server.foreign import CODE, foreign_line, read_probe
from flprov.server.jobs.checkpoints import Retention
from flprov.server.jobs.scheduling import Scheduler, org_of
from flprov.server.records import AppRecord
from flprov.server.sessions import Sessions
from flprov.wire import pb
from flprov.wire.documents import (
    DiskEstimate,
    JobPlanDocument,
    JobPlanSite,
    Objection,
    SiteOffer,
)

PATIENCE = 5.0  # seconds in which a site says whether it would run a job
_ID = "-"  # of the job that is not there
_NO_ROOM = NoRoom("").code
_MOST = 50  # objections of one site
_LEAST = 1 << 20  # bytes of disk that any job takes
_MOST_AT_ONCE = 8  # plans that are asked of the sites; the others wait for their turn


class JobPlans:
    """Answers `job plan`, and refuses at submission what cannot fit the server's disk."""

    def __init__(
        self,
        scheduler: Scheduler,
        sessions: Sessions,
        *,
        clock: Clock,
        folder: Path,
        checkpoints: Retention,
        patience: float = PATIENCE,
    ) -> None:
        self._scheduler = scheduler
        self._sessions = sessions
        self._clock = clock
        self._folder = folder
        self._checkpoints = checkpoints
        self._patience = patience
        self._asked: dict[tuple[str, str], asyncio.Future[pb.Probed]] = {}  # probe id and site
        self._asking = asyncio.Semaphore(_MOST_AT_ONCE)

    # ---- the server's disk ---------------------------------------------------------------

    def estimate(self, submission: Submission) -> DiskEstimate | None:
        """What the job takes here at most; None when nobody knows the size of its model before it runs."""
        spec = submission.spec
        model = self._scheduler.apps[submission.app].model_size(spec.model)
        if not model:
            return None
        sites, rounds = len(submission.sites), spec.workflow.rounds
        update, state = update_size(spec, model), state_size(spec, model, sites)
        kept = self._checkpoints.count(rounds, state)
        own = "" if update == state else f" of {show_size(update)}"
        beside = beside_size(spec, model, sites)
        more = f", {show_size(beside)} for the sites beside the model" if beside else ""
        text = f"{sites} updates{own}{more} and {kept} checkpoints of {show_size(state)} each"
        return DiskEstimate(
            needed=sites * update + beside + kept * state + 2 * model,
            free=_free(self._folder),
            text=f"{text}, and the model itself twice",
        )

    def describe_cost(self, submission: Submission) -> str:
        """What the job's workflow takes beyond the model itself, in words; mostly nothing."""
        model = self._scheduler.apps[submission.app].model_size(submission.spec.model)
        return describe_cost(submission.spec, model, len(submission.sites))

    def verify_fits(self, submission: Submission) -> None:
        """Refuse a job that the server's disk has no room for.

        Raises:
            NoRoom: the message says how much it takes, and how much there is.
        """
        found = self.estimate(submission)
        if found is None and _free(self._folder) < _LEAST:
            raise NoRoom("the server's disk is full", hint="free some space on it")
        if found is not None and found.needed > found.free:
            raise NoRoom(
                f"the job would take {show_size(found.needed)} of the server's disk ({found.text});"
                f" {show_size(found.free)} are free",
                hint="remove old jobs (flprov job delete), or keep fewer checkpoints (server.yml)",
            )

    # ---- the plan ------------------------------------------------------------------------

    async def plan(self, submission: Submission, request: pb.SubmitRequest) -> JobPlanDocument:
        """Who would run the job now, who would not and why, and where in the queue it would be."""
        app = self._scheduler.apps[submission.app]
        targets = tuple(sorted(submission.sites))
        answers = await self._ask_all(targets, request, app, app.model_size(submission.spec.model))
        view = self._view(submission, app)
        snapshot = self._scheduler.snapshot(targets)
        plan = schedule(replace(snapshot, jobs=(*snapshot.jobs, view)))
        sites = tuple(self._site(name, answers, plan) for name in targets)
        disk = self.estimate(submission)
        reason = _why_not(view, sites, plan, disk)
        ahead = sum(job.id in plan.reasons and job.priority >= view.priority for job in snapshot.jobs)
        return JobPlanDocument(
            name=submission.spec.name,
            app=submission.app,
            starts=not reason,
            reason=reason,
            sites=sites,
            quorum=view.quorum,
            required=view.required,
            priority=view.priority,
            ahead=ahead,
            position=ahead + 1 if reason else 0,
            cost=self.describe_cost(submission),
            disk=disk,
            made_at=self._clock.now(),
        )

    def _view(self, submission: Submission, app: AppRecord) -> JobView:
        spec = submission.spec
        disk = site_disk(spec.resources, app.size, app.model_size(spec.model))
        return JobView(
            id=_ID,
            name=spec.name,
            sites=tuple(sorted(submission.sites)),
            quorum=spec.quorum(len(submission.sites)),
            required=spec.sites.required,
            resources=replace(spec.resources, disk=disk),
            priority=spec.priority,
            org=org_of(submission.submitted_by),
        )

    def _site(self, name: str, answers: Mapping[str, pb.Probed | None], plan: Plan) -> JobPlanSite:
        """One site: its own word first, then what the queue leaves of it."""
        reason = plan.site_reasons.get(_ID, {}).get(name, "")
        if name not in self._sessions:
            return JobPlanSite(site=name, verdict="away", reason=reason or "not connected")
        probed = answers.get(name)
        if probed is None:
            silent = f"connected, and did not answer within {self._patience:g} s"
            return JobPlanSite(site=name, verdict="silent", reason=silent)
        objections = tuple(_objection(failure) for failure in probed.refusals[:_MOST])
        final = [found for found in objections if found.code != _NO_ROOM]
        verdict, room = "runs", _room(probed.notes)
        if final:
            verdict, reason = "refuses", "; ".join(found.message for found in final)
        elif objections:
            verdict, reason = "waits", "; ".join(found.message for found in objections)
        elif any(name in start.sites for start in plan.starts if start.job_id == _ID):
            reason = ""
        elif reason and reason != plan.reasons.get(_ID) and reason != READY:
            verdict = "waits"
        else:
            reason = ""
        return JobPlanSite(site=name, verdict=verdict, reason=reason, objections=objections, room=room)

    # ---- asking --------------------------------------------------------------------------

    async def _ask_all(
        self, sites: Sequence[str], request: pb.SubmitRequest, app: AppRecord, model_size: int
    ) -> dict[str, pb.Probed | None]:
        probe = pb.Probe(
            probe_id=secrets.token_hex(8),
            submission=request.submission,
            signature=request.signature,
            chain=request.chain,
            app_size=app.size,
            model_size=model_size,
        )
        async with self._asking:
            connected = [name for name in sites if name in self._sessions]
            answers = await asyncio.gather(*(self._ask(name, probe) for name in connected))
        return dict(zip(connected, answers, strict=True))

    async def _ask(self, site: str, probe: pb.Probe) -> pb.Probed | None:
        """The site's answer; None when it gives none in time, or has gone."""
        key = (probe.probe_id, site)
        answer: asyncio.Future[pb.Probed] = asyncio.get_running_loop().create_future()
        self._asked[key] = answer
        try:
            self._sessions.send(site, pb.ToSite(probe=probe))
            async with asyncio.timeout(self._patience):
                return await answer
        except (TimeoutError, SiteUnavailable):
            return None
        finally:
            del self._asked[key]

    def heard(self, site: str, probed: pb.Probed) -> None:
        """A site's answer; one that nobody waits for any more is passed over."""
        answer = self._asked.get((probed.probe_id, site))
        if answer is not None and not answer.done():
            answer.set_result(probed)


def _objection(failure: pb.Failure) -> Objection:
    return Objection(
        code=foreign_line(failure.code, CODE) or "refused",
        message=foreign_line(failure.message),
        hint=foreign_line(failure.hint, 1000),
    )


def _room(notes: bytes) -> SiteOffer | None:
    try:
        return read_probe(notes) if notes else None
    except FlprovError:
        return None


def _free(folder: Path) -> int:
    """Bytes that are free where `folder` is, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _why_not(view: JobView, sites: Sequence[JobPlanSite], plan: Plan, disk: DiskEstimate | None) -> str:
    """Why the job would not start now; empty: it would."""
    if disk is not None and disk.needed > disk.free:
        needed, free = show_size(disk.needed), show_size(disk.free)
        return f"the server's disk has {free} free, and the job would take {needed}: {disk.text}"
    runs = {site.site for site in sites if site.verdict == "runs"}
    lacking = [name for name in view.required if name not in runs]
    if lacking:
        why = next(site.reason for site in sites if site.site == lacking[0])
        return f"{lacking[0]} is required, and would not run it: {why}"
    if len(runs) < view.quorum:
        return f"{len(runs)} of {len(sites)} sites would run it now, and it needs {view.quorum}"
    return plan.reasons.get(_ID, "")
