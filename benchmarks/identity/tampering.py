#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every file of every kind of kit: changed, dropped, linked, swapped, made readable; and files added.

python benchmarks/identity/tampering.py
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flprov.errors import KitRefused
from flprov.kits import load_kit, provision
from flprov.project import parse_project

PROJECT = b"""
name: tampering
trust_domain: tampering.example
organisations: [{name: org-a}, {name: org-b}]
server: {name: server, org: org-a, endpoints: ["localhost:8443"]}
sites: [{name: hospital-a, org: org-a}, {name: hospital-b, org: org-b}]
people: [{name: alice, org: org-a, role: project_admin}, {name: bob, org: org-b, role: lead}]
"""
KITS = {
    "server": "hospital-a",
    "hospital-a": "hospital-b",
    "alice": "bob",
}  # and where swapped files come from


def run(folder: Path, *, small: bool = False) -> dict[str, Any]:
    """Tamper with a fresh copy each time; each must be refused, and the message must name the file."""
    folder.mkdir(parents=True, exist_ok=True)
    project = parse_project(PROJECT, source=folder / "project.yml")
    provision(project, folder / "ws", now=datetime.now(UTC))
    kits = folder / "ws/kits"
    wrong: list[str] = []
    tried = 0
    for kit in ["hospital-a"] if small else KITS:
        for what, name, tamper in _cases(kits / kit, kits / KITS[kit]):
            copy = folder / "copy" / kit
            shutil.rmtree(copy.parent, ignore_errors=True)
            shutil.copytree(kits / kit, copy, symlinks=True)
            tamper(copy)
            tried += 1
            verdict = _verdict(copy, name)
            if verdict:
                wrong.append(f"{kit}: {name} {what}: {verdict}")
    return {
        "name": "a kit with any one file tampered with",
        "target": "refused, and the file named",
        "measured": f"{tried - len(wrong)} of {tried}",
        "met": not wrong,
        "details": {"wrong": wrong},
    }


def _verdict(kit: Path, name: str) -> str:
    """What is wrong with the refusal; empty when nothing is."""
    try:
        load_kit(kit, now=datetime.now(UTC))
    except KitRefused as error:
        return "" if Path(name).name in str(error) else f"not named: {error}"
    return "accepted"


def _cases(kit: Path, other: Path) -> Iterator[tuple[str, str, Callable[[Path], None]]]:
    for path in sorted(kit.rglob("*")):
        if not path.is_file():
            continue
        name = str(path.relative_to(kit))
        yield "changed", name, lambda copy, name=name: _flip(copy / name)
        yield "cut", name, lambda copy, name=name: (copy / name).write_bytes((copy / name).read_bytes()[:-1])
        yield "dropped", name, lambda copy, name=name: (copy / name).unlink()
        yield "made a link", name, lambda copy, name=name: _link(copy / name)
        yield "made a folder", name, lambda copy, name=name: _folder(copy / name)
        if (other / name).is_file() and (other / name).read_bytes() != path.read_bytes():
            swap = other / name
            yield "swapped", name, lambda copy, name=name, swap=swap: shutil.copyfile(swap, copy / name)
        if name.endswith("key.pem"):
            for mode in (0o640, 0o604, 0o666):
                yield f"made {mode:o}", name, lambda copy, name=name, mode=mode: (copy / name).chmod(mode)
    for name in ("extra.txt", "identity/extra.pem", "anchors/extra.pem", "site.yml", ".hidden"):
        yield "added", name, lambda copy, name=name: (copy / name).write_text("x\n")
    yield "added", "new", lambda copy: (copy / "new").mkdir()


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _link(path: Path) -> None:
    moved = path.parent.parent / f"{path.name}.moved"
    target = Path(tempfile.mkdtemp(dir=moved.parents[1])) / path.name
    path.rename(target)
    path.symlink_to(target)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(run(Path(name), small="--small" in sys.argv), indent=2))
