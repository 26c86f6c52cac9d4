# SPDX-License-Identifier: Apache-2.0
"""A small project, its people's signatures, and apps: what the tests of the agent send to a site."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flprov.agent import AgentConfig
from flprov.jobs import Bundle, JobSpec, Submission, build_bundle, load_job
from flprov.kits import Kit, load_kit
from flprov.pki import sign
from flprov.project import Organisation, Person, Project, ServerParty, SiteParty, Validity
from flprov.wire import pb

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SITE = "site-1"
ALLOW = "allow: {organisations: [org-a]}\n"


def project(name: str = "heart") -> Project:
    return Project(
        name=name,
        trust_domain="heart.example",
        organisations=(Organisation(name="org-a"), Organisation(name="org-b")),
        server=ServerParty(name="server", org="org-a", endpoints=("localhost:1",)),
        sites=(SiteParty(name=SITE, org="org-a"), SiteParty(name="site-2", org="org-b")),
        people=(
            Person(name="ada", org="org-a", role="project_admin"),
            Person(name="leo", org="org-a", role="lead"),
            Person(name="lea", org="org-b", role="lead"),
            Person(name="mia", org="org-a", role="member"),
            Person(name="obi", org="org-a", role="observer"),
            Person(name="olga", org="org-a", role="org_admin"),
        ),
        validity=Validity(),
        source=Path("project.yml"),
    )


class Parties:
    """The kits of a provisioned project, loaded when they are asked for."""

    def __init__(self, kits: Path) -> None:
        self._kits = kits

    def kit(self, name: str) -> Kit:
        return load_kit(self._kits / name, now=NOW)


@dataclass(frozen=True, kw_only=True)
class App:
    """An app as the server has it."""

    spec: JobSpec
    bundle: Bundle


def write_app(folder: Path, *, job: str = "", train: str = "def train(task, site): ...\n") -> App:
    """An app that is checked and built, and run by no test here: workers are fakes."""
    folder.mkdir(parents=True)
    (folder / "job.yml").write_text(f"name: {folder.name}\ntasks: train:train\n{job}")
    (folder / "train.py").write_text(train)
    return App(spec=load_job(folder), bundle=build_bundle(folder))


def make_submission(
    signer: Kit,
    spec: JobSpec,
    *,
    app: str = "ab" * 32,
    sites: Iterable[str] = (SITE, "site-2"),
    submitted_by: str = "",
    project_id: str = "",
    made_at: datetime = NOW,
    life: timedelta = timedelta(days=7),
    token: str = "t",
) -> bytes:
    return Submission(
        project_id=project_id or signer.project_id,
        app=app,
        spec=spec,
        sites=tuple(sites),
        token=token,
        submitted_by=submitted_by or signer.identity.uri,
        made_at=made_at,
        not_after=made_at + life,
    ).encode()


def sign_deploy(signer: Kit, submission: bytes, *, job_id: str = "j1", size: int = 0) -> pb.Deploy:
    """What the server sends to a site for a job that `signer` wants."""
    return pb.Deploy(
        job_id=job_id,
        submission=submission,
        signature=sign(signer.private_pem, submission),
        chain=signer.chain_pem,
        app_size=size,
    )


def make_deploy(signer: Kit, app: App, *, job_id: str = "j1", **changes: object) -> pb.Deploy:
    submission = make_submission(signer, app.spec, app=app.bundle.digest, **changes)  # type: ignore[arg-type]
    return sign_deploy(signer, submission, job_id=job_id, size=len(app.bundle.data))


def make_config(kit: Kit, folder: Path, *, policy: str | None = ALLOW, settings: str = "") -> AgentConfig:
    """The site's own files in `folder`, beside a kit that no test changes."""
    folder.mkdir(parents=True, exist_ok=True)
    if policy is not None:
        (folder / "policy.yml").write_text(policy)
    if settings:
        (folder / "site.yml").write_text(settings)
    state = folder / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    return AgentConfig(
        kit=kit,
        state=state,
        policy=folder / "policy.yml",
        settings=folder / "site.yml",
        python=Path(sys.executable),
    )
