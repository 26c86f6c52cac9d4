# SPDX-License-Identifier: Apache-2.0
"""`flprov server backup|restore|gc`: the state of a server over the years."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from flprov.cli.acting import acting
from flprov.cli.output import ago, clean, json_option, print_json, print_table, size, talk
from flprov.cli.person import login_name
from flprov.cli.progress import bytes_bar
from flprov.errors import Misuse


@click.command("backup")
@click.argument("kit", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The new file.")
@json_option
def backup(kit: Path, output: Path, as_json: bool) -> None:
    """Write the server's whole state to one file, on its own machine, while it runs or not.

    \b
    Examples:
      flprov server backup /srv/flprov/server -o /backup/server-2026-11-22.tar
    The file is read again before it gets its name. It can hold private keys: keep it like the kit. The kit
    and server.yml are not in it.
    """
    from flprov.kits import load_kit
    from flprov.pki import Kind
    from flprov.server import back_up

    now = datetime.now(UTC)
    loaded = load_kit(kit, now=now, kind=Kind.SERVER)
    with bytes_bar("writing and reading again") as progress:
        found = back_up(loaded, loaded.local / "state", output, now=now, progress=progress)
    if as_json:
        print_json(found)
        return
    click.echo(
        f"{found.file}: {size(found.bytes)}, {found.jobs} jobs, {found.blobs} blobs, the log up to row"
        f" {found.log_index}, in {found.seconds:.1f} s; read again, and whole"
    )
    for digest in found.missing:
        talk(f"warning: a record names the blob {digest[:12]}, which this state does not have")
    if found.keys:
        talk(
            f"NOTE: this file holds private keys ({', '.join(found.keys)}). Whoever has it can be this"
            " server: keep it like the kit, and encrypt it before it leaves this machine."
        )
    talk(f"next: flprov server restore KIT {found.file}   (where it is needed)")


@click.command("restore")
@click.argument("kit", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Move a state that is there aside; nothing is deleted.")
@json_option
def restore_state(kit: Path, file: Path, force: bool, as_json: bool) -> None:
    """Make a backup the state of this server, which must not run. It then starts drained.

    \b
    Examples:
      flprov server restore /srv/flprov/server /backup/server-2026-11-22.tar
      flprov server restore /srv/flprov/server /backup/server-2026-11-22.tar --force
    What was decided after the backup is forgotten; who was kept out stays out, if the state that is
    replaced can still say who. Look at what this command lists, then type `flprov server enable`.
    """
    import asyncio

    from flprov._base import SystemClock
    from flprov.kits import load_kit
    from flprov.pki import Kind
    from flprov.server import restore

    loaded = load_kit(kit, now=datetime.now(UTC), kind=Kind.SERVER)
    with bytes_bar("unpacking") as progress:
        found = asyncio.run(
            restore(
                loaded,
                loaded.local / "state",
                file,
                by=login_name(),
                clock=SystemClock(),
                force=force,
                progress=progress,
            )
        )
    if as_json:
        print_json(found)
        return
    click.echo(
        f"{found.state}: as it was {ago(found.made_at)}, at row {found.log_index} of the log"
        f" ({size(found.bytes)}, in {found.seconds:.1f} s)"
    )
    if found.moved_aside:
        click.echo(f"what was there before: {found.moved_aside}")
    if found.denials:
        talk(f"taken over from it: {found.denials} locks, removals, revocations and invites that are over")
    talk("WARNING: what was decided after the backup is forgotten. No job starts before you have looked at:")
    for line in found.forgotten:
        talk(clean(f"  known: {line}"))
    for line in found.check:
        talk(f"  {line}")
    talk(f"next: flprov server start {kit}   then look, and: flprov server enable")


@click.command("gc")
@click.option("--older-than", default="", metavar="AGE", help="Delete jobs that ended longer ago: 90d, 12h.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
def gc(older_than: str, dry_run: bool, as_json: bool) -> None:
    """Throw away what no job needs: blobs, uploads that were given up, old checkpoints and old jobs.

    \b
    Examples:
      flprov server gc --dry-run
      flprov server gc --older-than 90d
    Without --older-than jobs go as `retention` in server.yml says; without that none does.
    """
    age = _parse_age(older_than) if older_than else None
    with acting() as admin:
        found = admin.clean(older_than=age, dry_run=dry_run)
    if as_json:
        print_json(found)
        return
    if found.jobs:
        rows = [(job.id, clean(job.name), job.state, ago(job.finished_at)) for job in found.jobs]
        print_table(("JOB", "NAME", "STATE", "ENDED"), rows)
    click.echo(
        f"{'would go' if found.dry_run else 'gone'}: {len(found.jobs)} jobs, {found.checkpoints} checkpoints,"
        f" {found.blobs} blobs and {found.uploads} uploads of {size(found.bytes)}"
    )
    for note in found.notes:
        talk(clean(f"note: {note}"))


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _parse_age(text: str) -> timedelta:
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if found is None or not int(found[1]):
        raise Misuse(f"--older-than takes an age such as 90d or 12h, not {text!r}")
    return timedelta(seconds=int(found[1]) * _SECONDS[found[2]])
