# SPDX-License-Identifier: Apache-2.0
"""A site's kit, furnished, whose server runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from doctor_parties import free_port, furnish, make_kits, serving


@pytest.fixture(scope="session")
def port() -> int:
    """Where the server of the project listens."""
    return free_port()


@pytest.fixture(scope="session")
def provisioned(tmp_path_factory: pytest.TempPathFactory, port: int) -> Path:
    """The kits, made once; not to be changed."""
    return make_kits(tmp_path_factory.mktemp("doctor"), f"localhost:{port}")


@pytest.fixture(scope="session")
def server(provisioned: Path, port: int) -> Iterator[None]:
    """The server runs."""
    with serving(provisioned / "server", port):
        yield


@pytest.fixture
def kit(provisioned: Path, tmp_path: Path) -> Path:
    """A site's kit of one's own, with policy and data."""
    folder = tmp_path / "hospital-a"
    shutil.copytree(provisioned / "hospital-a", folder)
    furnish(folder)
    return folder
