# SPDX-License-Identifier: Apache-2.0
"""What the machine and the site bring: disk, GPUs, data, policy, interpreter; and checks that never end."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

import flprov.agent
import flprov.doctor.examination as examination
import flprov.doctor.machine as machine
import flprov.doctor.papers as papers
from flprov.doctor import examine
from flprov.doctor.rows import Verdict, ok, problem, skipped, warning, worst
from flprov.wire.documents import GPU

pytestmark = pytest.mark.usefixtures("server")


def rows_of(found):
    return {row.name: row for row in found.rows}


def local(kit):
    return kit.with_name("hospital-a.local")


def row(kit, name: str):
    return rows_of(examine(kit))[name]


def test_the_worst_row_is_the_verdict():
    assert worst([]) is Verdict.OK
    assert worst([skipped("a", "")]) is Verdict.OK
    assert worst([ok("a", ""), warning("b", "")]) is Verdict.WARNING
    assert worst([problem("a", ""), warning("b", ""), ok("c", "")]) is Verdict.PROBLEM


def test_the_machine_alone():
    found = examine(None)
    assert (found.kit, found.kind, found.name) == ("", "", "")
    assert [row.name for row in found.rows] == ["clock", "python", "disk", "confinement", "gpu"]


def test_a_person_s_kit_needs_little_of_the_machine(provisioned):
    names = {row.name for row in examine(provisioned / "alice").rows}
    assert names == {"kit", "certificate", "clock", "proxy", "name", "tcp", "tls", "server", "python"}
    assert {"disk", "gpu", "confinement"} <= {
        row.name for row in examine(provisioned / "alice", machine=True).rows
    }


POLICIES = {
    "none": (None, "warning", "so nobody's jobs run here: that is the default"),
    "nobody": ("allow: {}\n", "warning", "allows nobody"),
    "mistakes": ("allow: {organisation: [org-a]}\n", "problem", "unknown key 'organisation'"),
    "unconfined": (
        "allow: {people: [bob]}\nunconfined: true\n",
        "warning",
        "job code runs even where it cannot be confined",
    ),
    "ceilings": (
        "allow: {organisations: [org-b, org-a], people: [bob]}\nceilings: {gpus: 1, memory: 8GiB, jobs: 2}\n",
        "ok",
        "everybody of org-a, org-b and of bob; 1 gpus, 8 GiB of memory, 2 jobs at a time",
    ),
}


@pytest.mark.parametrize("case", POLICIES)
def test_policies(kit, case):
    text, verdict, words = POLICIES[case]
    path = local(kit) / "policy.yml"
    path.unlink() if text is None else path.write_text(text)
    found = row(kit, "policy.yml")
    assert found.verdict == verdict
    assert words in found.found


DATASETS = {
    "there": ("{heart: data}", "ok", "a folder"),
    "a file": ("{heart: data/scan.csv}", "ok", "a file"),
    "not there": ("{heart: /no/such/place}", "problem", "/no/such/place is not there"),
    "empty": ("{heart: empty}", "warning", "is an empty folder"),
    "below a file": ("{heart: data/scan.csv/x}", "problem", "Not a directory"),
}


@pytest.mark.parametrize("case", DATASETS)
def test_datasets(kit, case):
    text, verdict, words = DATASETS[case]
    (local(kit) / "empty").mkdir()
    (local(kit) / "site.yml").write_text(f"datasets: {text}\n")
    found = row(kit, "dataset")
    assert (found.verdict, found.subject) == (verdict, "heart")
    assert words in found.found


def test_a_site_without_site_yml_is_told_how_to_get_one(kit):
    (local(kit) / "site.yml").unlink()
    found = row(kit, "site.yml")
    assert found.verdict == "warning"
    subprocess.run(["sh", "-c", found.next], check=True)
    assert (local(kit) / "site.yml").exists()
    assert "install" not in row(kit, "site.yml").next  # what somebody has written there stays


def test_a_site_yml_with_mistakes_and_its_open_password(kit):
    (local(kit) / "site.yml").write_text("proxy: http://kim:s3cret@proxy.example:1\nphyton: x\n")
    (local(kit) / "site.yml").chmod(0o644)
    found = row(kit, "site.yml")
    assert found.verdict == "problem"
    assert "chmod 600" in found.found
    assert "unknown key 'phyton' (did you mean 'python'?)" in found.found
    assert "s3cret" not in found.found


def interpreter(kit, script: str):
    path = local(kit) / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    with (local(kit) / "site.yml").open("a") as file:
        file.write("python: python\n")
    return row(kit, "packages")


def test_the_interpreter_of_jobs(kit):
    found = row(kit, "packages")
    assert found.verdict == "ok"
    assert f"jobs run by {sys.executable}: Python 3." in found.found


def test_the_interpreter_runs_nothing_that_lies_in_the_current_folder(kit, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "platform.py").write_text("open('was-run', 'w')\n")
    monkeypatch.chdir(tmp_path / "here")
    assert row(kit, "packages").verdict == "ok"
    assert not Path("was-run").exists()


INTERPRETERS = {
    "no flprov": ("""echo '{"python": "3.11.2", "torch": "2.5", "flprov": ""}'""", "problem", "no flprov"),
    "another flprov": (
        """echo '{"python": "3.11.2", "torch": "", "flprov": "0.0.1"}'""",
        "warning",
        "no torch, flprov 0.0.1, and the agent is",
    ),
    "no Python": ("echo hello", "problem", "it does not run as a Python"),
    "a failing one": ("exit 3", "problem", "it does not run as a Python"),
}


@pytest.mark.parametrize("case", INTERPRETERS)
def test_interpreters_that_will_not_do(kit, case):
    script, verdict, words = INTERPRETERS[case]
    found = interpreter(kit, script)
    assert found.verdict == verdict
    assert words in found.found


def test_an_interpreter_that_is_not_there(kit):
    (local(kit) / "site.yml").write_text("python: /no/such/python\n")
    found = row(kit, "packages")
    assert found.verdict == "problem"
    assert "/no/such/python: No such file or directory" in found.found


@pytest.mark.parametrize(("free", "verdict"), [(1 << 29, "problem"), (5 << 30, "warning"), (1 << 40, "ok")])
def test_room_on_the_disk(kit, monkeypatch, free, verdict):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 41, 0, free))
    assert row(kit, "disk").verdict == verdict


def test_gpus_as_nvml_reports_them(kit, monkeypatch):
    gpu = GPU(
        index=1,
        uuid="GPU-1",
        name="A100",
        driver="550",
        memory_total=80 << 30,
        memory_used=1 << 30,
        utilization=None,
        temperature=None,
    )
    monkeypatch.setattr(flprov.agent, "read_gpus", lambda: ((gpu,), ""))
    found = row(kit, "gpu")
    assert (found.verdict, found.subject) == ("ok", "1")
    assert found.found == "A100, 80 GiB (1.0 used), driver 550"


@pytest.mark.parametrize(("hardware", "verdict"), [(True, "warning"), (False, "skipped")])
def test_no_gpu_is_worse_where_there_is_one_in_the_machine(kit, monkeypatch, tmp_path, hardware, verdict):
    monkeypatch.setattr(flprov.agent, "read_gpus", lambda: ((), "no NVIDIA driver on this machine"))
    monkeypatch.setattr(machine, "_PCI", tmp_path)
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "vendor").write_text("0x10de\n" if hardware else "0x8086\n")
    found = row(kit, "gpu")
    assert found.verdict == verdict
    assert "no NVIDIA driver on this machine" in found.found


@pytest.mark.parametrize(("answer", "verdict"), [(True, "ok"), (False, "warning"), (None, "ok")])
def test_a_clock_that_ntp_keeps_or_not(kit, monkeypatch, answer, verdict):
    monkeypatch.setattr(papers, "_ask_systemd", lambda: answer)
    assert row(kit, "clock").verdict == verdict


@pytest.mark.parametrize(
    ("method", "waived", "verdict"),
    [("none", False, "problem"), ("none", True, "warning"), ("landlock", False, "ok")],
)
def test_confinement(kit, monkeypatch, method, waived, verdict):
    import flprov.workers

    monkeypatch.setattr(flprov.workers, "confinement_method", lambda: method, raising=False)
    monkeypatch.setattr(flprov.workers, "confinement_gaps", lambda: (), raising=False)
    if waived:
        (local(kit) / "policy.yml").write_text("allow: {people: [bob]}\nunconfined: true\n")
    assert row(kit, "confinement").verdict == verdict


def test_a_state_folder_that_others_can_enter(kit):
    (local(kit) / "state").mkdir()
    (local(kit) / "state").chmod(0o755)
    found = row(kit, "state")
    assert (found.verdict, found.next) == ("warning", f"chmod 700 {local(kit) / 'state'}")


def test_a_state_folder_that_is_none(kit):
    (local(kit) / "state").write_text("")
    found = row(kit, "state")
    assert found.verdict == "problem"
    assert "cannot be written" in found.found


def test_an_agent_that_does_not_run_is_no_problem_and_can_be_started(kit):
    found = row(kit, "agent")
    assert (found.verdict, found.next) == ("skipped", f"flprov site start {kit}")


def test_an_agent_of_another_user_is_not_said_to_be_not_running(kit, monkeypatch):
    def refuse(_folder: object, _name: str = "") -> None:
        raise PermissionError(13, "Permission denied")

    (local(kit) / "state").mkdir(mode=0o700)
    monkeypatch.setattr("flprov.rpc.local._short", refuse)
    found = row(kit, "agent")
    assert found.verdict == "problem"
    assert found.next == "run this as the user that runs it"


def test_a_check_that_never_ends_costs_its_own_row_only(kit, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(examination, "check_settings", lambda patient: release.wait(60))
    began = time.monotonic()
    found = examine(kit, limit=1.0)
    took = time.monotonic() - began
    release.set()
    assert took < 2.5
    rows = rows_of(found)
    assert rows["site.yml"].verdict == "problem"
    assert rows["site.yml"].found == "no answer within 1 seconds"
    assert rows["kit"].verdict == rows["policy.yml"].verdict == "ok"


def test_a_kit_that_cannot_be_read_in_time(kit, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(examination, "sketch_kit", lambda *args, **kwargs: release.wait(60))
    found = examine(kit, limit=0.3)
    release.set()
    assert [row.found for row in found.rows] == ["the kit cannot be read within 0.3 seconds"]


def test_a_check_that_breaks_is_a_row(kit, monkeypatch):
    def broken(patient):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(examination, "check_policy", broken)
    found = row(kit, "policy.yml")
    assert found.verdict == "problem"
    assert "Input/output error" in found.found


def test_progress_is_told_of_each_check(kit):
    told = []
    examine(kit, progress=lambda total, left: told.append((total, len(left))))
    total = told[0][0]
    assert sorted(told) == [(total, left) for left in range(total)]
