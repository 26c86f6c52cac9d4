# SPDX-License-Identifier: Apache-2.0
"""`flprov init`: a commented project.yml to start from."""

from __future__ import annotations

from pathlib import Path

import click

from flprov.cli.output import talk
from flprov.errors import Conflict, LocalError
from flprov.project import convert_flare, sample_project

_NAME = "project.yml"


@click.command()
@click.argument("folder", metavar="[DIR]", default=Path(), type=click.Path(path_type=Path))
@click.option(
    "--from-flare",
    "flare",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Start from this project.yml of NVIDIA FLARE (api_version 3 or 4).",
)
def init(folder: Path, flare: Path | None) -> None:
    """Write a commented project.yml into DIR, or into the current folder.

    \b
    Examples:
      flprov init
      flprov init heart-study
      flprov init heart-study --from-flare their_project.yml

    With --from-flare, people, sites and the server are taken over, under names that fit flprov's rules;
    what has no counterpart is named on stderr and in the file. A file that is there is not overwritten.
    """
    target = folder / _NAME
    if target.exists() or target.is_symlink():
        raise _taken(target)
    if flare is None:
        _write(target, sample_project())
        click.echo(f"wrote {target}: a sample in which every key is explained")
        talk("Change the names and the server's endpoint to yours, then:")
    else:
        found = convert_flare(flare)
        _write(target, found.text.encode())
        project = found.project
        click.echo(
            f"wrote {target}: server {project.server.name}, {len(project.sites)} sites,"
            f" {len(project.people)} people, {len(project.organisations)} organisations"
        )
        for note in found.notes:
            talk(f"  {note}")
        talk("Read it through, trust_domain and the endpoint above all, then:")
    talk(f"  flprov plan {target}")
    talk(f"  flprov provision {target}")


def _write(target: Path, data: bytes) -> None:
    """A new file, whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            try:
                file.write(data)
            except BaseException:
                target.unlink()
                raise
    except FileExistsError:
        raise _taken(target) from None
    except OSError as error:
        raise LocalError(f"{target} cannot be written: {error.strerror}") from error


def _taken(target: Path) -> Conflict:
    return Conflict(f"{target} is there already", hint="flprov init DIR writes into another folder")
