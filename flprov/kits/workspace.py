# SPDX-License-Identifier: Apache-2.0
"""The folder that provisioning works in, and the rules on what it must look like before.

    workspace/
      project.json     the locked state; written last, so a run that died is finished by the next
      project.json.bak what it said before the last change
      ca/              root and issuing CAs; its private keys never leave this machine
      kits/<party>/    one folder for each server, site and person
      removed/         the kits of those whom project.yml no longer names
      .staging/        what a run builds before it renames it into place; leftovers are removed
      .lock            held while a run works

A project has one CA for ever. Where traces of one are found and its keys are not, nothing is made.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flprov._base import hold_lock, write_atomic
from flprov.errors import Conflict, LocalError, Misuse, StateDamaged
from flprov.kits import authorities, record
from flprov.kits.authorities import Authorities, open_authorities
from flprov.kits.placement import spread_subfolders
from flprov.kits.record import ProjectRecord, read_record
from flprov.project import Project

_OURS = {".gitignore", ".lock", ".staging", "kits", "removed", authorities.FOLDER, record.FILE}
_OURS |= {record.FILE + record.BACKUP}
_UNFINISHED = (f".{record.FILE}.", "..gitignore.")  # how names begin of what a run was writing as it died


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The paths in one workspace."""

    folder: Path

    @property
    def ca(self) -> Path:
        """The CAs."""
        return self.folder / authorities.FOLDER

    @property
    def kits(self) -> Path:
        """One folder for each kit."""
        return self.folder / "kits"

    @property
    def removed(self) -> Path:
        """The kits of those who have left."""
        return self.folder / "removed"

    def list_kits(self) -> list[Path]:
        """The folders in `kits/` that can be kits: not hidden, not a machine's own `<kit>.local`."""
        if not self.kits.exists():
            return []
        names = (path for path in sorted(self.kits.iterdir()) if not path.name.startswith("."))
        return [path for path in names if path.is_dir() and not path.name.endswith(".local")]

    @property
    def record(self) -> Path:
        """The locked state."""
        return self.folder / record.FILE

    @property
    def staging(self) -> Path:
        """Where a run builds."""
        return self.folder / ".staging"


