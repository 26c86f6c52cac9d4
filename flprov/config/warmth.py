# SPDX-License-Identifier: Apache-2.0
"""The key `warm` of server.yml and site.yml: what a process imports ahead of the jobs that need it."""

from __future__ import annotations

import re

from flprov.config.section import Section

WARM = ("numpy", "torch")  # where the interpreter of the jobs has them

_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


def read_warm(section: Section) -> tuple[str, ...] | None:
    """`true`: flprov's own modules and `WARM`; a list: those of the list instead; `false`: None."""
    found = section.value("warm", default=True)
    if isinstance(found, bool):
        return WARM if found else None
    names = found if isinstance(found, list) else [found]
    wrong = [name for name in names if not (isinstance(name, str) and _MODULE.fullmatch(name))]
    if isinstance(found, list) and not wrong:
        return tuple(str(name) for name in found)
    section.problem("warm", "'warm' is true, false, or a list of modules to import, such as [numpy, torch]")
    return WARM
