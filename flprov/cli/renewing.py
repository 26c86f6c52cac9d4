# SPDX-License-Identifier: Apache-2.0
"""`flprov cert renew`: have a site or the server renew its certificate now."""

from __future__ import annotations

import click

from flprov.cli.acting import acting
from flprov.cli.completion import complete_site
from flprov.cli.output import json_option, print_fields, print_json, until


@click.command()
@click.argument("name", shell_complete=complete_site)
@click.option("--reason", default="", help="For the log of whoever renews.")
@json_option
def renew(name: str, reason: str, as_json: bool) -> None:
    """Have a site or the server renew its certificate now, and wait until it has.

    \b
    Both renew by themselves, at a third of the certificate's life; so this is seldom needed. Examples:
      flprov cert renew hospital-a
      flprov cert renew server --reason "its key may have been seen"
    What was before goes on to count until it ends. To refuse it: flprov cert revoke.
    """
    with acting() as admin:
        found = admin.renew_certificate(name, reason=reason)
    if as_json:
        print_json(found)
        return
    print_fields(
        [
            ("renewed", found.name),
            ("certificate", f"until {found.not_after:%Y-%m-%d %H:%M:%S} UTC, {until(found.not_after)}"),
            ("serial", found.serial),
        ]
    )
