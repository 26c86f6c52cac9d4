# SPDX-License-Identifier: Apache-2.0
"""The folder `ca/` of a workspace: one root, three issuing CAs, made once; replaced only by a rotation.

    ca/{root,servers,sites,people}.pem, .key.pem    the CAs that issue now
    ca/next/       in a rotation that is prepared: those that will (no root, unless it is replaced, too)
    ca/previous/   in one that is activated: those that did, and are still believed
    ca/retired/    what a rotation has left behind
    ca/ca.json     whose CA this is, and which certificates these must be
    ca/trust.json  what the parties are to believe, signed (see trust.py)

Certificates are read when the folder is opened; a private key only when something is to be signed, so
a run that changes nothing needs no passphrase. The certificate that signs manifests is made anew, from
the root, in each run that signs: its key is never on a disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

from flprov._base import canonical_json, from_document, parse_json, write_atomic, write_private
from flprov.errors import FlprovError, IdentityRefused, Misuse, StateDamaged
from flprov.kits.kit import IssuingCA
from flprov.kits.reading import Unreadable, read_stored
from flprov.kits.trust import (
    FORMAT,
    Phase,
    SignedTrust,
    Trust,
    TrustDocument,
    decode_trust,
    sign_trust,
    verify_trust,
)
from flprov.pki import (
    Anchors,
    Authority,
    Credential,
    Kind,
    authority_key_id,
    create_issuing,
    create_root,
    create_signer,
    encrypt_key,
    fingerprint,
    is_encrypted,
    load_anchors,
    load_authority,
    not_after,
    not_before,
)
from flprov.project import Validity
from flprov.wire.documents import AuthorityDocument

FOLDER = "ca"
RECORD = "ca.json"
TRUST = "trust.json"
ROOT = "root"
RETIRED = "retired"
UNITS: Mapping[Kind, str] = {Kind.SERVER: "servers", Kind.SITE: "sites", Kind.PERSON: "people"}
NAMES = (ROOT, *UNITS.values())
OTHERS: Mapping[Phase, str] = {Phase.PREPARED: "next", Phase.ACTIVATED: "previous"}  # where the other CAs lie
_LARGEST = 64 << 10
_LARGEST_TRUST = 32 << 20


@dataclass(frozen=True, kw_only=True)
class AuthorityRecord:
    """`ca.json`: whose CA this is. Renamed into place together with the keys."""

    format: int
    project: str
    project_id: str
    trust_domain: str
    made_at: datetime
    fingerprints: Mapping[str, str]  # root, servers, sites, people
    phase: Phase = Phase.STEADY
    other: Mapping[str, str] = field(default_factory=dict)  # the same, of next/ or previous/
    retired_roots: tuple[str, ...] = ()  # fingerprints
    ended: str = ""  # how the last rotation ended: finished | rolled back


class Authorities:
    """The CAs of one project; keys are opened at their first use. `repr` shows none.

    A CA is named by where it lies in the folder: `sites`, `next/sites`, `previous/root`.
    """

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
        self.folder = folder
        self.signed_trust = trust
        self._certificates = certificates
        self._keys = keys
        self._passphrase = passphrase
        self._open: dict[str, Authority] = {}

    @property
    def root_fingerprint(self) -> str:
        """What people compare over the telephone."""
        return self.record.fingerprints[ROOT]

    @property
    def believed_roots(self) -> tuple[str, ...]:
        """Fingerprints of the roots that parties believe now: two while the root is replaced."""
        return tuple(one[ROOT] for one in (self.record.fingerprints, self.record.other) if ROOT in one)

    @property
    def encrypted(self) -> bool:
        """Whether every private key at rest is encrypted."""
        return all(map(is_encrypted, self._keys.values()))

    @property
    def any_encrypted(self) -> bool:
        """Whether signing may need the passphrase."""
        return any(map(is_encrypted, self._keys.values()))

    @property
    def names(self) -> tuple[str, ...]:
        """Every CA that is believed or will be, as it is named here."""
        return tuple(self._certificates)

    def certificate(self, name: str) -> bytes:
        """One CA's certificate, PEM."""
        return self._certificates[name]

    def anchor(self, kind: Kind | None) -> bytes:
        """The certificate of the CA that issues this kind; of the root for None. PEM."""
        return self._certificates[UNITS[kind] if kind else ROOT]

    def key_pem(self, kind: Kind) -> bytes:
        """The private key of an issuing CA exactly as it lies in the workspace: encrypted if it is."""
        return self._keys[UNITS[kind]]

    @cached_property
    def says(self) -> TrustDocument:
        """What the current trust bundle says.

        Raises:
            StateDamaged: it cannot be read.
        """
        try:
            return from_document(TrustDocument, parse_json(self.signed_trust.document))
        except ValueError as error:
            raise _damaged(self.folder, f"{TRUST} cannot be read: {error}") from error

    def describe(self) -> tuple[AuthorityDocument, ...]:
        """Every CA here that is believed or will be, for people."""
        other = "waiting" if self.record.phase is Phase.PREPARED else "leaving"
        return tuple(
            AuthorityDocument(
                unit=_unit(name),
                state=other if "/" in name else "active",
                fingerprint=fingerprint(pem),
                key_id=authority_key_id(pem),
                not_after=not_after(pem),
            )
            for name, pem in self._certificates.items()
        )

    def anchors_pem(self, kind: Kind | None) -> bytes:
        """Every CA that may have issued this kind, the one that issues now first; the roots for None."""
        texts: tuple[str, ...] = getattr(self.says, "roots" if kind is None else UNITS[kind])
        return "".join(texts).encode()

    def anchors(self, kind: Kind) -> Anchors:
        """The same, read."""
        return load_anchors(self.anchors_pem(kind))

    @property
    def server_keys(self) -> Iterator[IssuingCA]:
        """The CAs that belong on the server: those that issue now, and the others of a rotation."""
        for name in self.names:
            if name.rpartition("/")[2] in (UNITS[Kind.SERVER], UNITS[Kind.SITE]):
                yield IssuingCA(certificate_pem=self._certificates[name], private_pem=self._keys[name])

    def read_trust(self, now: datetime) -> Trust:
        """The current trust bundle, verified.

        Raises:
            StateDamaged: it is not what this root's provisioner signed.
        """
        try:
            roots = load_anchors(
                b"".join(self._certificates[name] for name in self.names if _unit(name) == ROOT)
            )
            return verify_trust(self.signed_trust, roots, project_id=self.record.project_id, now=now)
        except FlprovError as error:
            raise _damaged(self.folder, f"{TRUST}: {error}") from error

    def lifetime(self, kind: Kind | None) -> timedelta:
        """How long the CA of this kind was made for; the root for None. To the nearest minutes."""
        pem = self.anchor(kind)
        return not_after(pem) - not_before(pem)

    def issuing(self, kind: Kind) -> Authority:
        """The CA that issues this kind, ready to sign."""
        return self.authority(UNITS[kind])

    def create_signer(self, *, now: datetime) -> Credential:
        """A certificate and key for signing the manifests of one run.

        It is valid as long as the root, so it outlives every certificate in the kits that it signs.
        """
        return make_signer(self.authority(ROOT), self.record.project, now=now)

    def sign_trust(self, document: TrustDocument, *, now: datetime) -> SignedTrust:
        """The bundle, signed under the root that everybody holds: the old one while it is replaced."""
        root = self.authority(trust_root(self.names))
        return sign_trust(document, make_signer(root, self.record.project, now=now))

    def with_trust(self, signed: SignedTrust) -> Authorities:
        """The same CAs with another bundle; nothing is written."""
        return Authorities(
            self.record,
            certificates=self._certificates,
            keys=self._keys,
            trust=signed,
            passphrase=self._passphrase,
            folder=self.folder,
        )

    @property
    def not_after(self) -> datetime:
        """When the first of the issuing CAs ends."""
        return min(not_after(self.anchor(kind)) for kind in UNITS)

    def encrypt(self, passphrase: bytes) -> Authorities:
        """Write the private keys again, encrypted; each file is replaced in one step."""
        for name in self.names:
            self.authority(name)  # those that are encrypted already have this very passphrase
        for path in sorted(self.folder.rglob("*.key.pem")):
            clear = path.read_bytes()
            if not is_encrypted(clear):
                write_private(path, encrypt_key(clear, passphrase))
        return open_authorities(self.folder, passphrase=passphrase)

    def authority(self, name: str) -> Authority:
        """One CA, ready to sign.

        Raises:
            Misuse: its key is encrypted, and the passphrase is missing or wrong.
            StateDamaged: key and certificate do not belong together.
        """
        if name not in self._open:
            self._open[name] = self._load(name)
        return self._open[name]

    def _load(self, name: str) -> Authority:
        key = self._keys[name]
        if is_encrypted(key) and not self._passphrase:
            raise Misuse(
                f"the CA keys in {self.folder} are encrypted, and no passphrase was given",
                hint="give --passphrase-file FILE, or --passphrase to be asked, or set FLPROV_CA_PASSPHRASE",
            )
        passphrase = self._passphrase if is_encrypted(key) else None
        try:
            return load_authority(self._certificates[name], key, passphrase)
        except Misuse as error:
            raise Misuse(
                f"the passphrase does not open the CA key {self.folder / key_file(name)}",
                hint="give the one that was used when the CA was made",
            ) from error
        except FlprovError as error:
            raise _damaged(
                self.folder, f"{key_file(name)} does not go with {certificate_file(name)}: {error}"
            ) from error


