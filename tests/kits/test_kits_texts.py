# SPDX-License-Identifier: Apache-2.0
"""What kits say to people and to other programs: READMEs, samples, scripts, service files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from kit_parties import NAMES, NOW, PROJECT

from flprov.errors import LocalError, PolicyRefused
from flprov.kits import load_kit, provision, rendering, template_dir
from flprov.pki import fingerprint, parse_identity
from flprov.policy import judge, load_policy, load_site_settings
from flprov.server import load_server_config

KINDS = {
    "server": "server",
    "hospital-a": "site",
    "hospital-b": "site",
    "alice": "person",
    "bob": "person",
}


def run(script, folder, **variables):
    """A shell script's exit code and everything that it says."""
    done = subprocess.run(
        ["sh", "-euc", script],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )
    return done.returncode, done.stdout


def shell_blocks(readme):
    return re.findall(r"```sh\n(.*?)```", readme, flags=re.DOTALL)


# ---- verifying with openssl alone, as the README says ------------------------------------------

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")


@pytest.fixture
def today(tmp_path):
    """Kits that are valid by the machine's clock, which openssl goes by."""
    provision(PROJECT, tmp_path / "today", now=datetime.now(UTC))
    return tmp_path / "today" / "kits"


def recipe_of(kit):
    """The README's commands for checking a kit without flprov."""
    blocks = shell_blocks((kit / "README.md").read_text())
    [block] = [block for block in blocks if "openssl dgst" in block]
    return block


@needs_openssl
def test_the_readmes_openssl_commands_accept_every_kit_and_leave_it_whole(today):
    expected = fingerprint((today.parent / "ca/root.pem").read_bytes()).removeprefix("SHA256:")
    for name in NAMES:
        code, said = run(recipe_of(today / name), today / name)
        root, *rest = said.splitlines()
        assert (code, rest) == (0, ["signer.pem: OK", "Verified OK"])
        assert root.rpartition("=")[2] == expected
        assert load_kit(today / name, now=datetime.now(UTC)).name == name


@needs_openssl
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("manifest.json", "Verification failure"),
        ("start.sh", "start.sh: FAILED"),
        ("identity/cert.pem", "identity/cert.pem: FAILED"),
    ],
)
def test_the_readmes_openssl_commands_refuse_a_changed_kit(today, name, says):
    kit = today / "hospital-a"
    recipe = recipe_of(kit)
    (kit / name).write_bytes((kit / name).read_bytes() + b" ")
    code, said = run(recipe, kit)
    assert code != 0
    assert says in said


@needs_openssl
def test_the_readmes_openssl_commands_refuse_another_signer(today):
    kit = today / "hospital-a"
    shutil.copy(kit / "identity/cert.pem", kit / "signer.pem")
    code, said = run(recipe_of(kit), kit)
    assert code != 0
    assert "signer.pem: verification failed" in said


# ---- READMEs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_readme_says_who_where_until_when_and_whom_to_ask(workspace, name):
    folder = workspace / "kits" / name
    kit, text = load_kit(folder, now=NOW), (folder / "README.md").read_text()
    for part in (
        kit.name,
        str(kit.identity),
        *kit.endpoints,
        "alice@heart.example",
        f"{kit.not_after:%Y-%m-%d}",
    ):
        assert part in text
    assert f"{name}.local" in text or kit.role is not None
    assert "{{" not in text
    assert "{%" not in text


@pytest.mark.parametrize("name", NAMES)
def test_a_readme_names_every_file_of_its_kit(workspace, name):
    folder = workspace / "kits" / name
    text = (folder / "README.md").read_text()
    for path in folder.iterdir():
        assert f"`{path.name}" in text or path.name == "README.md", path.name


@pytest.mark.parametrize("name", ["server", "hospital-a"])
def test_a_readme_says_how_it_is_started_everywhere_and_how_long_it_lasts(workspace, name):
    text = (workspace / "kits" / name / "README.md").read_text()
    for words in ("./start.sh", "systemctl enable --now", "docker build", "docker compose", "kubernetes.yml"):
        assert words in text
    assert "## How long it lasts" in text
    assert f"`{name}.local/state/`" in text


