# SPDX-License-Identifier: Apache-2.0
"""The folder `ca/` of a workspace: one root, three issuing CAs, made once and never again.

Certificates are read when the folder is opened; a private key only when something is to be signed, so
a run that changes nothing needs no passphrase. The certificate that signs manifests is made anew, from
the root, in each run that signs: its key is never on a disk. `trust.json` is what the parties are to
believe, signed (see trust.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from flprov._base import canonical_json, from_document, parse_json, write_atomic, write_private
from flprov.errors import FlprovError, IdentityRefused, Misuse, StateDamaged
from flprov.kits.reading import Unreadable, read_stored
from flprov.kits.trust import (
    FORMAT,
    SignedTrust,
    Trust,
    TrustDocument,
    decode_trust,
    sign_trust,
    verify_trust,
)
from flprov.pki import (
    Authority,
    Credential,
    Kind,
    create_issuing,
    create_root,
    create_signer,
    fingerprint,
    is_encrypted,
    load_anchors,
    load_authority,
    not_after,
    not_before,
)
from flprov.project import Validity

FOLDER = "ca"
_RECORD = "ca.json"
_TRUST = "trust.json"
_LARGEST = 64 << 10
_LARGEST_TRUST = 32 << 20
_ROOT = "root"
UNITS: Mapping[Kind, str] = {Kind.SERVER: "servers", Kind.SITE: "sites", Kind.PERSON: "people"}
_NAMES = (_ROOT, *UNITS.values())


@dataclass(frozen=True, kw_only=True)
class AuthorityRecord:
    """`ca.json`: whose CA this is. Renamed into place together with the keys."""

    format: int
    project: str
    project_id: str
    trust_domain: str
    made_at: datetime
    fingerprints: Mapping[str, str]  # root, servers, sites, people


class Authorities:
    """The CAs of one project; keys are opened at their first use. `repr` shows none."""

    def __init__(
        self,
        record: AuthorityRecord,
        *,
        certificates: Mapping[str, bytes],
        keys: Mapping[str, bytes],
        trust: SignedTrust,
        passphrase: bytes | None,
        folder: Path,
    ) -> None:
        self.record = record
        self.signed_trust = trust
        self._certificates = certificates
        self._keys = keys
        self._passphrase = passphrase
        self._folder = folder
        self._open: dict[str, Authority] = {}

    @property
    def root_fingerprint(self) -> str:
        """What people compare over the telephone."""
        return self.record.fingerprints[_ROOT]

    @property
    def encrypted(self) -> bool:
        """Whether every private key at rest is encrypted."""
        return all(map(is_encrypted, self._keys.values()))

    @property
    def any_encrypted(self) -> bool:
        """Whether signing may need the passphrase."""
        return any(map(is_encrypted, self._keys.values()))

    def anchor(self, kind: Kind | None) -> bytes:
        """The certificate of the CA that issues this kind; of the root for None. PEM."""
        return self._certificates[UNITS[kind] if kind else _ROOT]

    def key_pem(self, kind: Kind) -> bytes:
        """The private key of an issuing CA exactly as it lies in the workspace: encrypted if it is."""
        return self._keys[UNITS[kind]]

    def read_trust(self, now: datetime) -> Trust:
        """The current trust bundle, verified.

        Raises:
            StateDamaged: it is not what this root's provisioner signed.
        """
        try:
            roots = load_anchors(self.anchor(None))
            return verify_trust(self.signed_trust, roots, project_id=self.record.project_id, now=now)
        except FlprovError as error:
            raise _damaged(self._folder, f"{_TRUST}: {error}") from error

    def lifetime(self, kind: Kind | None) -> timedelta:
        """How long the CA of this kind was made for; the root for None. To the nearest minutes."""
        pem = self.anchor(kind)
        return not_after(pem) - not_before(pem)

    def issuing(self, kind: Kind) -> Authority:
        """The CA that issues this kind, ready to sign."""
        return self._authority(UNITS[kind])

    def create_signer(self, *, now: datetime) -> Credential:
        """A certificate and key for signing the manifests of one run.

        It is valid as long as the root, so it outlives every certificate in the kits that it signs.
        """
        root = self._authority(_ROOT)
        days = max(1, (root.not_after - now).days + 1)
        return create_signer(root, project=self.record.project, days=days, now=now)

    @property
    def not_after(self) -> datetime:
        """When the first of the issuing CAs ends."""
        return min(not_after(self.anchor(kind)) for kind in UNITS)

    def encrypt(self, passphrase: bytes) -> Authorities:
        """Write the private keys again, encrypted; each file is replaced in one step."""
        for name in _NAMES:
            write_private(self._folder / _key(name), self._authority(name).private_pem(passphrase))
        return open_authorities(self._folder, passphrase=passphrase)

    def _authority(self, name: str) -> Authority:
        if name not in self._open:
            self._open[name] = self._load(name)
        return self._open[name]

    def _load(self, name: str) -> Authority:
        key = self._keys[name]
        if is_encrypted(key) and not self._passphrase:
            raise Misuse(
                f"the CA keys in {self._folder} are encrypted, and no passphrase was given",
                hint="give --passphrase-file FILE, or --passphrase to be asked, or set FLPROV_CA_PASSPHRASE",
            )
        passphrase = self._passphrase if is_encrypted(key) else None
        try:
            return load_authority(self._certificates[name], key, passphrase)
        except Misuse as error:
            raise Misuse(
                f"the passphrase does not open the CA key {self._folder / _key(name)}",
                hint="give the one that was used when the CA was made",
            ) from error
        except FlprovError as error:
            raise _damaged(
                self._folder, f"{_key(name)} does not go with {_certificate(name)}: {error}"
            ) from error


def create_authorities(
    folder: Path,
    *,
    project: str,
    project_id: str,
    trust_domain: str,
    validity: Validity,
    passphrase: bytes | None,
    now: datetime,
) -> Authorities:
    """Make a root and its issuing CAs and write them into the new folder `folder`, mode 0700."""
    root = create_root(project=project, trust_domain=trust_domain, days=validity.root_days, now=now)
    made = {_ROOT: root}
    for kind, unit in UNITS.items():
        made[unit] = create_issuing(root, kind=kind, days=validity.issuing_days, now=now)
    record = AuthorityRecord(
        format=1,
        project=project,
        project_id=project_id,
        trust_domain=trust_domain,
        made_at=now,
        fingerprints={name: fingerprint(ca.certificate_pem) for name, ca in made.items()},
    )
    folder.mkdir(mode=0o700)
    for name, authority in made.items():
        write_atomic(folder / _certificate(name), authority.certificate_pem)
        write_private(folder / _key(name), authority.private_pem(passphrase))
    write_atomic(folder / _TRUST, _first_trust(record, made, now=now).encode())
    write_atomic(folder / _RECORD, canonical_json(record) + b"\n")
    return open_authorities(folder, passphrase=passphrase)


def _first_trust(record: AuthorityRecord, made: Mapping[str, Authority], *, now: datetime) -> SignedTrust:
    """Version 1: the CAs that were just made."""
    root = made[_ROOT]
    texts = {name: (ca.certificate_pem.decode(),) for name, ca in made.items()}
    document = TrustDocument(
        format=FORMAT,
        project=record.project,
        project_id=record.project_id,
        trust_domain=record.trust_domain,
        version=1,
        made_at=now,
        phase="steady",
        roots=texts[_ROOT],
        servers=texts[UNITS[Kind.SERVER]],
        sites=texts[UNITS[Kind.SITE]],
        people=texts[UNITS[Kind.PERSON]],
    )
    days = max(1, (root.not_after - now).days + 1)
    return sign_trust(document, create_signer(root, project=record.project, days=days, now=now))


def open_authorities(folder: Path, *, passphrase: bytes | None) -> Authorities:
    """The CAs in `folder`, every file of which must be there and be the one that was made.

    Raises:
        StateDamaged: something is missing or was changed; the message names it.
    """
    record = _read_record(folder)
    certificates = {name: _read(folder, _certificate(name)) for name in _NAMES}
    for name, pem in certificates.items():
        if _fingerprint_of(folder, name, pem) != record.fingerprints.get(name):
            raise _damaged(folder, f"{_certificate(name)} is not the certificate that {_RECORD} names")
    keys = {name: _read(folder, _key(name)) for name in _NAMES}
    return Authorities(
        record,
        certificates=certificates,
        keys=keys,
        trust=_read_trust(folder),
        passphrase=passphrase,
        folder=folder,
    )


def _read_trust(folder: Path) -> SignedTrust:
    try:
        return decode_trust(_read(folder, _TRUST, limit=_LARGEST_TRUST))
    except IdentityRefused as error:
        raise _damaged(folder, f"{_TRUST}: {error}") from error


def _certificate(name: str) -> str:
    return f"{name}.pem"


def _key(name: str) -> str:
    return f"{name}.key.pem"


def _read(folder: Path, name: str, *, limit: int = _LARGEST) -> bytes:
    try:
        return read_stored(folder / name, limit=limit).data
    except Unreadable as error:
        raise _damaged(folder, f"{name} {error}") from error


def _read_record(folder: Path) -> AuthorityRecord:
    try:
        return from_document(AuthorityRecord, parse_json(_read(folder, _RECORD)))
    except ValueError as error:
        raise _damaged(folder, f"{_RECORD} cannot be read: {error}") from error


def _fingerprint_of(folder: Path, name: str, pem: bytes) -> str:
    try:
        return fingerprint(pem)
    except FlprovError as error:
        raise _damaged(folder, f"{_certificate(name)} cannot be read: {error}") from error


def _damaged(folder: Path, what: str) -> StateDamaged:
    return StateDamaged(
        f"the CA in {folder} is damaged: {what}",
        hint=f"restore {folder} from its backup; a new CA would cut off every kit that was delivered,"
        " so flprov makes none",
    )
