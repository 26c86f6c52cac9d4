# SPDX-License-Identifier: Apache-2.0
"""The kits' systemd units: what systemd says of them, and that what they allow is enough to work."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from kit_parties import PROJECT
from sandboxes import FLPROV, BoxedProject, Mount, Sandbox, needs_sandboxes

from flprov.kits import provision

UNITS = {"server": "flprov-server.service", "hospital-a": "flprov-site.service"}
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")


def settings_of(text):
    """Key -> its values, in order; an option may stand more than once."""
    found = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def analyze(folder, *words):
    done = subprocess.run(
        ["systemd-analyze", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def unit_for_here(workspace, name, folder):
    """A copy of the unit whose program is on this machine."""
    text = (workspace / "kits" / name / UNITS[name]).read_text()
    path = folder / UNITS[name]
    path.write_text(re.sub(r"^ExecStart=.*", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    return path


# ---- what systemd says -------------------------------------------------------------------------


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_no_mistake_in_a_unit(workspace, tmp_path, name):
    path = unit_for_here(workspace, name, tmp_path)
    assert analyze(tmp_path, "verify", f"./{path.name}") == (0, "")


@needs_systemd
def test_systemd_would_find_one(workspace, tmp_path):
    path = unit_for_here(workspace, "server", tmp_path)
    path.write_text(path.read_text().replace("PrivateTmp", "PrivatTmp"))
    assert "PrivatTmp" in analyze(tmp_path, "verify", f"./{path.name}")[1]


@needs_systemd
@pytest.mark.parametrize(("name", "most"), [("server", 36), ("hospital-a", 39)])
def test_units_stay_as_hardened_as_they_are(workspace, tmp_path, name, most):
    path = unit_for_here(workspace, name, tmp_path)  # 0 is everything forbidden, 100 nothing; 40 is "OK"
    code, said = analyze(tmp_path, "security", "--offline=true", f"--threshold={most}", "--no-pager", path)
    assert code == 0, said


@needs_systemd
@pytest.mark.parametrize(("name", "uncommented"), [("server", "LoadCredential")])
def test_the_lines_for_an_encrypted_authority_are_right_when_they_are_uncommented(
    workspace, tmp_path, name, uncommented
):
    text = (workspace / "kits" / name / UNITS[name]).read_text()
    active = re.sub(r"^ExecStart=.*\n", "", text, flags=re.MULTILINE)
    active = re.sub(r"^# (LoadCredential|ExecStart)=", r"\1=", active, flags=re.MULTILINE)
    settings = settings_of(active)
    assert settings[uncommented] == ["ca-passphrase:/etc/flprov/ca-passphrase"]
    assert settings["ExecStart"] == [
        "/srv/flprov/server/start.sh --ca-passphrase-file ${CREDENTIALS_DIRECTORY}/ca-passphrase"
    ]
    (tmp_path / UNITS[name]).write_text(active.replace("/srv/flprov/server/start.sh", "/bin/true"))
    assert analyze(tmp_path, "verify", f"./{UNITS[name]}") == (0, "")


def test_a_server_on_a_port_below_1024_may_bind_it_and_others_get_no_capability(tmp_path):
    now = datetime(2026, 3, 1, tzinfo=UTC)
    for listen, wanted in (("0.0.0.0:443", ["", "CAP_NET_BIND_SERVICE"]), ("[::]:8443", [""])):
        project = replace(PROJECT, server=replace(PROJECT.server, listen=listen))
        folder = tmp_path / listen.rpartition(":")[2]
        provision(project, folder, now=now)
        settings = settings_of((folder / "kits/server" / UNITS["server"]).read_text())
        assert settings["CapabilityBoundingSet"] == wanted
        assert settings.get("AmbientCapabilities", [""]) == wanted[1:] or wanted == [""]


def test_the_server_is_started_when_it_serves_and_a_site_when_it_runs(workspace):
    kinds = {
        name: settings_of((workspace / "kits" / name / unit).read_text())["Type"]
        for name, unit in UNITS.items()
    }
    assert kinds == {"server": ["notify"], "hospital-a": ["exec"]}


# ---- what they allow is enough -----------------------------------------------------------------


def sandbox_of(project, name):
    """The unit's own rules, by bubblewrap: what may be written, where it starts, as whom."""
    settings = settings_of((project.kit(name) / UNITS[name]).read_text())
    assert settings["ProtectSystem"] == ["strict"]
    [writable], [folder], [start] = (
        settings[key] for key in ("ReadWritePaths", "WorkingDirectory", "ExecStart")
    )
    sandbox = Sandbox(
        mounts=[
            Mount(source=project.kit(name), target=f"/srv/flprov/{name}"),
            Mount(source=project.local(name), target=writable, read_only=False),
        ],
        scratch=["/tmp"] if settings["PrivateTmp"] == ["yes"] else [],
        links={"/opt/flprov/bin/flprov": str(FLPROV)} if not FLPROV.is_relative_to("/opt/flprov") else {},
        folder=folder,
        environment=dict(value.split("=", 1) for value in settings["Environment"]),
        umask=int(settings["UMask"][0], 8),
    )
    return sandbox, start.split()


@needs_sandboxes
@pytest.mark.network
def test_server_and_site_work_within_the_rules_of_their_units(tmp_path):
    project = BoxedProject(tmp_path)
    try:
        boxed = {name: project.start(name, *sandbox_of(project, name)) for name in UNITS}
        for one in boxed.values():
            one.wait_ready()
        assert project.run_a_job() == "completed after 2 rounds"
        assert boxed["hospital-a"].stop() == 0
        assert boxed["server"].stop() == 0
    finally:
        project.close()
