# SPDX-License-Identifier: Apache-2.0
"""Large files that nobody needs any more, kept for a while to be written over (see `flprov._base.spare`).

Nobody reads what is left in them: a file that is written over gets a blob's name only once all of its bytes
have come and have the digest of that blob. What a job's process wrote goes back to that process alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from flprov._base import LEAST_SPARE, is_spare, remove_file, spare_name
from flprov.blobs.disk import OpenFile

_IDLE = 60.0  # seconds that a spare is kept
_SHARE = 4  # spares together take at most a quarter of the space that is free
_MOST_BACK = 2  # that lie in the folder of one process


@dataclass(frozen=True, kw_only=True)
class Home:
    """The folder that a file came from, known by its inode: the name may mean another one by now."""

    path: Path
    device: int
    inode: int

    @classmethod
    def of(cls, folder: Path) -> Home:
        """As it is now. Raises OSError."""
        found = folder.lstat()
        return cls(path=folder, device=found.st_dev, inode=found.st_ino)


class Spares:
    """The spare files in one folder. For the thread of an event loop; without one, nothing is kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[Path, int] = {}
        for path in folder.iterdir():
            if is_spare(path.name):  # of an earlier process
                path.unlink(missing_ok=True)

    def keep(self, path: Path) -> None:
        """Let go of a file: a large one without other names is kept for a while. Raises OSError."""
        try:
            loop = asyncio.get_running_loop()
            found = path.lstat()
        except (RuntimeError, FileNotFoundError):
            remove_file(path)
            return
        if found.st_nlink > 1:  # it goes on under another name
            path.unlink(missing_ok=True)
            return
        spare = self._folder / spare_name()
        if not (_is_worth_it(found) and self._has_room(found.st_size)):
            remove_file(path)
            return
        try:
            path.rename(spare)
        except OSError:  # it lies on another disk
            remove_file(path)
            return
        self._sizes[spare] = found.st_size
        loop.call_later(_IDLE, self._drop, spare)

    def take(self, target: Path, size: int) -> None:
        """Let a spare file be `target`, if there is one that nobody has open, for an upload of `size` bytes.

        None of its bytes belongs to `target` yet: see `OpenFile.note_filled`.
        """
        if size < LEAST_SPARE or os.path.lexists(target):
            return
        known = self._sizes.copy()  # `clear` comes from other threads
        for spare in sorted(known, key=lambda path: abs(known[path] - size)):
            with contextlib.suppress(OSError):
                spare.chmod(0o600)
                file = OpenFile(spare, os.O_RDWR)
                if not file.is_alone() or os.fstat(file.number).st_nlink != 1:
                    continue
                file.note_filled(0)
                if file.size > size:
                    os.ftruncate(file.number, size)
                spare.rename(target)
                self._sizes.pop(spare, None)
                return

    def drop(self) -> None:
        """Remove all of them."""
        for spare in list(self._sizes):
            self._drop(spare)

    def clear(self) -> bool:
        """The same from any thread, and the space is free at once; false when there was none."""
        found = list(self._sizes)
        for spare in found:
            self._sizes.pop(spare, None)
            spare.unlink(missing_ok=True)
        return bool(found)

    def _drop(self, spare: Path) -> None:
        if self._sizes.pop(spare, None) is not None:
            with contextlib.suppress(OSError):
                remove_file(spare)

    def _has_room(self, size: int) -> bool:
        disk = os.statvfs(self._folder)
        return (sum(self._sizes.values()) + size) * _SHARE <= disk.f_bavail * disk.f_frsize


def give_back(path: Path, home: Home) -> bool:
    """Let a file be a spare one in the folder that it came from; false when that cannot be.

    Nobody has it open or mapped then, and it has no other name: who finds it there may write over it.
    """
    try:
        if not _is_worth_it(path.lstat()):
            return False
        folder = os.open(home.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        at = os.fstat(folder)
        if (at.st_dev, at.st_ino) != (home.device, home.inode):
            return False
        with os.scandir(folder) as entries:
            if sum(is_spare(entry.name) for entry in entries) >= _MOST_BACK:
                return False
        file = OpenFile(path, os.O_RDONLY)
        if not file.is_alone() or os.fstat(file.number).st_nlink != 1:
            return False
        os.fchmod(file.number, 0o600)
        os.rename(path, spare_name(), dst_dir_fd=folder)
    except OSError:
        return False
    finally:
        os.close(folder)
    return True


def _is_worth_it(found: os.stat_result) -> bool:
    ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
    return ours and found.st_nlink == 1 and found.st_size >= LEAST_SPARE
