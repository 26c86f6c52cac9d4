# SPDX-License-Identifier: Apache-2.0
"""`flprov use KIT`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from flprov.cli.acting import remember


@click.command()
@click.argument("kit", type=click.Path(path_type=Path))
def use(kit: Path) -> None:
    """Act with this person's kit from now on."""
    from flprov.kits import look_at_kit
    from flprov.pki import Kind

    loaded = look_at_kit(kit, now=datetime.now(UTC), kind=Kind.PERSON)
    remember(loaded.folder)
    role = loaded.identity.role.value if loaded.identity.role else ""
    click.echo(f"acting as {loaded.name} ({role} of {loaded.org}) in project {loaded.project}")
