# SPDX-License-Identifier: Apache-2.0
"""The newest trust bundle on somebody's disk, over years, many rotations, and with clocks that are wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from kit_parties import NOW, PROJECT

from flprov.kits import (
    HeldTrust,
    activate_rotation,
    finish_rotation,
    prepare_rotation,
    provision,
)
from flprov.kits.authorities import Authorities, open_authorities
from flprov.pki import load_anchors

DAY = timedelta(days=1)


@pytest.fixture
def workspace(tmp_path) -> Path:
    provision(PROJECT, tmp_path / "ws", now=NOW)
    return tmp_path / "ws"


def open_ca(workspace: Path) -> Authorities:
    return open_authorities(workspace / "ca", passphrase=None)


def rotate_root(workspace: Path, held: HeldTrust) -> None:
    for step in (prepare_rotation, activate_rotation, finish_rotation):
        more = {"root": True} if step is prepare_rotation else {}
        step(PROJECT, workspace, now=NOW + DAY, **more)
        keep(held, open_ca(workspace).signed_trust)


def keep(held: HeldTrust, signed) -> None:
    found = held.verify(signed, NOW + DAY)
    assert found is not None
    held.keep(found)


@pytest.fixture
def fresh(workspace, tmp_path):
    """What a process finds that starts with the kit of the first day."""
    ca = open_ca(workspace)
    roots, project_id = load_anchors(ca.anchor(None)), ca.record.project_id
    return lambda: HeldTrust(tmp_path / "trust.json", roots, project_id=project_id)


def test_bundles_after_a_new_root_do_not_pile_up(workspace, fresh, tmp_path):
    """The steps from the kit's root to the newest bundle are one for each root, not one for each bundle."""
    held = fresh()
    rotate_root(workspace, held)
    steps = tmp_path / "trust.before.json"
    size = steps.stat().st_size
    ca = open_ca(workspace)
    for number in range(1, 6):
        keep(held, ca.sign_trust(replace(ca.says, version=ca.says.version + number), now=NOW + DAY))
    assert steps.stat().st_size == size
    again = fresh()
    again.load(NOW + DAY)
    assert again.version == held.version


def test_three_new_roots_are_followed_from_the_first_kit(workspace, fresh):
    held = fresh()
    for _ in range(3):
        rotate_root(workspace, held)
    again = fresh()
    again.load(NOW + DAY)
    assert (again.version, again.current.says.roots) == (held.version, held.current.says.roots)


def test_a_clock_that_was_set_back_does_not_bring_back_who_was_revoked(workspace, fresh):
    """A machine that boots without its clock must not fall back to its kit, and forget the list for good."""
    held = fresh()
    ca = open_ca(workspace)
    keep(held, ca.sign_trust(replace(ca.says, version=7), now=NOW + DAY))
    for now in (NOW - 100 * DAY, NOW + 100_000 * DAY):
        again = fresh()
        again.load(now)
        assert again.version == 7
