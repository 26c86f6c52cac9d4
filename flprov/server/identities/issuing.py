# SPDX-License-Identifier: Apache-2.0
"""What the server signs with: the *servers* and *sites* CAs from its kit, and newer ones from a rotation.

It can make servers, sites and invites. It cannot make a person: the *people* CA and the root stay with
the provisioner, so a server that is broken into gives nobody the right to run code at a site.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flprov._base import Clock, write_private
from flprov.errors import FlprovError, IdentityRefused, Misuse, StateDamaged
from flprov.kits import Kit, Trust
from flprov.pki import (
    Authority,
    Credential,
    Identity,
    Kind,
    authority_key_id,
    is_encrypted,
    issue_identity,
    load_authority,
)

_MARK = b"-----END CERTIFICATE-----\n"


class Issuer:
    """Signs with the CA that the trust bundle puts first. `repr` shows no key."""

    def __init__(self, kit: Kit, folder: Path, *, passphrase: bytes | None, clock: Clock) -> None:
        self._kit = kit
        self._folder = folder  # `authority/` in the state: CAs that came with a rotation
        self._passphrase = passphrase
        self._clock = clock
        self._keys: dict[str, Authority] = {}  # by key id

    def load(self) -> None:
        """Open every CA key.

        Raises:
            Misuse: the keys are encrypted, and the passphrase is missing or wrong.
            StateDamaged: a key that a rotation brought cannot be read.
        """
        for ca in self._kit.issuing:
            self._take(ca.certificate_pem, ca.private_pem, str(self._kit.folder / "authority"))
        for path in sorted(self._folder.glob("*.pem")):
            certificate, mark, private = path.read_bytes().partition(_MARK)
            try:
                self._take(certificate + mark, private, str(path))
            except IdentityRefused as error:
                raise StateDamaged(f"{path} cannot be read: {error}") from error

    def add(self, certificate_pem: bytes, private_pem: bytes) -> None:
        """Keep a CA that a rotation brought, durably.

        Raises:
            Misuse: its key is encrypted with another passphrase than this server was started with.
            IdentityRefused: it is no CA that a server may have.
        """
        self._take(certificate_pem, private_pem, "the CA that was sent")
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_private(
            self._folder / f"{authority_key_id(certificate_pem)}.pem", certificate_pem + private_pem
        )

    def forget(self, key_id: str) -> None:
        """Remove a CA that is not trusted any more."""
        self._keys.pop(key_id, None)
        (self._folder / f"{key_id}.pem").unlink(missing_ok=True)

    def has(self, key_id: str) -> bool:
        """Whether this CA can be signed with."""
        return key_id in self._keys

    def held(self, key_id: str) -> Authority:
        """The CA of this key id; `has` tells whether there is one."""
        return self._keys[key_id]

    def authority(self, kind: Kind, trust: Trust) -> Authority:
        """The CA that issues this kind now.

        Raises:
            IdentityRefused: this server does not have it: it never has the people CA.
        """
        found = self._keys.get(trust.active(kind))
        if found is None:
            raise IdentityRefused(
                f"this server holds no key of the CA that issues a {kind.value} now",
                hint="the kit of the server holds it; persons are made by `flprov provision` alone",
            )
        return found

    def issue(
        self,
        identity: Identity,
        trust: Trust,
        *,
        days: float | None = None,
        public_pem: bytes | None = None,
        names: Sequence[str] = (),
    ) -> Credential:
        """A certificate for a server, a site or an invite.

        Args:
            identity: whom it names; the caller has decided that.
            trust: says which CA issues now.
            days: how long it is valid; what project.yml says when None.
            public_pem: the party's own public key; a new key is made when None.
            names: host names and addresses of a server.

        Raises:
            IdentityRefused: this server may not make such a certificate.
        """
        if days is None:
            days = self._kit.server_days if identity.kind is Kind.SERVER else self._kit.site_days
        return issue_identity(
            self.authority(identity.kind, trust),
            identity,
            names=names,
            days=days,
            now=self._clock.now(),
            public_pem=public_pem,
        )

    def _take(self, certificate_pem: bytes, private_pem: bytes, where: str) -> None:
        if is_encrypted(private_pem) and not self._passphrase:
            raise Misuse(
                f"the CA keys in {where} are encrypted, and no passphrase was given",
                hint="set FLPROV_CA_PASSPHRASE, or give --ca-passphrase-file FILE, for this server",
            )
        passphrase = self._passphrase if is_encrypted(private_pem) else None
        try:
            authority = load_authority(certificate_pem, private_pem, passphrase)
        except Misuse as error:
            raise Misuse(
                f"the passphrase does not open the CA keys in {where}",
                hint="it is the one that `flprov provision` was given",
            ) from error
        except FlprovError as error:
            raise IdentityRefused(f"{where}: {error}", hint=error.hint) from error
        if authority.kind not in (Kind.SERVER, Kind.SITE):
            raise IdentityRefused(f"{where}: {authority.anchor.name} has no place on a server")
        self._keys[authority_key_id(certificate_pem)] = authority
