# SPDX-License-Identifier: Apache-2.0
"""Host names: the DNS names and IP addresses at which a server is dialled."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from cryptography import x509

from flprov.errors import IdentityRefused
from flprov.pki.identity import show

_MOST = 100
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 5280 section 4.2.1.6: no underscore


def read_hosts(names: Sequence[str]) -> list[x509.GeneralName]:
    """The names as a certificate holds them: lower case, each once.

    Raises:
        IdentityRefused: one of them is neither a DNS name nor an IP address.
    """
    if len(names) > _MOST:
        raise IdentityRefused(f"{len(names)} host names are too many for one certificate")
    return [_read_host(name) for name in dict.fromkeys(name.lower() for name in names)]


def _read_host(name: str) -> x509.GeneralName:
    """A DNS name or IP address as a certificate holds it.

    No wildcards, no ports, no zones. A last label of digits only would be an IP address to some
    readers and a name to others (WHATWG URL, "ends in a number").
    """
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        labels = name.split(".")
        if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdecimal():
            raise IdentityRefused(
                f"host name {show(name)} is neither a DNS name nor an IP address",
                hint="write it without port, scheme or wildcard; international names in their xn-- form",
            ) from None
        return x509.DNSName(name)
    if getattr(address, "scope_id", None):
        raise IdentityRefused(f"host name {show(name)} has a zone, which means something on one machine only")
    return x509.IPAddress(address)
