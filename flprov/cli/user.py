# SPDX-License-Identifier: Apache-2.0
"""`flprov user`: who may act as an admin, and throwing somebody out."""

from __future__ import annotations

import click

from flprov.cli.acting import acting
from flprov.cli.changes import print_change
from flprov.cli.completion import complete_person
from flprov.cli.output import ago, json_option, print_json, print_table, until


@click.group()
def user() -> None:
    """List people; throw one out.

    \b
    Examples:
      flprov user ls
      flprov user rm leo --reason "has left the hospital"
    People are made where the project is provisioned: a line in project.yml, then `flprov provision`.
    """


@user.command("ls")
@json_option
def list_people(as_json: bool) -> None:
    """Everybody whom the server knows: named by its kit, or seen since."""
    from flprov.wire.documents import PersonListDocument

    with acting() as admin:
        found = admin.people()
    if as_json:
        print_json(PersonListDocument(people=found))
        return
    rows = [
        (
            person.name,
            person.org,
            person.role,
            person.state,
            until(person.cert_not_after),
            ago(person.last_seen),
            person.reason,
        )
        for person in found
    ]
    print_table(("NAME", "ORG", "ROLE", "STATE", "CERTIFICATE", "SEEN", "REASON"), rows)


@user.command("rm")
@click.argument("name", shell_complete=complete_person)
@click.option("--reason", default="", help="In words; the person reads it, too.")
@json_option
def remove(name: str, reason: str, as_json: bool) -> None:
    """Revoke every certificate that a person has had, in whatever role; open calls are ended at once.

    \b
    Examples:
      flprov user rm leo
      flprov user rm leo --reason "has left the hospital"
    A kit that is made for the person later counts again: take the person out of project.yml, too.
    """
    with acting() as admin:
        found = admin.remove_person(name, reason=reason)
    print_change(found, as_json=as_json, already=f"person {name} was removed already")
