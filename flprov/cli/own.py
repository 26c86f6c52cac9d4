# SPDX-License-Identifier: Apache-2.0
"""Asking the server or the agent of a kit how it is, on its own machine and without any admin kit."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flprov.errors import Unavailable

if TYPE_CHECKING:
    from flprov.pki import Kind

T = TypeVar("T")


def ask_own(folder: Path, kind: Kind, document: type[T]) -> T:
    """What the process that was started with this kit says of itself now.

    Raises:
        KitRefused: the kit is not what the provisioner made, or of another kind.
        Unavailable: nothing runs there, or it ended while it spoke.
    """
    from flprov._base import from_document, parse_json
    from flprov.kits import load_kit
    from flprov.pki import Kind
    from flprov.rpc import ask_local

    loaded = load_kit(folder, now=datetime.now(UTC), kind=kind)
    what = f"the server {loaded.name}" if kind is Kind.SERVER else f"the agent of {loaded.name}"
    start = f"flprov {'server' if kind is Kind.SERVER else 'site'} start {folder}"
    answer = ask_local(loaded.local / "state", what=what, hint=start)
    try:
        return from_document(document, parse_json(answer))
    except ValueError as error:
        raise Unavailable(
            f"{what} did not say how it is: it is stopping, or another version of flprov ({error})",
            hint=f"ask again; or stop it, then: {start}",
        ) from error
