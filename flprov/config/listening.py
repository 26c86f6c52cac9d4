# SPDX-License-Identifier: Apache-2.0
"""The key `metrics` of server.yml and site.yml: where a process answers its machine's monitoring."""

from __future__ import annotations

import ipaddress
import re

from flprov.config.section import Section

OFF = "off"

_LISTEN = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})")


def read_metrics(section: Section, default: str) -> str:
    """`address:port`, or `off`.

    An address and no name: what is not loopback has to be written out, and a name could come to mean
    another machine's.
    """
    if section.word("metrics", [OFF]):
        return OFF
    found = section.text("metrics", default)
    if _is_address(found):
        return found
    section.problem(
        "metrics", f"'metrics' is {found!r}; write {OFF}, or an address and a port such as {default}"
    )
    return OFF


def _is_address(text: str) -> bool:
    found = _LISTEN.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        return False
    try:
        ipaddress.ip_address(found["v6"] or found["v4"])
    except ValueError:
        return False
    return True
