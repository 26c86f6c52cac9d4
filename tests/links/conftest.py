# SPDX-License-Identifier: Apache-2.0
"""Fixtures: bad links, and networks of real processes over them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "network"))

from harness import Network
from netns import BadLinks, missing


@pytest.fixture
def links() -> Iterator[BadLinks]:
    lacking = missing()
    if lacking:
        pytest.skip(lacking)
    with BadLinks(["site-1", "site-2"]) as links:
        yield links


@pytest.fixture
def network(links: BadLinks, tmp_path: Path) -> Iterator[Network]:
    network = Network(tmp_path, 2, listen=links.server, host=links.server)
    network.command = links.command
    try:
        yield network.up()
    finally:
        network.close()
