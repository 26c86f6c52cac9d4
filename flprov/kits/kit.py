# SPDX-License-Identifier: Apache-2.0
"""A kit as the commands use it: read once, verified whole.

Everything here comes from bytes that were checked against the signed manifest. What the kit does not
cover is the machine's own and lies beside it, in `<kit>.local/`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from datetime import datetime
from pathlib import Path

from flprov._base import dataclass, from_document, parse_json
from flprov.config import Section, open_config
from flprov.errors import FlprovError, KitRefused, Misuse, NotFound
from flprov.kits.manifest import (
    ANCHORS,
    AUTHORITY,
    CERTIFICATE,
    KEY,
    MANIFEST,
    REGISTRY,
    ROOT,
    SETTINGS,
    TRUST,
    Contents,
    read_contents,
)
from flprov.kits.trust import Trust, decode_trust, verify_trust
from flprov.pki import (
    Anchors,
    Identity,
    Kind,
    Role,
    decrypt_key,
    is_encrypted,
    load_anchors,
    not_after,
    parse_identity,
    verify_key_matches,
    verify_peer,
)
from flprov.project import Route, parse_proxy, read_open_proxy

Passphrase = bytes | Callable[[Path], bytes | None]

_STARTS = {
    Kind.SERVER: "flprov server start",
    Kind.SITE: "flprov site start",
    Kind.PERSON: "flprov use",
}
_ARTICLE = {Kind.SERVER: "the server", Kind.SITE: "a site", Kind.PERSON: "a person"}


@dataclass(frozen=True, kw_only=True)
class RegistryEntry:
    """A site that the project has."""

    name: str
    org: str


@dataclass(frozen=True, kw_only=True)
class PersonEntry:
    """A person that the project has, and the certificate in that person's newest kit."""

    name: str
    org: str
    role: Role
    serial: str = ""  # hex; empty: not known
    issued_at: datetime | None = None
    not_after: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Registry:
    """`registry.json`: who belongs to the project, as of the server's kit."""

    sites: tuple[RegistryEntry, ...] = ()
    people: tuple[PersonEntry, ...] = ()


@dataclass(frozen=True, kw_only=True)
class IssuingCA:
    """A CA from which the server signs: as it lies in its kit. `repr` shows no key."""

    certificate_pem: bytes
    private_pem: bytes = field(repr=False)  # encrypted if the workspace's CA keys are


@dataclass(frozen=True, kw_only=True)
class Kit:
    """One party's kit, verified. `repr` shows no key."""

    folder: Path
    kind: Kind
    name: str
    org: str
    role: Role | None  # of a person
    identity: Identity
    project: str
    contact: str  # whom to ask; may be empty
    project_id: str
    trust_domain: str
    server: str  # the server's name in its identity
    endpoints: tuple[str, ...]  # "host:port", as advertised, in the order to try
    listen: str  # "0.0.0.0:8443"; empty for who does not listen
    route: Route | None = None  # the proxy on the way to the server, if the project names one
    chain_pem: bytes = field(repr=False)  # leaf and issuing CA
    private_pem: bytes = field(repr=False)  # in clear
    not_after: datetime  # the last moment of the kit's own certificate; for the one in use: credential.py
    anchors: Mapping[str, Anchors] = field(repr=False)  # "root", "servers", "sites", "people", as present
    manifest_digest: str  # SHA-256 of manifest.json, hex
    made_at: datetime
    registry: tuple[RegistryEntry, ...] = field(default=(), repr=False)  # server only
    people: tuple[PersonEntry, ...] = field(default=(), repr=False)  # server only
    issuing: tuple[IssuingCA, ...] = field(
        default=(), repr=False
    )  # server only: the servers CA and the sites CA
    trust: Trust | None = field(
        default=None, repr=False
    )  # server only: the bundle of the day on which the kit was made
    server_days: float = 90.0  # server only: how long what it issues lasts
    site_days: float = 90.0

    @property
    def local(self) -> Path:
        """This machine's own folder beside the kit: settings, policy, state."""
        return self.folder.with_name(f"{self.folder.name}.local")


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What kit.yml says."""

    kind: Kind
    name: str
    org: str
    identity: str
    project: str
    contact: str
    project_id: str
    trust_domain: str
    server: str
    endpoints: tuple[str, ...]
    listen: str
    route: Route | None
    server_days: float
    site_days: float


def load_kit(
    folder: Path, *, now: datetime, kind: Kind | None = None, passphrase: Passphrase | None = None
) -> Kit:
    """The kit in `folder`, after every check: signature, files, key, certificate. A few milliseconds.

    Args:
        kind: what the caller can work with; any kind when None.
        passphrase: opens a private key that is encrypted; or who is asked for it, given the kit's
            folder, and only if it is. The key is in clear in the memory of this process alone.

    Raises:
        Misuse: the private key is encrypted, and the passphrase is missing or wrong.
        NotFound: there is no such folder.
        KitRefused: something is not as it was made, can be read by others, a person's certificate has
            expired, or the kit is another kind's; the message names the file or the date. That the own
            certificate of a site or server has expired is no reason: `current_credential` finds the
            one in use.
    """
    return _load(folder, now=now, kind=kind, open_key=lambda kit, key: _open_key(kit, key, passphrase))


def look_at_kit(folder: Path, *, now: datetime, kind: Kind | None = None) -> Kit:
    """The same checks, for showing a kit: a key that is encrypted stays so, and `private_pem` is empty.

    Raises:
        NotFound, KitRefused: as `load_kit`.
    """
    return _load(folder, now=now, kind=kind, open_key=lambda _, key: b"" if is_encrypted(key) else key)


def _load(folder: Path, *, now: datetime, kind: Kind | None, open_key: Callable[[Path, bytes], bytes]) -> Kit:
    folder = Path(os.path.realpath(folder))  # `resolve` fails on links that lead in a circle
    contents = read_contents(folder, now=now)
    settings = _read_settings(folder, contents)
    if kind is not None and settings.kind is not kind:
        raise KitRefused(
            f"{folder} is the kit of {settings.kind.value} {settings.name}, and the kit of"
            f" {_ARTICLE[kind]} is needed here",
            hint=f"this one is for: {_STARTS[settings.kind]} {folder}",
        )
    _take(folder, contents, KEY)
    for name in contents.files:
        if name == KEY or name.endswith(".key.pem"):
            _verify_key_is_private(folder, contents, name)
    private = open_key(folder, _take(folder, contents, KEY))
    identity, end = _verify_certificate(folder, contents, settings, now, private)
    registry = _read_registry(folder, contents)
    return Kit(
        folder=folder,
        kind=settings.kind,
        name=settings.name,
        org=settings.org,
        role=identity.role,
        identity=identity,
        project=settings.project,
        contact=settings.contact,
        project_id=settings.project_id,
        trust_domain=settings.trust_domain,
        server=settings.server,
        endpoints=settings.endpoints,
        listen=settings.listen,
        route=settings.route,
        chain_pem=_take(folder, contents, CERTIFICATE),
        private_pem=private,
        not_after=end,
        anchors=_read_anchors(folder, contents),
        manifest_digest=contents.digest,
        made_at=contents.manifest.made_at,
        registry=registry.sites,
        people=registry.people,
        issuing=_read_issuing(contents),
        trust=_read_trust(folder, contents, settings, now),
        server_days=settings.server_days,
        site_days=settings.site_days,
    )


@dataclass(frozen=True, kw_only=True)
class KitListing:
    """A kit's folder, and the kit or why it is none."""

    folder: Path
    kit: Kit | None
    problem: FlprovError | None


