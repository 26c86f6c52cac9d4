# SPDX-License-Identifier: Apache-2.0
"""The rules of the house that a machine can keep: sizes, names, first lines, what may not appear."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from house_tree import ROOT, Module, modules, public_names, read_module, verify_none

LINES_PER_FILE = 600
LINES_PER_FUNCTION = 60
SPDX = "# SPDX-License-Identifier: Apache-2.0"
BANNED_NAMES = re.compile(r"utils|helpers|common|manager|engine|base_.*|impl|spec|constants")

# Who may look at the process's environment, and for what.
READ_ENVIRONMENT = {
    "cli": "the person's choices: FLPROV_KIT, FLPROV_CA_PASSPHRASE, XDG_CONFIG_HOME",
    "client": "its channel, in a script that a job started",
    "workers": "its channel, in the main of a worker",
    "rpc": "writes what gRPC reads at import",
    "simulator": "writes what numpy reads at import, in the process that draws",
    "testing": "its channel, in the scripted worker",
}
ENVIRONMENT_FILES = {
    "workers": {"start.py", "forked.py"},
    "rpc": {"grpc_settings.py"},
    "simulator": {"drawing.py"},
    "testing": {"scripted_worker.py"},
}

# What is banned and has one place all the same: file, words -> function, lines.
ALLOWED = {
    # Says whose certificate a stranger shows, after it was refused: nothing is sent over that connection.
    ("flprov/rpc/dial.py", "verification turned off"): ("look_at_certificate", 2),
}

BANNED_WORDS = {
    r"\b(?:pickle|dill|cloudpickle|marshal|shelve|joblib)\b\s*\.": "pickle and its kin",
    r"\b(?:import|from)\s+(?:pickle|dill|cloudpickle|marshal|shelve|joblib)\b": "pickle and its kin",
    r"\btorch\.load\(": "torch.load",
    r"\byaml\.(?:load|load_all|unsafe_load|full_load)\(": "yaml load other than a safe loader",
    r"\bAutoAddPolicy\b": "paramiko's AutoAddPolicy",
    r"\bshell=True\b": "shell=True",
    r"\bos\.system\(": "os.system",
    r"\bverify=False\b|\bcheck_hostname *= *False\b|\bCERT_NONE\b": "verification turned off",
    r"\b(?:TODO|FIXME|XXX|HACK)\b": "a note to do it later",
    r"\bNotImplementedError\b": "NotImplementedError",
    r"(?<![\w.}])/(?:home|work|Users|root)/[\w.-]+": "a path of somebody's machine",
}


def written_files() -> list[Path]:
    """Every source file of the tree that a person wrote."""
    folders = ("flprov", "tests", "examples", "benchmarks", "scripts")
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if "_pb2" not in path.name]


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.shown)
def test_modules_keep_to_their_size(module):
    verify_none(long_things(module))


def long_things(module: Module) -> list[str]:
    lines = module.source.count("\n")
    found = [f"{module.shown}: {lines} lines"] if lines > LINES_PER_FILE else []
    for node in module.functions:
        span = (node.end_lineno or node.lineno) - node.lineno + 1
        if span > LINES_PER_FUNCTION:
            found.append(f"{module.shown}:{node.lineno} {node.name}: {span} lines")
    return found


def test_every_file_begins_with_its_licence_and_says_what_it_is_for():
    verify_none(problem for path in written_files() for problem in opening_problems(path))


def opening_problems(path: Path) -> Iterator[str]:
    source = path.read_text(encoding="utf-8")
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    first = source.splitlines()[:2] if source.startswith("#!") else [source.partition("\n")[0]]
    if first[-1] != SPDX:
        yield f"{shown}: the first line is not {SPDX!r}"
    if not (ast.get_docstring(ast.parse(source)) or "").strip():
        yield f"{shown}: no docstring"


def test_no_module_has_a_name_that_says_nothing():
    named_here = [module for module in modules() if not mirrors_flare(module)]
    bad = [module.shown for module in named_here if BANNED_NAMES.fullmatch(module.path.stem)]
    bad += [module.shown for module in named_here if BANNED_NAMES.fullmatch(module.path.parent.name)]
    verify_none(bad)


def mirrors_flare(module: Module) -> bool:
    """Whether its path is NVIDIA FLARE's: users' import lines find it by that (docs/flare.md)."""
    rooms = ("apis", "app_common", "app_opt", "fuel")
    return module.name.startswith(tuple(f"flprov.flare.{room}" for room in rooms))


def test_nothing_dangerous_or_unfinished_is_in_the_package():
    found = [line for module in modules() for line in banned_lines(module)]
    for (name, what), (function, lines) in ALLOWED.items():
        here = [line for line in found if line.startswith(f"{name}:") and line.endswith(what)]
        assert [enclosing_function(name, line) for line in here] == [function] * lines
        found = [line for line in found if line not in here]
    verify_none(found)


def enclosing_function(name: str, line: str) -> str:
    """In which function `path:12: ...` stands."""
    number = int(line.split(":")[1])
    tree = next(module.tree for module in modules() if module.shown == name)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return next(one.name for one in functions if one.lineno <= number <= (one.end_lineno or 0))


def banned_lines(module: Module) -> Iterator[str]:
    for number, line in enumerate(module.source.splitlines(), 1):
        for pattern, what in BANNED_WORDS.items():
            if re.search(pattern, line):
                yield f"{module.shown}:{number}: {what}"


def test_services_wait_on_events_and_on_their_clock():
    verify_none(line for module in modules() for line in sleeps(module))


def sleeps(module: Module) -> Iterator[str]:
    """`time.sleep`, however it was imported; `asyncio.sleep` belongs to the clock and to yielding (0)."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            yields = ast.unparse(node.args[0]) == "0" if node.args else False
            if called == "time.sleep" or (
                called == "asyncio.sleep" and not yields and module.layer not in ("_base", "testing")
            ):
                yield f"{module.shown}:{node.lineno}: {called}"
    for found in module.imports:
        if (found.module, found.name) in (("time", "sleep"), ("asyncio", "sleep")):
            yield f"{module.shown}:{found.line}: sleep imported by name"


