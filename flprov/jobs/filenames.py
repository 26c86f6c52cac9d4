# SPDX-License-Identifier: Apache-2.0
"""Which file names may stand in a bundle: the ones that mean the same file on every machine.

A bundle is made on a laptop (Linux, macOS, Windows) and unpacked at a hospital. A name that is
harmless here may climb out of a folder, name a device or fall together with its twin there, so
the rules of all three systems hold at both ends. The last rules keep job code from taking the
place of ours: Python runs `*.pth`, `sitecustomize` and `usercustomize` before any check.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from flprov.config import shown
from flprov.errors import Misuse

PATH_BYTES = 512
PART_BYTES = 200  # ext4 and NTFS stop at 255; a staging suffix must still fit
DEPTH = 32

_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³"]
)  # Microsoft, "Naming Files, Paths, and Namespaces"; reserved with any extension
_FORBIDDEN = frozenset('\\:*?"<>|')
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # controls, bidi marks, surrogates, ...
_SHADOWS = frozenset({"flprov", "sitecustomize", "usercustomize"})
_COMPILED = (".pyc", ".pyo", ".pth")


def is_skipped(part: str) -> bool:
    """Whether a bundle leaves out this file or folder: hidden ones and Python's compiled ones."""
    return part.startswith(".") or part == "__pycache__" or part.endswith((".pyc", ".pyo"))


def verify_path(name: str) -> str:
    """A relative path with `/` that is safe to make on any machine.

    Raises:
        Misuse: it is not; the message shows the name with its invisible characters escaped.
    """
    size = len(name.encode("utf-8", "surrogatepass"))
    _refuse(size > PATH_BYTES, name, f"is longer than {PATH_BYTES} bytes")
    _refuse(name.startswith("/"), name, "is an absolute path")
    parts = name.split("/")
    _refuse(len(parts) > DEPTH, name, f"is more than {DEPTH} folders deep")
    for part in parts:
        _verify_part(part, name)
    return name


def _verify_part(part: str, name: str) -> None:
    _refuse(part == "", name, "has an empty part")
    _refuse(part in (".", ".."), name, "climbs out of its folder" if part == ".." else "has a '.' part")
    bad = next((c for c in part if c in _FORBIDDEN or unicodedata.category(c) in _INVISIBLE), "")
    _refuse(bad != "", name, f"holds the character {bad!a}")
    _refuse(part != unicodedata.normalize("NFC", part), name, "is not in Unicode's composed form (NFC)")
    _refuse(len(part.encode()) > PART_BYTES, name, f"has a part longer than {PART_BYTES} bytes")
    _refuse(part[0] in "-~" or part[0].isspace(), name, f"starts with {part[0]!r}")
    _refuse(part[-1] == "." or part[-1].isspace(), name, f"ends with {part[-1]!r}")
    _refuse(part.split(".")[0].rstrip().casefold() in _DEVICES, name, "is a device on Windows")
    _refuse(is_skipped(part), name, "is hidden or compiled; bundles leave such files out")


def verify_paths(names: Iterable[str]) -> tuple[str, ...]:
    """The names of a whole bundle: each safe, and none in the way of another or of ours.

    Raises:
        Misuse: the first name that is not acceptable.
    """
    folded: dict[str, str] = {}  # how a machine that ignores case sees a path -> how it is spelled
    files: set[str] = set()
    folders: set[str] = set()
    for name in names:
        verify_path(name)
        _verify_ours(name)
        _refuse(name in files, name, "stands twice")
        files.add(name)
        parts = name.split("/")
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            twin = folded.setdefault(_fold(path), path)
            _refuse(twin != path, path, f"and {shown(twin, 80)} are one file where case does not count")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    for name in sorted(files & folders):
        _refuse(True, name, "is both a file and a folder")  # noqa: FBT003
    return tuple(sorted(files))


def _verify_ours(name: str) -> None:
    stem = name.split("/")[0].split(".")[0].casefold()
    _refuse(stem in _SHADOWS, name, f"would take the place of the module {stem!r}")
    _refuse(name.casefold().endswith(_COMPILED), name, "is run or loaded by Python without being read")


def _fold(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _refuse(holds: bool, name: str, what: str) -> None:
    if holds:
        raise Misuse(
            f"file name {shown(name, 80)} {what}", hint="rename or remove the file, then build the app again"
        )
