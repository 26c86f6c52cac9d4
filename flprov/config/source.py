# SPDX-License-Identifier: Apache-2.0
"""From a path to text: size, encoding and characters, before any YAML is parsed."""

from __future__ import annotations

import codecs
import os
import re
import stat
import unicodedata
from pathlib import Path

from flprov.config.report import Report
from flprov.errors import ConfigError, LocalError, NotFound

# Controls, format characters (bidi marks above all: "Trojan Source", CVE-2021-42574), everything that
# Unicode calls default-ignorable, spaces and line ends that are not the usual ones, lone surrogates.
_HIDDEN = (
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f"
    "\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\uffff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
HIDDEN = re.compile(f"[{_HIDDEN}]")  # what no value may hold
HIDDEN_OR_BREAK = re.compile(f"[{_HIDDEN}\t\r\n]")  # what no single line of text may hold
_LINE_END = re.compile(r"\r\n|\r|\n")


def read_source(path: Path, limit: int) -> bytes:
    """The bytes of a configuration file: an ordinary file, not larger than `limit`.

    Raises:
        NotFound: no such file.
        ConfigError: it is a folder, a device or a pipe, or too large.
        LocalError: this machine does not let us read it.
    """
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"{path} is not an ordinary file")
            return file.read(limit + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder, not a file") from None
    except (OSError, ValueError) as error:
        raise LocalError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def decode(data: bytes, limit: int, report: Report) -> str:
    """The text of a file, checked character by character.

    Raises:
        ConfigError: too large, not UTF-8, or with characters that nobody can see.
    """
    if len(data) > limit:
        report.stop(1, f"the file is larger than {limit:,} bytes")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        report.stop(1, "the file is UTF-16; save it as UTF-8")
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        report.stop(line, f"the file is not UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8")
    for number, match in enumerate(HIDDEN.finditer(text)):
        report.problem(line_of(text, match.start()), describe_hidden(match[0]))
        if number == 9:
            break
    report.raise_problems()
    return text


def line_of(text: str, position: int) -> int:
    """The number of the line that holds `position`, from 1."""
    return 1 + sum(1 for _ in _LINE_END.finditer(text, 0, position))


def describe_hidden(character: str) -> str:
    """The message for a character that may not be here."""
    name = unicodedata.name(character, "")
    label = f"U+{ord(character):04X}" + (f" {name}" if name else " (control character)")
    if unicodedata.category(character) == "Zs":
        return f"{label} only looks like a space; type a plain space"
    return f"{label} cannot be seen and is not allowed; delete it"
