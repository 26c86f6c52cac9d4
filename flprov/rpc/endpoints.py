# SPDX-License-Identifier: Apache-2.0
"""`host:port`, taken apart and put together."""

from __future__ import annotations

import re

from flprov.errors import Misuse

_ENDPOINT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\s:\[\]/]+)):(?P<port>[0-9]{1,5})")


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6 address]:port`.

    Raises:
        Misuse: it is not spelled so.
    """
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None or int(found["port"]) > 65535:
        raise Misuse(f"{endpoint!r} is not an address", hint="write host:port, such as fl.example.org:8443")
    return found["v6"] or found["host"], int(found["port"])


def join_endpoint(host: str, port: int) -> str:
    """`host:port`, with brackets where the host is an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
