# SPDX-License-Identifier: Apache-2.0
"""Networks whose server and sites are the quick stand-ins of fake_flprov.py."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime

import fake_flprov
import pytest

from flprov.poc import Poc, Starter


@pytest.fixture
def starter(monkeypatch):
    """Makes a Starter of stand-ins; `starter(site_1="die")` tells one what to do."""

    def make(**does: str) -> Starter:
        told = {f"FAKE_{name.upper()}": what for name, what in does.items()}
        return Starter(
            command=(sys.executable, "-I", "-S", fake_flprov.__file__), environment={**os.environ, **told}
        )

    return make


@pytest.fixture
def network(tmp_path):
    """A network that does not exist yet; whatever a test starts of it is ended."""
    found = Poc(tmp_path / "net")
    yield found
    if found.place.exists():
        found.down(grace=0.2)


@pytest.fixture
def now():
    """This moment: the kits are made by the machine's own clock."""
    return datetime.now(UTC)
