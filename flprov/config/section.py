# SPDX-License-Identifier: Apache-2.0
"""One mapping of a YAML file while it is being read.

A Section answers each question with a value of the asked type and notes what is wrong; it never
raises. After a mistake the answer is the default or a harmless placeholder, so that reading goes
on and all mistakes come out together at the end of `open_config`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Never, TypeVar, cast

from flprov.config import readers
from flprov.config.readers import Mistake, note
from flprov.config.report import Report, shown, suggestion
from flprov.config.scalars import Meaning, parse_duration, parse_size
from flprov.config.tree import BrokenNode, ListNode, MapNode, Node, ScalarNode

D = TypeVar("D")
V = TypeVar("V")

REQUIRED: Never = cast(Never, object())  # the default that says: this key must be there


class Section:
    """One mapping; `where` says in a message which one it is ("" for the whole file).

    Every reading method takes a default; without one the key must be there. A key with nothing
    after it (or `null`) is a mistake, except where the default is None.
    """

    def __init__(self, node: MapNode, report: Report, *, where: str = "", line: int = 1) -> None:
        self._entries = node.entries
        self._report = report
        self._where = where
        self._line = line
        self._asked: set[str] = set()
        self._children: list[Section] = []

    def keys(self) -> tuple[str, ...]:
        """The keys in the order of the file. Does not count as asking for them."""
        return tuple(self._entries)

    def has(self, key: str) -> bool:
        """Whether `key` stands here, if only as `key:` with nothing after it."""
        self._asked.add(key)
        return key in self._entries

    def line(self, key: str | None = None) -> int:
        """The line of `key`, or of this section if the key is not there."""
        entry = self._entries.get(key) if key is not None else None
        return entry.line if entry else self._line

    def problem(self, key: str | None, message: str, *, item: str | None = None) -> None:
        """Note a mistake at `key`; if its value is a list, at the (last) item whose text is `item`."""
        line = self.line(key)
        if key in self._entries and item is not None:
            value = self._entries[key].value
            items = value.items if isinstance(value, ListNode) else ()
            line = max((node.line for node in items if _has_text(node, item)), default=line)
        self._report.problem(line, message)

    def text(self, key: str, default: D = REQUIRED, *, pattern: str | None = None, what: str = "") -> str | D:
        """One line of text that `pattern` matches as a whole; `what` says in words what it is.

        Empty text (`""`) is a mistake where the key is required.
        """
        empty = default is not REQUIRED
        return self._read(key, default, lambda node: readers.read_text(node, pattern, what, empty=empty), "")

    def word(self, key: str, words: Sequence[str]) -> str | None:
        """The value of `key` if it is one of these words, such as `off`, which YAML 1.1 takes for false.

        None if it is something else, which is then to be asked for in another way.
        """
        entry = self._entries.get(key)
        if entry is None or not isinstance(entry.value, ScalarNode) or entry.value.text not in words:
            return None
        self._asked.add(key)
        return entry.value.text

    def integer(
        self, key: str, default: D = REQUIRED, *, minimum: int | None = None, maximum: int | None = None
    ) -> int | D:
        """A whole number, unquoted."""
        return self._read(
            key, default, lambda node: readers.read_integer(node, minimum, maximum), minimum or 0
        )

    def number(
        self, key: str, default: D = REQUIRED, *, minimum: float | None = None, maximum: float | None = None
    ) -> float | D:
        """A finite number, unquoted."""
        return self._read(
            key, default, lambda node: readers.read_number(node, minimum, maximum), minimum or 0.0
        )

    def flag(self, key: str, default: D = REQUIRED) -> bool | D:
        """`true` or `false`, unquoted and in lower case."""
        return self._read(key, default, lambda node: readers.word_of(node, Meaning.FLAG) == "true", False)  # noqa: FBT003

    def choice(self, key: str, choices: Sequence[str], default: D = REQUIRED) -> str | D:
        """One of `choices`; after a mistake without a default, the first of them."""
        return self._read(key, default, lambda node: readers.read_choice(node, choices), choices[0])

    def duration(self, key: str, default: D = REQUIRED) -> timedelta | D:
        """`500ms`, `1s`, `10m`, `24h`, `90d`."""
        return self._read(key, default, lambda node: readers.read_parsed(node, parse_duration), timedelta(0))

    def size(self, key: str, default: D = REQUIRED) -> int | D:
        """Bytes: `0`, `512MiB`, `1GiB`, `10GB`."""
        return self._read(key, default, lambda node: readers.read_parsed(node, parse_size), 0)

    def texts(
        self, key: str, default: D = REQUIRED, *, pattern: str | None = None, what: str = ""
    ) -> tuple[str, ...] | D:
        """A list of texts, each checked like `text`; those with mistakes are left out."""

        def read(node: Node) -> tuple[str, ...]:
            items = readers.read_list(
                node, self._report, key, lambda item: readers.read_text(item, pattern, what)
            )
            return tuple(items)

        nothing: tuple[str, ...] = ()
        return self._read(key, default, read, nothing)

    def values(self, key: str, default: D = REQUIRED) -> dict[str, object] | D:
        """A free mapping of names to JSON-like values."""
        nothing: dict[str, object] = {}
        return self._read(key, default, lambda node: readers.read_values(node, self._report, key), nothing)

    def value(self, key: str, default: D = REQUIRED) -> object | D:
        """A JSON-like value of any kind: str, int, float, bool, None, list, dict."""
        return self._read(key, default, lambda node: readers.read_value(node, self._report, key), None)

    def section(self, key: str, *, required: bool = True) -> Section | None:
        """The mapping under `key`; None if it is absent, empty or something else."""
        node = self._collection(key, required=required)
        if isinstance(node, MapNode):
            return self._child(node, repr(key), self.line(key))
        if node is not None:
            self._note(key, readers.wrong_kind(node, f"a mapping (lines of `name: value` under `{key}:`)"))
        return None

    def sections(self, key: str, *, required: bool = True) -> list[Section]:
        """The mappings of the list under `key`; items with mistakes are left out."""

        def read(item: Node) -> MapNode:
            if isinstance(item, MapNode):
                return item
            raise readers.wrong_kind(item, "a mapping")

        node = self._collection(key, required=required)
        if node is None:
            return []
        try:
            found = readers.read_list(node, self._report, key, read)
        except Mistake as mistake:
            self._note(key, mistake)
            return []
        return [self._child(item, f"this item of {key!r}", item.line) for item in found]

    def close(self) -> None:
        """Note every key, here and below, that nobody asked for."""
        for key, entry in self._entries.items():
            if key not in self._asked and not self._report.full:
                known = self._asked - self._entries.keys()
                self._report.problem(entry.line, f"unknown key {shown(key)}{suggestion(key, known)}")
        for child in self._children:
            child.close()

    def _child(self, node: MapNode, where: str, line: int) -> Section:
        child = Section(node, self._report, where=where, line=line)
        self._children.append(child)
        return child

    def _note(self, key: str, mistake: Mistake) -> None:
        note(self._report, self.line(key), repr(key), mistake)

    def _verify_present(self, key: str, *, required: bool) -> Node | None:
        self._asked.add(key)
        entry = self._entries.get(key)
        if entry is not None:
            return entry.value
        if required:
            place = f" in {self._where}" if self._where else ""
            self._report.problem(self._line, f"key {key!r} is missing{place}")
        return None

    def _read(self, key: str, default: D, read: Callable[[Node], V], placeholder: V) -> V | D:
        """The value under `key` as `read` reads it, or the default, or the placeholder."""
        required = default is REQUIRED
        fallback = placeholder if required else default
        node = self._verify_present(key, required=required)
        if node is None or (default is None and _is_null(node)):
            return fallback
        try:
            return read(node)
        except Mistake as mistake:
            self._note(key, mistake)
            return fallback

    def _collection(self, key: str, *, required: bool) -> Node | None:
        """The node under `key`; None if nothing is there, which is a problem if it is required."""
        node = self._verify_present(key, required=required)
        if node is None or isinstance(node, BrokenNode):
            return None
        if _is_null(node) and not required:
            return None
        return node


def _has_text(node: Node, text: str) -> bool:
    return isinstance(node, ScalarNode) and node.text == text


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.meaning is Meaning.NULL
