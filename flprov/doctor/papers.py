# SPDX-License-Identifier: Apache-2.0
"""The kit's files, its certificate, and the clock by which all of it is judged."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta

from flprov._base import to_iso
from flprov.doctor.patient import Credential, Patient
from flprov.doctor.rows import Rows, from_error, ok, problem, skipped, warning
from flprov.errors import FlprovError
from flprov.kits import look_at_kit
from flprov.pki import Kind

_NOTICE = timedelta(days=30)  # what does not renew itself is said so early
_PATIENCE = 5.0  # seconds for timedatectl


def check_kit(patient: Patient) -> Rows:
    """Every file against the signed manifest, the key's mode, and that the parts belong together."""
    folder, now = patient.kit.folder, patient.now
    expired = patient.credential is not None and now > patient.credential.not_after
    try:
        kit = look_at_kit(folder, now=now)
    except FlprovError as error:
        if not expired or patient.credential is None:
            return (from_error("kit", error),)
        return _check_expired_kit(patient, patient.credential)
    what = f"kit of {kit.kind.value} {kit.name}, project {kit.project}, made on {to_iso(kit.made_at)}"
    return (ok("kit", f"{what}; every file is as it was signed"),)


def _check_expired_kit(patient: Patient, credential: Credential) -> Rows:
    """Everything else about a kit that has expired, which the row of the certificate says."""
    try:
        look_at_kit(patient.kit.folder, now=credential.not_after)
    except FlprovError as error:
        return (from_error("kit", error),)
    return (ok("kit", "every file is as it was signed; only its certificate has expired"),)


def check_certificate(patient: Patient) -> Rows:
    """How long the certificate is good for, and who has to do something about it."""
    credential, now = patient.credential, patient.now
    if credential is None:
        return (problem("certificate", patient.unreadable, _way_back(patient)),)
    left = credential.not_after - now
    text = f"{credential.identity}, {_span(left)} left (until {to_iso(credential.not_after)})"
    if credential.papers.source.parent == patient.kit.local / "state":
        text = f"{text}, renewed"
    if left < timedelta(0):
        gone = f"the certificate of {credential.identity} expired on {to_iso(credential.not_after)}"
        return (problem("certificate", gone, _way_back(patient)),)
    if now < credential.not_before:
        early = f"{credential.identity} is not valid before {to_iso(credential.not_before)}"
        return (problem("certificate", early, f"this machine's clock says {to_iso(now)}: check it"),)
    if credential.papers.key_problem:
        return (warning("certificate", f"{text}; but {credential.papers.key_problem}"),)
    if credential.identity.kind is Kind.PERSON and left < _NOTICE:
        return (warning("certificate", text, _way_back(patient)),)
    life = credential.not_after - credential.not_before
    if credential.identity.kind is not Kind.PERSON and left < life / 3:
        return (warning("certificate", text, "it renews itself while it is connected: is it running?"),)
    return (ok("certificate", text),)


def _way_back(patient: Patient) -> str:
    whom = patient.kit.contact or "whoever provisions this project"
    if patient.kit.kind is Kind.SITE and patient.kit.name:
        return (
            f"ask {whom} for a new invite (`flprov invite create {patient.kit.name}` there), then here:"
            " flprov join INVITE"
        )
    return f"ask {whom} for a new kit"


def _span(left: timedelta) -> str:
    hours = left.total_seconds() / 3600
    return f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.1f} hours"


def check_clock(now: datetime, patient: Patient | None) -> Rows:
    """Whether the clock can be right: not before our certificate was made; kept by NTP, if one can tell."""
    made = patient.credential.not_before if patient and patient.credential else None
    if made is not None and now < made:
        text = f"this machine's clock says {to_iso(now)}, and our certificate was made after that"
        return (problem("clock", text, "set the clock: timedatectl set-ntp true"),)
    synchronised = _ask_systemd()
    if synchronised is None:
        text = f"it says {to_iso(now)}; this machine does not tell whether that is kept right"
        return (ok("clock", text) if made else skipped("clock", text),)
    if not synchronised:
        text = f"it says {to_iso(now)}, and is not kept right by NTP"
        return (warning("clock", text, "timedatectl set-ntp true"),)
    return (ok("clock", f"it says {to_iso(now)}, kept right by NTP"),)


def _ask_systemd() -> bool | None:
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return {"yes": True, "no": False}.get(answer.stdout.strip())
