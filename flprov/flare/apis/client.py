# SPDX-License-Identifier: Apache-2.0
"""Client: a site, as a FLARE controller sees it."""

from __future__ import annotations

from typing import Any


class Client:
    """A site by its name. The token is its name too: identity is the certificate's business."""

    def __init__(self, name: str, token: str = "") -> None:
        self.name = name
        self.token = token or name
        self.props: dict[str, Any] = {}

    def get_token(self) -> str:
        """Its name."""
        return self.token

    def set_prop(self, name: str, value: Any) -> None:  # noqa: ANN401 - what a controller notes
        """Note something about it, in this process."""
        self.props[name] = value

    def get_prop(self, name: str, default: Any = None) -> Any:  # noqa: ANN401
        """What was noted."""
        return self.props.get(name, default)

    def __repr__(self) -> str:
        return f"Client({self.name!r})"
