# SPDX-License-Identifier: Apache-2.0
"""`open_config`: one YAML file from its path to its Section, and its problems at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flprov.config.report import Report
from flprov.config.section import Section
from flprov.config.source import decode, read_source
from flprov.config.tree import parse_tree

LIMIT = 1 << 20  # bytes; a project of 2,000 sites has 200 KiB


@contextmanager
def open_config(path: Path, *, text: bytes | None = None, limit: int = LIMIT) -> Iterator[Section]:
    """Read one YAML file strictly.

    Args:
        path: the file; with `text` only its name in messages.
        text: the file's bytes, if they come from elsewhere (an archive, the command line).
        limit: the most bytes that the file may have.

    Yields:
        The file's top mapping. Ask it for every key that the file may have.

    Raises:
        ConfigError: at the end, with every problem and every key that nobody asked for; at the
            start, if the file cannot be parsed.
        NotFound: no such file.
        LocalError: this machine does not let us read it.
    """
    report = Report(path)
    data = read_source(path, limit) if text is None else text
    top = Section(parse_tree(decode(data, limit, report), report), report)
    yield top
    top.close()
    report.raise_problems()
