# SPDX-License-Identifier: Apache-2.0
"""Fixtures: kits that were made once, an app, and a world of server parts per test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from server_network import Network, WireSite
from server_parties import NOW, PROJECT
from server_world import World

from flprov.jobs import Bundle, build_bundle
from flprov.kits import Kit, load_kit, provision

_TRAIN = "def train(task, site):\n    return task.params\n"
_JOB = "name: heart\nworkflow: {type: fedavg, rounds: 2}\ntasks: {train: train.py}\nsites: {min: 2}\n"


@pytest.fixture(scope="session")
def made_at() -> datetime:
    """The moment at which the kits were made: now, since TLS looks at the machine's clock."""
    return datetime.now(UTC)


@pytest.fixture(scope="session")
def kit_folder(tmp_path_factory: pytest.TempPathFactory, made_at: datetime) -> Path:
    folder = tmp_path_factory.mktemp("server") / "ws"
    provision(PROJECT, folder, now=made_at)
    return folder / "kits"


@pytest.fixture(scope="session")
def kit(kit_folder: Path, made_at: datetime) -> Callable[[str], Kit]:
    """The kit of a party, by name."""
    made: dict[str, Kit] = {}

    def load(name: str) -> Kit:
        if name not in made:
            made[name] = load_kit(kit_folder / name, now=made_at)
        return made[name]

    return load


@pytest.fixture(scope="session")
def early_kit(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Kit]:
    """The same project, provisioned at the moment at which a World's clock stands."""
    folder = tmp_path_factory.mktemp("early") / "ws"
    provision(PROJECT, folder, now=NOW)
    return lambda name: load_kit(folder / "kits" / name, now=NOW)


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("app") / "heart"
    folder.mkdir()
    (folder / "job.yml").write_text(_JOB)
    (folder / "train.py").write_text(_TRAIN)
    return build_bundle(folder)


@pytest.fixture
async def world(tmp_path: Path, app: Bundle) -> AsyncIterator[World]:
    made = World(tmp_path, app)
    await made.put_app()
    yield made
    await made.close()


@pytest.fixture
async def network(world: World, early_kit: Callable[[str], Kit]) -> AsyncIterator[Network]:
    """The world's services over the in-process transport."""
    made = Network(world, early_kit("server"))
    yield made
    await made.close()


@pytest.fixture
async def dial(network: Network) -> AsyncIterator[Callable[..., WireSite]]:
    """`dial("site-1")` gives a site that has not said Hello yet."""
    sites: list[WireSite] = []

    def make(name: str = "site-1", **kwargs: object) -> WireSite:
        sites.append(WireSite(network, name, **kwargs))
        return sites[-1]

    yield make
    for site in sites:
        await site.close()