def make_signer(root: Authority, project: str, *, now: datetime) -> Credential:
    """The provisioner's certificate under this root, valid as long as it."""
    return create_signer(root, project=project, days=max(1, (root.not_after - now).days + 1), now=now)


def trust_root(names: tuple[str, ...]) -> str:
    """Which root signs trust bundles: the old one, as long as it is there."""
    previous = f"{OTHERS[Phase.ACTIVATED]}/{ROOT}"
    return previous if previous in names else ROOT


def _unit(name: str) -> str:
    return name.rpartition("/")[2]


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
    made = {ROOT: root}
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
        write_atomic(folder / certificate_file(name), authority.certificate_pem)
        write_private(folder / key_file(name), authority.private_pem(passphrase))
    write_atomic(folder / TRUST, _first_trust(record, made, now=now).encode())
    write_atomic(folder / RECORD, canonical_json(record) + b"\n")
    return open_authorities(folder, passphrase=passphrase)


def _first_trust(record: AuthorityRecord, made: Mapping[str, Authority], *, now: datetime) -> SignedTrust:
    """Version 1: the CAs that were just made."""
    root = made[ROOT]
    texts = {name: (ca.certificate_pem.decode(),) for name, ca in made.items()}
    document = TrustDocument(
        format=FORMAT,
        project=record.project,
        project_id=record.project_id,
        trust_domain=record.trust_domain,
        version=1,
        made_at=now,
        phase=Phase.STEADY.value,
        roots=texts[ROOT],
        servers=texts[UNITS[Kind.SERVER]],
        sites=texts[UNITS[Kind.SITE]],
        people=texts[UNITS[Kind.PERSON]],
    )
    return sign_trust(document, make_signer(root, record.project, now=now))


