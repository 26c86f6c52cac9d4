# SPDX-License-Identifier: Apache-2.0
"""One attempt to join, as it lies on the hospital's disk: `<kit>.joining/`, private, until the kit is whole.

    key.pem       the site's new key, made before anybody is asked for anything
    invite        the invite's line
    answer.json   what the server gave, once it was verified
    kit/          the kit while it is put together

The server gives one certificate per invite, to the first key that asks. So the key is on the disk before
the first byte is sent, and after a crash or a lost answer the same key asks again and gets the same.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from flprov._base import hold_lock, sync_folder, sync_tree, write_private, write_tree
from flprov.errors import Conflict, FlprovError, Misuse, NotFound
from flprov.kits.credential import current_credential, own_anchors
from flprov.kits.invitation import Invitation, decode_invitation, encode_invitation
from flprov.kits.joining import (
    Answer,
    compose_joined,
    decode_answer,
    encode_answer,
    verify_answer,
)
from flprov.kits.kit import Kit, load_kit
from flprov.kits.manifest import CERTIFICATE
from flprov.kits.reading import Unreadable, read_stored
from flprov.pki import Kind, create_key, create_request, key_fingerprint, public_key_pem

_KEY, _LINE, _ANSWER, _KIT = "key.pem", "invite", "answer.json", "kit"
_LARGEST = 32 << 20


class Attempt:
    """One attempt to join. Made by `open_attempt`; `repr` shows no key."""

    def __init__(self, kit: Path, invitation: Invitation, private_pem: bytes) -> None:
        self.kit = kit
        self.folder = _folder_of(kit)
        self.invitation = invitation
        self.private_pem = private_pem

    def __repr__(self) -> str:
        return f"<Attempt of {self.invitation.site} at {self.kit}>"

    @property
    def request_pem(self) -> bytes:
        """The request for the site's certificate."""
        return create_request(self.private_pem)

    @property
    def fingerprint(self) -> str:
        """Of the site's new key: what an admin compares."""
        return key_fingerprint(public_key_pem(self.private_pem))

    def find_valid_kit(self, *, now: datetime) -> Kit | None:
        """The kit that lies in the place already, if it is this site's and has not expired.

        Its certificate is the one in use. None if the place is free, or what lies there has expired:
        then it is moved aside in the end.

        Raises:
            Conflict: something else lies there.
        """
        if not os.path.lexists(self.kit):
            return None
        move = f"name another place: -o KIT; or move it away: mv {self.kit} {self.kit}.old"
        try:
            found = load_kit(self.kit, now=now, kind=Kind.SITE)
        except FlprovError as error:
            raise Conflict(f"{self.kit} is there already, and no good kit: {error}", hint=move) from error
        if (found.identity, found.project_id) != (self.invitation.site, self.invitation.project_id):
            raise Conflict(f"{self.kit} is there already: the kit of {found.identity}", hint=move)
        try:
            current = current_credential(found, anchors=own_anchors(found), now=now)
        except FlprovError:
            return None
        return replace(found, chain_pem=current.chain_pem, private_pem=current.private_pem)

    def verify_place(self, *, now: datetime) -> None:
        """Pass if the place is free, or holds this site's kit which has expired.

        Raises:
            Conflict: something else lies there, or a kit that may still work.
        """
        if self.find_valid_kit(now=now) is not None:
            raise Conflict(
                f"{self.kit} is there already, and its certificate has not expired",
                hint=f"if the server refuses it, move it away: mv {self.kit} {self.kit}.old",
            )

    def kept_answer(self, *, now: datetime) -> Answer | None:
        """The answer of an earlier run, if one came."""
        try:
            answer = decode_answer(read_stored(self.folder / _ANSWER, limit=_LARGEST).data)
            verify_answer(self.invitation, self.private_pem, answer, now=now)
        except (Unreadable, FlprovError):
            return None
        return answer

    def keep_answer(self, answer: Answer, *, now: datetime) -> None:
        """Verify an answer and keep it.

        Raises:
            IdentityRefused: it is not what was asked for.
        """
        verify_answer(self.invitation, self.private_pem, answer, now=now)
        write_private(self.folder / _ANSWER, encode_answer(answer))

    def finish(self, answer: Answer, *, now: datetime) -> tuple[Kit, Path | None]:
        """Put the kit in its place, whole or not at all.

        Returns:
            The kit, and where the kit went that was there before.

        Raises:
            IdentityRefused: the answer is not what was asked for.
        """
        if not self._is_done(answer):
            staged = self._stage(answer, now)
            aside = self._move_aside(now)
            staged.rename(self.kit)
            sync_folder(self.kit.parent)
        else:
            aside = None
        kit = load_kit(self.kit, now=now, kind=Kind.SITE)
        shutil.rmtree(self.folder, ignore_errors=True)
        return kit, aside

    def _is_done(self, answer: Answer) -> bool:
        """Whether a run that died had put the kit there already."""
        try:
            return read_stored(self.kit / CERTIFICATE, limit=_LARGEST).data == answer.chain_pem
        except Unreadable:
            return False

    def _stage(self, answer: Answer, now: datetime) -> Path:
        staged = self.folder / _KIT
        if staged.exists():
            shutil.rmtree(staged)
        write_tree(staged, compose_joined(self.invitation, self.private_pem, answer, now=now))
        load_kit(staged, now=now, kind=Kind.SITE)  # what cannot be loaded is not put there
        sync_tree(staged)
        return staged

    def _move_aside(self, now: datetime) -> Path | None:
        """`<kit>.local/` stays: it is the machine's own, and its settings go on being right."""
        if not os.path.lexists(self.kit):
            return None
        aside = self.kit.with_name(f"{self.kit.name}.old-{now:%Y-%m-%d}")
        if os.path.lexists(aside):
            aside = self.kit.with_name(f"{self.kit.name}.old-{now:%Y-%m-%d-%H%M%S}")
        self.kit.rename(aside)
        return aside


