# SPDX-License-Identifier: Apache-2.0
"""`flprov server restore`: a backup becomes the state of a server that does not run.

The new state is made whole beside the old one, and changes places with it in one step. Whatever was there
is moved aside and never deleted. The server then starts drained: what was decided after the backup, a lock
or a revocation, it cannot know.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flprov._base import Clock, hold_lock, sync_folder, sync_tree, to_document
from flprov.errors import Conflict, FlprovError, KitRefused, LocalError, Misuse, StateDamaged
from flprov.kits import Kit
from flprov.server.log.receipts import digest_at
from flprov.server.operations.archive import FORMAT, ArchiveReader, Header
from flprov.server.operations.denials import find_denials, find_listed, keep_denial
from flprov.server.operations.restored import CHECK, Restored, put_restored
from flprov.server.records import Mark
from flprov.server.registry import DRAINED
from flprov.store import NEWEST_SCHEMA, START, STORE_FILE, LogRow, Put, Row, Store, open_store
from flprov.wire.documents import RestoreDocument

Progress = Callable[[int, int], None]

_UNFINISHED = ".unfinished"  # in a folder that a restore was making when it ended
_ROOM = 64 << 20  # bytes to leave free
_BATCH = 1000
_MOST_FORGOTTEN = 200

# Rows that say what an admin, or a site with an invite, has done: a restored server has forgotten them.
_DECISIONS = (
    "site.",
    "user.",
    "cert.revoke",
    "invite.",
    "trust.publish",
    "server.drain",
    "job.submit",
    "job.abort",
)
_HAPPENED = ("site.connect", "site.disconnect", "site.absent", "site.stopped", "site.restarted")


@dataclass(frozen=True, kw_only=True)
class _Past:
    """What the state that is replaced says happened after the backup."""

    index: int = 0
    decisions: tuple[str, ...] = ()
    denials: tuple[Put, ...] = ()  # records of who is kept out


async def restore(
    kit: Kit, state: Path, file: Path, *, by: str, clock: Clock, force: bool, progress: Progress
) -> RestoreDocument:
    """Put the backup in `file` in the place of `state`.

    Args:
        by: the user of this machine who does it, for the log.
        force: move a state that is there aside.

    Raises:
        KitRefused: a server runs, or the backup is another project's or server's.
        Conflict: there is a state, and no `force`.
        StateDamaged: the backup is damaged, or of a newer flprov.
        LocalError: the disk is full or broken.
    """
    began = time.monotonic()
    local = state.parent
    local.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(kit, state), ArchiveReader(file) as archive:
        header = _verify_ours(archive.header(), kit, file)
        occupied = _verify_free(state, force=force)
        _verify_room(local, header)
        _clear_unfinished(state)
        past = await _look_back(kit, state, header, clock) if occupied else _Past()
        aside = local / f"state.replaced-{clock.now():%Y%m%dT%H%M%SZ}"
        staging = _new_folder(aside)
        _extract(archive, staging, header, progress)
        await _mark_restored(staging, kit, header, past, by=by, clock=clock)
        sync_tree(staging)
        _exchange(staging, state)
        (state / _UNFINISHED).unlink()
        if not occupied:
            shutil.rmtree(staging, ignore_errors=True)
    return RestoreDocument(
        state=str(state),
        moved_aside=str(staging) if occupied else "",
        log_index=header.log_index,
        made_at=header.made_at,
        bytes=header.bytes,
        check=CHECK,
        forgotten=past.decisions,
        denials=len(past.denials),
        seconds=round(time.monotonic() - began, 3),
    )


@contextlib.contextmanager
def _alone(kit: Kit, state: Path) -> Iterator[None]:
    """No server runs on this state, and none can start; nobody else restores."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(state.parent / "restore.lock"))
        except BlockingIOError:
            raise Conflict(
                "another restore of this server is under way", hint="wait until it is done"
            ) from None
        try:
            if state.is_dir():
                stack.enter_context(hold_lock(state / "lock"))
        except BlockingIOError:
            raise KitRefused(
                f"the server {kit.name} is running, and cannot be restored under its feet",
                hint="stop it first: systemctl stop flprov-server, or Ctrl-C where it runs",
            ) from None
        yield


def _verify_ours(header: Header, kit: Kit, file: Path) -> Header:
    if header.format > FORMAT or header.schema > NEWEST_SCHEMA:
        raise StateDamaged(
            f"the backup {file} was made by a newer flprov, {header.flprov}: its store has version"
            f" {header.schema}, this flprov knows versions up to {NEWEST_SCHEMA}",
            hint=f"install flprov {header.flprov} or newer here",
        )
    if header.project_id != kit.project_id:
        raise KitRefused(
            f"the backup {file} is of another project than this kit: {header.project}, and not {kit.project}"
            if header.project != kit.project
            else f"the backup {file} is of another project that is called {kit.project}, too",
            hint="look for the backup of this project, or the kit of that one",
        )
    if header.server != kit.name:
        raise KitRefused(f"the backup {file} is of the server {header.server}, and this kit is {kit.name}'s")
    return header


def _verify_free(state: Path, *, force: bool) -> bool:
    """Whether a state is there that has to be moved aside."""
    if not state.is_dir() or not ({path.name for path in state.iterdir()} - {"lock", _UNFINISHED}):
        return False
    if not force:
        raise Conflict(
            f"{state} holds the state of a server already",
            hint="--force moves it aside, and deletes nothing",
        )
    return True