@contextlib.contextmanager
def open_workspace(folder: Path) -> Iterator[Workspace]:
    """Hold the workspace in `folder`, made if need be, with an empty staging folder in it.

    Raises:
        Conflict: another run holds it.
        Misuse: the folder holds other things.
        LocalError: it cannot be made or written.
    """
    workspace = Workspace(folder=folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _verify_is_workspace(workspace)
        with hold_lock(folder / ".lock"):
            try:
                _prepare(workspace)
                yield workspace
            finally:
                shutil.rmtree(workspace.staging, ignore_errors=True)
    except BlockingIOError:
        raise _held_by_another(folder) from None
    except OSError as error:
        what = f"{error.filename or folder}: {error.strerror or error}"
        raise LocalError(
            f"the workspace cannot be written: {what}",
            hint="nothing is lost: make it possible to write there (room, permissions), then run this again",
        ) from error


@contextlib.contextmanager
def look_at_workspace(folder: Path) -> Iterator[Workspace]:
    """The workspace in `folder` for reading, if there is one; nothing is written, not even a lock.

    Raises:
        Conflict: a run works on it, or did while we read.
        Misuse: the folder holds other things.
        LocalError: it cannot be read.
    """
    workspace = Workspace(folder=folder)
    try:
        _verify_no_run(folder)
        before = _stamps(workspace)
        if folder.exists():
            _verify_is_workspace(workspace)
        yield workspace
        _verify_no_run(folder)
        if _stamps(workspace) != before:
            raise Conflict(f"{folder} changed while it was read", hint="run this again")
    except OSError as error:
        what = f"{error.filename or folder}: {error.strerror or error}"
        raise LocalError(f"the workspace cannot be read: {what}") from error


def _verify_no_run(folder: Path) -> None:
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _held_by_another(folder) from None
    finally:
        os.close(descriptor)


def _stamps(workspace: Workspace) -> list[tuple[int, int] | None]:
    """What every run that does something changes."""
    found: list[tuple[int, int] | None] = []
    for path in (workspace.record, workspace.ca, workspace.kits, workspace.folder):
        try:
            status = path.lstat()
            found.append((status.st_ino, status.st_mtime_ns))
        except FileNotFoundError:
            found.append(None)
    return found


def _held_by_another(folder: Path) -> Conflict:
    return Conflict(
        f"another `flprov provision` (process {_holder(folder)}) works on {folder}",
        hint="wait until it is done, then run this again",
    )


def _verify_is_workspace(workspace: Workspace) -> None:
    if workspace.record.exists() or workspace.ca.exists():
        return
    names = {path.name for path in workspace.folder.iterdir()}
    others = sorted(name for name in names - _OURS if not name.startswith(_UNFINISHED))
    if others:
        raise Misuse(
            f"{workspace.folder} holds other things ({', '.join(others[:3])}) and is no workspace",
            hint="name a folder that is empty or does not exist yet: -o WORKSPACE",
        )


def _prepare(workspace: Workspace) -> None:
    """Remove what a run that died left over, and start anew."""
    workspace.kits.mkdir(mode=0o755, exist_ok=True)
    _recover_ca(workspace)
    for leftover in [workspace.staging, *workspace.kits.glob(".*.old"), *workspace.folder.glob(".*.partial")]:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        elif leftover.exists():
            leftover.unlink()
    workspace.staging.mkdir(mode=0o700)
    spread_subfolders(workspace.staging)
    ignore = workspace.folder / ".gitignore"
    if not ignore.exists():
        write_atomic(ignore, b"# private keys are in here: none of it belongs in a repository\n*\n")


def _recover_ca(workspace: Workspace) -> None:
    """Where folders cannot change names in one step, a rotation may have died between the two."""
    for old in sorted(workspace.folder.glob(f".{authorities.FOLDER}.*.old")):
        if workspace.ca.exists():
            shutil.rmtree(old)  # what it holds is in retired/ or beside it
        else:
            old.rename(workspace.ca)


def _holder(folder: Path) -> str:
    try:
        return (folder / ".lock").read_text().strip() or "unknown"
    except OSError:
        return "unknown"


def read_state(
    workspace: Workspace, project: Project, passphrase: bytes | None
) -> tuple[ProjectRecord | None, Authorities | None]:
    """What earlier runs left: the record, and the CAs; (None, None) if a CA may be made.

    Raises:
        StateDamaged: there was a CA for this project, and it is not whole.
        Conflict: the workspace is another project's, or project.yml pins another root.
    """
    found = read_record(workspace.record)
    if not workspace.ca.exists():
        _verify_never_had_ca(workspace, project, found)
        return None, None
    opened = open_authorities(workspace.ca, passphrase=passphrase)
    _verify_same_project(workspace, project, opened)
    roots = (*opened.believed_roots, *opened.record.retired_roots)  # a rotation died before it said so
    if found and (found.id != opened.record.project_id or found.root_fingerprint not in roots):
        raise StateDamaged(
            f"{workspace.ca} and {workspace.record} are of two projects:"
            f" {opened.root_fingerprint} and {found.root_fingerprint}",
            hint="restore both from the same backup",
        )
    return found, opened


def _verify_never_had_ca(workspace: Workspace, project: Project, found: ProjectRecord | None) -> None:
    restore = f"restore {workspace.ca} from its backup; a new CA would cut off every kit that was delivered"
    if found is not None:
        raise StateDamaged(
            f"{workspace.ca} is missing, and {workspace.record} says that project {found.name} has a CA"
            f" (root {found.root_fingerprint})",
            hint=restore,
        )
    kits = [path.name for path in workspace.list_kits()]
    if kits:
        raise StateDamaged(
            f"{workspace.kits} holds kits ({', '.join(kits[:3])}), and the CA that made them is missing",
            hint=f"{restore}; for a new project use an empty workspace: -o WORKSPACE",
        )
    if project.root_fingerprint is not None:
        raise Conflict(
            f"{project.source} pins the root {project.root_fingerprint}, and {workspace.folder} has no CA",
            hint="name the workspace that has it: -o WORKSPACE; for a new project take root_fingerprint out",
        )


def _verify_same_project(workspace: Workspace, project: Project, opened: Authorities) -> None:
    record = opened.record
    for what, here, there in (
        ("project", record.project, project.name),
        ("trust domain", record.trust_domain, project.trust_domain),
    ):
        if here != there:
            raise Conflict(
                f"{workspace.folder} is of {what} {here}, and {project.source} of {there}",
                hint="certificates carry it, so it cannot change; for another project use -o WORKSPACE",
            )
    if project.root_fingerprint in record.retired_roots:
        raise Conflict(
            f"{project.source} pins the root {project.root_fingerprint}, which `flprov ca rotate` has"
            f" replaced by {opened.root_fingerprint}",
            hint=f"write the new one into {project.source}",
        )
    if project.root_fingerprint not in (None, *opened.believed_roots):
        raise Conflict(
            f"{project.source} pins the root {project.root_fingerprint}, and the root in"
            f" {workspace.ca} is {opened.root_fingerprint}",
            hint="`flprov kit show KIT` says which root a kit that was delivered has",
        )
