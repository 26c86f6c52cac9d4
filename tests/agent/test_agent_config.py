# SPDX-License-Identifier: Apache-2.0
"""What an agent is started with: a site's kit, and this machine's own files beside it."""

from __future__ import annotations

import shutil
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from agent_parties import NOW

from flprov.agent import load_agent_config
from flprov.errors import KitRefused, NotFound


def test_the_machine_s_own_files_lie_beside_the_kit(parties):
    kit = parties.kit("site-1")
    config = load_agent_config(kit.folder, now=NOW)
    local = kit.folder.with_name("site-1.local")
    assert (config.state, config.policy, config.settings) == (
        local / "state",
        local / "policy.yml",
        local / "site.yml",
    )
    assert config.python == Path(sys.executable)
    assert not local.exists()


@pytest.mark.parametrize("name", ["server", "leo"])
def test_another_party_s_kit_is_refused_with_what_it_is_for(parties, name):
    with pytest.raises(KitRefused, match="kit of a site is needed") as refused:
        load_agent_config(parties.kit(name).folder, now=NOW)
    assert "this one is for" in (refused.value.hint or "")


def test_a_folder_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        load_agent_config(tmp_path / "gone", now=NOW)


def test_a_kit_that_was_changed_is_refused(parties, tmp_path):
    copy = tmp_path / "site-1"
    shutil.copytree(parties.kit("site-1").folder, copy)
    (copy / "extra").touch()
    with pytest.raises(KitRefused, match="extra"):
        load_agent_config(copy, now=NOW)


def test_a_kit_whose_own_certificate_has_expired_is_read_since_there_may_be_a_renewed_one(parties):
    kit = parties.kit("site-1")
    assert load_agent_config(kit.folder, now=kit.not_after + timedelta(days=1)).kit.name == "site-1"
