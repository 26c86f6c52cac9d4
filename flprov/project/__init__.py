# SPDX-License-Identifier: Apache-2.0
"""`project.yml`: who takes part. From the YAML to a Project that is right in itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names
from flprov.project.model import (
    ROLES,
    Organisation,
    Person,
    Project,
    ServerParty,
    SiteParty,
    Validity,
)
from flprov.project.names import NAME, NAME_IN_WORDS, split_address
from flprov.project.proxy import DIRECT, Proxy, Route, parse_proxy, route_from
from flprov.project.reading import load_project, parse_project, read_open_proxy
from flprov.project.sample import sample_project

if TYPE_CHECKING:
    from flprov.project.flare import Conversion, convert_flare

__all__ = [
    "DIRECT",
    "NAME",
    "NAME_IN_WORDS",
    "ROLES",
    "Conversion",
    "Organisation",
    "Person",
    "Project",
    "Proxy",
    "Route",
    "ServerParty",
    "SiteParty",
    "Validity",
    "convert_flare",
    "load_project",
    "parse_project",
    "parse_proxy",
    "read_open_proxy",
    "route_from",
    "sample_project",
    "split_address",
]

# One command needs them.
__getattr__ = lazy_names(__name__, {"Conversion": "flare", "convert_flare": "flare"})
