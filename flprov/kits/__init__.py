# SPDX-License-Identifier: Apache-2.0
"""Kits: what each party receives. `provision` makes them, `load_kit` reads and verifies one.

Start reading at `manifest.py` (what is signed) and `kit.py` (what a command gets); at the other end are
`planning.py` (what is to be done) and `provisioning.py` (which does it);
`delivery.py` brings kits to their hosts. The only door to `jinja2`, `paramiko` and `pyzipper`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names
from flprov.kits.kit import (
    IssuingCA,
    Kit,
    KitListing,
    Passphrase,
    PersonEntry,
    RegistryEntry,
    list_kits,
    load_kit,
    look_at_kit,
    verify_kits,
)
from flprov.kits.trust import SignedTrust, Trust, TrustDocument, decode_trust, sign_trust, verify_trust

if TYPE_CHECKING:
    from flprov.kits.delivery import Delivery, DeliveryProgress, deliver
    from flprov.kits.hostkeys import parse_host_key
    from flprov.kits.hosts import Destination, Login, parse_jumps, parse_target, read_hosts
    from flprov.kits.packing import Pack, make_passphrase, pack_kit, unpack_kit
    from flprov.kits.planning import Progress, plan
    from flprov.kits.plans import AuthorityChange, Change, KitPlan, Plan, RemovalPlan
    from flprov.kits.provisioning import provision
    from flprov.kits.rendering import template_dir
    from flprov.kits.report import KitOutcome, Outcome, ProvisionReport, RemovedParty
    from flprov.kits.services import Service
    from flprov.kits.ssh import Access
    from flprov.kits.transfer import DeliveryOutcome

__all__ = [
    "Access",
    "AuthorityChange",
    "Change",
    "Delivery",
    "DeliveryOutcome",
    "DeliveryProgress",
    "Destination",
    "IssuingCA",
    "Kit",
    "KitListing",
    "KitOutcome",
    "KitPlan",
    "Login",
    "Outcome",
    "Pack",
    "Passphrase",
    "PersonEntry",
    "Plan",
    "Progress",
    "ProvisionReport",
    "RegistryEntry",
    "RemovalPlan",
    "RemovedParty",
    "Service",
    "SignedTrust",
    "Trust",
    "TrustDocument",
    "decode_trust",
    "deliver",
    "list_kits",
    "load_kit",
    "look_at_kit",
    "make_passphrase",
    "pack_kit",
    "parse_host_key",
    "parse_jumps",
    "parse_target",
    "plan",
    "provision",
    "read_hosts",
    "sign_trust",
    "template_dir",
    "unpack_kit",
    "verify_kits",
    "verify_trust",
]

# Every command loads a kit and one makes them; the others do not pay for that one's modules.
_LATE = {
    "Access": "ssh",
    "AuthorityChange": "plans",
    "Change": "plans",
    "Delivery": "delivery",
    "DeliveryOutcome": "transfer",
    "DeliveryProgress": "delivery",
    "Destination": "hosts",
    "KitOutcome": "report",
    "KitPlan": "plans",
    "Login": "hosts",
    "Outcome": "report",
    "Pack": "packing",
    "Plan": "plans",
    "Progress": "planning",
    "ProvisionReport": "report",
    "RemovalPlan": "plans",
    "RemovedParty": "report",
    "Service": "services",
    "deliver": "delivery",
    "make_passphrase": "packing",
    "pack_kit": "packing",
    "parse_host_key": "hostkeys",
    "parse_jumps": "hosts",
    "parse_target": "hosts",
    "plan": "planning",
    "provision": "provisioning",
    "read_hosts": "hosts",
    "template_dir": "rendering",
    "unpack_kit": "packing",
}

__getattr__ = lazy_names(__name__, _LATE)
