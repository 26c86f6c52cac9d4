# SPDX-License-Identifier: Apache-2.0
"""`flprov server`: run it, and ask it how it is, on its own machine."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from flprov.cli.output import ago, json_option, print_fields, print_json, say_warm, until
from flprov.cli.own import ask_own
from flprov.cli.passphrases import SERVER_CA, passphrase_options, read_passphrase
from flprov.cli.serverops import backup, gc, restore_state
from flprov.cli.siteops import drain_server, enable_server
from flprov.cli.status import print_notes, print_tracking, print_warnings
from flprov.errors import ExitCode, Unavailable


@click.group()
def server() -> None:
    """Run the server; ask it how it is."""


@server.command()
@click.argument("kit", type=click.Path(path_type=Path))
@click.option("-v", "--verbose", is_flag=True, help="Log everything.")
@passphrase_options(SERVER_CA, "ca")
def start(kit: Path, verbose: bool, ca_file: Path | None, ask_ca: bool) -> None:
    """Serve in the foreground until SIGTERM; service files call exactly this."""
    from flprov.cli.running import run_until_stopped
    from flprov.server import Server, load_server_config

    passphrase = read_passphrase(SERVER_CA, ca_file, ask=ask_ca, is_new=False)
    config = load_server_config(kit, now=datetime.now(UTC), ca_passphrase=passphrase)
    run_until_stopped(lambda: Server(config), verbose=verbose)


@server.command("status")
@click.argument("kit", type=click.Path(path_type=Path))
@json_option
@click.option("--health", is_flag=True, help="No output; exit 0: it serves, 7: but see status, 4: not.")
@click.option("--alive", is_flag=True, help="No output; exit 0 when it serves, 4 when it does not.")
def server_status(kit: Path, as_json: bool, health: bool, alive: bool) -> None:
    """The server of this kit, asked on its own machine.

    \b
    Examples:
      flprov server status /srv/flprov/server
      flprov server status /srv/flprov/server --health || echo "look at it"
    """
    from flprov.pki import Kind
    from flprov.wire.documents import ServerDocument

    try:
        found = ask_own(kit, Kind.SERVER, ServerDocument)
    except Unavailable:
        if health or alive:
            raise SystemExit(ExitCode.UNREACHABLE) from None
        raise
    if health or alive:
        raise SystemExit(ExitCode.ATTENTION if found.notes and not alive else ExitCode.DONE)
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
            ("metrics", found.metrics),
            ("warm", say_warm(found.warm)),
            ("drained", found.drained.removeprefix("drained ")),
            ("safe to stop", found.safe_when),
        ]
    )
    print_warnings(found.warnings)
    print_notes(found.notes)
    print_tracking(found.tracking)


for _command in (drain_server, enable_server, backup, restore_state, gc):
    server.add_command(_command)