def test_readmes_type_only_commands_that_exist(workspace):
    from flprov.cli import root

    typed = {
        line for name in NAMES for line in commands_in((workspace / "kits" / name / "README.md").read_text())
    }
    assert {"status", "use", "kit verify", "server start", "site status", "invite create", "join"} <= typed
    for words in typed:
        command = root
        for word in words.split():
            command = command.get_command(None, word)
            assert command is not None, words


def commands_in(readme):
    """`site status` of every `flprov site status .` in a README."""
    lines = [
        line for block in shell_blocks(readme) for line in block.splitlines() if "pip install" not in line
    ]
    found = re.findall(r"`flprov ([^`]+)`", readme)
    found += [match[1] for line in lines if (match := re.search(r"(?:^|/bin/)flprov ([a-z].*)", line))]
    return {" ".join(re.findall(r"^[a-z]+(?: [a-z]+)?", line)) for line in found}


# ---- samples -----------------------------------------------------------------------------------

ALICE = parse_identity("spiffe://heart.example/person/org-a/project_admin/alice")


def test_the_sample_policy_is_valid_and_allows_nobody(kit, tmp_path):
    shutil.copy(kit / "policy.yml.sample", tmp_path / "policy.yml")
    policy = load_policy(tmp_path / "policy.yml")
    assert policy.organisations == policy.people == frozenset()
    assert not policy.unconfined
    with pytest.raises(PolicyRefused):
        judge(policy, identity=ALICE, gpus=0, cpus=1, memory=1, jobs_here=0)


def test_the_sample_policys_examples_work_when_they_are_uncommented(kit, tmp_path):
    text = (kit / "policy.yml.sample").read_text()
    text = text.replace("organisations: []          # [", "organisations: [").replace(
        "]: everybody of your own organisation", "]"
    )
    text = re.sub(r"^  # (gpus|cpus|memory):", r"  \1:", text, flags=re.MULTILINE)
    (tmp_path / "policy.yml").write_text(text)
    policy = load_policy(tmp_path / "policy.yml")
    assert policy.organisations == {"org-a"}
    assert (policy.ceilings.gpus, policy.ceilings.cpus, policy.ceilings.memory) == (1, 4, 8 << 30)
    judge(policy, identity=ALICE, gpus=1, cpus=4, memory=1 << 30, jobs_here=0)


def test_the_sample_settings_are_valid_as_they_are_and_uncommented(kit, tmp_path):
    text = (kit / "site.yml.sample").read_text()
    (tmp_path / "site.yml").write_text(text)
    assert load_site_settings(tmp_path / "site.yml").datasets == {}
    text = text.replace("datasets: {}\n  # heart", "datasets:\n  heart").replace("# python:", "python:")
    (tmp_path / "site.yml").write_text(text)
    settings = load_site_settings(tmp_path / "site.yml")
    assert settings.datasets == {"heart": Path("/data/heart")}
    assert settings.python == Path("/opt/flprov-jobs/bin/python")


def test_the_servers_sample_is_valid_as_it_is_and_uncommented(workspace, tmp_path):
    folder = tmp_path / "server"
    shutil.copytree(workspace / "kits" / "server", folder)
    text = (folder / "server.yml.sample").read_text()
    local = tmp_path / "server.local"
    local.mkdir()
    (local / "server.yml").write_text(text)
    plain = load_server_config(folder, now=NOW)
    (local / "server.yml").write_text(re.sub(r"^# (?=[a-z]+:|  [a-z-]+:)", "", text, flags=re.MULTILINE))
    found = load_server_config(folder, now=NOW)
    assert (plain.keep_jobs, found.keep_jobs) == (None, timedelta(days=90))
    assert plain.checkpoints.most == found.checkpoints.most
    for name in ("listen", "unconfined", "metrics"):
        assert getattr(plain, name) == getattr(found, name), name


def test_the_readmes_own_steps_put_the_samples_where_the_agent_looks(kit):
    [block] = [
        block for block in shell_blocks((kit / "README.md").read_text()) if "policy.yml.sample" in block
    ]
    assert run(block, kit)[0] == 0
    local = load_kit(kit, now=NOW).local
    assert {path.name for path in local.iterdir()} == {"policy.yml", "site.yml"}


