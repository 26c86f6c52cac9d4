# SPDX-License-Identifier: Apache-2.0
"""`flprov server`: run it, and ask it how it is, on its own machine."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from flprov.cli.output import ago, json_option, print_fields, print_json, until
from flprov.errors import ExitCode


@click.group()
def server() -> None:
    """Run the server; ask it how it is."""


@server.command()
@click.argument("kit", type=click.Path(path_type=Path))
@click.option("-v", "--verbose", is_flag=True, help="Log everything.")
def start(kit: Path, verbose: bool) -> None:
    """Serve in the foreground until SIGTERM; service files call exactly this."""
    from flprov.cli.running import run_until_stopped
    from flprov.server import Server, load_server_config

    config = load_server_config(kit, now=datetime.now(UTC))
    run_until_stopped(lambda: Server(config), verbose=verbose)


@server.command("status")
@click.argument("kit", type=click.Path(path_type=Path))
@json_option
@click.option("--health", is_flag=True, help="No output; exit 0 when it serves, 4 when it does not.")
def server_status(kit: Path, as_json: bool, health: bool) -> None:
    """The server of this kit, asked on its own machine."""
    from flprov._base import from_document, parse_json
    from flprov.kits import load_kit
    from flprov.pki import Kind
    from flprov.rpc import ask_local
    from flprov.wire.documents import ServerDocument

    loaded = load_kit(kit, now=datetime.now(UTC), kind=Kind.SERVER)
    answer = ask_local(
        loaded.local / "state", what=f"the server {loaded.name}", hint=f"flprov server start {kit}"
    )
    if health:
        raise SystemExit(ExitCode.DONE)
    found = from_document(ServerDocument, parse_json(answer))
    if as_json:
        print_json(found)
        return
    print_fields(
        [
            ("server", found.name),
            ("project", found.project),
            ("listens on", found.listen),
            ("up", ago(found.started_at).removesuffix(" ago")),
            ("jobs", f"{found.jobs_running} running, {found.jobs_queued} queued"),
            ("certificate", until(found.cert_not_after)),
            ("flprov", found.version),
        ]
    )
