# SPDX-License-Identifier: Apache-2.0
"""Masking what a site does not want to be read: each match becomes as many `*` as it had bytes.

Every line is looked at by itself, so no match goes over a line's end, and no offset changes. Run as a
script it is the process that does it for an agent: a regular expression can take for ever, and Python
does nothing else meanwhile. It reads patterns and pieces from stdin and writes the masked pieces.
"""

from __future__ import annotations

import re
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

LENGTH = 4  # bytes before each piece that say how long it is


def mask(data: bytes, patterns: Iterable[re.Pattern[str]]) -> bytes:
    """`data` with every match masked; the same number of bytes."""
    lines = data.split(b"\n")
    for pattern in patterns:
        lines = [_mask_line(line, pattern) for line in lines]
    return b"\n".join(lines)


def _mask_line(line: bytes, pattern: re.Pattern[str]) -> bytes:
    text = line.decode("utf-8", "surrogateescape")
    masked = pattern.sub(_stars, text)
    return masked.encode("utf-8", "surrogateescape")


def _stars(match: re.Match[str]) -> str:
    return "*" * len(match.group().encode("utf-8", "surrogateescape"))


def _read() -> bytes | None:
    head = sys.stdin.buffer.read(LENGTH)
    if len(head) < LENGTH:
        return None
    return sys.stdin.buffer.read(int.from_bytes(head, "big"))


def _serve() -> None:
    first = _read()
    patterns = [re.compile(text) for text in (first or b"").decode().split("\n")]
    while (data := _read()) is not None:
        sys.stdout.buffer.write(mask(data, patterns))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
