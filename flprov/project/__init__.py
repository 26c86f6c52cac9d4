# SPDX-License-Identifier: Apache-2.0
"""`project.yml`: who takes part. From the YAML to a Project that is right in itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names
from flprov.project.names import NAME, NAME_IN_WORDS, split_address
from flprov.project.proxy import DIRECT, Proxy, Route, parse_proxy, read_open_proxy, route_from

if TYPE_CHECKING:
    from flprov.project.flare import Conversion, convert_flare
    from flprov.project.model import (
        ROLES,
        Organisation,
        Person,
        Project,
        ServerParty,
        SiteParty,
        Validity,
    )
    from flprov.project.reading import load_project, parse_project
    from flprov.project.sample import sample_project

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

# Who provisions needs them.
_LATE = {
    "Conversion": "flare",
    "Organisation": "model",
    "Person": "model",
    "Project": "model",
    "ROLES": "model",
    "ServerParty": "model",
    "SiteParty": "model",
    "Validity": "model",
    "convert_flare": "flare",
    "load_project": "reading",
    "parse_project": "reading",
    "sample_project": "sample",
}

__getattr__ = lazy_names(__name__, _LATE)
