# SPDX-License-Identifier: Apache-2.0
"""`flprov app`: build, upload, list, take over from FLARE."""

from __future__ import annotations

from pathlib import Path

import click

from flprov.cli.acting import acting
from flprov.cli.completion import complete_app
from flprov.cli.output import ago, clean, json_option, print_fields, print_json, print_table, size, talk
from flprov.cli.progress import bytes_bar


@click.group()
def app() -> None:
    """Build, upload and list apps."""


@app.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write the bundle.")
@json_option
def build(folder: Path, output: Path | None, as_json: bool) -> None:
    """Check an app and make its bundle; the same files give the same digest on every machine."""
    from flprov._base import write_atomic
    from flprov.errors import Conflict
    from flprov.jobs import build_bundle, load_job
    from flprov.workers import verify_use

    spec = load_job(folder)
    verify_use(spec)
    bundle = build_bundle(folder)
    if output is not None:
        if output.exists():
            raise Conflict(f"{output} is there already", hint="name another file with -o, or remove it")
        write_atomic(output, bundle.data)
    if as_json:
        from flprov.wire.documents import AppBuildDocument

        print_json(
            AppBuildDocument(
                digest=bundle.digest,
                name=spec.name,
                size=len(bundle.data),
                files=bundle.files,
                bundle=str(output) if output else None,
            )
        )
        return
    print_fields([("app", spec.name), ("digest", bundle.digest), ("size", size(len(bundle.data)))])
    for name in bundle.files:
        click.echo(f"  {name}")
    if output is not None:
        click.echo(f"bundle written to {output}")


@app.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@json_option
def upload(folder: Path, as_json: bool) -> None:
    """Build an app and bring it to the server."""
    with acting() as admin, bytes_bar(f"uploading {folder.name}") as progress:
        found = admin.upload(folder, progress=progress)
    if as_json:
        print_json(found)
    else:
        click.echo(clean(f"uploaded {found.name} {found.digest[:12]} ({size(found.size)})"))
        click.echo(clean(f"run it: flprov job submit {found.name}"))


@app.command("ls")
@json_option
def list_apps(as_json: bool) -> None:
    """Every uploaded app, newest first."""
    with acting() as admin:
        found = admin.apps()
    if as_json:
        from flprov.wire.documents import AppListDocument

        print_json(AppListDocument(apps=found))
        return
    rows = [
        (a.digest[:12], a.name, size(a.size), ago(a.uploaded_at), a.uploaded_by.rpartition("/")[2])
        for a in found
    ]
    print_table(("APP", "NAME", "SIZE", "UPLOADED", "BY"), rows)


@app.command()
@click.argument("name", shell_complete=complete_app)
@json_option
def show(name: str, as_json: bool) -> None:
    """One app: its files, size and who uploaded it."""
    with acting() as admin:
        found = admin.app(name)
    if as_json:
        print_json(found)
        return
    print_fields(
        [
            ("app", found.name),
            ("digest", found.digest),
            ("size", size(found.size)),
            ("uploaded", f"{ago(found.uploaded_at)} by {found.uploaded_by}"),
        ]
    )
    for file in found.files:
        click.echo(clean(f"  {file}"))


@app.command("from-flare")
@click.argument("folder", metavar="JOB_FOLDER", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The new app; default: ./NAME.")
def from_flare(folder: Path, output: Path | None) -> None:
    """Make an app of a job folder of NVIDIA FLARE (2.x).

    \b
    Examples:
      flprov app from-flare jobs/hello-pt
      flprov app from-flare jobs/hello-pt -o hello

    Its code is copied with `nvflare` replaced in import lines; nothing of it is run. What has no
    counterpart is named on stderr and in MIGRATION.md. A folder that is there is not overwritten.
    """
    from flprov.flare import convert_job, write_migration

    found = convert_job(folder)
    target = output or Path(found.name)
    mistakes = write_migration(found, target)
    click.echo(clean(f"wrote {target}: job.yml, MIGRATION.md and {len(found.files) - 2} files of code"))
    for name, rows in found.changed.items():
        click.echo(clean(f"  {name}: {len(rows)} import lines changed"))
    for note in found.notes:
        talk(clean(f"  {note}"))
    for mistake in mistakes:
        talk(clean(f"  {mistake}"))
    talk("Read MIGRATION.md and job.yml, then:")
    talk(clean(f"  flprov simulate {target} -n 2"))
