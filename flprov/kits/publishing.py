# SPDX-License-Identifier: Apache-2.0
"""What a workspace publishes to the live network: its trust bundle, and the CAs from which the server issues."""

from __future__ import annotations

from dataclasses import dataclass, field

from flprov.kits.authorities import Authorities
from flprov.kits.kit import IssuingCA
from flprov.kits.trust import SignedTrust


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A bundle, and the keys that the server needs under it. `repr` shows none."""

    project_id: str
    version: int
    signed: SignedTrust = field(repr=False)
    keys: tuple[IssuingCA, ...] = field(repr=False)  # as they lie in the workspace: encrypted if those are


def make_publication(authorities: Authorities) -> Publication:
    """What `ca publish` sends. No passphrase is needed: nothing is opened."""
    return Publication(
        project_id=authorities.record.project_id,
        version=authorities.says.version,
        signed=authorities.signed_trust,
        keys=tuple(authorities.server_keys),
    )
