# SPDX-License-Identifier: Apache-2.0
"""The commented project.yml that comes with flprov."""

from __future__ import annotations

from pathlib import Path

from flprov.errors import LocalError

_PACKAGE = Path(__file__).resolve().parents[1]


def sample_project() -> bytes:
    """The sample: every key with its default and why.

    Raises:
        LocalError: it is not there; the installation is not whole.
    """
    places = (_PACKAGE / "_templates" / "project.yml", _PACKAGE.parent / "project.yml")
    for path in places:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise LocalError(f"{path} cannot be read: {error.strerror}") from error
    raise LocalError(
        f"flprov's sample is missing: neither {places[0]} nor a checkout holds it",
        hint="install flprov again: pip install --force-reinstall flprov",
    )
