# SPDX-License-Identifier: Apache-2.0
"""Building the kits of a plan: issue what has to be issued, compose, sign, write into the staging folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from flprov._base import write_tree
from flprov.kits.authorities import Authorities
from flprov.kits.composition import Composer
from flprov.kits.holding import Held, describe_certificate
from flprov.kits.manifest import MANIFEST, SIGNATURE, SIGNER, Files, build_manifest, digest_of
from flprov.kits.party import Party
from flprov.kits.plans import KitPlan
from flprov.kits.record import IssuedCertificate, KitRecord
from flprov.pki import Credential, Kind, encrypt_key, is_encrypted, issue_identity, sign


@dataclass(frozen=True, kw_only=True)
class BuiltKit:
    """One party after the build, and where to take its kit from if it is not there yet."""

    plan: KitPlan
    staged: Path | None  # None: what lies there is right
    record: KitRecord


class Builder:
    """Builds the kits of one run."""

    def __init__(
        self,
        composer: Composer,
        authorities: Authorities,
        staging: Path,
        *,
        now: datetime,
        people_passphrase: bytes | None,
    ) -> None:
        self._composer = composer
        self._authorities = authorities
        self._staging = staging
        self._now = now
        self._passphrase = people_passphrase

    def build_all(self, plans: Sequence[KitPlan]) -> list[BuiltKit]:
        """Every kit; people's first, since the server's registry names their certificates."""
        people = {plan.party.name: self.build(plan) for plan in plans if plan.party.kind is Kind.PERSON}
        self._composer.register({name: kit.record.certificates[-1] for name, kit in people.items()})
        return [people.get(plan.party.name) or self.build(plan) for plan in plans]

    def build(self, plan: KitPlan) -> BuiltKit:
        """Stage one kit, or nothing if what lies there is right."""
        if not plan.must_build:
            return BuiltKit(plan=plan, staged=None, record=self._record_kept(plan))
        held = self._issue(plan.party) if plan.held is None else plan.held
        if plan.encrypt_key:
            held = self._encrypt(held)
        staged = self._staging / plan.party.name
        digest = self._stage(plan.party, self._composer.compose(plan.party, held), staged)
        return BuiltKit(plan=plan, staged=staged, record=self._record(plan, held, digest))

    def _issue(self, party: Party) -> Held:
        credential = issue_identity(
            self._authorities.issuing(party.kind),
            party.identity,
            names=party.names,
            days=party.days,
            now=self._now,
        )
        held = Held(
            chain_pem=credential.chain_pem,
            private_pem=credential.private_pem,
            certificate=describe_certificate(credential.certificate_pem),
        )
        return self._encrypt(held) if self._passphrase and party.kind is Kind.PERSON else held

    def _encrypt(self, held: Held) -> Held:
        assert self._passphrase is not None
        key = encrypt_key(held.private_pem, self._passphrase)
        return Held(chain_pem=held.chain_pem, private_pem=key, certificate=held.certificate)

    def _stage(self, party: Party, files: Files, folder: Path) -> str:
        """Write a whole signed kit into the staging folder; the digest of its manifest."""
        signer = self._signer
        files = {**files, SIGNER: (signer.certificate_pem, 0o644)}
        authority = self._authorities.record
        manifest = build_manifest(
            files,
            kind=party.kind,
            name=party.name,
            project=authority.project,
            project_id=authority.project_id,
            now=self._now,
        )
        signature = sign(signer.private_pem, manifest)
        whole = {**files, MANIFEST: (manifest, 0o644), SIGNATURE: (signature, 0o644)}
        write_tree(folder, whole)
        return digest_of(manifest)

    @cached_property
    def _signer(self) -> Credential:
        return self._authorities.create_signer(now=self._now)

    def _record_kept(self, plan: KitPlan) -> KitRecord:
        if plan.is_recorded and plan.known is not None:
            return plan.known
        assert plan.held is not None
        return self._record(plan, plan.held, plan.manifest)

    def _record(self, plan: KitPlan, held: Held, digest: str) -> KitRecord:
        earlier: tuple[IssuedCertificate, ...] = plan.known.certificates if plan.known else ()
        own = held.certificate.fingerprint
        valid = [one for one in earlier if one.not_after > self._now and one.fingerprint != own]
        return KitRecord(
            kind=plan.party.kind,
            identity=plan.party.identity.uri,
            names=plan.party.names,
            manifest=digest,
            certificates=(*valid, held.certificate),
            key_encrypted=is_encrypted(held.private_pem),
            recipe=self._composer.recipe(plan.party, held),
        )
