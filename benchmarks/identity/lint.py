#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""pkilint's verdict on every certificate and revocation list of 200 random projects.

    python benchmarks/identity/lint.py [--folder FOLDER] [--small]

Each project is provisioned for real; whatever certificate or list lies in the workspace afterwards, in
whichever file, is linted, and with it an invite and an empty and a full list of each issuing CA. pkilint
(PyPI) is installed into a virtual environment of its own in the folder. What it finds and may find
stands in lint-exceptions.yml, with the reason.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks.identity.projects import Draft, draft_project  # noqa: E402
from flprov.config import open_config  # noqa: E402
from flprov.kits import provision  # noqa: E402
from flprov.pki import (  # noqa: E402
    Authority,
    Identity,
    Kind,
    Reason,
    Revoked,
    create_crl,
    issue_identity,
    load_authority,
)
from flprov.project import Project, parse_project  # noqa: E402

SEED = 20260131
PROJECTS, FEW = 200, 4
PKILINT = "pkilint==0.13.3"
EXCEPTIONS = HERE / "lint-exceptions.yml"
TARGET = "no finding by pkilint that lint-exceptions.yml does not justify, over 200 random projects"
_BLOCK = re.compile(rb"-----BEGIN (CERTIFICATE|X509 CRL)-----.+?-----END \1-----", re.DOTALL)
_UNITS = ("servers", "sites", "people")


def main() -> int:
    """Run and print; 1 when the target is missed."""
    parser = argparse.ArgumentParser(description="pkilint over what 200 random projects make.")
    parser.add_argument("--folder", type=Path, help="where to work; default: a new one, removed afterwards")
    parser.add_argument("--small", action="store_true", help=f"{FEW} projects instead of {PROJECTS}")
    options = parser.parse_args()
    if options.folder:
        result = run(options.folder, small=options.small)
    else:
        with tempfile.TemporaryDirectory(prefix="flprov-lint-") as name:
            result = run(Path(name), small=options.small)
    print(json.dumps(result, indent=2))
    return int(not result["met"])


def run(folder: Path, *, small: bool = False) -> dict[str, object]:
    """Make the projects in `folder`, lint what they hold, and say whether the target is met."""
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    python = find_pkilint(folder)
    count = FEW if small else PROJECTS
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)  # of an earlier run
    harvests = [harvest_project(draft_project(SEED, number), work) for number in range(count)]
    made = time.monotonic()
    document = lint_all(python, folder, harvests)
    unexcused, excused, unused = judge(document["findings"], read_exceptions())
    needless = [] if small else unused  # few projects do not have everything
    return {
        "name": "lint",
        "target": TARGET,
        "measured": len(unexcused),
        "met": not unexcused and not needless,
        "details": {
            "projects": count,
            "seed": SEED,
            "pkilint": document["pkilint"],
            "certificates": _add(harvest.kinds for harvest in harvests),
            "crls": sum(len(harvest.crls) for harvest in harvests),
            "linter_runs": document["runs"],
            "findings": summarise(unexcused),
            "excused": excused,
            "exceptions_without_need": needless,
            "seconds_to_make": round(made - began, 1),
            "seconds_to_lint": round(time.monotonic() - made, 1),
        },
    }


def find_pkilint(folder: Path) -> Path:
    """A Python that has pkilint: this one, or that of a virtual environment in `folder`."""
    if find_spec("pkilint"):
        return Path(sys.executable)
    python = folder / "pkilint" / "bin" / "python"
    if not python.exists():
        venv.create(folder / "pkilint", with_pip=True)
    command: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        PKILINT,
    ]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return python


# ---- what there is to lint ------------------------------------------------------------------


