# SPDX-License-Identifier: Apache-2.0
"""`project.yml`: who takes part. From the YAML to a Project that is right in itself."""

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
from flprov.project.names import NAME, NAME_IN_WORDS, split_address
from flprov.project.proxy import DIRECT, Proxy, Route, parse_proxy, route_from
from flprov.project.reading import load_project, parse_project, read_open_proxy
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