# ---- start.sh and service files ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["server", "hospital-a"])
def test_start_runs_flprov_on_its_own_folder_wherever_it_is_called_from(workspace, tmp_path, name):
    kit = workspace / "kits" / name
    fake = tmp_path / "bin" / "flprov"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    fake.chmod(0o755)
    said = f"{KINDS[name]}|start|{kit}|--verbose|"
    path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
    assert run(f"{kit}/start.sh --verbose", tmp_path, PATH=path) == (0, said)
    assert run("./start.sh --verbose", kit, FLPROV_BIN=str(fake)) == (0, said)
    assert run(f"sh ../{name}/start.sh --verbose", kit, FLPROV_BIN=str(fake)) == (0, said)


def test_start_says_what_is_missing(kit):
    code, said = run("./start.sh", kit, FLPROV_BIN="/nowhere/flprov")
    assert code == 1
    assert said == (
        "start.sh: '/nowhere/flprov' is not installed here: see README.md, or set FLPROV_BIN to its path\n"
    )


def test_start_passes_on_the_exit_code(kit, tmp_path):
    fake = tmp_path / "flprov"
    fake.write_text("#!/bin/sh\nexit 3\n")
    fake.chmod(0o755)
    assert run("./start.sh", kit, FLPROV_BIN=str(fake))[0] == 3


@pytest.mark.parametrize(("name", "unit"), [("server", "flprov-server"), ("hospital-a", "flprov-site")])
def test_a_service_file_runs_the_kits_start_script_and_may_write_only_beside_the_kit(workspace, name, unit):
    lines = (workspace / "kits" / name / f"{unit}.service").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert settings["ExecStart"] == f"/srv/flprov/{name}/start.sh"
    assert settings["ReadWritePaths"] == f"/srv/flprov/{name}.local"
    assert settings["ProtectSystem"] == "strict"
    assert settings["NoNewPrivileges"] == "yes"
    assert settings["CapabilityBoundingSet"] == ""
    assert settings["KillMode"] == "process"
    assert settings["RestartPreventExitStatus"] == "2 3"


# ---- settings and templates --------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_kit_yml_is_plain_data_for_any_yaml_reader(workspace, name):
    found = yaml.safe_load((workspace / "kits" / name / "kit.yml").read_text())
    assert found["name"] == name
    assert found["kind"] == KINDS[name]
    assert found["endpoints"] == list(PROJECT.server.endpoints)
    others = {"format", "endpoints", "server_days", "site_days"}
    assert {type(value) for key, value in found.items() if key not in others} == {str}


def test_templates_come_from_the_package_first(tmp_path, monkeypatch):
    package = tmp_path / "flprov"
    monkeypatch.setattr(rendering, "_PACKAGE", package)
    with pytest.raises(LocalError, match="templates are missing"):
        template_dir()
    (tmp_path / "templates/site").mkdir(parents=True)
    assert template_dir() == tmp_path / "templates"
    (package / "_templates/site").mkdir(parents=True)
    assert template_dir() == package / "_templates"


def test_templates_may_lie_in_folders_of_one_level_as_kits_have_them(tmp_path):
    from flprov.pki import Kind

    shutil.copytree(template_dir(), tmp_path / "templates")
    for kind in ("server", "site", "person"):
        shutil.rmtree(tmp_path / "templates" / kind)
        (tmp_path / "templates" / kind / "a/b").mkdir(parents=True)
    (tmp_path / "templates/site/a/one.sh").write_text("{{ name }}\n")
    (tmp_path / "templates/site/a/b/two.txt").write_text("too deep\n")
    made = rendering.Renderer(tmp_path / "templates").render(Kind.SITE, {"name": "x"})
    assert made == {"a/one.sh": (b"x\n", 0o755)}


def test_a_template_with_an_unknown_name_in_it_fails_loudly(tmp_path):
    from jinja2 import UndefinedError

    from flprov.pki import Kind

    shutil.copytree(template_dir(), tmp_path / "templates")
    (tmp_path / "templates/site/motto.txt").write_text("{{ nowhere_defined }}\n")
    renderer = rendering.Renderer(tmp_path / "templates")
    with pytest.raises(UndefinedError):
        renderer.render(Kind.SITE, {})
