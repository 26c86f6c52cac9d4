# SPDX-License-Identifier: Apache-2.0
"""Commands are quick because they import little: `flprov --help` pays for none of the heavy doors."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest
from click.testing import CliRunner

from flprov.cli import ENTRIES, root

HEAVY = {
    "cryptography",
    "google.protobuf",
    "grpc",
    "jinja2",
    "matplotlib",
    "numpy",
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


def test_acting_on_a_network_loads_neither_torch_nor_sql_nor_the_simulator(tmp_path):
    """The imports of `flprov status`, which has half a second for everything."""
    code, _, loaded = run_command("--kit", str(tmp_path / "none"), "status")
    assert code == 5  # no such kit: everything was imported that loading one needs
    assert "grpc" in loaded
    assert loaded & (HEAVIEST | {"sqlite3", "prompt_toolkit", "jinja2"}) == set()


def test_every_command_of_the_help_exists():
    help_text = CliRunner().invoke(root, ["--help"]).output
    for name in ENTRIES:
        assert f"\n  {name} " in help_text
        assert CliRunner().invoke(root, [name, "--help"]).exit_code == 0, name
