# SPDX-License-Identifier: Apache-2.0
"""The admin kit that a command acts with: --kit, else FLPROV_KIT, else what `flprov use` chose."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov._base import write_private
from flprov.cli.passphrases import kit_passphrase
from flprov.cli.person import home_folder
from flprov.cli.proxies import environment_route
from flprov.errors import FlprovError, Misuse, Unavailable

if TYPE_CHECKING:
    from flprov.admin import Admin


def choice_file() -> Path:
    """Where `flprov use` keeps its choice."""
    base = os.environ.get("XDG_CONFIG_HOME") or home_folder() / ".config"
    return Path(base) / "flprov" / "kit"


def keep_path(file: Path, path: Path) -> None:
    """Write into `file` where something lies. Its name need not be UTF-8."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_private(file, os.fsencode(path) + b"\n")


def kept_path(file: Path) -> Path | None:
    """What `keep_path` has written; None if there is nothing."""
    try:
        name = os.fsdecode(file.read_bytes()).removesuffix("\n")
    except FileNotFoundError:
        return None
    return Path(name) if name and "\0" not in name else None  # an unclean end may leave a file of zeros


def remember(kit: Path) -> None:
    """Make this kit the one that later commands act with."""
    keep_path(choice_file(), kit.resolve())


def forget(kit: Path) -> None:
    """Undo `remember`, if this kit is still the one."""
    if kept_path(choice_file()) == kit.resolve():
        choice_file().unlink()


def current_kit() -> Path:
    """The folder of the kit to act with.

    Raises:
        Misuse: none was chosen.
    """
    named = click.get_current_context().find_root().obj
    if isinstance(named, KeptAdmin):
        return named.kit
    return Path(named) if named else chosen_kit()


def chosen_kit() -> Path:
    """What `flprov use` chose. Raises Misuse when it has chosen none."""
    path = kept_path(choice_file())
    if path is not None:
        return path
    raise Misuse(
        "no admin kit is chosen",
        hint="flprov use KIT   (or --kit KIT, or FLPROV_KIT; `flprov poc up` sets one)",
    )


def acting() -> contextlib.AbstractContextManager[Admin]:
    """A client for that kit, closed at the end of the `with`."""
    from flprov.admin import open_admin  # late: it loads grpc, and not each command calls the server

    named = click.get_current_context().find_root().obj
    if isinstance(named, KeptAdmin):
        return named.lend()
    return open_admin(current_kit(), passphrase=kit_passphrase, route=environment_route())


class KeptAdmin:
    """One client for all commands of a console: opened when the first needs it, anew after trouble."""

    def __init__(self, kit: Path) -> None:
        self.kit = kit
        self._admin: Admin | None = None

    @contextlib.contextmanager
    def lend(self) -> Iterator[Admin]:
        """The client, for one command."""
        from flprov.admin import open_admin

        self._admin = self._admin or open_admin(
            self.kit, passphrase=kit_passphrase, route=environment_route()
        )
        try:
            yield self._admin
        except BaseException as error:
            answered = isinstance(error, FlprovError | SystemExit) and not isinstance(error, Unavailable)
            if not answered:  # also Ctrl-C in the middle of a call
                self.close()
            raise

    def close(self) -> None:
        """Let go of the connection; the next command dials again."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None
