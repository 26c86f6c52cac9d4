# SPDX-License-Identifier: Apache-2.0
"""`flprov plan` as people type it; and hostile project files, which leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from flprov.cli.plan import plan as plan_command
from flprov.cli.provision import provision as provision_command
from flprov.kits import load_kit

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "project"))

from test_project_hostile import CASES  # noqa: E402 - the files that hurt, in one place

TEXT = """
name: heart
trust_domain: heart.example
organisations: [{name: org-a}, {name: org-b}]
server: {name: server, org: org-a, endpoints: ["fl.heart.example:8443"]}
sites:
  - {name: hospital-a, org: org-a}
  - {name: hospital-b, org: org-b}
people:
  - {name: alice, org: org-a, role: project_admin}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a project.yml, which is the current one."""
    (tmp_path / "project.yml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    for name in ("FLPROV_CA_PASSPHRASE", "FLPROV_PEOPLE_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(command, *words, code=0, **options):
    result = CliRunner().invoke(command, ["project.yml", *map(str, words)], **options)
    assert result.exit_code == code, result.output
    return result


def edit(here, old, new):
    text = (here / "project.yml").read_text()
    assert old in text
    (here / "project.yml").write_text(text.replace(old, new))


def test_the_first_plan_shows_everything_as_new_and_writes_nothing(here):
    result = run(plan_command, code=7)
    assert "CA will be created" in result.stdout
    assert re.search(r"^  \+ new +site +hospital-b +of org-b$", result.stdout, re.MULTILINE)
    assert result.stdout.splitlines()[-1] == "4 new"
    assert "nothing was written; to do this: flprov provision project.yml" in result.stderr
    assert [path.name for path in here.iterdir()] == ["project.yml"]


def test_after_provision_the_plan_is_empty_with_exit_code_0(here):
    run(provision_command)
    result = run(plan_command)
    assert "CA unchanged (root SHA256:" in result.stdout
    assert result.stdout.splitlines()[-1] == "4 unchanged"
    assert "nothing to do" in result.stderr


def test_the_plan_is_a_diff_that_names_each_change(here):
    run(provision_command)
    edit(here, "  - {name: hospital-b, org: org-b}\n", "  - {name: hospital-c, org: org-b}\n")
    edit(here, "fl.heart.example:8443", "fl.heart.example:443")
    (here / "project.yml").write_text((here / "project.yml").read_text() + "validity: {person_days: 30}\n")
    out = run(plan_command, code=7).stdout
    assert re.search(
        r"^  ~ changed +server +server +endpoints: .*; registry: hospital-c added", out, re.MULTILINE
    )
    assert re.search(
        r"^  ~ changed +site +hospital-a +endpoints: fl.heart.example:8443 -> fl.heart.example:443$",
        out,
        re.MULTILINE,
    )
    assert re.search(r"^  \+ new +site +hospital-c", out, re.MULTILINE)
    assert re.search(
        r"^  ! reissued person alice +new certificate: validity 365 -> 30 days", out, re.MULTILINE
    )
    assert re.search(
        r"^  - removed +site +hospital-b +no longer in project.yml; its kit goes to", out, re.MULTILINE
    )
    assert "1 new, 2 changed, 1 reissued, 1 removed" in out
    done = run(provision_command).stdout
    assert "1 created, 2 updated, 1 reissued" in done
    assert run(plan_command).stdout.splitlines()[-1] == "4 unchanged"


def test_the_command_that_is_shown_names_the_workspace(here):
    assert "flprov provision project.yml -o elsewhere" in run(plan_command, "-o", "elsewhere", code=7).stderr
    assert not (here / "elsewhere").exists()


def test_json_is_one_document(here):
    run(provision_command)
    edit(here, "hospital-b", "hospital-c")
    result = run(plan_command, "--json", code=7)
    found = json.loads(result.stdout)
    assert found["changes"] is True
    assert found["authority"]["change"] == "unchanged"
    assert {party["name"]: party["change"] for party in found["parties"]} == {
        "server": "changed",
        "hospital-c": "new",
        "hospital-b": "removed",
    }
    assert found["unchanged"] == 2
    [removed] = [party for party in found["parties"] if party["change"] == "removed"]
    assert (removed["kind"], removed["org"]) == ("site", "org-b")
    assert removed["folder"].startswith(str(here / "workspace/removed/hospital-b-"))
    run(provision_command)
    assert json.loads(run(plan_command, "--json").stdout)["changes"] is False


def test_passphrases_in_the_environment_are_part_of_the_plan(here):
    run(provision_command)
    env = {"FLPROV_CA_PASSPHRASE": "a horse of mine"}
    assert "will be encrypted" in run(plan_command, code=7, env=env).stdout
    env = {"FLPROV_PEOPLE_PASSPHRASE": "a staple of mine"}
    assert re.search(
        r"changed +person alice +private key: encrypted", run(plan_command, code=7, env=env).stdout
    )
    run(provision_command, env=env)
    assert run(plan_command, env=env).exit_code == 0
    assert b"ENCRYPTED" in (here / "workspace/kits/alice/identity/key.pem").read_bytes()


def test_what_provision_will_want_is_said(here):
    env = {"FLPROV_CA_PASSPHRASE": "a horse of mine", "FLPROV_PEOPLE_PASSPHRASE": "a staple of mine"}
    run(provision_command, env=env)
    edit(here, "role: project_admin}", "role: project_admin}\n  - {name: bob, org: org-a, role: lead}")
    talk = run(plan_command, code=7).stderr
    assert "it will want the passphrase of the CA's keys" in talk
    assert "it will want the passphrase of people's keys" in talk


def test_the_passphrase_of_people_comes_from_a_file_too(here):
    (here / "secret").write_text("correct horse\n")
    result = run(provision_command, "--people-passphrase-file", "secret")
    assert b"ENCRYPTED" in (here / "workspace/kits/alice/identity/key.pem").read_bytes()
    assert b"ENCRYPTED" not in (here / "workspace/kits/hospital-a/identity/key.pem").read_bytes()
    assert "correct horse" not in result.output


def test_long_plans_count_what_is_new(here):
    sites = "".join(f"  - {{name: site-{n}, org: org-a}}\n" for n in range(30))
    edit(here, "people:\n", f"{sites}people:\n")
    out = run(plan_command, code=7).stdout
    assert "and 14 more new ones" in out
    assert out.splitlines()[-1] == "34 new"
    assert len(json.loads(run(plan_command, "--json", code=7).stdout)["parties"]) == 34


# ---- hostile project files, in a process of its own --------------------------------------------


def flprov(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "flprov", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **options,
    )


@pytest.mark.parametrize("command", [plan_command, provision_command], ids=["plan", "provision"])
@pytest.mark.parametrize("case", CASES)
def test_a_hostile_file_leaves_nothing_behind(here, case, command):
    data, words = CASES[case]
    (here / "project.yml").write_bytes(data)
    started = time.monotonic()
    result = CliRunner().invoke(command, ["project.yml"])
    assert time.monotonic() - started < 1
    assert words in str(result.exception)
    assert result.exception.exit_code == 2
    assert [path.name for path in here.iterdir()] == ["project.yml"]


@pytest.mark.parametrize("case", ["traversal", "alias bomb", "right-to-left mark", "depth", "binary"])
def test_a_hostile_file_gets_clear_lines_and_exit_code_2(here, case):
    (here / "project.yml").write_bytes(CASES[case][0])
    done = flprov("provision", "project.yml", cwd=here)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert all(re.match(r"(error: )?project\.yml(:\d+)?: ", line) for line in lines), done.stderr
    assert len(lines) == 1 or case == "alias bomb"
    assert "Traceback" not in done.stderr
    assert [path.name for path in here.iterdir()] == ["project.yml"]


@pytest.mark.parametrize("target", ["folder", "pipe", "loop", "device"])
def test_what_is_no_file_is_refused_at_once(here, target):
    (here / "project.yml").unlink()
    if target == "folder":
        (here / "project.yml").mkdir()
    elif target == "pipe":
        os.mkfifo(here / "project.yml")
    else:
        (here / "project.yml").symlink_to("project.yml" if target == "loop" else "/dev/zero")
    result = CliRunner().invoke(plan_command, ["project.yml"])
    assert result.exception.exit_code in (1, 2)
    assert "project.yml" in str(result.exception)
    assert [path.name for path in here.iterdir()] == ["project.yml"]


def test_exit_codes_of_the_real_command(here):
    assert flprov("plan", "project.yml", cwd=here).returncode == 7
    assert flprov("provision", "project.yml", cwd=here).returncode == 0
    assert flprov("plan", "project.yml", cwd=here).returncode == 0
    assert flprov("plan", "nothing.yml", cwd=here).returncode == 5


def test_the_passphrase_of_people_is_typed_twice_at_a_terminal(here):
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        words = ["-m", "flprov", "provision", "project.yml", "--people-passphrase"]
        os.execve(sys.executable, [sys.executable, *words], environment)
    said = b""
    for _ in range(2):
        while b": " not in said.rpartition(b"\n")[2]:
            said += os.read(terminal, 4096)
        os.write(terminal, b"correct horse\n")
        said += b"\n"
    with contextlib.suppress(OSError):  # EIO: the command has ended
        while chunk := os.read(terminal, 4096):
            said += chunk
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said.decode()
    assert b"correct horse" not in said
    kit = load_kit(here / "workspace/kits/alice", now=datetime.now(UTC), passphrase=b"correct horse")
    assert kit.name == "alice"
