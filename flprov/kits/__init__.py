# SPDX-License-Identifier: Apache-2.0
"""Kits: what each party receives. `provision` makes them, `load_kit` reads and verifies one.

Start reading at `manifest.py` (what is signed) and `kit.py` (what a command gets); `provisioning.py` is
the other end. The only door to `jinja2`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names
from flprov.kits.kit import Kit, KitListing, PersonEntry, RegistryEntry, list_kits, load_kit, verify_kits

if TYPE_CHECKING:
    from flprov.kits.provisioning import Progress, provision
    from flprov.kits.rendering import template_dir
    from flprov.kits.report import KitOutcome, Outcome, ProvisionReport, RemovedParty

__all__ = [
    "Kit",
    "KitListing",
    "KitOutcome",
    "Outcome",
    "PersonEntry",
    "Progress",
    "ProvisionReport",
    "RegistryEntry",
    "RemovedParty",
    "list_kits",
    "load_kit",
    "provision",
    "template_dir",
    "verify_kits",
]

# Every command loads a kit and one makes them; the others do not pay for that one's modules.
_LATE = {
    "KitOutcome": "report",
    "Outcome": "report",
    "Progress": "provisioning",
    "ProvisionReport": "report",
    "RemovedParty": "report",
    "provision": "provisioning",
    "template_dir": "rendering",
}

__getattr__ = lazy_names(__name__, _LATE)
