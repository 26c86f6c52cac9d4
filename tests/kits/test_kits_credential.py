# SPDX-License-Identifier: Apache-2.0
"""Which certificate is in use: the kit's own, or the one that was renewed."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from kit_parties import NOW, PROJECT

from flprov.errors import IdentityRefused, KitRefused
from flprov.kits import (
    Kit,
    current_credential,
    list_kits,
    load_kit,
    own_anchors,
    provision,
    renewal_due,
    store_credential,
    verify_issued,
)
from flprov.pki import Authority, Identity, issue_identity, load_authority, not_after

LATER = NOW + timedelta(days=40)
LONG_AFTER = NOW + timedelta(days=200)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("credential") / "ws"
    provision(PROJECT, folder, now=NOW)
    return folder


@pytest.fixture(scope="module")
def sites_ca(workspace: Path) -> Authority:
    return _authority(workspace, "sites")


def _authority(workspace: Path, unit: str) -> Authority:
    ca = workspace / "ca"
    return load_authority((ca / f"{unit}.pem").read_bytes(), (ca / f"{unit}.key.pem").read_bytes())


@pytest.fixture(scope="module")
def kit(workspace: Path) -> Kit:
    return load_kit(workspace / "kits" / SITE, now=NOW)


SITE = "hospital-a"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def renew(kit: Kit, state: Path, sites_ca: Authority) -> Callable[..., None]:
    """`renew(at=...)` puts a renewed certificate into the state."""

    def make(
        *, at=LATER, days: float = 90, identity: Identity | None = None, ca: Authority = sites_ca
    ) -> None:
        made = issue_identity(ca, identity or kit.identity, days=days, now=at)
        (state / "identity.pem").write_bytes(made.chain_pem + made.private_pem)
        (state / "identity.pem").chmod(0o600)

    return make


def in_use(kit: Kit, state: Path, *, now=LATER, anchors=None):
    return current_credential(kit, anchors=anchors or own_anchors(kit), now=now, state=state)


def test_without_a_renewed_one_it_is_the_kits_own(kit, state):
    found = in_use(kit, state, now=NOW)
    assert (found.chain_pem, found.private_pem) == (kit.chain_pem, kit.private_pem)
    assert found.not_after == kit.not_after


def test_a_renewed_one_is_used_also_after_the_kits_own_has_expired(kit, state, renew):
    renew()
    assert in_use(kit, state).not_after == LATER + timedelta(days=90)
    assert in_use(kit, state, now=kit.not_after + timedelta(days=10)).issued_at == LATER


def test_what_was_issued_later_wins_so_a_new_kit_is_used(kit, state, renew):
    renew(at=NOW - timedelta(minutes=3))
    assert in_use(kit, state, now=NOW).chain_pem == kit.chain_pem


def test_a_renewed_one_that_has_expired_leaves_the_kits_own_in_use(kit, state, renew):
    renew(at=NOW + timedelta(days=1), days=1)
    assert in_use(kit, state).chain_pem == kit.chain_pem


def test_when_both_have_expired_it_says_when_and_the_way_back(kit, state, renew):
    renew()
    with pytest.raises(KitRefused) as caught:
        in_use(kit, state, now=LONG_AFTER)
    assert f"expired on {LATER + timedelta(days=90):%Y-%m-%d}" in str(caught.value)
    assert f"flprov invite create {SITE}" in str(caught.value.hint)
    assert "flprov join INVITE" in str(caught.value.hint)


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"A", b"B"),
        lambda data: b"\xff" * 100_000,
        lambda data: data[: data.index(b"-----BEGIN PRIVATE KEY")],
        lambda data: data + data,
    ],
    ids=["empty", "half", "other letters", "large", "no key", "twice"],
)
def test_a_damaged_one_is_set_aside_with_a_warning(kit, state, renew, caplog, harm):
    renew()
    path = state / "identity.pem"
    data = harm(path.read_bytes())
    path.write_bytes(data)
    assert in_use(kit, state).chain_pem == kit.chain_pem
    assert "is damaged" in caplog.text
    assert not path.exists()
    assert (state / "identity.pem.damaged").read_bytes() == data


def test_the_key_of_another_certificate_is_damage(kit, state, renew, sites_ca):
    renew()
    other = issue_identity(sites_ca, kit.identity, days=9, now=LATER)
    path = state / "identity.pem"
    chain = path.read_bytes().partition(b"-----BEGIN PRIVATE KEY")[0]
    path.write_bytes(chain + other.private_pem)
    assert in_use(kit, state).chain_pem == kit.chain_pem
    assert (state / "identity.pem.damaged").exists()


def test_one_of_another_identity_is_passed_over_and_stays(workspace, kit, state, renew, caplog):
    other = load_kit(workspace / "kits" / "hospital-b", now=NOW)
    renew(identity=other.identity)
    assert in_use(kit, state).chain_pem == kit.chain_pem
    assert "hospital-b" in caplog.text
    assert (state / "identity.pem").exists()


def test_one_of_a_ca_that_is_not_believed_is_passed_over(kit, state, renew, tmp_path):
    provision(PROJECT, tmp_path / "other", now=NOW)
    renew(ca=_authority(tmp_path / "other", "sites"))
    assert in_use(kit, state).chain_pem == kit.chain_pem


@pytest.mark.parametrize("trap", ["a link", "a pipe", "a folder"])
def test_what_is_no_file_is_neither_waited_for_nor_followed(kit, state, renew, tmp_path, trap):
    renew()
    place, real = state / "identity.pem", tmp_path / "elsewhere.pem"
    place.rename(real)
    real.chmod(0o644)
    if trap == "a link":
        place.symlink_to(real)
    elif trap == "a pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    found = current_credential(kit, anchors=own_anchors(kit), now=LATER, state=state)
    assert found.chain_pem == kit.chain_pem
    assert real.stat().st_mode & 0o777 == 0o644


def test_one_that_others_can_read_is_made_private_again(kit, state, renew, caplog):
    renew()
    (state / "identity.pem").chmod(0o644)
    assert in_use(kit, state).issued_at == LATER
    assert (state / "identity.pem").stat().st_mode & 0o777 == 0o600
    assert "made private again" in caplog.text


def test_what_is_stored_is_found_and_is_private(kit, state, sites_ca, caplog):
    made = issue_identity(sites_ca, kit.identity, days=90, now=LATER)
    issued = verify_issued(kit, made.chain_pem, made.private_pem, anchors=own_anchors(kit), now=LATER)
    with caplog.at_level(logging.WARNING):
        path = store_credential(state, issued)
        assert in_use(kit, state) == issued
    assert path.stat().st_mode & 0o777 == 0o600
    assert caplog.text == ""
    assert made.private_pem.decode().splitlines()[1] not in repr(issued)


def test_an_answer_for_somebody_else_is_refused(workspace, kit, sites_ca, tmp_path):
    other = load_kit(workspace / "kits" / "hospital-b", now=NOW)
    for_other = issue_identity(sites_ca, other.identity, days=90, now=LATER)
    mine = issue_identity(sites_ca, kit.identity, days=90, now=LATER)
    provision(PROJECT, tmp_path / "ws", now=NOW)
    strange = issue_identity(_authority(tmp_path / "ws", "sites"), kit.identity, days=90, now=LATER)
    for made, key in ((for_other, for_other), (mine, for_other), (strange, strange)):
        with pytest.raises(IdentityRefused):
            verify_issued(kit, made.chain_pem, key.private_pem, anchors=own_anchors(kit), now=LATER)


def test_it_is_due_at_a_third_of_its_life_and_never_a_tenth_later(kit, state):
    found = in_use(kit, state, now=NOW)
    dues = {renewal_due(found, random.Random(seed)) for seed in range(200)}
    assert min(dues) >= NOW + timedelta(days=30)
    assert max(dues) <= NOW + timedelta(days=39)
    assert len(dues) == 200


def test_one_that_ends_with_its_ca_waits_longer_so_that_renewals_do_not_pile_up(kit, state, sites_ca):
    end = not_after(sites_ca.certificate_pem)
    moment = end - timedelta(days=60)
    made = 0
    while end - moment > timedelta(hours=1):
        issued = issue_identity(sites_ca, kit.identity, days=90, now=moment)
        found = verify_issued(kit, issued.chain_pem, issued.private_pem, anchors=own_anchors(kit), now=moment)
        assert found.not_after == end
        moment = renewal_due(found, random.Random(7))
        made += 1
    assert made < 10


def test_kits_of_sites_and_servers_load_after_their_certificate_has_expired(workspace):
    after = LONG_AFTER
    assert load_kit(workspace / "kits" / SITE, now=after).not_after < after
    assert load_kit(workspace / "kits" / "server", now=after).not_after < after
    with pytest.raises(KitRefused, match="expired"):
        load_kit(workspace / "kits" / "alice", now=NOW + timedelta(days=800))


def test_a_workspace_lists_expired_site_kits_as_kits(workspace):
    found = {listing.folder.name: listing for listing in list_kits(workspace, now=LONG_AFTER)}
    assert found[SITE].problem is None
