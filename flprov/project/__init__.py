# SPDX-License-Identifier: Apache-2.0
"""`project.yml`: who takes part. From the YAML to a Project that is right in itself."""

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
from flprov.project.reading import load_project

__all__ = [
    "NAME",
    "NAME_IN_WORDS",
    "ROLES",
    "Organisation",
    "Person",
    "Project",
    "ServerParty",
    "SiteParty",
    "Validity",
    "load_project",
    "split_address",
]
