# SPDX-License-Identifier: Apache-2.0
"""`flprov provision` and `flprov kit` as people type them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from kit_parties import contents

from flprov.cli.kit import kit as kit_command
from flprov.cli.passphrases import kit_passphrase
from flprov.cli.provision import provision as provision_command
from flprov.errors import Conflict, KitRefused, LocalError, Misuse, NotFound, StateDamaged

ROOT = Path(__file__).resolve().parents[2]

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
    monkeypatch.delenv("FLPROV_CA_PASSPHRASE", raising=False)
    return tmp_path


def run(command, *words, **options):
    """The result of one command; what it raises is for the caller to expect."""
    return CliRunner().invoke(command, [str(word) for word in words], **options)


def provision(*words, **options):
    result = run(provision_command, "project.yml", *words, **options)
    assert result.exception is None, result.output
    return result


def refused(command, *words, **options):
    """The error that a command ends with."""
    result = run(command, *words, **options)
    assert result.exception is not None
    return result.exception


# ---- provision ---------------------------------------------------------------------------------


def test_provision_says_what_it_made_and_what_to_type_next(here):
    result = provision()
    assert "A new certificate authority was made" in result.stdout
    assert re.search(r"^    SHA256:([0-9A-F]{2}:){31}[0-9A-F]{2}$", result.stdout, re.MULTILINE)
    assert re.search(r"^hospital-a +site +org-a .*created$", result.stdout, re.MULTILINE)
    assert f"4 kits in {here}/workspace/kits: 4 created" in result.stdout
    for command in (
        "flprov server start workspace/kits/server",
        "flprov site start workspace/kits/hospital-b",
        "flprov use workspace/kits/alice",
    ):
        assert command in result.stderr
        assert command not in result.stdout


def test_provision_again_says_that_there_is_nothing_to_do(here):
    provision()
    before = contents(here / "workspace")
    result = provision()
    assert "nothing to do" in result.stderr
    assert "A new certificate authority" not in result.stdout
    assert "(unchanged)" in result.stdout
    assert "4 unchanged" in result.stdout
    assert "start" not in result.stderr
    after = contents(here / "workspace")
    assert {name for name in before if before[name] != after.get(name)} <= {".lock"}


def test_a_ca_that_a_run_left_without_a_record_is_shown_and_not_called_new(here):
    provision()
    (here / "workspace/project.json").unlink()
    result = provision()
    assert "by a run that has left no record, and was kept" in result.stdout
    assert "A new certificate authority" not in result.stdout
    assert re.search(r"^    SHA256:", result.stdout, re.MULTILINE)


def test_provision_says_why_each_kit_was_touched(here):
    provision()
    (here / "project.yml").write_text(TEXT.replace("fl.heart.example:8443", "fl.heart.example:443"))
    result = provision()
    assert re.search(r"^alice .*updated +endpoints: \S+:8443 -> \S+:443$", result.stdout, re.MULTILINE)
    assert "replaces the folder" in result.stderr


def test_provision_warns_of_keys_in_clear_and_of_addresses_that_lead_nowhere(here):
    result = provision()
    assert "not encrypted" in result.stderr
    assert "lead nowhere" not in result.stderr
    (here / "project.yml").write_text(TEXT.replace("fl.heart.example", "localhost"))
    assert "lead nowhere but to this machine" in provision().stderr


def test_provision_names_who_is_gone(here):
    provision()
    (here / "project.yml").write_text(TEXT.replace("  - {name: hospital-b, org: org-b}\n", ""))
    result = provision()
    assert "no longer in project.yml: site hospital-b" in result.stderr
    assert not (here / "workspace/kits/hospital-b").exists()
    [kept] = (here / "workspace/removed").iterdir()
    assert kept.name.startswith("hospital-b-")
    assert f"its kit is in {kept}" in result.stderr


def test_provision_into_a_folder_of_ones_choice(here):
    provision("-o", here / "elsewhere")
    assert (here / "elsewhere/kits/alice/kit.yml").exists()
    assert not (here / "workspace").exists()


def test_provision_json_is_one_document_and_the_talk_is_elsewhere(here):
    found = json.loads(provision("--json").stdout)
    assert found["project"] == "heart"
    assert found["ca_created"] is True
    assert found["ca_encrypted"] is False
    assert found["workspace"] == str(here / "workspace")
    assert [kit["name"] for kit in found["kits"]] == ["server", "hospital-a", "hospital-b", "alice"]
    assert found["kits"][1] == {
        "name": "hospital-a",
        "kind": "site",
        "org": "org-a",
        "outcome": "created",
        "reason": "",
        "folder": str(here / "workspace/kits/hospital-a"),
        "not_after": found["kits"][1]["not_after"],
    }
    assert found["removed"] == []
    again = json.loads(provision("--json").stdout)
    assert again["root_fingerprint"] == found["root_fingerprint"]
    assert {kit["outcome"] for kit in again["kits"]} == {"unchanged"}


def test_large_projects_are_counted_not_listed(here):
    sites = "".join(f"  - {{name: site-{n}, org: org-a}}\n" for n in range(30))
    (here / "project.yml").write_text(TEXT.replace("people:\n", sites + "people:\n"))
    result = provision()
    assert "34 kits" in result.stdout
    assert "site-7" not in result.stdout
    assert "and 14 more" in result.stderr


def test_provision_passes_on_what_is_wrong_with_the_project(here):
    (here / "project.yml").write_text(TEXT.replace("org-b}\n", "org-c}\n"))
    assert "there is no organisation 'org-c'" in str(refused(provision_command, "project.yml"))
    assert isinstance(refused(provision_command, "nothing.yml"), NotFound)
    assert not (here / "workspace").exists()


def test_provision_never_makes_a_second_ca(here):
    provision()
    (here / "workspace/ca").rename(here / "ca-somewhere")
    error = refused(provision_command, "project.yml")
    assert isinstance(error, StateDamaged)
    assert "restore" in error.hint
    (here / "ca-somewhere").rename(here / "workspace/ca")
    (here / "project.yml").write_text(TEXT.replace("heart.example\n", "lung.example\n"))
    assert isinstance(refused(provision_command, "project.yml"), Conflict)


# ---- the passphrase ----------------------------------------------------------------------------


def encrypted(here):
    keys = [path.read_bytes() for path in (here / "workspace/ca").glob("*.key.pem")]
    return {key.startswith(b"-----BEGIN ENCRYPTED") for key in keys} == {True}


def test_a_passphrase_from_a_file(here):
    (here / "secret").write_text("correct horse\n")
    result = provision("--passphrase-file", here / "secret")
    assert encrypted(here)
    assert "not encrypted" not in result.stderr
    assert "correct horse" not in result.output


def test_a_passphrase_from_the_environment_is_the_same_as_from_a_file(here):
    provision(env={"FLPROV_CA_PASSPHRASE": "correct horse"})
    assert encrypted(here)
    (here / "secret").write_text("correct horse")
    (here / "project.yml").write_text(TEXT.replace("hospital-b", "hospital-c"))
    assert "hospital-c" in provision("--passphrase-file", here / "secret").stdout


def test_a_passphrase_of_a_terminal_in_latin_1_is_its_bytes(here, monkeypatch):
    typed = b"g\xe4nse und r\xfcben"
    provision(env={"FLPROV_CA_PASSPHRASE": os.fsdecode(typed)})
    assert encrypted(here)
    (here / "secret").write_bytes(typed)
    (here / "project.yml").write_text(TEXT.replace("hospital-b", "hospital-c"))
    assert "hospital-c" in provision("--passphrase-file", here / "secret").stdout
    monkeypatch.setenv("FLPROV_KIT_PASSPHRASE", os.fsdecode(typed))
    assert kit_passphrase(here) == typed


def test_a_wrong_or_missing_passphrase_is_refused(here):
    provision(env={"FLPROV_CA_PASSPHRASE": "correct horse"})
    (here / "project.yml").write_text(TEXT.replace("hospital-b", "hospital-c"))
    assert "no passphrase was given" in str(refused(provision_command, "project.yml"))
    error = refused(provision_command, "project.yml", env={"FLPROV_CA_PASSPHRASE": "wrong"})
    assert isinstance(error, Misuse)
    assert "does not open" in str(error)


@pytest.mark.parametrize("text", ["", "\n", "two\nlines\n", "x" * 1024])
def test_a_file_that_holds_no_passphrase_is_refused(here, text):
    (here / "secret").write_text(text)
    error = refused(provision_command, "project.yml", "--passphrase-file", here / "secret")
    assert "does not hold a passphrase" in str(error)
    assert not (here / "workspace").exists()


def test_a_passphrase_file_that_is_not_there_is_named(here):
    error = refused(provision_command, "project.yml", "--passphrase-file", "nothing")
    assert isinstance(error, LocalError)
    assert "nothing cannot be read" in str(error)


def test_nothing_is_asked_without_a_terminal(here):
    error = refused(provision_command, "project.yml", "--passphrase")
    assert isinstance(error, Misuse)
    assert "--passphrase-file" in error.hint
    (here / "secret").write_text("x")
    both = refused(provision_command, "project.yml", "--passphrase", "--passphrase-file", "secret")
    assert "both given" in str(both)


# ---- kit ---------------------------------------------------------------------------------------


def test_kit_ls_lists_good_and_bad_kits(here):
    provision()
    (here / "workspace/kits/alice/README.md").write_text("changed")
    result = run(kit_command, "ls")
    assert result.exit_code == 0
    assert re.search(r"^hospital-a +site +org-a +90 d left +ok$", result.stdout, re.MULTILINE)
    assert re.search(r"^alice .*README\.md was changed after the kit was made$", result.stdout, re.MULTILINE)
    found = json.loads(run(kit_command, "ls", "workspace/kits", "--json").stdout)["kits"]
    assert {entry["folder"]: entry["ok"] for entry in found} == {
        "workspace/kits/alice": False,
        "workspace/kits/hospital-a": True,
        "workspace/kits/hospital-b": True,
        "workspace/kits/server": True,
    }
    assert found[0]["error"]["code"] == "kit-refused"


def test_kit_ls_without_kits_is_not_found(here):
    assert isinstance(refused(kit_command, "ls"), NotFound)


def test_kit_show_says_whose_it_is(here):
    provision()
    result = run(kit_command, "show", "workspace/kits/server")
    for part in ("server server of org-a", "spiffe://heart.example/server/server", "0.0.0.0:8443", "SHA256:"):
        assert part in result.stdout
    found = json.loads(run(kit_command, "show", "workspace/kits/alice", "--json").stdout)
    assert (found["name"], found["kind"], found["role"]) == ("alice", "person", "project_admin")
    assert found["endpoints"] == ["fl.heart.example:8443"]
    assert found["listen"] is None


def test_kit_show_refuses_a_changed_kit(here):
    provision()
    (here / "workspace/kits/server/kit.yml").write_text("changed")
    assert isinstance(refused(kit_command, "show", "workspace/kits/server"), KitRefused)


def test_kit_verify_answers_by_words_and_exit_code(here):
    provision()
    kits = sorted((here / "workspace/kits").iterdir())
    good = run(kit_command, "verify", *kits)
    assert good.exit_code == 0
    assert good.stdout.count("good") == 4
    assert good.stdout.count("SHA256:") == 1
    (kits[1] / "start.sh").unlink()
    bad = run(kit_command, "verify", *kits)
    assert bad.exit_code == 3
    assert bad.stdout.count("good") == 3
    assert "start.sh is missing" in bad.stderr
    assert "next:" in bad.stderr
    assert run(kit_command, "verify", kits[1]).exit_code == 3
    assert run(kit_command, "verify", here / "nothing").exit_code == 5
    document = json.loads(run(kit_command, "verify", kits[1], "--json").stdout)
    assert document["kits"][0]["ok"] is False
    assert "start.sh is missing" in document["kits"][0]["error"]["message"]


# ---- for real ----------------------------------------------------------------------------------


def flprov(*words, **options):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flprov", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **options,
    )


def test_in_a_process_of_its_own_with_its_exit_codes(here):
    done = flprov("provision", "project.yml", cwd=here)
    assert (done.returncode, "4 created" in done.stdout) == (0, True), done.stderr
    verified = flprov("kit", "verify", "workspace/kits/hospital-a", cwd=here)
    assert verified.returncode == 0, verified.stderr
    (here / "workspace/kits/hospital-a/identity/key.pem").chmod(0o644)
    refusal = flprov("kit", "show", "workspace/kits/hospital-a", cwd=here)
    assert refusal.returncode == 3
    assert "can be read by other users" in refusal.stderr
    assert "chmod 600" in refusal.stderr
    assert "Traceback" not in refusal.stderr
    assert flprov("provision", "nothing.yml", cwd=here).returncode == 5


@pytest.mark.slow
def test_a_thousand_sites_take_seconds(here):
    sites = "".join(f"  - {{name: site-{n}, org: org-a}}\n" for n in range(1000))
    (here / "project.yml").write_text(TEXT.replace("people:\n", sites + "people:\n"))
    started = time.monotonic()
    done = flprov("provision", "project.yml", cwd=here)
    first = time.monotonic() - started
    assert "1004 created" in done.stdout, done.stderr
    started = time.monotonic()
    again = flprov("provision", "project.yml", cwd=here)
    second = time.monotonic() - started
    assert "1004 unchanged" in again.stdout
    assert first < 15  # 2 to 3 s on a quiet machine
    assert second < 5  # 0.8 s


@pytest.mark.slow
def test_the_wheel_brings_its_templates(here, tmp_path):
    pytest.importorskip("hatchling")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(build_wheel(tmp_path)) as wheel:
        wheel.extractall(installed)
    done = subprocess.run(
        [sys.executable, "-m", "flprov", "provision", "project.yml"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )
    assert done.returncode == 0, done.stderr
    assert os.access(here / "workspace/kits/hospital-a/start.sh", os.X_OK)


def build_wheel(folder):
    """Build flprov's wheel from a copy of the checkout; its path."""
    source = folder / "source"
    for name in ("flprov", "templates"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "project.yml", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    (source / "README.md").write_text("flprov\n")
    code = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(folder)]
    made = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return folder / made.stdout.split()[-1]
