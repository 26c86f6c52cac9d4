# SPDX-License-Identifier: Apache-2.0
"""The HTTP proxy on the way to the server, if there is one: who says so, and what is dialled without it.

    http://proxy.hospital-a.example:3128
    http://USER:PASSWORD@proxy.hospital-a.example:3128     (%40 for @, %3A for :)
    none                                                   (dial directly, whatever others say)

User name and password stand in no message, no `repr` and no log.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from flprov._base import dataclass
from flprov.project.names import split_address

if TYPE_CHECKING:
    from flprov.config import Section

_NONE = "none"
_FORM = "write http://HOST:PORT, with USER:PASSWORD@ before the host if it asks for them"
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_HTTP_PORT = 80


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """An HTTP proxy that speaks CONNECT. `str` and `repr` tell neither user name nor password."""

    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def is_secret(self) -> bool:
        """Whether whoever reads it could pass for us at the proxy."""
        return bool(self.user or self.password)

    @property
    def secret_url(self) -> str:
        """With user name and password: for whoever dials, and nobody else."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.is_secret else ""
        return f"http://{login}{self._address}"

    @property
    def _address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"http://{self._address}"


@dataclass(frozen=True, kw_only=True)
class Route:
    """How the server is dialled: through a proxy, or directly."""

    proxy: Proxy | None = None
    source: str = ""  # who says so: "site.yml", "kit.yml", "HTTPS_PROXY"; empty: nobody does
    exceptions: tuple[str, ...] = ()  # hosts that are dialled directly, as in NO_PROXY

    def proxy_for(self, host: str, port: int) -> Proxy | None:
        """The proxy on the way to this address."""
        if self.proxy is None or any(_is_meant(entry, host.lower(), port) for entry in self.exceptions):
            return None
        return self.proxy

    def __str__(self) -> str:
        if self.proxy is None:
            return f"none (says {self.source})" if self.source else "none"
        login = ", with a password" if self.proxy.is_secret else ""
        return f"{self.proxy} (from {self.source}{login})"


DIRECT = Route()


def parse_proxy(text: str) -> Proxy | None:
    """The proxy that `text` names; None for `none`.

    Raises:
        ValueError: it names no proxy that flprov can use; the message repeats no part of a password.
    """
    if text.strip().lower() == _NONE:
        return None
    found = _SCHEME.fullmatch(text.strip())
    scheme, rest = (found["scheme"].lower(), found["rest"]) if found else ("http", text.strip())
    if scheme != "http":
        raise ValueError(f"flprov speaks to HTTP proxies only, not {scheme}: {_FORM}")
    login, _, address = rest.rpartition("@")
    user, _, password = login.partition(":")
    host, port = _split(address.removesuffix("/"))
    return Proxy(host=host, port=port, user=_decoded(user), password=_decoded(password))


def _split(address: str) -> tuple[str, int]:
    has_port = address.rpartition("]")[2].count(":")
    try:
        host, port = split_address(address.lower() if has_port else f"{address.lower()}:{_HTTP_PORT}")
    except ValueError:
        raise ValueError(f"this is not the address of a proxy: {_FORM}") from None
    if not 1 <= port <= 65535:
        raise ValueError(f"the port is from 1 to 65535: {_FORM}")  # not which: it may be a password
    return host, port


def _decoded(text: str) -> str:
    found = unquote(text, errors="replace")
    if not found.isprintable():
        raise ValueError(f"user name and password must be printable: {_FORM}")
    return found


def route_from(environment: Mapping[str, str]) -> Route | None:
    """What FLPROV_PROXY says, or else HTTPS_PROXY, both in the manner of curl; None if neither is set.

    FLPROV_PROXY is meant for flprov and always followed. HTTPS_PROXY is the machine's: NO_PROXY goes
    before it, and this machine itself is dialled directly.

    Raises:
        ValueError: what stands there is no proxy; the message names the variable.
    """
    for name in ("FLPROV_PROXY", "HTTPS_PROXY", "https_proxy"):
        text = environment.get(name, "").strip()
        if not text:
            continue
        try:
            proxy = parse_proxy(text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        exceptions = ("localhost", "127.0.0.0/8", "::1", *_no_proxy(environment))
        return Route(proxy=proxy, source=name, exceptions=() if name == "FLPROV_PROXY" else exceptions)
    return None


def _no_proxy(environment: Mapping[str, str]) -> tuple[str, ...]:
    text = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    return tuple(entry for entry in re.split(r"[\s,]+", text.lower()) if entry)


def _is_meant(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY means this one: `*`, a domain, address or network, some with :port."""
    if entry == "*":
        return True
    name, colon, wanted = entry.rpartition(":")
    if colon and re.fullmatch("[0-9]{1,5}", wanted) and (name.endswith("]") or ":" not in name):
        if int(wanted) != port:
            return False
        entry = name
    try:
        network = ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        domain = entry.removeprefix("*").removeprefix(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False


def read_open_proxy(section: Section) -> str:
    """The key `proxy`, spelled out; empty if there is none. For files that others may read: no password."""
    text = section.text("proxy", "")
    try:
        proxy = parse_proxy(text) if text else None
    except ValueError as error:
        section.problem("proxy", f"'proxy' will not do: {error}")
        return ""
    if proxy is not None and proxy.is_secret:
        section.problem(
            "proxy",
            "'proxy' must not hold a user name or password: kits are passed on, and this file is kept;"
            " the site writes them into its own site.yml (mode 0600)",
        )
        return ""
    return str(proxy) if proxy else text.lower()
