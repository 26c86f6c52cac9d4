# SPDX-License-Identifier: Apache-2.0
"""The package as data: its modules, what each imports, its functions. Nothing of it is executed."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "flprov"


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported thing: a module, or a name out of a module."""

    line: int
    module: str  # "flprov.jobs"
    name: str = ""  # "load_job", "*"; empty for `import module`
    alias: bool = False

    def __str__(self) -> str:
        return f"{self.module}:{self.name}" if self.name else self.module


@dataclass(frozen=True, kw_only=True)
class Module:
    """One file of the package."""

    name: str  # "flprov.jobs.rules"
    path: Path
    root: Path  # the folder that holds the package
    source: str
    tree: ast.Module

    @property
    def layer(self) -> str:
        """The first name below `flprov`; empty for the package's own `__init__`."""
        return layer_of(self.name)

    @property
    def shown(self) -> str:
        """Its path, for messages."""
        return self.path.relative_to(self.root).as_posix()

    @property
    def imports(self) -> tuple[Import, ...]:
        """Every import, also those inside functions and under TYPE_CHECKING."""
        return tuple(_imports(self.tree, self.name))

    @property
    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Every function and method."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


def layer_of(module: str) -> str:
    """`jobs` for `flprov.jobs.rules`; empty for `flprov`. `python -m flprov` is the command line."""
    layer = [*module.split("."), ""][1]
    return "cli" if layer == "__main__" else layer


def read_modules(package: Path = PACKAGE) -> tuple[Module, ...]:
    """Every module below `package` that a person wrote."""
    paths = sorted(path for path in package.rglob("*.py") if "_pb2" not in path.name)
    return tuple(read_module(path, package.parent) for path in paths)


def read_module(path: Path, root: Path) -> Module:
    """One file as a module; `root` is the folder that holds the package."""
    parts = path.relative_to(root).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    source = path.read_text(encoding="utf-8")
    return Module(name=name, path=path, root=root, source=source, tree=ast.parse(source, str(path)))


@functools.cache
def modules() -> tuple[Module, ...]:
    """Every module of flprov."""
    return read_modules()


def _imports(tree: ast.Module, name: str) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                yield Import(line=node.lineno, module=item.name, alias=item.asname is not None)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = ".".join([*name.split(".")[: -node.level], *filter(None, [module])])
            for item in node.names:
                yield Import(line=node.lineno, module=module, name=item.name)
        elif isinstance(node, ast.Call) and (target := _dynamic(node)):
            yield Import(line=node.lineno, module=target)


def _dynamic(call: ast.Call) -> str:
    """The module of `importlib.import_module("...")` and `__import__("...")` with a plain text."""
    called = ast.unparse(call.func)
    if called in ("importlib.import_module", "import_module", "__import__") and call.args:
        first = call.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return first.value
    return ""


def public_names(module: Module) -> list[str] | None:
    """The literal `__all__` of a module; None if it has none."""
    for node in module.tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            value = ast.literal_eval(node.value)  # type: ignore[attr-defined]
            return list(value)
    return None


def verify_none(problems: Iterable[str]) -> None:
    """Fail with every problem, a line each."""
    found = [str(problem) for problem in problems]
    assert not found, "\n" + "\n".join(found)