@dataclass(kw_only=True)
class Harvest:
    """What one project made."""

    name: str
    certificates: dict[bytes, x509.Certificate] = field(default_factory=dict)
    crls: dict[bytes, x509.CertificateRevocationList] = field(default_factory=dict)
    kinds: collections.Counter[str] = field(default_factory=collections.Counter)
    files: list[list[str]] = field(default_factory=list)  # the work for linting.py

    def add(self, data: bytes) -> None:
        """Every certificate and list in these bytes, each once. In JSON (in JSON), line ends are escaped."""
        for block in _BLOCK.finditer(re.sub(rb"\\+n", b"\n", data)):
            if block[1] == b"CERTIFICATE":
                certificate = x509.load_pem_x509_certificate(block[0])
                self.certificates[certificate.public_bytes(Encoding.DER)] = certificate
            else:
                crl = x509.load_pem_x509_crl(block[0])
                self.crls[crl.public_bytes(Encoding.DER)] = crl


def harvest_project(draft: Draft, folder: Path) -> Harvest:
    """Provision a project; everything in its workspace, and what an operator would add later."""
    workspace = folder / f"{draft.number:03}"
    project = parse_project(draft.text, Path(f"project-{draft.number}.yml"))
    provision(
        project,
        workspace,
        now=draft.now,
        passphrase=draft.passphrase,
        people_passphrase=draft.people_passphrase,
    )
    harvest = Harvest(name=f"{draft.number:03}")
    for path in sorted(path for path in workspace.rglob("*") if path.is_file()):
        harvest.add(path.read_bytes())
    add_later(harvest, workspace, draft, project)
    verify_whole(harvest, draft)
    write_files(harvest, folder / f"{draft.number:03}-files")
    return harvest


def add_later(harvest: Harvest, workspace: Path, draft: Draft, project: Project) -> None:
    """An invite, and for each issuing CA a list without entries and one with them."""
    chance = random.Random(f"{SEED}/{draft.number}/lists")
    authorities = {unit: load_ca(workspace, unit, draft) for unit in _UNITS}
    invite = Identity(
        trust_domain=project.trust_domain,
        kind=Kind.INVITE,
        org=project.organisations[0].name,
        name=project.sites[0].name if project.sites else "to-come",
        invite=f"{chance.getrandbits(64):016x}",
    )
    harvest.add(issue_identity(authorities["sites"], invite, days=1, now=draft.now).certificate_pem)
    serials = [certificate.serial_number for certificate in harvest.certificates.values()]
    for authority in authorities.values():
        days = chance.choice((0.01, 1, 7, 30, 365, 36_525))
        number = chance.choice((1, 127, 128, chance.getrandbits(158)))
        entries = [
            Revoked(
                serial=chance.choice((chance.choice(serials), chance.getrandbits(159) or 1)),
                at=draft.now - timedelta(seconds=chance.uniform(0, 1e8)),
                reason=chance.choice(list(Reason)),
            )
            for _ in range(chance.randint(1, 60))
        ]
        for revoked, its_number in (([], 0), (entries, number)):
            harvest.add(create_crl(authority, revoked, number=its_number, now=draft.now, days=days))


def load_ca(workspace: Path, unit: str, draft: Draft) -> Authority:
    """One of the workspace's issuing CAs."""
    certificate, key = ((workspace / "ca" / f"{unit}{end}").read_bytes() for end in (".pem", ".key.pem"))
    return load_authority(certificate, key, draft.passphrase)


def verify_whole(harvest: Harvest, draft: Draft) -> None:
    """Nothing was overlooked: as many of each kind as the project has."""
    harvest.kinds = collections.Counter(map(name_kind, harvest.certificates.values()))
    found = dict(harvest.kinds)
    assert found.pop("provisioner") >= 1
    expected = {"root CA": 1, "issuing CA": 3, "server": 1, "person": draft.people, "invite": 1}
    expected |= {"site": draft.sites} if draft.sites else {}
    assert found == expected, (harvest.name, found, expected)
    assert len(harvest.crls) >= 6


def name_kind(certificate: x509.Certificate) -> str:
    """What a certificate is, for the count: by its extensions, not by its file."""
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    if constraints.ca:
        return "root CA" if certificate.issuer == certificate.subject else "issuing CA"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if ExtendedKeyUsageOID.CODE_SIGNING in usage:
        return "provisioner"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uri = names.get_values_for_type(x509.UniformResourceIdentifier)[0]
    return str(uri.split("/")[3])


