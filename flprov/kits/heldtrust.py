# SPDX-License-Identifier: Apache-2.0
"""The newest trust bundle that a party holds, on its own disk: the same rules for server, site and person.

A bundle is believed if a provisioner under a root that is held already signed it, and if it is newer.
Once one is held, its roots are the ones that count, and no longer the kit's: that is how a root is
replaced. What a later start needs to get from the kit's root to the newest bundle is kept beside it,
in `<name>.before.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from flprov._base import canonical_json, parse_json, write_atomic
from flprov.errors import IdentityRefused
from flprov.kits.kit import Kit
from flprov.kits.reading import Unreadable, read_stored
from flprov.kits.trust import SignedTrust, Trust, decode_trust, verify_trust
from flprov.pki import Anchors, not_after, not_before

FILE = "trust.json"
_LARGEST = 64 << 20  # bytes of a file: the newest, or the few that led to it


class HeldTrust:
    """What one party holds. Reads with `load`, takes a newer one with `verify` and `keep`."""

    def __init__(self, path: Path, roots: Anchors, *, project_id: str, first: Trust | None = None) -> None:
        """Holds nothing but the kit's own word until `load`.

        Args:
            path: of the file, `trust.json`.
            roots: the kit's.
            project_id: whose bundles these must be.
            first: the bundle in the kit, if it has one.
        """
        self._path = path
        self._roots = first.anchors["root"] if first else roots
        self._kit_roots = self._roots
        self._project_id = project_id
        self._before: tuple[SignedTrust, ...] = ()
        self.current = first

    @property
    def version(self) -> int:
        """Of the bundle that is held; 0: only the kit's anchors."""
        return self.current.version if self.current else 0

    def load(self, now: datetime) -> None:
        """Read what was kept, unless the kit's own bundle is as new.

        Raises:
            IdentityRefused: what lies there is not what a provisioner of this project signed.
        """
        if not self._path.exists():
            return
        signed = self._read()
        if signed.claimed_version <= self.version:
            return
        try:
            before: tuple[SignedTrust, ...] = ()
            found = self._verify_kept(signed, self._kit_roots, now)
        except IdentityRefused:
            before = self._read_before()
            found = self._verify_kept(signed, self._follow(before, now), now)
        self._hold(found, before)

    def _follow(self, steps: Sequence[SignedTrust], now: datetime) -> Anchors:
        """The roots at the end of these steps, each of which the roots of the one before have signed."""
        roots = self._kit_roots
        for signed in steps:
            roots = self._verify_kept(signed, roots, now).anchors["root"]
        return roots

    def set_aside(self) -> Path:
        """Move files that cannot be used out of the way, for people to look at; where the newest is now."""
        for path in (self._before_path, self._path):
            if path.exists():
                aside = path.replace(path.with_name(f"{path.name}.refused"))
        return aside

    def verify(self, signed: SignedTrust, now: datetime) -> Trust | None:
        """The bundle, if it is to replace the one that is held; None if it is that one.

        Raises:
            IdentityRefused: saying why the one that is held stays.
        """
        if self.current is not None and signed.document == self.current.signed.document:
            return None
        found = self._verify(signed, self._roots, now)
        if found.version < self.version:
            raise IdentityRefused(
                f"trust bundle {found.version} is older than the one that is held here, {self.version}"
            )
        if found.version == self.version:
            raise IdentityRefused(
                f"there are two trust bundles with version {found.version}, and this is not the one"
                " that is held here",
                hint="somebody provisions this project in two workspaces; go on with the newer one alone",
            )
        return found

    def keep(self, trust: Trust) -> None:
        """Hold a bundle that `verify` returned, durably: it is on the disk when this returns.

        Raises:
            OSError: the disk does not take it; the old one is still held.
        """
        before = self._steps_to(trust)
        if before != self._before:
            write_atomic(self._before_path, canonical_json([step.encode().decode() for step in before]))
        write_atomic(self._path, trust.signed.encode())
        self._hold(trust, before)

    def _steps_to(self, trust: Trust) -> tuple[SignedTrust, ...]:
        """The bundles between the kit's roots and this one: as few as lead there, or they would pile up."""
        steps = (*self._before, self.current.signed) if self.current else ()
        roots, now = self._kit_roots, trust.says.made_at
        for number, step in enumerate(steps):
            try:
                self._verify_kept(trust.signed, roots, now)
            except IdentityRefused:
                roots = self._verify_kept(step, roots, now).anchors["root"]
            else:
                return steps[:number]
        return steps

    def _hold(self, trust: Trust, before: Sequence[SignedTrust]) -> None:
        self.current = trust
        self._roots = trust.anchors["root"]
        self._before = tuple(before)

    def _verify_kept(self, signed: SignedTrust, roots: Anchors, now: datetime) -> Trust:
        """One that was taken once stays taken: a clock that is wrong brings back nobody who was revoked."""
        now = min(max(now, not_before(signed.signer)), not_after(signed.signer))
        return self._verify(signed, roots, now)

    def _verify(self, signed: SignedTrust, roots: Anchors, now: datetime) -> Trust:
        return verify_trust(signed, roots, project_id=self._project_id, now=now)

    @property
    def _before_path(self) -> Path:
        return self._path.with_name(f"{self._path.stem}.before.json")

    def _read(self) -> SignedTrust:
        return decode_trust(self._read_file(self._path))

    def _read_before(self) -> tuple[SignedTrust, ...]:
        if not self._before_path.exists():
            return ()
        try:
            return tuple(
                decode_trust(text.encode()) for text in parse_json(self._read_file(self._before_path))
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise IdentityRefused(f"{self._before_path} cannot be read: {error}") from error

    @staticmethod
    def _read_file(path: Path) -> bytes:
        try:
            return read_stored(path, limit=_LARGEST).data
        except Unreadable as error:
            raise IdentityRefused(f"{path} {error}") from error


def newer_than_kit(held: HeldTrust, kit: Kit) -> Trust | None:
    """The bundle by which to go instead of the kit's own anchors; None while the kit is the newer one.

    Whoever was away for long may get a new kit while an old bundle still lies beside it.
    """
    found = held.current
    if found is None or kit.trust is not None:  # then the newer of the two bundles is held
        return found
    return found if found.says.made_at >= kit.made_at else None
