# SPDX-License-Identifier: Apache-2.0
"""A person's client learns whom to believe, keeps it beside the kit, and is not talked into anything."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from admin_server import NOW, PROJECT

from flprov.admin import PersonTrust
from flprov.errors import ServerUnavailable
from flprov.kits import activate_rotation, finish_rotation, load_kit, prepare_rotation, provision
from flprov.kits.authorities import open_authorities
from flprov.wire import pb

LATER = NOW + timedelta(days=1)


class FakeLink:
    """Answers FETCH_TRUST as it is told."""

    def __init__(self, workspace: Path) -> None:
        self.signed = open_authorities(workspace / "ca", passphrase=None).signed_trust
        self.asked: list[str] = []
        self.error: Exception | None = None

    def unary(self, method, request, *, timeout=None):
        self.asked.append(request.id)
        if self.error is not None:
            raise self.error
        if int(request.id) >= self.signed.claimed_version:
            return pb.TrustBundle()
        return pb.TrustBundle(
            document=self.signed.document, signature=self.signed.signature, signer=self.signed.signer
        )


@pytest.fixture
def workspace(tmp_path) -> Path:
    provision(PROJECT, tmp_path / "ws", now=NOW)
    shutil.copytree(tmp_path / "ws/kits/leo", tmp_path / "leo")
    return tmp_path / "ws"


@pytest.fixture
def kit(workspace, tmp_path):
    return load_kit(tmp_path / "leo", now=NOW)


def learn(kit, workspace: Path, link: FakeLink | None = None) -> PersonTrust:
    trust = PersonTrust(kit, LATER)
    trust.learn(link or FakeLink(workspace), LATER)
    return trust


def test_a_newer_bundle_is_learnt_kept_and_dialled_with(kit, workspace):
    prepare_rotation(PROJECT, workspace, now=LATER, root=True)
    assert PersonTrust(kit, LATER).servers == kit.anchors["servers"]
    assert len(learn(kit, workspace).servers.members) == 2
    again = PersonTrust(kit, LATER)
    assert (again.version, len(again.servers.members)) == (2, 2)
    assert kit.local.stat().st_mode & 0o077 == 0


def test_the_version_that_is_held_is_told_and_nothing_newer_changes_nothing(kit, workspace):
    prepare_rotation(PROJECT, workspace, now=LATER)
    link = FakeLink(workspace)
    learn(kit, workspace, link)
    learn(kit, workspace, link)
    assert link.asked == ["0", "2"]


def test_a_forged_bundle_and_a_server_that_fails_are_no_reason_for_a_command_to_fail(kit, workspace):
    prepare_rotation(PROJECT, workspace, now=LATER)
    link = FakeLink(workspace)
    link.signed = replace(link.signed, document=link.signed.document.replace(b"prepared", b"steadier"))
    assert learn(kit, workspace, link).version == 0
    link.error = ServerUnavailable("it went away")
    assert learn(kit, workspace, link).version == 0
    assert not (kit.local / "trust.json").exists()


def test_who_heard_of_a_new_root_in_time_follows_it_and_who_did_not_needs_a_new_kit(kit, workspace):
    prepare_rotation(PROJECT, workspace, now=LATER, root=True)
    learn(kit, workspace)
    activate_rotation(PROJECT, workspace, now=LATER)
    finish_rotation(PROJECT, workspace, now=LATER)
    assert learn(kit, workspace).version == 4
    shutil.rmtree(kit.local)
    assert learn(kit, workspace).version == 0