def test_the_environment_is_read_at_the_edge_only():
    verify_none(line for module in modules() for line in environment_reads(module))


def environment_reads(module: Module) -> Iterator[str]:
    files = ENVIRONMENT_FILES.get(module.layer)
    if module.layer in READ_ENVIRONMENT and (files is None or module.path.name in files):
        return
    for node in ast.walk(module.tree):
        named = isinstance(node, ast.Attribute) and ast.unparse(node)
        if named in ("os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv"):
            yield f"{module.shown}:{node.lineno}: {named}"
    for found in module.imports:
        if found.module == "os" and found.name in ("environ", "environb", "getenv", "getenvb", "putenv"):
            yield f"{module.shown}:{found.line}: {found}"


def test_each_layer_names_what_is_public_once_sorted_and_truly():
    problems = [line for module in modules() for line in public_problems(module)]
    verify_none(problems)


def public_problems(module: Module) -> Iterator[str]:
    names = public_names(module)
    is_layer = module.path.name == "__init__.py" and module.name.count(".") == 1
    if names is None:
        if is_layer:
            yield f"{module.shown}: no __all__"
        return
    if names != sorted(names, key=_order):
        yield f"{module.shown}: __all__ is not sorted"
    if len(set(names)) != len(names):
        yield f"{module.shown}: __all__ names something twice"
    bound = _bound_names(module.tree)
    for name in names:
        if name not in bound:
            yield f"{module.shown}: __all__ names {name}, which is not there"
        if name.startswith("_") and name != "__version__":
            yield f"{module.shown}: __all__ names {name}, which is private"


