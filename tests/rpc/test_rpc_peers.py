# SPDX-License-Identifier: Apache-2.0
"""A certificate is parsed once an hour and its dates are looked at on every call."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from parties import LEAD, SITE, make_project, project

from flprov.errors import IdentityRefused
from flprov.pki import Kind, load_anchors
from flprov.rpc import peers
from flprov.rpc.peers import PeerCheck
from flprov.testing.clock import FakeClock

KINDS = frozenset({Kind.SITE, Kind.PERSON})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime.now(UTC))


@pytest.fixture
def check(clock) -> PeerCheck:
    return PeerCheck(project().caller_anchors, kinds=KINDS, clock=clock)


@pytest.fixture
def counted(monkeypatch) -> list[bytes]:
    """The certificates that were verified in full."""
    seen = []

    def verify(pem, *args, **kwargs):
        seen.append(pem)
        return real(pem, *args, **kwargs)

    real = peers.verify_peer
    monkeypatch.setattr(peers, "verify_peer", verify)
    return seen


def test_good_certificates_are_identified(check):
    for identity in (SITE, LEAD):
        assert check.identify(project().issue(identity).certificate_pem).identity == identity


def test_good_certificate_is_verified_in_full_once_an_hour(check, clock, counted):
    pem = project().issue(SITE).certificate_pem
    for _ in range(5):
        assert check.identify(pem).identity == SITE
    assert len(counted) == 1
    clock.advance(3601)
    assert check.identify(pem).identity == SITE
    assert len(counted) == 2


def test_expiry_is_noticed_within_the_hour(check, clock):
    pem = project().issue(SITE, days=0.01).certificate_pem
    assert check.identify(pem).identity == SITE
    clock.advance(timedelta(days=0.01).total_seconds() + 1)
    with pytest.raises(IdentityRefused, match="expired"):
        check.identify(pem)


def test_clock_that_goes_back_before_the_first_day_is_noticed(check, clock):
    pem = project().issue(SITE).certificate_pem
    assert check.identify(pem).identity == SITE
    clock.jump(-3600)
    with pytest.raises(IdentityRefused, match="not valid before"):
        check.identify(pem)


def test_refused_certificate_is_taken_once_its_day_comes(check, clock):
    pem = project().issue(SITE, now=clock.now() + timedelta(days=1)).certificate_pem
    for _ in range(2):
        with pytest.raises(IdentityRefused, match="not valid before"):
            check.identify(pem)
    clock.advance(timedelta(days=1).total_seconds())
    assert check.identify(pem).identity == SITE


def test_no_certificate_and_no_pem_are_refused(check):
    for pem in (b"", b"no pem", b"\0" * 100):
        with pytest.raises(IdentityRefused):
            check.identify(pem)


def test_stranger_is_refused_however_often_it_asks(check, counted):
    pem = make_project().issue(SITE).certificate_pem
    for _ in range(3):
        with pytest.raises(IdentityRefused):
            check.identify(pem)
    assert len(counted) == 3


def test_kind_that_is_not_welcome_is_refused(clock):
    check = PeerCheck(
        load_anchors(project().people.certificate_pem), kinds=frozenset({Kind.SITE}), clock=clock
    )
    with pytest.raises(IdentityRefused):
        check.identify(project().issue(LEAD).certificate_pem)


def test_kept_verdicts_are_bounded(check, counted, monkeypatch):
    monkeypatch.setattr(peers, "_MOST", 2)
    pems = [project().issue(SITE).certificate_pem for _ in range(3)]
    for pem in [*pems, pems[2], pems[1], pems[0]]:
        assert check.identify(pem).identity == SITE
    assert counted == [*pems, pems[0]]
