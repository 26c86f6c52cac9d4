# SPDX-License-Identifier: Apache-2.0
"""`flprov app from-flare`: a FLARE job folder to an app, with a report of what did not come along."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flprov.errors import ConfigError, Conflict, Misuse
from flprov.flare.migration.at_server import convert_server
from flprov.flare.migration.at_sites import convert_sites
from flprov.flare.migration.code import find_needs, migrate_code, module_names
from flprov.flare.migration.draft import Draft, label
from flprov.flare.migration.reading import FlareJob, read_flare_job
from flprov.jobs import load_job, verify_path

REPORT = "MIGRATION.md"


@dataclass(frozen=True, kw_only=True)
class Migration:
    """An app made of a FLARE job."""

    name: str
    files: Mapping[str, bytes]  # job.yml, MIGRATION.md and the code, by path
    changed: Mapping[str, tuple[str, ...]]  # file -> its import lines after the replacement
    notes: tuple[str, ...]  # what did not come along, or came along changed


def convert_job(folder: Path) -> Migration:
    """What an app that does the same looks like; nothing is written, and nothing of the job is run.

    Raises:
        NotFound: there is no FLARE job in the folder.
        ConfigError: its files cannot be read.
        Misuse: they are HOCON; the hint says how to turn them into JSON.
    """
    job = read_flare_job(folder)
    draft = Draft(name=label(job.name))
    convert_server(job, draft)
    convert_sites(job, draft)
    files, changed = _migrate_files(job, draft)
    for name, text in draft.files.items():
        if name in files:
            draft.note(f"{name} of the job was put aside for one that was written; rename yours")
        files[name] = text.encode()
    for name in ("job.yml", REPORT):
        if files.pop(name, None) is not None:
            draft.note(f"{name} of the job was left out: the app has its own")
    return Migration(
        name=draft.name,
        files={
            "job.yml": draft.render(label(job.name)).encode(),
            REPORT: _report(label(job.name), changed, draft.notes).encode(),
            **files,
        },
        changed=changed,
        notes=tuple(draft.notes),
    )


def write_migration(found: Migration, target: Path) -> tuple[str, ...]:
    """Write the app into the new folder `target`; what job.yml still has to be told.

    Raises:
        Conflict: there is something already.
    """
    if target.exists() or target.is_symlink():
        raise Conflict(f"{target} is there already", hint="name another folder with -o, or remove it")
    target.mkdir(parents=True)
    try:
        for name, data in found.files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    try:
        load_job(target)
    except ConfigError as error:
        return tuple(str(error).splitlines())
    return ()


def _migrate_files(job: FlareJob, draft: Draft) -> tuple[dict[str, bytes], dict[str, tuple[str, ...]]]:
    """The job's code, of the server's app and of the first of the sites', imports replaced."""
    files: dict[str, bytes] = {}
    changed: dict[str, tuple[str, ...]] = {}
    imports: set[str] = set()
    for app in {app.name: app for app in (job.server, job.clients[0])}.values():
        for words in app.skipped:
            draft.note(f"{app.name}/{words}")
        for name, data in app.files.items():
            try:
                verify_path(name)
            except Misuse as error:
                draft.note(f"{app.name}/custom: {error}")
                continue
            if name in files and files[name] != data:
                draft.note(f"{name} is another file at the server than at the sites; the sites' was taken")
            files[name] = data
    for name in [name for name in files if name.endswith(".py")]:
        try:
            text = files[name].decode()
        except UnicodeDecodeError:
            draft.note(f"{name}: not UTF-8; copied as it is")
            continue
        migrated = migrate_code(text)
        files[name] = migrated.text.encode()
        imports |= migrated.imports
        for note in migrated.notes:
            draft.note(f"{name}:{note}")
        if migrated.changed:
            changed[name] = migrated.changed
    draft.needs = find_needs(imports, module_names(files))
    return files, changed


def _report(name: str, changed: Mapping[str, tuple[str, ...]], notes: list[str]) -> str:
    lines = [f"# {name}: from NVIDIA FLARE", "", "## What did not come along", ""]
    lines += [f"- {_plain(note)}" for note in notes] or ["Everything did."]
    lines += ["", "## Import lines that were changed", ""]
    for file, rows in changed.items():
        lines += [f"- `{file}`", *(f"  - line {_plain(row)}" for row in rows)]
    if not changed:
        lines.append("None.")
    lines += ["", "`job.yml` is where to go on; docs/flare.md compares the two, meaning by meaning.", ""]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """One line without anything that a terminal or a page would act on."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown.replace("<", "‹").replace(">", "›")