def list_kits(folder: Path, *, now: datetime) -> tuple[KitListing, ...]:
    """Every kit in a workspace, or in any folder of kits, verified.

    Raises:
        NotFound: there is none.
    """
    inside = folder / "kits" if (folder / "kits").is_dir() else folder
    found = [path.parent for path in sorted(inside.glob(f"*/{MANIFEST}"))]
    if not found:
        raise NotFound(f"there are no kits in {inside}", hint="flprov provision project.yml makes them")
    return verify_kits(found, now=now)


def verify_kits(folders: Iterable[Path], *, now: datetime) -> tuple[KitListing, ...]:
    """Each of these kits, or why it is refused."""
    return tuple(_listing_of(folder, now) for folder in folders)


def _listing_of(folder: Path, now: datetime) -> KitListing:
    try:
        return KitListing(folder=folder, kit=look_at_kit(folder, now=now), problem=None)
    except FlprovError as error:
        return KitListing(folder=folder, kit=None, problem=error)


def _take(folder: Path, contents: Contents, name: str) -> bytes:
    try:
        return contents.files[name].data
    except KeyError:
        raise KitRefused(f"{folder}: {MANIFEST} lists no {name}, and every kit has one") from None


def _read_settings(folder: Path, contents: Contents) -> _Settings:
    text = _take(folder, contents, SETTINGS)
    try:
        with open_config(folder / SETTINGS, text=text) as top:
            settings = _parse_settings(top)
    except FlprovError as error:
        raise KitRefused(
            f"{folder}: {SETTINGS} is not what this flprov reads: {error}",
            hint="install the version of flprov that your project uses",
        ) from error
    manifest = contents.manifest
    if (settings.kind, settings.name) != (manifest.kind, manifest.name):
        raise KitRefused(
            f"{folder}: {SETTINGS} is of {settings.kind.value} {settings.name}, and {MANIFEST} of"
            f" {manifest.kind.value} {manifest.name}"
        )
    return settings


def _parse_settings(top: Section) -> _Settings:
    top.integer("format", minimum=1, maximum=1)
    return _Settings(
        kind=Kind(top.choice("kind", [Kind.SERVER.value, Kind.SITE.value, Kind.PERSON.value])),
        name=top.text("name"),
        org=top.text("org", ""),
        identity=top.text("identity"),
        project=top.text("project"),
        project_id=top.text("project_id"),
        trust_domain=top.text("trust_domain"),
        contact=top.text("contact", ""),
        server=top.text("server"),
        endpoints=top.texts("endpoints"),
        listen=top.text("listen", ""),
        route=_parse_route(top),
        server_days=top.number("server_days", 90.0),
        site_days=top.number("site_days", 90.0),
    )


