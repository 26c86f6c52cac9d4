# SPDX-License-Identifier: Apache-2.0
"""One kit to one host: upload beside its place, verify there, and put it into place in one step.

```
<dir>/hospital-a/                    the kit that is there now; until the last step nobody touches it
<dir>/.hospital-a.<random>.partial/  0700; what has arrived; a later run claims it by renaming it
<dir>/.hospital-a.<random>.old/      the replaced kit, until it is removed
<dir>/hospital-a.local/              the host's own; never touched
```

At any cut the name holds the whole old kit or the whole new one. Where the host has no kit, rename(2)
does it. Where it has one, two folders must change hands: renameat2(RENAME_EXCHANGE), for which SFTP has
no message, so a line of Python or, failing that, two `mv` in one shell do it at the host, whatever happens
to the connection. A host that allows SFTP alone gets two renames; a cut between them leaves the old kit
under `.old`, and the next run puts it back before it does anything else.
"""

from __future__ import annotations

import enum
import posixpath
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flprov._base import from_document, parse_json
from flprov.errors import Conflict, RemoteError
from flprov.kits import remote
from flprov.kits.manifest import MANIFEST, SIGNATURE, Manifest, digest_of
from flprov.kits.parcel import Parcel, digest
from flprov.kits.ssh import SSH_ERRORS, Link

if TYPE_CHECKING:
    from paramiko import SFTPAttributes

_LARGEST_MANIFEST = 1 << 20
_PRIVATE = 0o700
_EXCHANGE = """\
import ctypes, os, sys
new, final = map(os.fsencode, sys.argv[1:])
sys.exit(ctypes.CDLL(None).renameat2(-100, new, -100, final, 2) != 0)"""
_SWAP = f"""\
trap '' HUP
if python3 -c '{_EXCHANGE}' "$1" "$2" 2>/dev/null; then
  mv -T -- "$1" "$3"
elif mv -T -- "$2" "$3"; then
  mv -T -- "$1" "$2" || mv -T -- "$3" "$2"
fi"""

Step = Callable[[str, int, int], None]  # what is being done, bytes done, bytes in all


