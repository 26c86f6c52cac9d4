# SPDX-License-Identifier: Apache-2.0
"""Shareable: a dict with headers, as FLARE's tasks and results are."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from typing import Any

from flprov.flare.apis.fl_constant import ReservedKey, ReturnCode

__all__ = ["ReservedHeaderKey", "ReturnCode", "Shareable", "make_copy", "make_reply"]


class ReservedHeaderKey:
    """Headers that the runtime fills in."""

    HEADERS = "__headers__"
    RC = ReservedKey.RC
    COOKIE_JAR = ReservedKey.COOKIE_JAR
    PEER_PROPS = "__peer_props__"
    TASK_NAME = ReservedKey.TASK_NAME
    TASK_ID = ReservedKey.TASK_ID
    WORKFLOW = ReservedKey.WORKFLOW
    CONTENT_TYPE = "__content_type__"
    ERROR = "__error__"
    REPLY_IS_LATE = "__reply_is_late__"


class Shareable(dict[str, Any]):
    """Any keys and values, and headers beside them.

    Attributes:
        cause: the exception that was being handled when `make_reply` said that the task failed.
    """

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(data or {})
        self[ReservedHeaderKey.HEADERS] = {}
        self.cause: BaseException | None = None

    def set_header(self, key: str, value: Any) -> None:  # noqa: ANN401 - what a job puts there
        """Set one header."""
        self._headers()[key] = value

    def get_header(self, key: str, default: Any = None) -> Any:  # noqa: ANN401
        """One header, or `default`."""
        return self._headers().get(key, default)

    def get_return_code(self, default: str = ReturnCode.OK) -> str:
        """What became of the task; OK where nothing else is said."""
        return str(self.get_header(ReservedHeaderKey.RC, default))

    def set_return_code(self, rc: str) -> None:
        """Say what became of the task."""
        self.set_header(ReservedHeaderKey.RC, rc)

    def add_cookie(self, name: str, data: Any) -> None:  # noqa: ANN401
        """Something that comes back with the answer to this task."""
        jar = self.get_cookie_jar() or {}
        self.set_cookie_jar(jar)
        jar[name] = data

    def get_cookie_jar(self) -> dict[str, Any] | None:
        """All cookies, or None."""
        jar: dict[str, Any] | None = self.get_header(ReservedHeaderKey.COOKIE_JAR)
        return jar

    def set_cookie_jar(self, jar: dict[str, Any]) -> None:
        """Put other cookies in the place of all."""
        self.set_header(ReservedHeaderKey.COOKIE_JAR, jar)

    def get_cookie(self, name: str, default: Any = None) -> Any:  # noqa: ANN401
        """One cookie, or `default`."""
        return (self.get_cookie_jar() or {}).get(name, default)

    def set_peer_props(self, props: Mapping[str, Any]) -> None:
        """Remember the public properties of whoever sent this."""
        self.set_header(ReservedHeaderKey.PEER_PROPS, dict(props))

    def get_peer_props(self) -> dict[str, Any] | None:
        """The public properties of whoever sent this."""
        props: dict[str, Any] | None = self.get_header(ReservedHeaderKey.PEER_PROPS)
        return props

    def get_peer_prop(self, key: str, default: Any = None) -> Any:  # noqa: ANN401
        """One of them."""
        return (self.get_peer_props() or {}).get(key, default)

    def _headers(self) -> dict[str, Any]:
        headers = self.setdefault(ReservedHeaderKey.HEADERS, {})
        if not isinstance(headers, dict):
            raise ValueError(f"the headers of a Shareable must be a dict, not a {type(headers).__name__}")
        return headers


def make_reply(rc: str, headers: Mapping[str, Any] | None = None) -> Shareable:
    """An answer without content. Made while an exception is handled, it remembers that for `job why`."""
    reply = Shareable()
    reply.set_return_code(rc)
    for key, value in (headers or {}).items():
        reply.set_header(key, value)
    if rc != ReturnCode.OK:
        reply.cause = sys.exc_info()[1]
    return reply


def make_copy(source: Shareable, exclude_headers: list[str] | None = None) -> Shareable:
    """The same content with headers of its own, but for those in `exclude_headers`."""
    made = Shareable({key: value for key, value in source.items() if key != ReservedHeaderKey.HEADERS})
    for key, value in source.get(ReservedHeaderKey.HEADERS, {}).items():
        if key not in (exclude_headers or ()):
            made.set_header(key, copy.deepcopy(value))
    return made
