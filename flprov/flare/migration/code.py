# SPDX-License-Identifier: Apache-2.0
"""The code of a FLARE job with `nvflare` replaced in its import lines; it is parsed, never imported."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from flprov.flare.migration.words import ADVICE

_NAME = re.compile(r"\bnvflare\b")
_PACKAGES = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "skimage": "scikit-image",
}
OURS = "flprov.flare"


@dataclass(frozen=True, kw_only=True)
class Migrated:
    """One file after the replacement."""

    text: str
    changed: tuple[str, ...]  # `12: from flprov.flare...`
    notes: tuple[str, ...]  # `12: what has no counterpart`
    imports: frozenset[str]  # top-level packages that it imports


def migrate_code(text: str) -> Migrated:
    """Replace `nvflare` in the import statements of a module; nothing else is touched."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Migrated(
            text=text, changed=(), notes=(f"1: copied as it is: not Python 3 ({error})",), imports=frozenset()
        )
    lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)  # as Python counts them; splitlines knows more ends
    changed: list[str] = []
    notes: list[str] = []
    packages: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        packages |= set(_packages(node))
        notes += [f"{node.lineno}: {note}" for note in _missing(node)]
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1):
            new = _NAME.sub(OURS, lines[number - 1])
            if new != lines[number - 1]:
                lines[number - 1] = new
                changed.append(f"{number}: {new.strip()}")
    return Migrated(
        text="".join(lines),
        changed=tuple(changed),
        notes=tuple(notes),
        imports=frozenset(packages - {"nvflare"}),
    )


def find_needs(imports: Iterable[str], modules: Iterable[str]) -> tuple[str, ...]:
    """What `needs` should list: imported packages that neither Python nor the app brings."""
    own = set(modules) | set(sys.stdlib_module_names) | {"flprov", "nvflare"}
    return tuple(sorted({_PACKAGES.get(name, name) for name in set(imports) - own}))


def migrate_path(path: str) -> str:
    """A dotted path with our package in the place of FLARE's."""
    return re.sub(r"^nvflare(?=\.)", OURS, path)


def is_ours(path: str) -> bool:
    """Whether FLARE's dotted path of a class has a counterpart of the same name."""
    module, _, name = migrate_path(path).rpartition(".")
    return _find_name(module, name)


def _packages(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif node.module and not node.level:
        yield node.module.partition(".")[0]


def _missing(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """What a statement imports from FLARE that there is not in `flprov.flare`."""
    if isinstance(node, ast.ImportFrom):
        if node.level or (node.module or "").partition(".")[0] != "nvflare":
            return
        module = migrate_path(f"{node.module}.").rstrip(".")
        for alias in node.names:
            if not _find_name(module, alias.name):
                yield _no_counterpart(f"{node.module}.{alias.name}")
        return
    for alias in node.names:
        if alias.name == "nvflare" and alias.asname is None:
            yield "import nvflare: name what the code uses of it, in lines that import that"
        elif alias.name.startswith("nvflare.") and not _is_module(migrate_path(alias.name)):
            yield _no_counterpart(alias.name)


def _no_counterpart(path: str) -> str:
    advice = next((words for prefix, words in ADVICE.items() if path.startswith(prefix)), "")
    return f"{path} has no counterpart in {OURS}" + (f": {advice}" if advice else "")


def _find_name(module: str, name: str) -> bool:
    """Whether one of our own modules has a name; these are safe to import."""
    if not module.startswith(OURS):
        return False
    if _is_module(f"{module}.{name}"):
        return True
    return _is_module(module) and hasattr(importlib.import_module(module), name)


def _is_module(name: str) -> bool:
    if not all(part.isidentifier() for part in name.split(".")):
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def module_names(files: Mapping[str, bytes]) -> frozenset[str]:
    """The top-level modules and packages among the files of an app."""
    return frozenset(path.split("/")[0].removesuffix(".py") for path in files if path.endswith(".py"))
