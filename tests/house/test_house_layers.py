# SPDX-License-Identifier: Apache-2.0
"""The shape of the house: imports point down, foreign packages have one door, private is private.

Editing a table here is an architecture change; docs/architecture.md says why the tables are so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from house_tree import Import, Module, layer_of, modules, public_names, read_modules, verify_none

# Top to bottom. A layer imports what stands below it; names on one row never import each other.
ROWS = (
    ("cli",),
    ("poc", "simulator", "testing", "doctor"),
    ("server", "agent", "admin"),
    ("flare",),
    ("client",),
    ("workers", "kits", "rpc"),
    ("jobs", "sdk"),
    ("store", "blobs", "policy"),
    ("pki", "project", "wire"),
    ("config", "messages"),
    ("_base",),
    ("errors",),
)
HEIGHT = {name: len(ROWS) - row for row, names in enumerate(ROWS) for name in names}

# Foreign package -> the layers that may import it. What is not here may be imported by nobody.
DOORS = {
    "blake3": {"blobs", "store"},
    "click": {"cli"},
    "cryptography": {"pki"},
    "google": {"wire"},
    "grpc": {"rpc"},
    "jinja2": {"kits"},
    "lightning": {"flare"},
    "matplotlib": {"admin"},
    "mlflow": {"server"},
    "numpy": {"messages", "wire", "sdk", "workers", "simulator", "testing", "flare"},
    "packaging": {"jobs"},
    "paramiko": {"kits"},
    "prometheus_client": {"agent", "server"},
    "prompt_toolkit": {"cli"},
    "psutil": {"agent", "poc"},
    "pynvml": {"agent", "workers"},
    "pytorch_lightning": {"flare"},
    "pyzipper": {"kits"},
    "safetensors": {"wire"},
    "sqlite3": {"store"},
    "tenseal": {"sdk"},
    "tensorboard": {"server"},
    "torch": {"sdk"},
    "yaml": {"config"},
}

# The table of methods names the message types of its rows.
EXCEPTIONS = {("flprov.rpc.methods", "google.protobuf.message")}

# Besides a layer's own `__init__`, what other layers may import from.
PUBLIC_SUBMODULES = {"flprov.rpc.methods", "flprov.wire.documents"}


def upward_imports(tree: tuple[Module, ...]) -> Iterator[str]:
    for module in tree:
        for found in module.imports:
            target = _target_layer(found, tree)
            if target and target != module.layer and not _may_import(module.layer, target):
                yield f"{module.shown}:{found.line} imports {found}"


def _target_layer(found: Import, tree: tuple[Module, ...]) -> str:
    if found.module == "flprov":
        below = f"flprov.{found.name}"
        return found.name if any(module.name == below for module in tree) else ""
    return layer_of(found.module) if found.module.startswith("flprov.") else ""


def _may_import(layer: str, target: str) -> bool:
    return bool(layer) and HEIGHT.get(layer, 0) > HEIGHT.get(target, len(HEIGHT))


def closed_doors(tree: tuple[Module, ...]) -> Iterator[str]:
    for module in tree:
        for found in module.imports:
            root = found.module.partition(".")[0]
            if root == "flprov" or (root in sys.stdlib_module_names and root not in DOORS):
                continue
            allowed = module.layer in DOORS.get(root, ()) or (module.name, found.module) in EXCEPTIONS
            if not allowed:
                yield f"{module.shown}:{found.line} imports {found}"


def private_imports(tree: tuple[Module, ...]) -> Iterator[str]:
    named = {module.name: module for module in tree}
    for module in tree:
        for found in module.imports:
            layer = _target_layer(found, tree)
            if layer and layer != module.layer and not _is_public(found, named):
                yield f"{module.shown}:{found.line} imports {found}"


def _is_public(found: Import, named: dict[str, Module]) -> bool:
    if found.module == "flprov":
        return found.name == "__version__" or f"flprov.{found.name}" in _doorsteps(named)
    if not found.name:
        return found.module in _doorsteps(named)
    submodule = f"{found.module}.{found.name}"
    if submodule in named:
        return submodule in PUBLIC_SUBMODULES
    source = named.get(found.module)
    if source is None or found.module not in _doorsteps(named) | PUBLIC_SUBMODULES:
        return False
    public = public_names(source)
    return not found.name.startswith("_") if public is None else found.name in public


def _doorsteps(named: dict[str, Module]) -> set[str]:
    """What may be imported as a module: layers that are one file, and the public submodules."""
    return {name for name in named if name.count(".") == 1} | PUBLIC_SUBMODULES


def test_every_module_belongs_to_a_layer_of_the_table():
    strangers = {module.shown for module in modules() if module.layer and module.layer not in HEIGHT}
    verify_none(strangers)


def test_imports_point_down_and_never_along_a_row():
    verify_none(upward_imports(modules()))


def test_foreign_packages_are_imported_at_their_doors_only():
    verify_none(closed_doors(modules()))


def test_other_layers_use_public_names_only():
    verify_none(private_imports(modules()))


def test_nothing_is_imported_by_star_or_relatively():
    found = [
        f"{module.shown}:{one.line}" for module in modules() for one in module.imports if one.name == "*"
    ]
    relative = [module.shown for module in modules() if "\nfrom ." in module.source]
    verify_none(found + relative)


# ---- the checks themselves ---------------------------------------------------------------------


@pytest.fixture
def house(tmp_path: Path):
    """house({"jobs/__init__.py": "..."}) -> the modules of a package `flprov` with these files."""

    def build(files: dict[str, str]) -> tuple[Module, ...]:
        package = tmp_path / "flprov"
        for name, source in ({"__init__.py": ""} | files).items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(source)
        return read_modules(package)

    return build


def test_an_import_that_points_up_is_found_even_inside_a_function(house):
    tree = house({"jobs/__init__.py": "def f():\n    from flprov.rpc import x\n", "rpc/__init__.py": ""})
    assert list(upward_imports(tree)) == [f"{_path(tree, 'flprov.jobs')}:2 imports flprov.rpc:x"]


@pytest.mark.parametrize(
    "line",
    [
        "import flprov.sdk",
        "from flprov import sdk",
        "import importlib; importlib.import_module('flprov.sdk.state')",
    ],
)
def test_an_import_along_a_row_is_found_in_every_spelling(house, line):
    tree = house({"jobs/__init__.py": line, "sdk/__init__.py": ""})
    assert len(list(upward_imports(tree))) == 1


def test_a_layer_may_import_itself_and_what_is_below(house):
    tree = house(
        {"jobs/__init__.py": "from flprov.jobs.a import x\nfrom flprov.pki import y", "jobs/a.py": ""}
    )
    assert list(upward_imports(tree)) == []


def test_the_package_itself_imports_no_layer(house):
    tree = house({"__init__.py": "from flprov.errors import x", "errors.py": ""})
    assert len(list(upward_imports(tree))) == 1


def test_a_foreign_package_at_the_wrong_door_is_found(house):
    tree = house({"jobs/__init__.py": "import yaml\nimport sqlite3\nimport requests\nimport json"})
    assert [line.rpartition(" ")[2] for line in closed_doors(tree)] == ["yaml", "sqlite3", "requests"]


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("from flprov.pki import sign", True),
        ("from flprov.pki import _secret", False),
        ("from flprov.pki import other", False),  # there, but not in __all__
        ("from flprov.pki.rules import rule", False),
        ("from flprov.pki import rules", False),
        ("import flprov.pki.rules", False),
        ("from flprov.wire.documents import GPU", True),
        ("from flprov.wire import documents", True),
        ("from flprov import __version__", True),
        ("from flprov.errors import Misuse", True),
    ],
)
def test_private_modules_and_names_of_another_layer_are_found(house, line, allowed):
    tree = house(
        {
            "jobs/__init__.py": line,
            "pki/__init__.py": "import flprov.pki.rules\nsign = other = _secret = 1\n__all__ = ['sign']",
            "pki/rules.py": "rule = 1",
            "wire/__init__.py": "__all__ = []",
            "wire/documents.py": "GPU = 1",
            "errors.py": "Misuse = 1",
        }
    )
    assert (list(private_imports(tree)) == []) is allowed


def _path(tree: tuple[Module, ...], name: str) -> str:
    return next(module for module in tree if module.name == name).shown
