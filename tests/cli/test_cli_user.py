# SPDX-License-Identifier: Apache-2.0
"""`flprov user`, and the changes of `flprov site`: what is sent, what is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cli_admin import BEEP, NOW, FakeAdmin, before, make_server, make_site

from flprov.errors import NotFound, PermissionRefused
from flprov.wire import documents as doc

LEO = doc.PersonDocument(
    name="leo",
    org="org-a",
    role="lead",
    identity="spiffe://heart.example/person/org-a/lead/leo",
    state="revoked",
    reason="on 2026-01-01 by ada: its holder has left",
    last_seen=before(hours=5),
    cert_not_after=NOW,
    provisioned=True,
)


def test_people_are_listed(run, admin: FakeAdmin):
    admin.person_documents = (LEO, replace(LEO, name="mia", state="unseen", last_seen=None, reason=BEEP))
    ran = run("user", "ls")
    assert ran.code == 0
    assert [row.split()[0] for row in ran.out.splitlines()] == ["NAME", "leo", "mia"]
    assert "its holder has left" in ran.out
    assert "\x1b[31mred" not in ran.out
    assert run("user", "ls", "--json").document(doc.PersonListDocument).people == admin.person_documents


def test_person_is_removed(run, admin: FakeAdmin):
    admin.changed = doc.PartyChangeDocument(
        name="leo", kind="person", change="removed", changed=True, ended=1
    )
    ran = run("user", "rm", "leo", "--reason", "has left")
    assert ran.out == "person leo removed; 1 open call ended\n"
    assert admin.calls == [("remove_person", {"name": "leo", "reason": "has left"})]


CHANGES = {
    "add": (("--org", "org-a"), "add_site", {"org": "org-a"}, "added", "belongs to the project already"),
    "rm": ((), "remove_site", {}, "removed", "was removed already"),
    "lock": ((), "lock_site", {}, "locked", "is locked already"),
    "unlock": ((), "unlock_site", {}, "unlocked", "is not locked"),
}


@pytest.mark.parametrize("verb", CHANGES)
def test_site_is_changed_and_that_is_said(run, admin: FakeAdmin, verb):
    words, call, fields, change, already = CHANGES[verb]
    admin.changed = replace(admin.changed, change=change, notes=("note well",))
    ran = run("site", verb, "site-1", *words, "--reason", "because")
    assert (ran.code, ran.out) == (0, f"site site-1 {change}\n")
    assert "note: note well" in ran.err
    assert admin.calls == [(call, {"name": "site-1", "reason": "because"} | fields)]
    assert run("site", verb, "site-1", *words, "--json").document(doc.PartyChangeDocument) == admin.changed
    admin.changed = replace(admin.changed, changed=False, reason="by ada", notes=())
    assert run("site", verb, "site-1", *words).out == f"site site-1 {already} (by ada): nothing was done\n"


@pytest.mark.parametrize("verb", CHANGES)
def test_refused_change_has_its_exit_code(run, admin: FakeAdmin, verb):
    words, call, *_ = CHANGES[verb]
    admin.fails[call] = PermissionRefused("not yours", hint="ask ada")
    ran = run("site", verb, "site-1", *words)
    assert ran.code == 3
    assert "ask ada" in ran.err
    admin.fails[call] = NotFound("no such site")
    assert run("site", verb, "site-1", *words).code == 5


def test_site_is_added_for_an_organisation_only(run, admin: FakeAdmin):
    ran = run("site", "add", "site-9")
    assert ran.code == 2
    assert "--org" in ran.err


def test_locked_site_is_shown_as_such(run, admin: FakeAdmin):
    rung = doc.Rung(name="enrolled", ok=False, since=before(hours=2.1), reason="locked by ada: look")
    site = make_site(state="locked", ladder=(rung,), cpu=None, memory=None, disk=None)
    admin.status_document = replace(admin.status_document, sites=(site,))
    assert "not enrolled since 2 h: locked by ada: look" in run("site", "ls").out
    out = run("site", "show", "site-1").out
    assert "state         locked" in out
    assert "  no   enrolled since 2 h  locked by ada: look" in out


def test_status_warns_of_what_expires(run, admin: FakeAdmin):
    warning = doc.CertificateWarning(
        subject="leo",
        kind="person",
        text="the certificate of person leo ends in 7 days" + BEEP,
        not_after=NOW,
        days_left=7.0,
        hint="flprov provision",
    )
    admin.status_document = replace(admin.status_document, server=make_server(warnings=(warning,)))
    out = run("status").out
    assert "warning: the certificate of person leo ends in 7 days" in out
    assert "next: flprov provision" in out
    assert "\x1b[31mred" not in out
