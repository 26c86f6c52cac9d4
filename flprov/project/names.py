# SPDX-License-Identifier: Apache-2.0
"""What parties, organisations, trust domains and endpoints may be called.

A name becomes a folder, a part of a URI, a word on a command line and a line of a log on three
operating systems. So it is a DNS label in lower case (RFC 1123 section 2.1), and not one of the
words that Windows keeps for devices.
"""

from __future__ import annotations

import ipaddress
import re

NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
NAME_IN_WORDS = "a name of at most 63 lower-case letters, digits and inner hyphens"

# Naming Files, Paths, and Namespaces (Microsoft): these open a device in every folder.
DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))]
)

_LABEL = re.compile(NAME)


def mistake_in_name(name: str) -> str | None:
    """Why a name that fits `NAME` still will not do; None if it does."""
    if name in DEVICES:
        return f"{name!r} is the name of a device on Windows; choose another"
    return None


def is_dns_name(text: str) -> bool:
    """Whether `text` is a DNS name in lower case: labels with dots between, 253 characters at most."""
    labels = text.split(".")
    return len(text) <= 253 and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit()


def mistake_in_trust_domain(text: str) -> str | None:
    """Why `text` is not a trust domain; None if it is."""
    if is_dns_name(text):
        return None
    return (
        f"{text!r} is not a trust domain: write it like a DNS name in lower case, such as heart-study.example"
    )


def split_address(text: str) -> tuple[str, int]:
    """`host:port`, `1.2.3.4:port` or `[::1]:port` as (host, port); the IPv6 host without brackets.

    Raises:
        ValueError: it is none of these; the message says why.
    """
    if "://" in text:
        raise ValueError("it must be host:port, without a scheme")
    host, colon, port = text.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port):
        raise ValueError("it must be host:port")
    if host.startswith("[") and host.endswith("]"):
        return verify_ip(host[1:-1], versions=(6,)), int(port)
    if ":" in host:
        raise ValueError("an IPv6 address stands in brackets: [::1]:8443")
    if re.fullmatch(r"[0-9.]+", host):
        return verify_ip(host, versions=(4,)), int(port)
    if not is_dns_name(host):
        raise ValueError(f"{host!r} is neither a DNS name in lower case nor an IP address")
    return host, int(port)


def is_unspecified(host: str) -> bool:
    """Whether `host` is 0.0.0.0 or ::, which a process can listen on and nobody can dial."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def verify_ip(text: str, *, versions: tuple[int, ...] = (4, 6)) -> str:
    """`text`, if it is an IP address in its one spelling (no zone). Raises ValueError."""
    if "%" in text:
        raise ValueError("an address with a zone means something on one machine only")
    address = ipaddress.ip_address(text)
    if address.version not in versions or str(address) != text:
        raise ValueError(f"{text!r} is not how this address is written; use {address}")
    return text
