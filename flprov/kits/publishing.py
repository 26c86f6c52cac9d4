# SPDX-License-Identifier: Apache-2.0
"""What a workspace publishes to the live network: its trust bundle, and the CAs that a server signs with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from flprov.errors import NotFound
from flprov.kits.authorities import Authorities
from flprov.kits.kit import IssuingCA
from flprov.kits.trust import SignedTrust
from flprov.kits.workspace import look_at_workspace, read_state
from flprov.project import Project


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A bundle, and the keys that the server needs under it. `repr` shows none."""

    project_id: str
    version: int
    signed: SignedTrust = field(repr=False)
    keys: tuple[IssuingCA, ...] = field(repr=False)  # as they lie in the workspace: encrypted if those are


def read_publication(project: Project, workspace: Path) -> Publication:
    """What there is to publish of a project's workspace. Nothing is written, no passphrase is needed.

    Raises:
        NotFound: nothing was provisioned there yet.
        StateDamaged, Conflict: as for `plan`.
    """
    with look_at_workspace(workspace.absolute()) as opened:
        _, authorities = read_state(opened, project, None)
        if authorities is None:
            raise NotFound(
                f"{workspace} has no CA yet", hint=f"flprov provision {project.source} -o {workspace}"
            )
        return make_publication(authorities)


def make_publication(authorities: Authorities) -> Publication:
    """What `ca publish` sends. No passphrase is needed: nothing is opened."""
    return Publication(
        project_id=authorities.record.project_id,
        version=authorities.says.version,
        signed=authorities.signed_trust,
        keys=tuple(authorities.server_keys),
    )
