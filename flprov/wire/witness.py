# SPDX-License-Identifier: Apache-2.0
"""What a site signs when it vouches for a row of the server's log."""

from __future__ import annotations

import re

from flprov._base import canonical_json

_DIGEST = re.compile(r"[0-9a-f]{64}")

# Begins like no other document that anybody here signs: submissions, manifests and bundles are JSON.
_HEADING = b"flprov witness 1\n"


def witness_bytes(project_id: str, index: int, digest: str, at: str) -> bytes:
    """The bytes under the signature.

    Args:
        project_id: of the project whose log it is.
        index: of the row, from 1 on.
        digest: of the row, 64 lower-case hex digits.
        at: the time of signing, as `to_iso` spells it.

    Raises:
        ValueError: these do not name a row. A site signs nothing else, whatever its server sends.
    """
    if index < 1 or not _DIGEST.fullmatch(digest):
        raise ValueError(f"there is no row {index} with the digest {digest[:80]!r}")
    named = {"at": at, "digest": digest, "index": index, "project": project_id}
    return _HEADING + canonical_json(named)