def open_authorities(folder: Path, *, passphrase: bytes | None) -> Authorities:
    """The CAs in `folder`, every file of which must be there and be the one that was made.

    Raises:
        StateDamaged: something is missing or was changed; the message names it.
    """
    record = _read_record(folder)
    expected = {name: record.fingerprints.get(name) for name in NAMES}
    if record.phase is not Phase.STEADY:
        others = [name for name in NAMES if name in record.other]
        expected |= {f"{OTHERS[record.phase]}/{name}": record.other[name] for name in others}
    certificates = {name: _read(folder, certificate_file(name)) for name in expected}
    for name, pem in certificates.items():
        if _fingerprint_of(folder, name, pem) != expected[name]:
            raise _damaged(folder, f"{certificate_file(name)} is not the certificate that {RECORD} names")
    keys = {name: _read(folder, key_file(name)) for name in expected}
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
        return decode_trust(_read(folder, TRUST, limit=_LARGEST_TRUST))
    except IdentityRefused as error:
        raise _damaged(folder, f"{TRUST}: {error}") from error


def certificate_file(name: str) -> str:
    """Where a CA's certificate lies in the folder."""
    return f"{name}.pem"


def key_file(name: str) -> str:
    """Where its private key lies."""
    return f"{name}.key.pem"


def _read(folder: Path, name: str, *, limit: int = _LARGEST) -> bytes:
    try:
        return read_stored(folder / name, limit=limit).data
    except Unreadable as error:
        raise _damaged(folder, f"{name} {error}") from error


def _read_record(folder: Path) -> AuthorityRecord:
    try:
        return from_document(AuthorityRecord, parse_json(_read(folder, RECORD)))
    except ValueError as error:
        raise _damaged(folder, f"{RECORD} cannot be read: {error}") from error


def _fingerprint_of(folder: Path, name: str, pem: bytes) -> str:
    try:
        return fingerprint(pem)
    except FlprovError as error:
        raise _damaged(folder, f"{certificate_file(name)} cannot be read: {error}") from error


def _damaged(folder: Path, what: str) -> StateDamaged:
    return StateDamaged(
        f"the CA in {folder} is damaged: {what}",
        hint=f"restore {folder} from its backup; a new CA would cut off every kit that was delivered,"
        " so flprov makes none",
    )
