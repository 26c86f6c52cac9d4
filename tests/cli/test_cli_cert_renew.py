# SPDX-License-Identifier: Apache-2.0
"""`flprov cert renew`."""

from __future__ import annotations

import pytest
from cli_admin import NOW, FakeAdmin

from flprov.errors import NotFound, PermissionRefused, SiteUnavailable, TimedOut
from flprov.wire import documents as doc


def test_it_says_until_when_the_new_one_is_valid(run, admin: FakeAdmin):
    ran = run("cert", "renew", "site-1", "--reason", "its key was seen")
    assert ran.code == 0
    assert admin.calls[-1] == ("renew_certificate", {"name": "site-1", "reason": "its key was seen"})
    assert "90 d left" in ran.out
    assert "3f9a27c1" in ran.out


def test_its_json_is_one_document(run, admin: FakeAdmin):
    found = run("cert", "renew", "site-1", "--json").document(doc.RenewalDocument)
    assert (found.name, found.issued_at) == ("site-1", NOW)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("no site 'x' in this project", hint="flprov site ls"), 5),
        (PermissionRefused("that belongs to org-b"), 3),
        (SiteUnavailable("site site-1 is not connected"), 4),
        (TimedOut("site-1 was asked to renew, and has not done so within 30 seconds"), 6),
    ],
    ids=["nobody", "not theirs", "away", "late"],
)
def test_what_went_wrong_has_its_exit_code(run, admin: FakeAdmin, error, code):
    admin.fails["renew_certificate"] = error
    ran = run("cert", "renew", "site-1")
    assert ran.code == code
    assert str(error) in ran.err


def test_the_help_begins_with_examples(run, admin: FakeAdmin):
    assert "flprov cert renew hospital-a" in run("cert", "renew", "--help").out
