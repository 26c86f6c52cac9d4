# SPDX-License-Identifier: Apache-2.0
"""The secret that the sites' IT have given each other beforehand, for jobs that average ciphertexts.

A job's process gets what is derived from it for this job, and never the secret itself.
"""

from __future__ import annotations

import stat
from pathlib import Path

from flprov.errors import LocalError, PolicyRefused
from flprov.pki import derive_secret

_LEAST = 16  # bytes: 128 bits, if they are random
_MOST = 4096


def derive_job_secret(path: Path | None, job_id: str) -> bytes:
    """What the site's `he_secret` comes to for this job; empty where site.yml names none.

    Raises:
        LocalError: the file is not there, or cannot be read.
        PolicyRefused: others can read it, or it is too short to be a secret.
    """
    if path is None:
        return b""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        with open(path, "rb") as file:
            secret = file.read(_MOST + 1).strip()
    except OSError as error:
        raise LocalError(
            f"the secret that site.yml names as he_secret cannot be read: {error.strerror}",
            hint="correct `he_secret` in the site's site.yml",
        ) from error
    if mode & 0o077:
        raise PolicyRefused(
            f"other users of this machine can read the file of he_secret (mode {mode:04o})",
            hint=f"chmod 600 {path}",
        )
    if not _LEAST <= len(secret) <= _MOST:
        raise PolicyRefused(
            f"the file of he_secret has {len(secret)} bytes; a secret has {_LEAST} to {_MOST}",
            hint="make one that all sites use: openssl rand -hex 32",
        )
    return derive_secret(secret, f"he {job_id}".encode())
