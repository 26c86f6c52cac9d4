# SPDX-License-Identifier: Apache-2.0
"""A workspace that was provisioned once; tests work on copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from kit_parties import NOW, PROJECT

from flprov.kits import provision


@pytest.fixture(scope="session")
def provisioned(tmp_path_factory):
    """Made once; not to be changed."""
    folder = tmp_path_factory.mktemp("provisioned") / "workspace"
    provision(PROJECT, folder, now=NOW)
    return folder


@pytest.fixture
def workspace(provisioned: Path, tmp_path: Path) -> Path:
    """A workspace of one's own, with the kits of PROJECT."""
    folder = tmp_path / "workspace"
    shutil.copytree(provisioned, folder)
    return folder


@pytest.fixture
def kit(workspace: Path) -> Path:
    """The kit of a site."""
    return workspace / "kits" / "hospital-a"
