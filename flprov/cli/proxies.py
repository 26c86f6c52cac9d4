# SPDX-License-Identifier: Apache-2.0
"""The proxy that the environment names: FLPROV_PROXY, else HTTPS_PROXY (with NO_PROXY)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from flprov.errors import Misuse

if TYPE_CHECKING:
    from flprov.project import Route


def environment_route() -> Route | None:
    """How the environment wants the server to be dialled; None if it says nothing.

    Raises:
        Misuse: what stands there is no proxy that flprov can use.
    """
    from flprov.project import route_from

    try:
        return route_from(os.environ)
    except ValueError as error:
        raise Misuse(str(error), hint="FLPROV_PROXY=none dials directly") from None
