# SPDX-License-Identifier: Apache-2.0
"""Kits: what each party receives. `provision` makes them, `load_kit` reads and verifies one.

Start reading at `manifest.py` (what is signed) and `kit.py` (what a command gets); at the other end are
`planning.py` (what is to be done) and `provisioning.py` (which does it);
`delivery.py` brings kits to their hosts. The only door to `jinja2`, `paramiko` and `pyzipper`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names
from flprov.kits.heldtrust import HeldTrust, newer_than_kit
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
from flprov.kits.trust import Phase, SignedTrust, Trust, TrustDocument, decode_trust, sign_trust, verify_trust

if TYPE_CHECKING:
    from flprov.kits.attempt import (
        Attempt,
        open_attempt,
    )
    from flprov.kits.authorities import Authorities
    from flprov.kits.credential import (
        Credential,
        current_credential,
        look_at_renewed,
        own_anchors,
        renewal_due,
        store_credential,
        verify_issued,
    )
    from flprov.kits.delivery import Delivery, DeliveryProgress, deliver
    from flprov.kits.hostkeys import parse_host_key
    from flprov.kits.hosts import Destination, Login, parse_jumps, parse_target, read_hosts
    from flprov.kits.invitation import (
        Invitation,
        decode_invitation,
        encode_invitation,
    )
    from flprov.kits.joining import (
        Answer,
        SignedRequest,
        decode_answer,
        decode_request,
        encode_answer,
        encode_request,
        read_settings,
        sign_request,
    )
    from flprov.kits.live import list_differences
    from flprov.kits.packing import Pack, make_passphrase, pack_kit, unpack_kit
    from flprov.kits.planning import Progress, plan
    from flprov.kits.plans import AuthorityChange, Change, KitPlan, Plan, RemovalPlan, TrustPlan
    from flprov.kits.provisioning import provision
    from flprov.kits.publishing import Publication, read_publication
    from flprov.kits.readiness import list_blockers, list_followers
    from flprov.kits.rendering import template_dir
    from flprov.kits.renewing import Renewing
    from flprov.kits.report import KitOutcome, Outcome, ProvisionReport, RemovedParty
    from flprov.kits.rotation import (
        RotationReport,
        activate_rotation,
        finish_rotation,
        look_at_rotation,
        prepare_rotation,
        roll_back_rotation,
    )
    from flprov.kits.services import Service
    from flprov.kits.sketch import KitSketch, Papers, sketch_kit
    from flprov.kits.ssh import Access
    from flprov.kits.transfer import DeliveryOutcome

__all__ = [
    "Access",
    "Answer",
    "Attempt",
    "Authorities",
    "AuthorityChange",
    "Change",
    "Credential",
    "Delivery",
    "DeliveryOutcome",
    "DeliveryProgress",
    "Destination",
    "HeldTrust",
    "Invitation",
    "IssuingCA",
    "Kit",
    "KitListing",
    "KitOutcome",
    "KitPlan",
    "KitSketch",
    "Login",
    "Outcome",
    "Pack",
    "Papers",
    "Passphrase",
    "PersonEntry",
    "Phase",
    "Plan",
    "Progress",
    "ProvisionReport",
    "Publication",
    "RegistryEntry",
    "RemovalPlan",
    "RemovedParty",
    "Renewing",
    "RotationReport",
    "Service",
    "SignedRequest",
    "SignedTrust",
    "Trust",
    "TrustDocument",
    "TrustPlan",
    "activate_rotation",
    "current_credential",
    "decode_answer",
    "decode_invitation",
    "decode_request",
    "decode_trust",
    "deliver",
    "encode_answer",
    "encode_invitation",
    "encode_request",
    "finish_rotation",
    "list_blockers",
    "list_differences",
    "list_followers",
    "list_kits",
    "load_kit",
    "look_at_kit",
    "look_at_renewed",
    "look_at_rotation",
    "make_passphrase",
    "newer_than_kit",
    "open_attempt",
    "own_anchors",
    "pack_kit",
    "parse_host_key",
    "parse_jumps",
    "parse_target",
    "plan",
    "prepare_rotation",
    "provision",
    "read_hosts",
    "read_publication",
    "read_settings",
    "renewal_due",
    "roll_back_rotation",
    "sign_request",
    "sign_trust",
    "sketch_kit",
    "store_credential",
    "template_dir",
    "unpack_kit",
    "verify_issued",
    "verify_kits",
    "verify_trust",
]

# Every command loads a kit and one makes them; the others do not pay for that one's modules.
_LATE = {
    "Access": "ssh",
    "Answer": "joining",
    "Attempt": "attempt",
    "Authorities": "authorities",
    "AuthorityChange": "plans",
    "Change": "plans",
    "Credential": "credential",
    "Delivery": "delivery",
    "DeliveryOutcome": "transfer",
    "DeliveryProgress": "delivery",
    "Destination": "hosts",
    "Invitation": "invitation",
    "KitOutcome": "report",
    "KitPlan": "plans",
    "KitSketch": "sketch",
    "Login": "hosts",
    "Outcome": "report",
    "Pack": "packing",
    "Papers": "sketch",
    "Plan": "plans",
    "Progress": "planning",
    "ProvisionReport": "report",
    "Publication": "publishing",
    "RemovalPlan": "plans",
    "RemovedParty": "report",
    "Renewing": "renewing",
    "RotationReport": "rotation",
    "Service": "services",
    "SignedRequest": "joining",
    "TrustPlan": "plans",
    "activate_rotation": "rotation",
    "current_credential": "credential",
    "decode_answer": "joining",
    "decode_invitation": "invitation",
    "decode_request": "joining",
    "deliver": "delivery",
    "encode_answer": "joining",
    "encode_invitation": "invitation",
    "encode_request": "joining",
    "finish_rotation": "rotation",
    "list_blockers": "readiness",
    "list_differences": "live",
    "list_followers": "readiness",
    "look_at_renewed": "credential",
    "look_at_rotation": "rotation",
    "make_passphrase": "packing",
    "open_attempt": "attempt",
    "own_anchors": "credential",
    "pack_kit": "packing",
    "parse_host_key": "hostkeys",
    "parse_jumps": "hosts",
    "parse_target": "hosts",
    "plan": "planning",
    "prepare_rotation": "rotation",
    "provision": "provisioning",
    "read_hosts": "hosts",
    "read_publication": "publishing",
    "read_settings": "joining",
    "renewal_due": "credential",
    "roll_back_rotation": "rotation",
    "sign_request": "joining",
    "sketch_kit": "sketch",
    "store_credential": "credential",
    "template_dir": "rendering",
    "unpack_kit": "packing",
    "verify_issued": "credential",
}

__getattr__ = lazy_names(__name__, _LATE)
