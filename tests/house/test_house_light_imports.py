# SPDX-License-Identifier: Apache-2.0
"""Commands are quick because they import little: `flprov --help` pays for none of the heavy doors."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from flprov.cli import ENTRIES, root
from flprov.kits import provision
from flprov.project import load_project

HEAVY = {
    "blake3",
    "cryptography",
    "google.protobuf",
    "grpc",
    "jinja2",
    "matplotlib",
    "numpy",
    "packaging",
    "paramiko",
    "prompt_toolkit",
    "safetensors",
    "sqlite3",
    "torch",
    "yaml",
}
# What no command needs before it has work for it: the workers and the simulator bring torch, the plot
# matplotlib, the console prompt_toolkit, shipping paramiko.
HEAVIEST = {"torch", "matplotlib", "paramiko", "sklearn"}

_LIST_MODULES = """
import json, sys
sys.argv = ["flprov", *sys.argv[1:]]
from flprov.cli import main
try:
    main()
except SystemExit as end:
    code = end.code
print(json.dumps({"code": code, "modules": sorted(sys.modules)}), file=sys.stderr)
"""


def run_command(*words: str) -> tuple[int, str, set[str]]:
    """Exit code, output and the modules that were loaded, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _LIST_MODULES, *words], capture_output=True, text=True, timeout=60, check=True
    )
    found = json.loads(done.stderr.splitlines()[-1])
    return found["code"], done.stdout, set(found["modules"])


def test_help_loads_nothing_heavy_and_no_layer_but_its_own():
    code, output, loaded = run_command("--help")
    assert code == 0
    assert "flprov poc up" in output
    assert loaded & HEAVY == set()
    ours = {name.split(".")[1] for name in loaded if name.startswith("flprov.")}
    assert ours == {"cli", "errors"}


def test_help_takes_less_than_half_a_second_of_processor_time():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "flprov", "--help"], capture_output=True, timeout=60, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_no_command_loads_torch_or_matplotlib_to_explain_itself(name):
    code, output, loaded = run_command(name, "--help")
    assert code == 0
    assert f"flprov {name}" in output
    assert loaded & HEAVIEST == set()


# Of a family of commands: what of ours it may load, and the most modules, all in all. A module costs 0.2 ms
# and a dataclass 0.4: a regression shows here without a clock. benchmarks/imports.py has the milliseconds.
LOADING = {"_base", "cli", "config", "errors", "kits", "pki", "project", "wire"}  # loading a kit
ACTING = LOADING | {"admin", "rpc"}
RUNNING = LOADING | {"blobs", "jobs", "messages", "rpc", "store", "workers"}
KIT = {"cryptography", "google.protobuf", "yaml"}
CALLS = KIT | {"grpc"}


@dataclass(frozen=True, kw_only=True)
class Family:
    """Commands that need the same."""

    words: str  # one of them, and arguments with which it ends early
    code: int
    layers: set[str]
    heavy: set[str]  # of HEAVY
    modules: int


FAMILIES = [
    Family(words="status", code=4, layers=ACTING, heavy=CALLS, modules=460),
    Family(words="job ls", code=4, layers=ACTING, heavy=CALLS, modules=465),
    Family(words="job abort last", code=4, layers=ACTING, heavy=CALLS, modules=465),
    Family(words="job wait last", code=4, layers=ACTING | {"jobs", "messages"}, heavy=CALLS, modules=470),
    Family(
        words="job submit APP",
        code=4,
        layers=ACTING | {"blobs", "jobs", "messages", "workers"},
        heavy=CALLS | {"blake3"},
        modules=485,
    ),
    Family(words="events", code=4, layers=ACTING, heavy=CALLS, modules=460),
    Family(words="provision NONE", code=5, layers=LOADING, heavy=KIT, modules=370),
    Family(
        words="poc status -o NONE", code=5, layers={"_base", "cli", "errors", "poc"}, heavy=set(), modules=190
    ),
    Family(
        words="server start NONE",
        code=5,
        layers=RUNNING | {"server"},
        heavy=CALLS | {"blake3", "sqlite3"},
        modules=660,
    ),
    Family(
        words="site start NONE",
        code=5,
        layers=RUNNING | {"agent", "policy"},
        heavy=CALLS | {"blake3", "packaging", "sqlite3"},
        modules=620,
    ),
]


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Path:
    """A person's kit, for a server that is not there."""
    folder = tmp_path_factory.mktemp("light")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    project = folder / "project.yml"
    project.write_text(
        "name: light\ntrust_domain: light.example\norganisations: [{name: org}]\n"
        f'server: {{name: server, org: org, endpoints: ["127.0.0.1:{port}"]}}\nsites: []\n'
        "people: [{name: alice, org: org, role: project_admin}]\n"
    )
    provision(load_project(project), folder / "workspace", now=datetime.now(UTC))
    return folder / "workspace" / "kits" / "alice"


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Path:
    """An app that can be submitted."""
    folder = tmp_path_factory.mktemp("app")
    (folder / "job.yml").write_text("name: a\nworkflow: {type: fedavg, rounds: 1}\ntasks: {train: t:train}\n")
    (folder / "t.py").write_text("")
    return folder


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.words)
def test_a_command_loads_what_its_family_needs_and_no_more(family, kit, app, tmp_path):
    places = {"APP": str(app), "NONE": str(tmp_path / "none")}
    words = [places.get(word, word) for word in family.words.split()]
    code, _, loaded = run_command("--kit", str(kit), *words)
    assert code == family.code
    ours = {name.split(".")[1] for name in loaded if name.startswith("flprov.")}
    assert ours - family.layers == set()
    assert loaded & HEAVY - family.heavy == set()
    assert len(loaded) <= family.modules


def test_a_job_of_ours_without_options_is_looked_at_without_numpy(app):
    code = (
        "import sys; from pathlib import Path; from flprov.jobs import load_job\n"
        "from flprov.workers import change_spec\n"
        f"print(change_spec(load_job(Path({str(app)!r})), {{'rounds': '2'}}, None).workflow.rounds)\n"
        "print('numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["2", "False"]


def test_completing_a_command_s_name_loads_nothing_heavy(monkeypatch):
    monkeypatch.setenv("_FLPROV_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "flprov job ")
    monkeypatch.setenv("COMP_CWORD", "2")
    code, output, loaded = run_command()
    assert code == 0
    assert "plain,submit" in output
    assert loaded & (HEAVY | {"asyncio"}) == set()


def test_every_command_of_the_help_exists():
    help_text = CliRunner().invoke(root, ["--help"]).output
    for name in ENTRIES:
        assert f"\n  {name} " in help_text
        assert CliRunner().invoke(root, [name, "--help"]).exit_code == 0, name
