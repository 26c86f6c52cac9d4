# SPDX-License-Identifier: Apache-2.0
"""A signed submission becomes a job, or is refused for the first thing that is wrong with it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from server_parties import LEO, SITES, job_record, signed, spec, submission

from flprov.errors import (
    ConfigError,
    Conflict,
    IdentityRefused,
    Misuse,
    NotFound,
    PermissionRefused,
    ProtocolError,
    Refused,
)
from flprov.jobs import Membership, Origin
from flprov.pki import Identity, sign
from flprov.server.jobs.submissions import read_submission, verify_runs, verify_same
from flprov.server.records import AppRecord
from flprov.wire import pb


@pytest.fixture
def verify(kit, app):
    """Hand in a request; as leo, now, unless said otherwise."""
    record = AppRecord(
        digest=app.digest,
        name="heart",
        size=len(app.data),
        uploaded_at=datetime.now(UTC),
        uploaded_by=LEO.uri,
        files=app.files,
    )

    def check(request: pb.SubmitRequest, caller: Identity = LEO, now: datetime | None = None):
        server = kit("server")
        submission = read_submission(
            request, caller, kit=server, people=server.anchors["people"], now=now or kit("leo").made_at
        )
        verify_runs(submission, caller, apps={app.digest: record}, enrolled=SITES)
        return submission

    return check


@pytest.fixture
def wish(kit, app):
    return lambda name="leo", **changes: submission(kit(name), changes.pop("app", app.digest), **changes)


def test_good_submission_is_what_was_signed(verify, wish, kit):
    assert verify(signed(kit("leo"), wish())) == wish()


# What is submitted -> the error, and what its message says.
REFUSED = {
    "another project": ({"project_id": "another"}, PermissionRefused, "for another project"),
    "too late": ({"not_after": timedelta(seconds=-1)}, Refused, "was valid until"),
    "an app that was never uploaded": ({"app": "0" * 64}, NotFound, "no app 000000000000 on the server"),
    "a site that is not enrolled": ({"sites": ("site-1", "site-2", "site-9")}, NotFound, "no site 'site-9'"),
    "a task that is not in the app": ({"spec": spec()}, ConfigError, "other.py"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_submission_is_refused_by_name(verify, wish, kit, case):
    changes, error, words = REFUSED[case]
    if case == "too late":
        now = kit("leo").made_at + timedelta(days=7, seconds=1)
        with pytest.raises(error, match=words):
            verify(signed(kit("leo"), wish()), now=now)
        return
    if case == "a task that is not in the app":
        changes = {"spec": replace(spec(), tasks={"train": "other.py"})}
    with pytest.raises(error, match=words):
        verify(signed(kit("leo"), wish(**changes)))


def test_submission_made_in_the_future_is_refused(verify, wish, kit):
    made = kit("leo").made_at + timedelta(minutes=6)
    with pytest.raises(Refused, match="was made at"):
        verify(signed(kit("leo"), wish(made_at=made)))


# What `encode` would not make, a hostile client can: each is refused before it means anything.
def test_submission_without_sites_or_with_too_few_is_refused(verify, wish, kit):
    with pytest.raises(ConfigError):
        signed(kit("leo"), wish(sites=()))
    for text in (b'"sites":["site-1","site-2","site-3"]', b'"min":2'):
        data = wish().encode()
        assert data.count(text) == 1
        other = data.replace(text, b'"sites":[]' if b"sites" in text else b'"min":4')
        request = pb.SubmitRequest(
            submission=other, signature=sign(kit("leo").private_pem, other), chain=kit("leo").chain_pem
        )
        with pytest.raises((ProtocolError, Misuse)):
            verify(request)


def test_required_site_that_is_not_targeted_is_refused(verify, wish, kit):
    found = spec(sites=Membership(min=1, required=("site-3",)))
    with pytest.raises((Misuse, ConfigError), match="site-3"):
        verify(signed(kit("leo"), wish(spec=found, sites=("site-1", "site-2"))))


# ---- forgeries -------------------------------------------------------------------------------


def test_submission_that_was_changed_after_it_was_signed_is_refused(verify, wish, kit):
    request = signed(kit("leo"), wish())
    request.submission = request.submission.replace(b'"rounds":5', b'"rounds":9')
    with pytest.raises(IdentityRefused):
        verify(request)


@pytest.mark.parametrize("signature", [b"", b"\0" * 70, b"x" * 10_000])
def test_submission_without_a_signature_is_refused(verify, wish, kit, signature):
    request = signed(kit("leo"), wish())
    request.signature = signature
    with pytest.raises(IdentityRefused):
        verify(request)


@pytest.mark.parametrize("chain", [b"", b"no certificate", b"\xff" * 100, "site", "server"])
def test_submission_with_a_chain_that_is_no_persons_is_refused(verify, wish, kit, chain):
    request = signed(kit("leo"), wish())
    if isinstance(chain, str):
        other = kit("site-1" if chain == "site" else "server")
        request.chain, request.signature = other.chain_pem, sign(other.private_pem, request.submission)
    else:
        request.chain = chain
    with pytest.raises(IdentityRefused):
        verify(request)


def test_chain_with_something_behind_it_is_refused(verify, wish, kit):
    """It would be stored as text and sent on to every site."""
    for extra in (b"\xff\xfe", b"\n# note\n", b"\0"):
        request = signed(kit("leo"), wish())
        request.chain += extra
        with pytest.raises(IdentityRefused):
            verify(request)


def test_somebody_elses_submission_cannot_be_handed_in(verify, wish, kit):
    """Lea replays what leo signed: as it is, or signed by herself."""
    with pytest.raises(PermissionRefused, match=r"lea sent a submission that .*leo signed"):
        verify(signed(kit("leo"), wish()), caller=kit("lea").identity)
    with pytest.raises(PermissionRefused, match=r"lea sent a submission that .*leo signed"):
        verify(signed(kit("lea"), wish()), caller=kit("lea").identity)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 100_000, b"x" * (2 << 20)])
def test_garbage_that_is_well_signed_is_refused(verify, kit, data):
    leo = kit("leo")
    request = pb.SubmitRequest(submission=data, signature=sign(leo.private_pem, data), chain=leo.chain_pem)
    with pytest.raises(ProtocolError):
        verify(request)


# ---- tokens ----------------------------------------------------------------------------------


def test_same_wish_again_is_the_same_whatever_its_times_and_the_order_of_its_sites(wish, app):
    job = job_record(app.digest)
    later = wish(not_after=datetime.now(UTC) + timedelta(days=30), sites=tuple(reversed(SITES)))
    assert verify_same(job, wish()) is job
    assert verify_same(job, later) is job


@pytest.mark.parametrize(
    "changes", [{"app": "b" * 64}, {"spec": spec(args={"lr": 2})}, {"sites": ("site-1", "site-2")}]
)
def test_token_that_made_another_job_is_a_conflict(wish, app, changes):
    with pytest.raises(Conflict, match="has made job 0job, which is not the same as this one"):
        verify_same(job_record(app.digest), wish(**changes))


@pytest.mark.parametrize(
    ("name", "priority", "taken"), [("leo", 1, False), ("leo", 0, True), ("ada", 100, True)]
)
def test_priority_above_0_is_for_a_project_admin_to_give(verify, wish, kit, name, priority, taken):
    found = wish(name, spec=spec(priority=priority))
    if taken:
        assert verify(signed(kit(name), found), kit(name).identity).spec.priority == priority
    else:
        with pytest.raises(PermissionRefused, match="asks for priority 1; above 0 is for a project_admin"):
            verify(signed(kit(name), found), kit(name).identity)


def test_clone_is_not_the_job_that_it_is_a_clone_of(wish, app):
    job = job_record(app.digest, targets=SITES)
    with pytest.raises(Conflict):
        verify_same(job, wish(origin=Origin(job_id="0job")))
