# SPDX-License-Identifier: Apache-2.0
"""A person's client, connected to a server that says what a test tells it to."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import pytest
from admin_server import NOW, PROJECT, Network, Server

from flprov.admin import Admin
from flprov.admin.link import Link
from flprov.kits import Kit, load_kit, provision
from flprov.testing.clock import FakeClock

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.fixture(scope="session")
def kits(tmp_path_factory: pytest.TempPathFactory):
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("admin") / "workspace"
    provision(PROJECT, folder, now=NOW)
    return folder / "kits"


@pytest.fixture(scope="session")
def kit(kits) -> Kit:
    return load_kit(kits / "leo", now=NOW)


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def network(server: Server):
    made = Network(server)
    yield made
    made.stop()


@pytest.fixture
def link(network: Network, kit: Kit):
    with Link(network.connect(kit.identity)) as made:
        yield made


@pytest.fixture
def admin(network: Network, kit: Kit):
    with Admin(kit, network.connect(kit.identity), clock=FakeClock(start=NOW)) as made:
        yield made


@pytest.fixture
def log(tmp_path: Path):
    """A log of many rows that several sites vouch for."""
    from faults.tampering import write_log

    return asyncio.run(write_log(tmp_path / "log", random.Random(3)))