def write_files(harvest: Harvest, folder: Path) -> None:
    """One file per certificate and list, and the commands to run over them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for number, (der, certificate) in enumerate(harvest.certificates.items()):
        paths[der] = folder / f"{number:03}-{name_kind(certificate).replace(' ', '-')}.pem"
        paths[der].write_bytes(certificate.public_bytes(Encoding.PEM))
    for der, certificate in harvest.certificates.items():
        issuer = find_issuer(certificate, harvest.certificates)
        harvest.files.append(["lint_pkix_cert", str(paths[der])])
        chain = "lint_pkix_signer_signee_cert_chain"
        harvest.files.append([chain, str(paths[issuer]), str(paths[der])])
    for number, crl in enumerate(harvest.crls.values()):
        path = folder / f"{number:03}-crl.pem"
        path.write_bytes(crl.public_bytes(Encoding.PEM))
        harvest.files.append(["lint_crl", str(path)])


def find_issuer(certificate: x509.Certificate, among: Mapping[bytes, x509.Certificate]) -> bytes:
    """The one certificate among these whose key and name signed this one; the root's is its own."""
    found = [
        der
        for der, other in among.items()
        if other.subject == certificate.issuer
        and other.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    ]
    assert len(found) == 1, certificate.issuer
    return found[0]


# ---- the verdict ----------------------------------------------------------------------------


def lint_all(python: Path, folder: Path, harvests: Sequence[Harvest]) -> dict[str, Any]:
    """What pkilint says about all of it, in one process of its own."""
    work, findings = folder / "work.json", folder / "findings.json"
    work.write_text(json.dumps([entry for harvest in harvests for entry in harvest.files]))
    subprocess.run([python, HERE / "linting.py", work, findings], check=True)
    document: dict[str, Any] = json.loads(findings.read_text())
    assert document["runs"] == sum(len(harvest.files) for harvest in harvests)
    return document


@dataclass(frozen=True, kw_only=True)
class Exemption:
    """A finding that may stay."""

    linter: str
    code: str
    message: re.Pattern[str]
    why: str

    def covers(self, finding: Mapping[str, str]) -> bool:
        """Whether it is this finding."""
        same = (self.linter, self.code) == (finding["linter"], finding["code"])
        return same and self.message.fullmatch(finding["message"]) is not None


def read_exceptions(path: Path = EXCEPTIONS) -> list[Exemption]:
    """The file, each entry with its reason."""
    with open_config(path) as top:
        return [
            Exemption(
                linter=section.text("linter"),
                code=section.text("code"),
                message=re.compile(section.text("message", "")),
                why=section.text("why", pattern=r"(?s).{40,}", what="a reason"),
            )
            for section in top.sections("exceptions")
        ]


def judge(
    findings: Iterable[Mapping[str, str]], exemptions: Sequence[Exemption]
) -> tuple[list[Mapping[str, str]], dict[str, int], list[str]]:
    """The findings that nothing excuses, how many each exemption excused, and those that did none."""
    unexcused = []
    used = collections.Counter[int]()
    for finding in findings:
        number = next((n for n, each in enumerate(exemptions) if each.covers(finding)), None)
        if number is None:
            unexcused.append(finding)
        else:
            used[number] += 1
    names = [f"{each.code}: {each.message.pattern}" for each in exemptions]
    excused = {names[number]: used[number] for number in sorted(used)}
    return unexcused, excused, [name for number, name in enumerate(names) if not used[number]]


def summarise(findings: Sequence[Mapping[str, str]]) -> list[dict[str, object]]:
    """By linter, code and severity: how many, and one of them."""
    groups: dict[tuple[str, str, str], list[Mapping[str, str]]] = collections.defaultdict(list)
    for finding in findings:
        groups[finding["linter"], finding["code"], finding["severity"]].append(finding)
    return [
        {"linter": linter, "code": code, "severity": severity, "count": len(found), "one": dict(found[0])}
        for (linter, code, severity), found in sorted(groups.items())
    ]


def _add(counters: Iterable[collections.Counter[str]]) -> dict[str, int]:
    total = collections.Counter[str]()
    for counter in counters:
        total.update(counter)
    return dict(sorted(total.items()))


if __name__ == "__main__":
    sys.exit(main())