def _order(name: str) -> tuple[int, str]:
    """As ruff sorts: CONSTANTS, Classes, functions."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2, name)


def _bound_names(tree: ast.Module) -> set[str]:
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {item.asname or item.name.partition(".")[0] for item in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
    return bound


def test_public_functions_and_classes_say_what_one_gets():
    verify_none(line for module in modules() for line in undocumented(module))


def undocumented(module: Module) -> Iterator[str]:
    """Public names of modules without a docstring. Methods are left to the reader's judgement."""
    for node in module.tree.body:
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if named and not node.name.startswith("_") and not ast.get_docstring(node):
            yield f"{module.shown}:{node.lineno} {node.name} has no docstring"


def test_inheritance_among_our_own_classes_is_two_deep_at_most():
    ours = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
        and module.layer != "errors"  # a tree on purpose
        # FLARE's tree, as users' isinstance() and super() know it.
        and not mirrors_flare(module)
    }

    def depth(name: str) -> int:
        return 1 + max((depth(base) for base in ours[name] if base in ours and base != name), default=0)

    verify_none(name for name in ours if depth(name) > 2)


def test_test_files_have_names_of_their_own():
    """Without packages under tests/, pytest tells modules apart by their file name alone."""
    seen: dict[str, Path] = {}
    twice = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.name in seen and path.name != "conftest.py":
            twice.append(f"{path.relative_to(ROOT)} and {seen[path.name].relative_to(ROOT)}")
        seen[path.name] = path
    verify_none(twice)
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_no_secret_build_output_or_large_file_is_tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this tree is no git checkout")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        assert not name.endswith((".key.pem", "key.pem", ".pyc", ".db", ".sqlite")), name
        assert not path.is_file() or path.stat().st_size < 500_000, name


# ---- the checks themselves ---------------------------------------------------------------------


@pytest.fixture
def module_of(tmp_path: Path):
    def build(source: str, name: str = "jobs/rules.py") -> Module:
        path = tmp_path / "flprov" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return read_module(path, tmp_path)

    return build


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "x = pickle.loads(y)",
        "yaml.load(x)",
        "run(x, shell=True)",
        "# TODO: later",
        "context.check_hostname = False",
        "p = '/home/somebody/x'",
        "torch.load(path)",
    ],
)
def test_a_banned_line_is_found(module_of, line):
    assert len(list(banned_lines(module_of(line)))) >= 1


def test_an_innocent_line_is_not_banned(module_of):
    source = "verify_load(yaml.safe_load)\n# picklesome: hackneyed, and Todoist\n'spiffe://a/work/b'\n"
    assert list(banned_lines(module_of(source))) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import time\ntime.sleep(1)", 1),
        ("from time import sleep", 1),
        ("import asyncio\nasync def f():\n    await asyncio.sleep(0.1)", 1),
        ("import asyncio\nasync def f():\n    await asyncio.sleep(0)", 0),
        ("async def f(clock):\n    await clock.sleep(1)", 0),
    ],
)
def test_sleeping_is_found_except_on_the_clock(module_of, line, found):
    assert len(list(sleeps(module_of(line)))) == found


@pytest.mark.parametrize("line", ["os.environ['A']", "os.getenv('A')", "from os import environ"])
def test_reading_the_environment_is_found(module_of, line):
    assert len(list(environment_reads(module_of(f"import os\n{line}")))) == 1
    assert list(environment_reads(module_of(f"import os\n{line}", "cli/use.py"))) == []


def test_a_long_function_and_a_long_file_are_found(module_of):
    source = "def f():\n" + "    x = 1\n" * LINES_PER_FILE
    assert len(long_things(module_of(source))) == 2


def test_a_public_list_that_lies_is_found(module_of):
    source = "__all__ = ['b', 'A', 'missing']\nA = b = 1\n"
    assert len(list(public_problems(module_of(source, "jobs/__init__.py")))) == 2
    assert list(public_problems(module_of("x = 1", "jobs/rules.py"))) == []
    assert len(list(public_problems(module_of("x = 1", "sdk/__init__.py")))) == 1


def test_a_file_without_licence_or_docstring_is_found(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("x = 1\n")
    assert len(list(opening_problems(path))) == 2
    path.write_text(f'{SPDX}\n"""For this."""\n')
    assert list(opening_problems(path)) == []