def _parse_route(top: Section) -> Route | None:
    text = read_open_proxy(top)
    return Route(proxy=parse_proxy(text), source=SETTINGS) if text else None


def _verify_key_is_private(folder: Path, contents: Contents, name: str) -> None:
    key = contents.files[name]
    path = folder / name
    if key.owner != os.geteuid():
        raise KitRefused(
            f"{path} belongs to another user (uid {key.owner}), and this is uid {os.geteuid()}",
            hint=f"run this as the user that the kit belongs to, or give it to this one: chown -R"
            f" {os.geteuid()} {folder}",
        )
    if key.mode & 0o077:
        raise KitRefused(
            f"{path} can be read by other users of this machine (mode {key.mode:04o})",
            hint=f"chmod 600 {path}; if strangers use this machine, ask for a new kit: the key may be known",
        )


def _open_key(folder: Path, key: bytes, passphrase: Passphrase | None) -> bytes:
    if not is_encrypted(key):
        return key
    secret = passphrase(folder) if callable(passphrase) else passphrase
    if not secret:
        raise Misuse(
            f"{folder / KEY} is encrypted, and no passphrase was given",
            hint="set FLPROV_KIT_PASSPHRASE, or run this at a terminal to be asked",
        )
    try:
        return decrypt_key(key, secret)
    except Misuse as error:
        raise Misuse(
            f"the passphrase does not open {folder / KEY}",
            hint="give the one that came with this kit; whoever provisions this project chose it",
        ) from error
    except FlprovError as error:
        raise KitRefused(f"{folder / KEY}: {error}", hint=error.hint) from error


def _verify_certificate(
    folder: Path, contents: Contents, settings: _Settings, now: datetime, private_pem: bytes
) -> tuple[Identity, datetime]:
    chain, path = _take(folder, contents, CERTIFICATE), folder / CERTIFICATE
    try:
        end = not_after(chain)
        if settings.kind is Kind.PERSON:
            _verify_not_expired(path, end, now, settings.contact)
        if private_pem:  # else nobody has opened it, and it will be checked when somebody does
            verify_key_matches(chain, private_pem)
        _, _, issuer = chain.partition(b"-----END CERTIFICATE-----\n")
        # Sites and servers renew theirs, and the kit keeps its first one: see credential.py.
        found = verify_peer(chain, load_anchors(issuer), now=min(now, end), kinds=[settings.kind])
        named = parse_identity(settings.identity)
    except KitRefused:
        raise
    except FlprovError as error:
        raise KitRefused(f"{path}: {error}", hint=error.hint) from error
    if found != named or found.name != settings.name:
        raise KitRefused(
            f"{path} is the certificate of {found}, and {SETTINGS} is of {named}",
            hint="this kit was put together from two; ask for a new one whoever provisions this project",
        )
    return found, end


def _verify_not_expired(path: Path, end: datetime, now: datetime, contact: str) -> None:
    if now > end:
        raise KitRefused(
            f"{path} expired on {end:%Y-%m-%d %H:%M} UTC",
            hint=f"ask {contact or 'whoever provisions this project'} for a new kit; there,"
            " `flprov provision project.yml` makes one",
        )


def _read_anchors(folder: Path, contents: Contents) -> dict[str, Anchors]:
    found = {}
    for path, stored in contents.files.items():
        top, _, name = path.partition("/")
        if top != ANCHORS or not name.endswith(".pem"):
            continue
        try:
            found[name.removesuffix(".pem")] = load_anchors(stored.data)
        except FlprovError as error:
            raise KitRefused(f"{folder / path}: {error}", hint=error.hint) from error
    return found


def _read_issuing(contents: Contents) -> tuple[IssuingCA, ...]:
    """Opened by the server alone, which may need a passphrase for it."""
    found = []
    for name in ("servers", "sites"):
        certificate = contents.files.get(f"{AUTHORITY}/{name}.pem")
        key = contents.files.get(f"{AUTHORITY}/{name}.key.pem")
        if certificate is not None and key is not None:
            found.append(IssuingCA(certificate_pem=certificate.data, private_pem=key.data))
    return tuple(found)


def _read_trust(folder: Path, contents: Contents, settings: _Settings, now: datetime) -> Trust | None:
    stored = contents.files.get(TRUST)
    if stored is None:
        return None
    try:
        roots = load_anchors(_take(folder, contents, ROOT))
        return verify_trust(decode_trust(stored.data), roots, project_id=settings.project_id, now=now)
    except FlprovError as error:
        raise KitRefused(f"{folder / TRUST}: {error}", hint=error.hint) from error


def _read_registry(folder: Path, contents: Contents) -> Registry:
    stored = contents.files.get(REGISTRY)
    if stored is None:
        return Registry()
    try:
        return from_document(Registry, parse_json(stored.data))
    except ValueError as error:
        raise KitRefused(f"{folder}: {REGISTRY} cannot be read: {error}") from error