@contextlib.contextmanager
def open_attempt(kit: Path | None, line: str | None, *, site: str = "") -> Iterator[Attempt]:
    """The attempt to make a kit at `kit` with this invite: a new one, or the one that was begun.

    Args:
        kit: where the kit is to be; a folder with the site's name when None.
        line: the invite; what the attempt holds that was begun when None.
        site: which site the invite must be for; any when empty.

    Raises:
        Misuse, IdentityRefused: the line is no invite.
        NotFound: there is no line, and no attempt was begun.
        Conflict: the invite is for another site, another process is at it, or something else lies there.
    """
    if line is None:
        kit = _find_begun(kit)
        invitation = decode_invitation(_read(_folder_of(kit) / _LINE))
    else:
        invitation = decode_invitation(line)
        kit = (kit or Path(invitation.site.name)).absolute()
    if site and site != invitation.site.name:
        raise Conflict(
            f"the invite is for site {invitation.site.name}, not for {site}",
            hint=f"ask for one for this site: flprov invite create {site}",
        )
    folder, is_new = _folder_of(kit), not os.path.lexists(_folder_of(kit))
    kit.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    _verify_private(folder)
    try:
        with _hold(folder):
            yield Attempt(kit, invitation, _take_key(folder, invitation))
    except Conflict:
        if is_new:  # nothing was asked for with this key
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _verify_private(folder: Path) -> None:
    """What somebody else has put there first could be changed by them while the key lies in it."""
    found = folder.lstat()
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not is_own or stat.S_IMODE(found.st_mode) & 0o077:
        raise Conflict(
            f"{folder} is there already, and it is not a folder that is this user's alone",
            hint=f"look who made it, and remove it; or name another place: -o KIT; or: chmod 700 {folder}",
        )


def _folder_of(kit: Path) -> Path:
    if not kit.name:
        raise Misuse(f"{kit} cannot be a kit", hint="name a folder that is not there yet: -o KIT")
    return kit.with_name(f"{kit.name}.joining")


def _find_begun(kit: Path | None) -> Path:
    if kit is not None:
        kit = kit.absolute()
        if (_folder_of(kit) / _LINE).exists():
            return kit
        raise NotFound(f"no join was begun for {kit}", hint="flprov join INVITE")
    begun = [path.parent for path in sorted(Path().absolute().glob(f"*.joining/{_LINE}"))]
    if len(begun) == 1:
        return begun[0].with_name(begun[0].name.removesuffix(".joining"))
    if not begun:
        raise NotFound("no join was begun in this folder", hint="give the invite, or -o KIT")
    raise Misuse(
        f"several joins were begun here: {', '.join(path.name for path in begun[:3])}",
        hint="name one: -o KIT",
    )


@contextlib.contextmanager
def _hold(folder: Path) -> Iterator[None]:
    try:
        with hold_lock(folder / "lock"):
            yield
    except BlockingIOError:
        raise Conflict(
            f"another `flprov join` is at work in {folder}", hint="wait until it is done, or stop it"
        ) from None


def _take_key(folder: Path, invitation: Invitation) -> bytes:
    """The key that goes with this invite: the one that lies there, or a new one."""
    if (folder / _LINE).exists() and (folder / _KEY).exists():
        try:
            begun = decode_invitation(_read(folder / _LINE))
        except FlprovError:
            begun = None
        if begun is not None and begun.site != invitation.site:
            raise Conflict(
                f"{folder} holds the begun join of {begun.site}, and the invite is for {invitation.site}",
                hint="give another place: -o KIT",
            )
        if begun is not None and begun.identity == invitation.identity:
            return _read(folder / _KEY).encode()
    (folder / _ANSWER).unlink(missing_ok=True)
    private_pem = create_key()
    # The invite after the key: what is begun has both, or it begins anew.
    (folder / _LINE).unlink(missing_ok=True)
    write_private(folder / _KEY, private_pem)
    write_private(folder / _LINE, encode_invitation(invitation).encode() + b"\n")
    return private_pem


def _read(path: Path) -> str:
    try:
        return read_stored(path, limit=1 << 20).data.decode("ascii", "replace")
    except Unreadable as error:
        raise Misuse(f"{path} {error}") from error
