# SPDX-License-Identifier: Apache-2.0
"""Two projects that were provisioned once, a site's configuration, and a site with fakes around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agent_parties import NOW, App, Parties, make_config, project, write_app
from agent_rig import PATIENCE, FakeServer, Rig

from flprov.agent import AgentConfig
from flprov.agent.bulk import Bulk
from flprov.blobs import BlobStore
from flprov.kits import provision
from flprov.testing.clock import FakeClock


def _provision(folder: Path, name: str) -> Parties:
    provision(project(name), folder / "workspace", now=NOW)
    return Parties(folder / "workspace" / "kits")


@pytest.fixture(scope="session")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    """Not to be changed."""
    return _provision(tmp_path_factory.mktemp("parties"), "heart")


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    """The same names and trust domain in another project, which has another root."""
    return _provision(tmp_path_factory.mktemp("strangers"), "heart")


@pytest.fixture
def config(parties: Parties, tmp_path: Path) -> AgentConfig:
    return make_config(parties.kit("site-1"), tmp_path / "site")


@pytest.fixture
def app(tmp_path: Path) -> App:
    return write_app(tmp_path / "apps" / "toy")


@pytest.fixture
async def rig(config: AgentConfig, parties: Parties) -> AsyncIterator[Rig]:
    async with Rig(config, parties.kit("leo")) as made:
        yield made


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[FakeServer]:
    """A server that takes blobs and logs, on the transport inside this process."""
    made = FakeServer(tmp_path / "server")
    yield made
    await made.network.stop()


@pytest.fixture
async def bulk(server: FakeServer, tmp_path: Path) -> AsyncIterator[Bulk]:
    """Transfers to and from it."""
    made = Bulk(server.connect, BlobStore(tmp_path / "blobs"), FakeClock(start=NOW))
    async with asyncio.timeout(PATIENCE):
        yield made
    await made.close()
