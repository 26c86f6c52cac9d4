# SPDX-License-Identifier: Apache-2.0
"""A thousand jobs accepted in ten seconds, and all of them there after SIGKILL."""

from __future__ import annotations

import secrets
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from faults.apps import write_steps
from faults.cases import Settings, summary, try_case
from faults.history import History
from faults.rig import Rig
from flprov.admin import open_admin
from flprov.jobs import Submission, build_bundle
from flprov.pki import sign
from flprov.rpc import methods as m
from flprov.wire import documents as doc
from flprov.wire import pb

COUNT = 1_000
TARGET = 10.0  # seconds
RESTART = 5.0
CLIENTS = 4


def run(settings: Settings) -> dict[str, Any]:
    """Submit, kill, count; the part's line in the report."""
    count = settings.count or (50 if settings.small else COUNT)
    verdict = try_case(settings, "queueing", 0, f"{count} jobs", lambda place: play(place, count))
    found = verdict.details
    taken, ready = found.get("seconds", float("inf")), found.get("ready_again", float("inf"))
    return summary(
        [verdict],
        part="queueing",
        name=f"{count:,} jobs submitted at once, then SIGKILL of the server",
        target=f"accepted within {TARGET:g} s, all there after a restart of at most {RESTART:g} s",
        measured=f"accepted in {taken:.2f} s; {found.get('there', 0):,} there, ready after {ready:.2f} s",
        met=taken <= TARGET and ready <= RESTART,
        **found,
    )


def play(folder: Path, count: int) -> tuple[History, list[str], dict[str, Any]]:
    """Several clients of one person; every one of them signs and waits for each of its acknowledgements."""
    rig = Rig(folder, "queueing").without_sites()
    rig.sampling = False  # to show a thousand jobs three times a second is no part of accepting them
    with rig:
        app = write_steps(folder / "steps", rounds=1)
        rig.insist(lambda admin: admin.upload(app))
        requests = _signed(rig, app, count)
        shares = [requests[n::CLIENTS] for n in range(CLIENTS)]
        threads = [threading.Thread(target=_hand_in, args=(rig, share)) for share in shares]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - began
        rig.drop_admin()
        rig.restart("server")
        there = rig.insist(lambda admin: admin.jobs())
        wrong = [job.id for job in there if job.state != "queued"]
        broken = [f"not-queued: {wrong[:5]}"] if wrong else []
        if len(there) != count:
            broken.append(f"submission-lost: {len(there)} of {count} jobs are there")
        details = {
            "seconds": round(seconds, 2),
            "there": len(there),
            "ready_again": round(rig.restarts[-1], 2),
        }
        return rig.history(), broken, details


def _signed(rig: Rig, app: Path, count: int) -> list[tuple[str, pb.SubmitRequest]]:
    """What the admin's client would send, made beforehand: the server is measured."""
    with open_admin(rig.network.kit("ada")) as admin:
        kit, bundle, now = admin.kit, build_bundle(app), datetime.now(UTC)
        found = []
        for _ in range(count):
            token = secrets.token_hex(16)
            submission = Submission(
                project_id=kit.project_id,
                app=bundle.digest,
                spec=bundle.spec,
                sites=tuple(rig.sites),
                token=token,
                submitted_by=kit.identity.uri,
                made_at=now,
                not_after=now + timedelta(days=1),
            ).encode()
            signature = sign(kit.private_pem, submission)
            found.append(
                (token, pb.SubmitRequest(submission=submission, signature=signature, chain=kit.chain_pem))
            )
    return found


def _hand_in(rig: Rig, share: list[tuple[str, pb.SubmitRequest]]) -> None:
    with open_admin(rig.network.kit("ada")) as admin:
        for token, request in share:
            answer = admin._link.document(doc.SubmitDocument, m.SUBMIT_JOB, request)
            rig.acknowledge("submit", answer.job_id, token=token)