def _verify_room(local: Path, header: Header) -> None:
    free = shutil.disk_usage(local).free
    if free < header.bytes + _ROOM:
        raise LocalError(
            f"the backup needs {header.bytes >> 20} MiB, and the disk of {local} has {free >> 20} MiB free",
            hint="free some space there",
        )


def _clear_unfinished(state: Path) -> None:
    """What a restore was making when it was killed. Never anything that was a state."""
    (state / _UNFINISHED).unlink(missing_ok=True)  # it was killed after the last step but one
    for folder in state.parent.glob("state.replaced-*"):
        if (folder / _UNFINISHED).exists():
            shutil.rmtree(folder)


def _new_folder(aside: Path) -> Path:
    """Where the new state is made, and where the old one will lie after they have changed places."""
    for number in range(1, 100):
        folder = aside if number == 1 else aside.with_name(f"{aside.name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            (folder / _UNFINISHED).touch(mode=0o600)
            return folder
    raise Misuse(f"{aside} exists, and many like it", hint="move them elsewhere")


def _extract(archive: ArchiveReader, staging: Path, header: Header, progress: Progress) -> None:
    done = 0

    def step(size: int) -> None:
        nonlocal done
        done += size
        progress(min(done, header.bytes), header.bytes)

    try:
        manifest = archive.extract(staging, step=step)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise LocalError(f"the backup could not be unpacked: {error.strerror or error}") from error
    except FlprovError:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    for name in manifest.files:
        if name.startswith("blobs/"):
            (staging / name).chmod(0o444)


async def _look_back(kit: Kit, state: Path, header: Header, clock: Clock) -> _Past:
    """What the state that is replaced knows and the backup does not; nothing if it cannot be read."""
    if not (state / STORE_FILE).is_file():
        return _Past()
    try:
        store = open_store(state, clock=clock)
    except FlprovError:
        return _Past()
    denials: tuple[Put, ...] = ()
    try:
        denials = (*_listed(kit, state, clock), *find_denials(store))  # whatever the backup says of itself
        if header.log_index <= store.head and _digest(store, header.log_index) != header.log_digest:
            return _Past(index=store.head, denials=denials)  # it has another past: no more can be said
        rows = _rows(store, header.log_index + 1)
        told = [_say(found) for found in rows if _is_decision(found)]
        return _Past(index=store.head, decisions=tuple(told[:_MOST_FORGOTTEN]), denials=denials)
    except FlprovError:  # who is kept out does not hang on every row of its log
        return _Past(index=store.head, denials=denials)
    finally:
        await store.close()


def _listed(kit: Kit, state: Path, clock: Clock) -> tuple[Put, ...]:
    try:
        return tuple(find_listed(kit, state, clock.now()))
    except FlprovError:  # no server could go on with such a bundle
        return ()


def _rows(store: Store, start: int) -> Iterator[LogRow]:
    while batch := store.rows(start, _BATCH):
        yield from batch
        start = batch[-1].index + 1


def _is_decision(found: LogRow) -> bool:
    what = found.row.what
    return what.startswith(_DECISIONS) and what not in _HAPPENED and found.row.outcome == "ok"


def _say(found: LogRow) -> str:
    row = found.row
    why = f": {row.reason}" if row.reason else ""
    who = row.who.rpartition("/")[2]
    return f"{row.what} {row.object} by {who} on {found.at:%Y-%m-%d %H:%M} UTC{why}"


async def _mark_restored(
    staging: Path, kit: Kit, header: Header, past: _Past, *, by: str, clock: Clock
) -> None:
    """Bring the store forward, and write down that it was restored: the server starts drained."""
    now = clock.now()
    restored = Restored(
        at=now,
        by=by,
        backup_made_at=header.made_at,
        backup_index=header.log_index,
        lost_index=past.index,
        forgotten=past.decisions,
    )
    mark = Mark(by=by, at=now, reason="restored from a backup")
    data: dict[str, object] = {
        "by": by,
        "backup_index": header.log_index,
        "backup_made_at": to_document(header.made_at),
        "lost_index": past.index,
    }
    store = open_store(staging, clock=clock)
    try:
        _verify_header(store, header)
        denials = [keep_denial(store, denial) for denial in past.denials]
        changes = [Put(*DRAINED, to_document(mark)), put_restored(restored), *denials]
        await store.commit(changes, Row(who="server", what="server.restore", object=kit.name, data=data))
    finally:
        await store.close()


def _verify_header(store: Store, header: Header) -> None:
    """That what was said of the backup, and what was forgotten is judged by, is true of the store in it."""
    if (store.head, _digest(store, store.head)) != (header.log_index, header.log_digest):
        raise StateDamaged(
            f"the backup says that its log ends at row {header.log_index}, and that is not so"
            f" (it has {store.head} rows)",
            hint="take another one",
        )


def _digest(store: Store, index: int) -> str:
    return digest_at(store, index) or START.digest


def _exchange(staging: Path, state: Path) -> None:
    """In one step the new state is there, and the old one where the new one was made."""
    if not state.exists():
        state.mkdir(mode=0o700)
    at_cwd, exchange = -100, 2
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(at_cwd, os.fsencode(staging), at_cwd, os.fsencode(state), exchange) != 0:
        code = ctypes.get_errno()
        raise LocalError(
            f"{staging} is ready and could not change places with {state}: {os.strerror(code)}",
            hint=f"move {state} away, then {staging} to {state}",
        )
    sync_folder(state.parent)
