# SPDX-License-Identifier: Apache-2.0
"""The admin kit that a command acts with: --kit, else FLPROV_KIT, else what `flprov use` chose."""

from __future__ import annotations

import os
from pathlib import Path

import click

from flprov._base import write_private
from flprov.admin import Admin, open_admin
from flprov.errors import Misuse


def choice_file() -> Path:
    """Where `flprov use` keeps its choice."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "flprov" / "kit"


def remember(kit: Path) -> None:
    """Make this kit the one that later commands act with."""
    path = choice_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, f"{kit.resolve()}\n".encode())


def forget(kit: Path) -> None:
    """Undo `remember`, if this kit is still the one."""
    path = choice_file()
    if path.exists() and path.read_text().strip() == str(kit.resolve()):
        path.unlink()


def current_kit() -> Path:
    """The folder of the kit to act with.

    Raises:
        Misuse: none was chosen.
    """
    named = click.get_current_context().find_root().obj
    if named:
        return Path(named)
    path = choice_file()
    if path.exists():
        return Path(path.read_text().strip())
    raise Misuse(
        "no admin kit is chosen",
        hint="flprov use KIT   (or --kit KIT, or FLPROV_KIT; `flprov poc up` sets one)",
    )


def acting() -> Admin:
    """A client for that kit; close it, or use it in a `with`."""
    return open_admin(current_kit())
