# SPDX-License-Identifier: Apache-2.0
"""Bringing the live network to what project.yml says, as far as that is the provisioner's to decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from flprov.admin.client import Admin
from flprov.kits import Plan, Publication, list_differences
from flprov.wire.documents import LiveDifference, LivePlan

_ACTIONS = ("publish", "add", "remove")  # in this order: who is revoked is out before anybody comes


def look_at_live(admin: Admin, plan: Plan) -> LivePlan:
    """Where the live network and the file differ. Raises Unavailable, Refused."""
    live = admin.trust()
    return LivePlan(asked=True, version=live.version, differences=list_differences(plan, live))


def apply_live(
    admin: Admin, differences: Iterable[LiveDifference], orgs: Mapping[str, str], publication: Publication
) -> Iterator[str]:
    """Do what the differences ask for; what was done, in words, one by one.

    Args:
        admin: a project_admin.
        differences: of `look_at_live`, after provisioning.
        orgs: of each site in the file.
        publication: of the workspace.
    """
    found = [difference for difference in differences if difference.action in _ACTIONS]
    doing: Mapping[str, Callable[[LiveDifference], str]] = {
        "publish": lambda _: f"trust bundle {admin.publish_trust(publication).version} published",
        "add": lambda one: _add(admin, one.subject, orgs[one.subject]),
        "remove": lambda one: _remove(admin, one.subject),
    }
    for difference in sorted(found, key=lambda one: _ACTIONS.index(one.action)):
        yield doing[difference.action](difference)


def _add(admin: Admin, name: str, org: str) -> str:
    admin.add_site(name, org=org, reason="it is in project.yml")
    return f"site {name} of {org} added"


def _remove(admin: Admin, name: str) -> str:
    admin.remove_site(name, reason="it is no longer in project.yml")
    return f"site {name} removed: it is ended, and its certificates are revoked"
