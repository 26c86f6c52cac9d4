# SPDX-License-Identifier: Apache-2.0
"""Which jobs a caller may name: every role against every rule, written out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from server_parties import ADA, LEA, LEO, MIA, MILO, OBI, OLGA, SITE_ORGS, job_record, site

from flprov.errors import PermissionRefused
from flprov.pki import Role
from flprov.rpc.methods import ObjectRule
from flprov.server.access import verify_may_touch

# leo of org-a submitted the job, for sites of org-a alone or for one of org-b too.
HIS_ORG_ONLY = job_record("a" * 64, targets=("site-1", "site-3"), submitted_by=LEO.uri)
BOTH_ORGS = job_record("a" * 64, targets=("site-1", "site-2"), submitted_by=LEO.uri)

PERSONS = {"ada": ADA, "leo": LEO, "lea": LEA, "olga": OLGA, "mia": MIA, "milo": MILO, "obi": OBI}

MAY = {
    (ObjectRule.NONE, "his org"): {"ada", "leo", "lea", "olga", "mia", "milo", "obi"},
    (ObjectRule.NONE, "both"): {"ada", "leo", "lea", "olga", "mia", "milo", "obi"},
    (ObjectRule.OWN_JOB, "his org"): {"ada", "leo"},
    (ObjectRule.OWN_JOB, "both"): {"ada", "leo", "olga"},  # olga's site-2 runs it
    (ObjectRule.OWN_ORG_JOB, "his org"): {"ada", "leo", "mia"},
    (ObjectRule.OWN_ORG_JOB, "both"): {"ada", "leo", "olga", "mia"},
}
JOBS = {"his org": HIS_ORG_ONLY, "both": BOTH_ORGS}


@pytest.mark.parametrize(("rule", "job"), MAY, ids=lambda value: getattr(value, "value", value))
@pytest.mark.parametrize("name", PERSONS)
def test_person_may_touch_what_the_plan_says(name, rule, job):
    if name in MAY[rule, job]:
        assert verify_may_touch(PERSONS[name], JOBS[job], rule, SITE_ORGS) is JOBS[job]
    else:
        with pytest.raises(PermissionRefused, match=r"job 0job"):
            verify_may_touch(PERSONS[name], JOBS[job], rule, SITE_ORGS)


@pytest.mark.parametrize(("name", "may"), [("site-1", True), ("site-2", False), ("site-3", True)])
def test_site_may_touch_the_jobs_that_are_for_it(name, may):
    if may:
        verify_may_touch(site(name), HIS_ORG_ONLY, ObjectRule.OWN_SITE, SITE_ORGS)
    else:
        with pytest.raises(PermissionRefused, match="is not for site site-2"):
            verify_may_touch(site(name), HIS_ORG_ONLY, ObjectRule.OWN_SITE, SITE_ORGS)


def test_same_name_in_another_role_or_org_is_somebody_else():
    """The whole identity counts: a lead who became a member, or another organisation's leo."""
    for caller in (replace(LEO, role=Role.MEMBER), replace(LEO, org="org-b")):
        with pytest.raises(PermissionRefused):
            verify_may_touch(caller, HIS_ORG_ONLY, ObjectRule.OWN_JOB, SITE_ORGS)


def test_site_that_left_the_project_gives_its_admin_no_rights():
    with pytest.raises(PermissionRefused):
        verify_may_touch(OLGA, BOTH_ORGS, ObjectRule.OWN_JOB, {"site-1": "org-a"})


def test_refusal_says_whose_job_it_is_and_whom_to_ask():
    with pytest.raises(
        PermissionRefused, match=r"submitted by spiffe://heart.example/person/org-a/lead/leo"
    ) as found:
        verify_may_touch(LEA, HIS_ORG_ONLY, ObjectRule.OWN_JOB, SITE_ORGS)
    assert found.value.hint == "ask that person or a project_admin"
