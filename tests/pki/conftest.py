# SPDX-License-Identifier: Apache-2.0
"""One project's CAs, made once for all tests of this folder (nothing changes them)."""

import pytest
from villains import World, make_world


@pytest.fixture(scope="session")
def world() -> World:
    return make_world()


@pytest.fixture(scope="session")
def other_world() -> World:
    """Another project that chose the same names and the same trust domain."""
    return make_world()