class DeliveryOutcome(enum.Enum):
    """What became of one delivery."""

    DELIVERED = "delivered"  # the host had no such kit
    REPLACED = "replaced"  # it had an older one, or a damaged one
    UNCHANGED = "unchanged"  # it has this very kit
    FAILED = "failed"  # the host is as it was, but for a partial


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A kit that is in its place."""

    outcome: DeliveryOutcome
    path: str  # of the kit at the host
    sent: int  # bytes
    kept: int  # files that an earlier run had brought
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class _Standing:
    """The kit that is in the place now."""

    manifest: Manifest
    digest: str
    files: dict[str, SFTPAttributes]
    owner: tuple[int, int]


def place_kit(link: Link, parcel: Parcel, folder: str, *, step: Step) -> Placed:
    """Bring a kit into `folder` at the far end.

    Raises:
        Conflict: what is there now is newer, another party's, or no kit.
        Unavailable: the connection ended.
        RemoteError: the host does not let us write, or gives back other bytes.
    """
    step("looking", 0, parcel.size)
    with link.told(f"looking at {folder or 'its home folder'}"):
        place = _Place(link, _resolve(link, folder), parcel, step)
        place.put_back()
        standing = place.read_standing()
        if standing is not None:
            place.verify_may_replace(standing)
    if standing is not None and standing.digest == parcel.kit.manifest_digest:
        with link.told("verifying the kit that is there"):
            if not place.differing(place.final):
                note = place.clear()
                return Placed(
                    outcome=DeliveryOutcome.UNCHANGED,
                    path=place.final,
                    sent=0,
                    kept=len(parcel.files),
                    note=note,
                )
    with link.told("uploading"):
        partial, kept = place.claim_partial()
        sent = place.upload(partial)
        if standing is not None:
            place.give(partial, standing.owner)
    with link.told("putting the kit into place"):
        place.put(partial, standing)
        note = place.clear()
    outcome = DeliveryOutcome.REPLACED if standing else DeliveryOutcome.DELIVERED
    return Placed(outcome=outcome, path=place.final, sent=sent, kept=kept, note=note)


def _resolve(link: Link, folder: str) -> str:
    """The folder that kits go to, made if it is not there."""
    folder = folder.removeprefix("~/")
    path = posixpath.join(link.sftp.normalize("."), folder).rstrip("/") or "/"
    remote.make_folders(link.sftp, path)
    found = remote.find_through(link.sftp, path)
    if found is None or not remote.is_folder(found):
        raise Conflict(f"{link.login}: {path} is not a folder")
    if remote.mode_of(found) & 0o1002 == 0o0002:
        raise Conflict(
            f"{link.login}: everybody at that host may write to {path} and swap a kit there",
            hint="name another folder, or take the right away: chmod o-w",
        )
    return path


class _Place:
    """The place of one kit at one host."""

    def __init__(self, link: Link, folder: str, parcel: Parcel, step: Step) -> None:
        self._link = link
        self._sftp = link.sftp
        self._folder = folder
        self._parcel = parcel
        self._step = step
        self._name = parcel.kit.name
        self.final = posixpath.join(folder, self._name)

    def _beside(self, ending: str) -> str:
        return posixpath.join(self._folder, f".{self._name}.{secrets.token_hex(8)}.{ending}")

    def _leftovers(self, ending: str) -> list[str]:
        """What earlier runs left, newest first."""
        form = re.compile(rf"\.{re.escape(self._name)}\.[0-9a-f]{{16}}\.{ending}")
        found = [
            entry
            for entry in self._sftp.listdir_attr(self._folder)
            if form.fullmatch(entry.filename) and remote.is_folder(entry)
        ]
        found.sort(key=lambda entry: -(entry.st_mtime or 0))
        return [posixpath.join(self._folder, entry.filename) for entry in found]

    def put_back(self) -> None:
        """Undo the first of two renames if an earlier run was cut between them."""
        if remote.find(self._sftp, self.final) is None:
            for old in self._leftovers("old")[:1]:
                remote.move(self._sftp, old, self.final)

    # ---- what is there now ---------------------------------------------------------------------

    def read_standing(self) -> _Standing | None:
        """The kit in the place; None if the place is free."""
        found = remote.find(self._sftp, self.final)
        if found is None:
            return None
        if not remote.is_folder(found):
            raise self._in_the_way("is no folder")
        read = self._read_manifest(self.final)
        if read is None:
            raise self._in_the_way("is no kit")
        return _Standing(
            manifest=read[0],
            digest=read[1],
            files=remote.list_tree(self._sftp, self.final),
            owner=(found.st_uid or 0, found.st_gid or 0),
        )

    def _in_the_way(self, what: str) -> Conflict:
        return Conflict(
            f"{self._link.login}: {self.final} {what}, and is not overwritten",
            hint="move it away at the host, or name another folder",
        )

    def _read_manifest(self, folder: str) -> tuple[Manifest, str] | None:
        try:
            raw = remote.read(self._sftp, posixpath.join(folder, MANIFEST), limit=_LARGEST_MANIFEST)
            return from_document(Manifest, parse_json(raw)), digest_of(raw)
        except (FileNotFoundError, ValueError):
            return None

    def verify_may_replace(self, standing: _Standing) -> None:
        """Refuse to replace another party's kit, a newer one, or files that are somebody's own."""
        kit, there = self._parcel.kit, standing.manifest
        if (there.kind, there.name, there.project_id) != (kit.kind, kit.name, kit.project_id):
            raise self._in_the_way(
                f"is the kit of {there.kind.value} {there.name} of another project ({there.project}"
                f" {there.project_id})"
            )
        if there.made_at > kit.made_at:
            raise self._in_the_way(
                f"was made on {there.made_at:%Y-%m-%d %H:%M} UTC, after the one that was to be sent"
                f" ({kit.made_at:%Y-%m-%d %H:%M})"
            )
        own = sorted(standing.files.keys() - {*there.files, MANIFEST, SIGNATURE})
        if own:
            raise Conflict(
                f"{self._link.login}: {self.final} holds what is not part of the kit: {', '.join(own[:5])}",
                hint=f"at the host, move it to {self.final}.local/",
            )

    def differing(self, folder: str) -> list[str]:
        """The files of the kit that are not in `folder` as they should be: every byte is read back."""
        found = remote.list_tree(self._sftp, folder)
        return [name for name in self._parcel.files if not self._is_good(folder, name, found.get(name))]

    def _is_good(self, folder: str, name: str, found: SFTPAttributes | None) -> bool:
        data, mode = self._parcel.files[name]
        if found is None or found.st_size != len(data) or found.st_mode is None:
            return False
        if found.st_mode & 0o170000 != 0o100000 or remote.mode_of(found) & ~mode & 0o7777:
            return False
        return digest(remote.read(self._sftp, posixpath.join(folder, name), limit=len(data))) == digest(data)

    # ---- uploading -----------------------------------------------------------------------------

    def claim_partial(self) -> tuple[str, int]:
        """A partial of our own, and how many good files it holds: a new one or one that a cut run left.

        Renaming it makes it ours: whoever else was uploading there finds nothing under the old name.
        """
        new = self._beside("partial")
        self._sftp.mkdir(new, _PRIVATE)
        self._sftp.chmod(new, _PRIVATE)
        made = self._sftp.lstat(new)
        for left in self._leftovers("partial"):
            if left == new or self._sftp.lstat(left).st_uid != made.st_uid:
                continue
            read = self._read_manifest(left)
            if read is None or read[1] != self._parcel.kit.manifest_digest:
                continue
            claimed = self._beside("partial")
            try:
                remote.move(self._sftp, left, claimed)
            except OSError:  # somebody else was quicker
                continue
            found = self._sftp.lstat(claimed)
            if remote.is_folder(found) and (found.st_uid, remote.mode_of(found)) == (made.st_uid, _PRIVATE):
                self._sftp.rmdir(new)
                return claimed, self._keep_good(claimed)
        return new, 0

    def _keep_good(self, partial: str) -> int:
        differing = set(self.differing(partial))
        for name in remote.list_tree(self._sftp, partial):
            if name in differing or name not in self._parcel.files:
                self._sftp.remove(posixpath.join(partial, name))
        return len(self._parcel.files) - len(differing)

    def upload(self, partial: str) -> int:
        """Bring what is missing, and verify everything; bytes that were sent."""
        there = remote.list_tree(self._sftp, partial)
        missing = [name for name in self._parcel.files if name not in there]
        folders = {posixpath.dirname(name) for name in missing if "/" in name}
        for folder in sorted(folders):
            path = posixpath.join(partial, folder)
            if remote.find(self._sftp, path) is None:
                self._sftp.mkdir(path, 0o755)
        sent = sum(self._send(partial, missing))
        if bad := self.differing(partial):
            raise RemoteError(f"{self._link.login} gives back other bytes than were sent: {', '.join(bad)}")
        return sent

    def _send(self, partial: str, names: list[str]) -> list[int]:
        total = sum(len(self._parcel.files[name][0]) for name in names)
        sent = []

        def count(more: int) -> None:
            sent.append(more)
            self._step("uploading", sum(sent), total)

        for name in names:
            data, mode = self._parcel.files[name]
            remote.write_new(self._sftp, posixpath.join(partial, name), data, mode=mode, count=count)
        self._step("verifying", total, total)
        return sent

    def give(self, partial: str, owner: tuple[int, int]) -> None:
        """Let the new kit belong to whom the old one belongs to (root delivers, a service user reads)."""
        made = self._sftp.lstat(partial)
        if (made.st_uid, made.st_gid) == owner:
            return
        if made.st_uid == owner[0]:
            return  # another group of the same user: the key is for the user alone
        names = list(self._parcel.files)
        for name in {*(posixpath.dirname(name) for name in names), *names}:
            self._sftp.chown(posixpath.join(partial, name).rstrip("/"), *owner)

    # ---- into place ----------------------------------------------------------------------------

    def put(self, partial: str, standing: _Standing | None) -> None:
        """The one step after which the kit is there."""
        self._step("putting into place", self._parcel.size, self._parcel.size)
        if standing is None:
            remote.move(self._sftp, partial, self.final)
        else:
            old = self._beside("old")
            if not self._swap_by_command(partial, old):
                self._swap_by_renames(partial, old)
        if not self._is_in_place():
            raise RemoteError(f"{self._link.login}: {self.final} is not the kit that was put there")

    def _is_in_place(self) -> bool:
        read = self._read_manifest(self.final)
        return read is not None and read[1] == self._parcel.kit.manifest_digest

    def _swap_by_command(self, partial: str, old: str) -> bool:
        try:
            self._link.run(_SWAP, partial, self.final, old)
        except SSH_ERRORS:
            if not self._link.is_open:
                raise
        return self._is_in_place()

    def _swap_by_renames(self, partial: str, old: str) -> None:
        """For hosts that run no commands for us."""
        if remote.find(self._sftp, self.final) is not None:
            remote.move(self._sftp, self.final, old)
        try:
            remote.move(self._sftp, partial, self.final)
        except OSError:
            remote.move(self._sftp, old, self.final)
            raise

    def clear(self) -> str:
        """Remove what earlier runs and this one left behind; a sentence if that is not possible."""
        try:
            for left in [*self._leftovers("old"), *self._leftovers("partial")]:
                remote.remove_tree(self._sftp, left)
        except OSError as error:
            return f"old files beside the kit could not be removed: {error.strerror or error}"
        return ""
