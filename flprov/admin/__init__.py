# SPDX-License-Identifier: Apache-2.0
"""What a person's programs use: the typed client beneath the commands and the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names

if TYPE_CHECKING:
    from flprov.admin.audit import verify_export
    from flprov.admin.client import Admin, open_admin
    from flprov.admin.invites import NewInvite, fingerprint_of
    from flprov.admin.jobcalls import LogText
    from flprov.admin.live import apply_live, look_at_live
    from flprov.admin.log import Wanted
    from flprov.admin.parties import write_crls
    from flprov.admin.plots import draw_curves, draw_metrics, prepare_drawing
    from flprov.admin.rotation import Rotated, Step, rotate, verify_same_project
    from flprov.admin.series import is_wanted, make_curves
    from flprov.admin.trust import PersonTrust

__all__ = [
    "Admin",
    "LogText",
    "NewInvite",
    "PersonTrust",
    "Rotated",
    "Step",
    "Wanted",
    "apply_live",
    "draw_curves",
    "draw_metrics",
    "fingerprint_of",
    "is_wanted",
    "look_at_live",
    "make_curves",
    "open_admin",
    "prepare_drawing",
    "rotate",
    "verify_export",
    "verify_same_project",
    "write_crls",
]

# What few commands need; and what draws a picture needs nothing else.
_LATE = {
    "Admin": "client",
    "LogText": "jobcalls",
    "NewInvite": "invites",
    "PersonTrust": "trust",
    "Rotated": "rotation",
    "Step": "rotation",
    "Wanted": "log",
    "apply_live": "live",
    "draw_curves": "plots",
    "draw_metrics": "plots",
    "fingerprint_of": "invites",
    "is_wanted": "series",
    "look_at_live": "live",
    "make_curves": "series",
    "open_admin": "client",
    "prepare_drawing": "plots",
    "rotate": "rotation",
    "verify_export": "audit",
    "verify_same_project": "rotation",
    "write_crls": "parties",
}

__getattr__ = lazy_names(__name__, _LATE)
