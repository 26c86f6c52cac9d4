# SPDX-License-Identifier: Apache-2.0
"""Every command of the tree: which calls it makes, so who may type it. New ones fail until they are in."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from flprov.cli import root
from flprov.pki import Kind, Role
from flprov.rpc import METHODS
from flprov.rpc import methods as m
from flprov.rpc.commands import COMMANDS, command_of

ADMIN, ORG, LEAD = Role.PROJECT_ADMIN, Role.ORG_ADMIN, Role.LEAD
ALL = frozenset(Role)
NOT_OBSERVERS = ALL - {Role.OBSERVER}

# No call to a server at all; or one that is made with another kit than a person's.
LOCAL = {
    "init",
    "plan",  # asks the live network what it is, as `ca rotate status` does, if the chosen kit may
    "app from-flare",
    "ca show",
    "kit ls",
    "kit pack",
    "kit send",
    "kit show",
    "kit unpack",
    "kit verify",
    "server start",
    "server status",
    "server backup",
    "server restore",
    "site start",
    "site status",
    "join",
    "poc up",
    "poc down",
    "poc status",
    "simulate",
    "doctor",
    "use",
    "admin",
    "app build",
}
SUBMIT = {m.DOWNLOAD_APP, m.UPLOAD_APP, m.LIST_APPS, m.LIST_SITES, m.SUBMIT_JOB}
# command -> its calls; and who may type it, as the table "Who may" of the design says
PLAN: dict[str, tuple[set[m.Method], frozenset[Role]]] = {
    "provision": ({m.SHOW_TRUST, m.PUBLISH_TRUST, m.ADD_SITE, m.REMOVE_SITE}, frozenset({ADMIN})),
    "ca publish": ({m.PUBLISH_TRUST}, frozenset({ADMIN})),
    "ca rotate prepare": ({m.PUBLISH_TRUST, m.SHOW_TRUST}, frozenset({ADMIN})),
    "ca rotate activate": ({m.PUBLISH_TRUST, m.SHOW_TRUST}, frozenset({ADMIN})),
    "ca rotate finish": ({m.PUBLISH_TRUST, m.SHOW_TRUST}, frozenset({ADMIN})),
    "ca rotate rollback": ({m.PUBLISH_TRUST, m.SHOW_TRUST}, frozenset({ADMIN})),
    "ca rotate status": ({m.SHOW_TRUST}, ALL),
    "status": ({m.STATUS}, ALL),
    "events": ({m.WATCH_EVENTS}, NOT_OBSERVERS),
    "audit ls": ({m.READ_AUDIT}, frozenset({ADMIN, ORG})),
    "audit verify": ({m.EXPORT_LOG, m.SHOW_WITNESSES}, frozenset({ADMIN})),
    "audit export": ({m.EXPORT_LOG}, frozenset({ADMIN})),
    "server drain": ({m.DRAIN_SERVER, m.WATCH_DRAIN}, frozenset({ADMIN})),
    "server enable": ({m.ENABLE_SERVER}, frozenset({ADMIN})),
    "server gc": ({m.CLEAN}, frozenset({ADMIN})),
    "site ls": ({m.LIST_SITES}, ALL),
    "site show": ({m.SHOW_SITE}, NOT_OBSERVERS),
    "site why": ({m.WHY_SITE}, NOT_OBSERVERS),
    "site add": ({m.ADD_SITE}, frozenset({ADMIN, ORG})),
    "site rm": ({m.REMOVE_SITE}, frozenset({ADMIN, ORG})),
    "site lock": ({m.LOCK_SITE}, frozenset({ADMIN, ORG})),
    "site unlock": ({m.UNLOCK_SITE}, frozenset({ADMIN, ORG})),
    "site drain": ({m.DRAIN_SITE, m.WATCH_DRAIN}, frozenset({ADMIN, ORG})),
    "site enable": ({m.ENABLE_SITE}, frozenset({ADMIN, ORG})),
    "site stop": ({m.ORDER_SITE}, frozenset({ADMIN, ORG})),
    "site restart": ({m.ORDER_SITE}, frozenset({ADMIN, ORG})),
    "invite create": ({m.CREATE_INVITE}, frozenset({ADMIN, ORG})),
    "invite ls": ({m.LIST_INVITES}, frozenset({ADMIN, ORG})),
    "invite approve": ({m.DECIDE_INVITE, m.RELAY_JOIN}, frozenset({ADMIN, ORG})),
    "invite revoke": ({m.DECIDE_INVITE}, frozenset({ADMIN, ORG})),
    "cert ls": ({m.LIST_CERTIFICATES}, ALL),
    "cert renew": ({m.RENEW_CERTIFICATE}, frozenset({ADMIN, ORG})),
    "cert revoke": ({m.REVOKE_CERTIFICATE}, frozenset({ADMIN, ORG})),
    "cert crl": ({m.EXPORT_CRLS}, ALL),
    "user ls": ({m.LIST_PEOPLE}, ALL),
    "user rm": ({m.REMOVE_PERSON}, frozenset({ADMIN, ORG})),
    "app ls": ({m.LIST_APPS}, ALL),
    "app show": ({m.SHOW_APP}, NOT_OBSERVERS),
    "app upload": ({m.UPLOAD_APP}, frozenset({ADMIN, LEAD})),
    "job ls": ({m.LIST_JOBS}, ALL),
    "job show": ({m.SHOW_JOB}, NOT_OBSERVERS),
    "job wait": ({m.WATCH_JOB}, NOT_OBSERVERS),
    "job why": ({m.WHY_JOB}, NOT_OBSERVERS),
    "job logs": ({m.JOB_LOGS}, NOT_OBSERVERS),
    "job plot": ({m.SHOW_JOB, m.WATCH_SERIES}, NOT_OBSERVERS),
    "job submit": (SUBMIT, frozenset({ADMIN, LEAD})),
    "job clone": (SUBMIT | {m.SHOW_JOB}, frozenset({ADMIN, LEAD})),
    "job plan": ({m.PLAN_JOB, m.DOWNLOAD_APP, m.UPLOAD_APP}, frozenset({ADMIN, LEAD})),
    "job abort": ({m.ABORT_JOB}, frozenset({ADMIN, ORG, LEAD})),
    "job delete": ({m.DELETE_JOB}, frozenset({ADMIN, LEAD})),
    "job download": ({m.LIST_RESULTS, m.DOWNLOAD_RESULT}, NOT_OBSERVERS),
}
BESIDE = {m.FETCH_TRUST}  # made beside any command


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[str]:
    if not isinstance(command, click.Group):
        yield " ".join(path)
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, (*path, name))


TREE = set(leaves(root))


def test_every_command_is_in_the_plan_and_nothing_else():
    assert set(PLAN) | LOCAL == TREE
    assert not set(PLAN) & LOCAL


def test_every_call_of_a_person_belongs_to_a_command():
    persons = {method for method in METHODS if Kind.PERSON in method.kinds}
    assert set.union(*(calls for calls, _ in PLAN.values())) | BESIDE == persons


@pytest.mark.parametrize("command", PLAN)
def test_who_may_type_a_command_is_who_may_make_all_of_its_calls(command):
    calls, roles = PLAN[command]
    assert frozenset.intersection(*(method.roles for method in calls)) == roles


def test_a_refusal_names_a_command_that_exists_and_makes_that_call():
    persons = {method.path.rpartition("/")[2]: method for method in METHODS if Kind.PERSON in method.kinds}
    assert set(COMMANDS) == set(persons)
    for name, command in COMMANDS.items():
        if command:
            assert persons[name] in PLAN[command][0], name
            assert command_of(persons[name]) == f"flprov {command}"
        else:
            assert persons[name] in BESIDE
