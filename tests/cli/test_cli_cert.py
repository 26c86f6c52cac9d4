# SPDX-License-Identifier: Apache-2.0
"""`flprov cert`: what expires when and the exit code of it; revoking; revocation lists as files."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cli_admin import BEEP, NOW, FakeAdmin
from cli_process import run_process

from flprov.errors import NotFound, Refused
from flprov.wire import documents as doc


def line(subject: str, days: float, **changes: Any) -> doc.CertificateDocument:
    fields: dict[str, Any] = {
        "subject": subject,
        "kind": "person",
        "identity": f"spiffe://heart.example/person/org-a/lead/{subject}",
        "state": "valid",
        "serial": "3f9a27c1" * 5,
        "issued_at": NOW - timedelta(days=10),
        "not_after": NOW + timedelta(days=days, hours=1),
        "days_left": days,
        "how": "kit",
    }
    return doc.CertificateDocument(**(fields | changes))


SITE = line("site-1", 80, kind="site", renews_itself=True, how="renewal")
OVERDUE = replace(SITE, state="overdue", days_left=25.0, hint="flprov site show site-1")


def test_list_shows_what_ends_first_and_how_it_was_made(run, admin: FakeAdmin):
    admin.certificate_documents = (line("leo", 50), SITE, line("mia", 60, state="unseen", not_after=None))
    ran = run("cert", "ls")
    assert ran.code == 0
    rows = ran.out.splitlines()
    assert [row.split()[0] for row in rows] == ["SUBJECT", "leo", "site-1", "mia"]
    assert "50 d left" in rows[1]
    assert "renewal" in rows[2]
    assert " yes " in rows[2]
    assert "3f9a27c13f9a" in rows[1]


@pytest.mark.parametrize(
    ("lines", "words", "code"),
    [
        ((), (), 0),
        ((line("leo", 31),), (), 0),
        ((line("leo", 29),), (), 7),
        ((line("leo", 29),), ("--warn", "7"), 0),
        ((line("leo", 50),), ("--warn", "60"), 7),
        ((SITE,), (), 0),
        ((replace(SITE, days_left=20.0),), (), 0),  # it renews itself and is not overdue
        ((replace(SITE, days_left=20.0),), ("--warn", "30"), 7),
        ((OVERDUE,), (), 7),
        ((OVERDUE,), ("--warn", "1"), 7),
        ((line("leo", -3, state="expired"),), (), 7),
        ((line("leo", 3, state="revoked"),), (), 0),
        ((replace(SITE, state="locked", days_left=3.0),), (), 0),
        ((line("site-9", 0.9, kind="invite"),), (), 0),
        ((line("root", 12, kind="root"),), (), 7),
        ((line("mia", 0, state="unseen", not_after=None, days_left=None),), (), 0),
    ],
)
def test_exit_code_says_whether_somebody_should_look(run, admin: FakeAdmin, lines, words, code):
    admin.certificate_documents = lines
    assert run("cert", "ls", *words).code == code
    assert run("cert", "ls", "--json", *words).code == code


def test_what_presses_is_said_with_what_to_do(run, admin: FakeAdmin):
    admin.certificate_documents = (OVERDUE, line("leo", -3, state="expired", hint="flprov provision"))
    err = run("cert", "ls").err
    assert "site site-1 ends on" in err
    assert "has not been renewed: flprov site show site-1" in err
    assert "person leo has expired: flprov provision" in err


def test_list_as_json_is_one_document(run, admin: FakeAdmin):
    admin.certificate_documents = (SITE,)
    ran = run("cert", "ls", "--json", "--all")
    assert ran.document(doc.CertificateListDocument).certificates == (SITE,)
    assert ran.err == ""
    assert admin.calls == [("certificates", {"every": True})]


def test_words_from_elsewhere_cannot_drive_the_terminal(run, admin: FakeAdmin):
    admin.certificate_documents = (line("leo", 3, reason=BEEP, hint=BEEP),)
    ran = run("cert", "ls")
    assert "\x1b[31mred" not in ran.out + ran.err


def test_revocation_says_what_was_done_and_what_else_is_to_do(run, admin: FakeAdmin):
    admin.changed = doc.PartyChangeDocument(
        name="leo",
        kind="person",
        change="revoked",
        changed=True,
        serials=("ab12",),
        ended=2,
        notes=("take leo out of project.yml",),
    )
    ran = run("cert", "revoke", "leo", "--reason", "key-compromise", "--comment", "stolen")
    assert ran.code == 0
    assert "certificates of person leo revoked; 2 open calls ended" in ran.out
    assert "  certificate ab12 revoked" in ran.out
    assert "note: take leo out of project.yml" in ran.err
    assert admin.calls == [
        ("revoke_certificate", {"target": "leo", "reason": "key-compromise", "comment": "stolen"})
    ]
    assert run("cert", "revoke", "leo", "--json").document(doc.PartyChangeDocument) == admin.changed


def test_revoking_twice_is_said(run, admin: FakeAdmin):
    admin.changed = replace(admin.changed, change="revoked", changed=False)
    assert "was revoked already: nothing was done" in run("cert", "revoke", "ab12").out


@pytest.mark.parametrize(("error", "code"), [(Refused("the last project_admin"), 3), (NotFound("nobody"), 5)])
def test_refusal_has_its_exit_code(run, admin: FakeAdmin, error, code):
    admin.fails["revoke_certificate"] = error
    assert run("cert", "revoke", "ada").code == code


def test_reason_that_does_not_exist_is_misuse_and_names_the_others(run, admin: FakeAdmin):
    ran = run("cert", "revoke", "ada", "--reason", "because")
    assert ran.code == 2
    assert "key-compromise" in ran.err
    assert admin.calls == []


def test_lists_are_written_and_an_absent_one_is_said(run, admin: FakeAdmin, tmp_path):
    end = NOW + timedelta(days=7)
    admin.crl_documents = (
        doc.CRLDocument(name="servers", pem="S", revoked=0, next_update=end),
        doc.CRLDocument(name="sites", pem="T", revoked=2, next_update=end),
        doc.CRLDocument(name="people", pem="", revoked=0, next_update=None),
    )
    ran = run("cert", "crl", "-o", "lists")
    assert ran.code == 0
    assert {path.name: path.read_text() for path in (tmp_path / "lists").iterdir()} == {
        "servers.crl.pem": "S",
        "sites.crl.pem": "T",
    }
    assert "sites.crl.pem: 2 revoked" in ran.out
    assert "no list of people" in ran.err
    assert run("cert", "crl", "--json").document(doc.CRLListDocument).lists == admin.crl_documents


def test_in_a_process_of_its_own(tmp_path):
    ran = run_process("cert", "ls", folder=tmp_path)
    assert ran.code == 2
    assert "no admin kit is chosen" in ran.err
    helped = run_process("cert", "--help", folder=tmp_path).out
    assert "flprov cert revoke" in helped
