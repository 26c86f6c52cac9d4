# SPDX-License-Identifier: Apache-2.0
"""Writes docs/schemas/: the JSON schema of every document that `--json` prints.

They are made from the dataclasses in flprov/wire/documents/, and those of flprov/poc/states.py, so that
there is one place to change.

    python scripts/schemas.py            write them
    python scripts/schemas.py --check    exit 1, naming the files, if some are not current
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from flprov.poc import DownReport, NetworkState, UpReport
from flprov.wire import documents as doc

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "schemas"

# File -> the document, and the commands that print it.
SCHEMAS: dict[str, tuple[type, str]] = {
    "status": (doc.StatusDocument, "flprov status --json"),
    "server": (doc.ServerDocument, "flprov server status KIT --json"),
    "site": (doc.SiteDocument, "flprov site show NAME --json"),
    "site-status": (doc.SiteStatusDocument, "flprov site status KIT --json"),
    "site-list": (doc.SiteListDocument, "flprov site ls --json"),
    "job": (doc.JobDocument, "flprov job show ID --json"),
    "job-list": (doc.JobListDocument, "flprov job ls --json"),
    "app": (doc.AppDocument, "flprov app show NAME --json"),
    "app-build": (doc.AppBuildDocument, "flprov app build FOLDER --json"),
    "app-list": (doc.AppListDocument, "flprov app ls --json"),
    "submit": (doc.SubmitDocument, "flprov job submit|clone --json"),
    "job-plan": (doc.JobPlanDocument, "flprov job plan APP --json"),
    "job-plot": (doc.PlotDocument, "flprov job plot JOB... --json"),
    "job-delete": (doc.JobDeletedDocument, "flprov job delete ID --json"),
    "why": (doc.WhyDocument, "flprov job why ID --json"),
    "site-why": (doc.SiteWhyDocument, "flprov site why NAME --json"),
    "download": (doc.DownloadDocument, "flprov job download ID --json"),
    "doctor": (doc.DoctorDocument, "flprov doctor [KIT] --json"),
    "plan": (doc.PlanDocument, "flprov plan PROJECT.YML --json"),
    "provision": (doc.ProvisionDocument, "flprov provision PROJECT.YML --json"),
    "kit": (doc.KitDocument, "flprov kit show KIT --json"),
    "kit-list": (doc.KitListDocument, "flprov kit ls|verify --json"),
    "kit-pack": (doc.KitPackDocument, "flprov kit pack KIT -o FILE --json"),
    "kit-unpack": (doc.KitUnpackDocument, "flprov kit unpack FILE --json"),
    "kit-send": (doc.KitSendDocument, "flprov kit send --json"),
    "poc-up": (UpReport, "flprov poc up --json"),
    "poc-status": (NetworkState, "flprov poc status --json"),
    "poc-down": (DownReport, "flprov poc down --json"),
    "certificates": (doc.CertificateListDocument, "flprov cert ls --json"),
    "party-change": (
        doc.PartyChangeDocument,
        "flprov site add|rm|lock|unlock, flprov user rm, flprov cert revoke --json",
    ),
    "people": (doc.PersonListDocument, "flprov user ls --json"),
    "renewal": (doc.RenewalDocument, "flprov cert renew NAME --json"),
    "crls": (doc.CRLListDocument, "flprov cert crl --json"),
    "invite": (doc.InviteDocument, "flprov invite approve INVITE --json; flprov invite revoke INVITE --json"),
    "invite-create": (doc.NewInviteDocument, "flprov invite create SITE --json"),
    "invite-issue": (doc.InviteIssueDocument, "none: what the server answers to `flprov invite create`"),
    "invite-list": (doc.InviteListDocument, "flprov invite ls --json"),
    "join": (doc.JoinDocument, "flprov join INVITE --json"),
    "ca": (doc.CADocument, "flprov ca show --json"),
    "rotation": (
        doc.RotationDocument,
        "flprov ca rotate prepare|activate|finish|rollback|status --json; flprov ca publish --json",
    ),
    "trust": (doc.TrustStatusDocument, "none: what the server says it believes, for ca and plan"),
    "event": (doc.EventDocument, "flprov events --follow --json: one a line"),
    "events": (doc.EventListDocument, "flprov events --json"),
    "audit": (doc.AuditListDocument, "flprov audit ls --json"),
    "audit-verdict": (doc.AuditVerdictDocument, "flprov audit verify [FILE] --json"),
    "audit-export": (doc.AuditExportDocument, "flprov audit export -o FILE --json"),
    "witnesses": (doc.WitnessListDocument, "none: what sites have signed about the log, for audit verify"),
    "drain": (doc.DrainDocument, "flprov site drain|enable NAME --json; flprov server drain|enable --json"),
    "site-order": (doc.SiteOrderDocument, "flprov site stop|restart NAME --json"),
    "backup": (doc.BackupDocument, "flprov server backup KIT -o FILE --json"),
    "restore": (doc.RestoreDocument, "flprov server restore KIT FILE --json"),
    "clean": (doc.CleanDocument, "flprov server gc --json"),
    "results": (doc.ResultsDocument, "none yet: what there is to download of a job"),
}

_SCALARS: dict[Any, dict[str, str]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    datetime: {"type": "string", "format": "date-time"},
}
_COMMENT = re.compile(r"^    (\w+): [^#\n]*# *(\S.*)$", re.MULTILINE)


def schema_of(kind: type, title: str) -> dict[str, Any]:
    """The JSON schema of a frozen dataclass as `to_document` writes it."""
    parts: dict[str, Any] = {}
    top = _reference(kind, parts)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **top,
        "$defs": dict(sorted(parts.items())),
    }


def _reference(kind: type, parts: dict[str, Any]) -> dict[str, Any]:
    name = kind.__name__
    if name not in parts:
        parts[name] = {}  # taken, for a type that contains itself
        parts[name] = _object(kind, parts)
    return {"$ref": f"#/$defs/{name}"}


def _object(kind: type, parts: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    remarks = dict(_COMMENT.findall(inspect.getsource(kind)))
    properties = {}
    for field in dataclasses.fields(kind):
        described = {"description": remarks[field.name]} if field.name in remarks else {}
        properties[field.name] = {**_value(hints[field.name], parts), **described}
    return {
        "type": "object",
        "description": (inspect.getdoc(kind) or "").partition("\n")[0],
        "properties": properties,
        "required": list(properties),
    }


def _value(hint: object, parts: dict[str, Any]) -> dict[str, Any]:
    if hint is object:
        return {}  # anything that is JSON
    if hint in _SCALARS:
        return dict(_SCALARS[hint])
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _reference(hint, parts)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        choices = [{"type": "null"} if arg is type(None) else _value(arg, parts) for arg in args]
        return {"anyOf": choices}
    if origin is tuple and args[1:] == (Ellipsis,):
        return {"type": "array", "items": _value(args[0], parts)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _value(args[1], parts)}
    raise TypeError(f"no JSON schema for {hint}: teach scripts/schemas.py")


def render() -> dict[Path, str]:
    """Every schema file and what should stand in it."""
    return {
        FOLDER / f"{name}.json": json.dumps(schema_of(kind, title), indent=2, ensure_ascii=False) + "\n"
        for name, (kind, title) in SCHEMAS.items()
    }


def stale() -> list[Path]:
    """Files that are not what they should be: missing, outdated or of no document."""
    wanted = render()
    found = {path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text}
    return sorted(found | (set(FOLDER.glob("*.json")) - wanted.keys()))


def main(words: list[str]) -> int:
    """Write, or check."""
    if "--check" in words:
        for path in stale():
            print(f"{path} is not current: python scripts/schemas.py", file=sys.stderr)
        return 1 if stale() else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, text in render().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
