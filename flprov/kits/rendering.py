# SPDX-License-Identifier: Apache-2.0
"""The texts of a kit, from the real files in templates/. The only door to jinja2.

`templates/<kind>/` holds one file for each text that a kit of this kind contains, under its own name,
perhaps in a folder; `templates/shared/` holds what several of them include. A file that is added there is
in the next kits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flprov import __version__
from flprov.errors import LocalError
from flprov.kits.manifest import Files
from flprov.pki import Kind
from flprov.project import split_address

if TYPE_CHECKING:
    from jinja2 import Environment, Template

_PACKAGE = Path(__file__).resolve().parents[1]


def template_dir() -> Path:
    """Where the templates are: in the installed package, or else in the checkout around it.

    Raises:
        LocalError: in neither; the installation is not whole.
    """
    for folder in (_PACKAGE / "_templates", _PACKAGE.parent / "templates"):
        if (folder / Kind.SITE.value).is_dir():
            return folder
    raise LocalError(
        f"flprov's templates are missing: neither {_PACKAGE / '_templates'} nor a checkout holds them",
        hint="install flprov again: pip install --force-reinstall flprov",
    )


class Renderer:
    """The templates, compiled when the first kit of a kind needs them, once for a whole run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._compiled: dict[Kind, dict[str, Template]] = {}
        self._names = cache(lambda kind: _names_in(folder / kind.value))

    def names(self, kind: Kind) -> Sequence[str]:
        """The texts that a kit of this kind has."""
        return self._names(kind)

    @cached_property
    def digest(self) -> str:
        """Of every template, and of the program that renders them: another digest may mean other texts."""
        found = hashlib.sha256(__version__.encode())
        for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            name, data = path.relative_to(self._folder).as_posix().encode(), path.read_bytes()
            found.update(b"%d %s %d " % (len(name), name, len(data)) + data)
        return found.hexdigest()

    def render(self, kind: Kind, context: Mapping[str, object]) -> Files:
        """Every text of one kit: name -> bytes and mode. Scripts can be executed."""
        if kind not in self._compiled:
            self._compiled[kind] = {
                name: self._environment.get_template(f"{kind.value}/{name}") for name in self.names(kind)
            }
        return {
            name: (template.render(context).encode(), 0o755 if name.endswith(".sh") else 0o644)
            for name, template in self._compiled[kind].items()
        }

    @cached_property
    def _environment(self) -> Environment:
        return _environment(self._folder)


def _names_in(folder: Path) -> list[str]:
    """`start.sh`, `containers/compose.yml`: manifests take one level of folders."""
    found = (path for depth in ("*", "*/*") for path in folder.glob(depth))
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())


def _environment(folder: Path) -> Environment:
    import jinja2  # late: no command but provision needs it

    environment = jinja2.Environment(  # noqa: S701 - YAML, shell and Markdown, no HTML
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    environment.filters["quoted"] = _quote
    environment.filters["port"] = _port
    return environment


def _quote(text: str) -> str:
    """`text` in double quotes, for YAML: JSON's strings are YAML's (YAML 1.2 section 1.3)."""
    return json.dumps(text, ensure_ascii=False)


def _port(address: str) -> int:
    """The port of `host:port`."""
    return split_address(address)[1]
