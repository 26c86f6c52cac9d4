# SPDX-License-Identifier: Apache-2.0
"""Fixtures: networks of real processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from harness import Network


@pytest.fixture
def make_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Network]]:
    made: list[Network] = []

    def make(sites: int = 2) -> Network:
        network = Network(tmp_path_factory.mktemp("net"), sites)
        made.append(network)
        return network

    yield make
    for network in made:
        network.close()


@pytest.fixture
def network(make_network: Callable[[int], Network]) -> Network:
    return make_network(2).up()


@pytest.fixture(scope="module")
def shared_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """One for all tests of a file that leave nothing which the next one would see."""
    network = Network(tmp_path_factory.mktemp("net"), 2)
    try:
        yield network.up()
    finally:
        network.close()
