# SPDX-License-Identifier: Apache-2.0
"""Names from elsewhere, made to fit our rules."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from flprov.project.names import NAME, is_dns_name, is_unspecified, mistake_in_name, verify_ip

_LONGEST = 63


class Names:
    """Names that are taken."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._last: dict[str, int] = {}  # the number that a name was last given

    def take(self, text: str) -> str:
        """`text` as a name of ours that nobody has yet: admin@nvidia.com becomes admin-nvidia-com."""
        name = self.fit(text, self)
        self._taken.add(name)
        return name

    def fit(self, text: str, taken: Names) -> str:
        """The same, without taking it from anybody."""
        first = _fit(text)
        name, number = first, taken._last.get(first, 1)
        while name in taken._taken or mistake_in_name(name):
            number += 1
            name = f"{first[: _LONGEST - 5]}-{number}"
        taken._last[first] = number
        return name


def _fit(text: str) -> str:
    if re.fullmatch(NAME, text):
        return text
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_LONGEST].strip("-") or "unnamed"


def fits_host(text: str) -> str | None:
    """`text` as a DNS name or IP address that can be dialled; None if it is neither."""
    host = text.lower()
    if is_dns_name(host):
        return host
    try:
        return None if is_unspecified(host) else verify_ip(host)
    except ValueError:
        return None
