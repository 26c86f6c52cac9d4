# SPDX-License-Identifier: Apache-2.0
"""A rotation of the CAs, step by step: is the network ready, the step in the workspace, its publication.

The workspace goes first and the network follows. When the network cannot be reached after a step, the
workspace keeps what it has, and the same command again publishes it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flprov.admin.client import Admin
from flprov.errors import Conflict, Misuse, ServerUnavailable, Unavailable
from flprov.kits import (
    Phase,
    Publication,
    RotationReport,
    activate_rotation,
    finish_rotation,
    list_blockers,
    list_followers,
    look_at_rotation,
    prepare_rotation,
    roll_back_rotation,
)
from flprov.project import Project
from flprov.wire.documents import Blocker, TrustStatusDocument


class Step(enum.Enum):
    """What may be asked for."""

    PREPARE = "prepare"  # new CAs beside the old ones, believed by everybody
    ACTIVATE = "activate"  # the new ones issue
    FINISH = "finish"  # the old ones are believed no more
    ROLLBACK = "rollback"  # one step back


@dataclass(frozen=True, kw_only=True)
class Rotated:
    """After a step: the workspace, the network, and who was passed over with force, or is to be told."""

    report: RotationReport
    live: TrustStatusDocument
    passed_over: tuple[Blocker, ...]


# In which phase of the workspace a step needs a network that is ready for it.
_CHECKED: Mapping[Step, Phase] = {
    Step.ACTIVATE: Phase.PREPARED,
    Step.FINISH: Phase.ACTIVATED,
    Step.ROLLBACK: Phase.PREPARED,
}


def rotate(
    admin: Admin,
    step: Step,
    project: Project,
    workspace: Path,
    *,
    now: datetime,
    passphrase: bytes | None = None,
    root: bool = False,
    force: bool = False,
) -> Rotated:
    """Take a step, and bring it to the live network. Taken already: it is only published.

    Args:
        admin: a project_admin of this project.
        force: take it although somebody is not ready for it, or the network cannot be asked.

    Raises:
        Conflict: somebody is not ready, by name; or the step does not come next.
        Unavailable: the network does not answer. A step that was taken stays.
    """
    before, _ = look_at_rotation(project, workspace)
    verify_same_project(admin, before.publication)
    found: tuple[Blocker, ...] = ()
    if before.phase is _CHECKED.get(step):
        found = _ask(admin, step, before, force=force)
        _verify_ready(step, found, force=force)
    report = _TAKE[step](project, workspace, now, passphrase, root)
    live = _publish(admin, step, report)
    return Rotated(report=report, live=live, passed_over=found)


_TAKE: Mapping[Step, Callable[[Project, Path, datetime, bytes | None, bool], RotationReport]] = {
    Step.PREPARE: lambda project, folder, now, secret, root: prepare_rotation(
        project, folder, now=now, passphrase=secret, root=root
    ),
    Step.ACTIVATE: lambda project, folder, now, secret, _: activate_rotation(
        project, folder, now=now, passphrase=secret
    ),
    Step.FINISH: lambda project, folder, now, secret, _: finish_rotation(
        project, folder, now=now, passphrase=secret
    ),
    Step.ROLLBACK: lambda project, folder, now, secret, _: roll_back_rotation(
        project, folder, now=now, passphrase=secret
    ),
}


def verify_same_project(admin: Admin, publication: Publication) -> None:
    """Nothing, if this admin's network is that of the workspace.

    Raises:
        Misuse: it is another project's.
    """
    if admin.kit.project_id != publication.project_id:
        raise Misuse(
            f"the admin kit {admin.kit.folder} is of project {admin.kit.project} ({admin.kit.project_id}),"
            f" and the workspace is of {publication.project_id}",
            hint="choose an admin kit of this project: --kit KIT, or flprov use KIT",
        )


def _ask(admin: Admin, step: Step, before: RotationReport, *, force: bool) -> tuple[Blocker, ...]:
    """Who is not ready; the workspace's bundle is published first, if it is not."""
    try:
        live = admin.trust()
        if live.version < before.publication.version:
            live = admin.publish_trust(before.publication)
    except Unavailable as error:
        if force:
            return (Blocker(name="network", kind="server", reason=str(error), warns=True),)
        raise
    return list_followers(live) if step is Step.ROLLBACK else list_blockers(before, live)


def _verify_ready(step: Step, found: tuple[Blocker, ...], *, force: bool) -> None:
    blocking = [blocker for blocker in found if not blocker.warns]
    if not blocking or force:
        return
    names = "\n".join(f"  {blocker.kind} {blocker.name}: {blocker.reason}" for blocker in blocking)
    raise Conflict(
        f"{step.value} comes too early for\n{names}",
        hint="wait for them (flprov ca rotate status); lock or remove who will not come (sites: flprov site"
        " lock NAME, people: flprov user rm NAME); or leave them behind: --force",
    )


def _publish(admin: Admin, step: Step, report: RotationReport) -> TrustStatusDocument:
    try:
        return admin.publish_trust(report.publication)
    except Unavailable as error:
        raise ServerUnavailable(
            f"{error}. The workspace has taken the step (it is {report.phase.value}, trust bundle"
            f" {report.publication.version}), and the network has not heard of it",
            hint=f"when the server answers again: flprov ca publish, or flprov ca rotate {step.value} again",
        ) from error
