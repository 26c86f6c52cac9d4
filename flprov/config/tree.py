# SPDX-License-Identifier: Apache-2.0
"""From text to a tree in which every key and value knows its line.

Built on the parser's events, not on values that PyYAML constructs: nothing is resolved, a tag
never names a class, an alias is never followed. Depth is checked event by event, so that nesting
is refused while it opens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import yaml

from flprov._base import dataclass
from flprov.config.report import Report, shown
from flprov.config.scalars import Meaning, meaning_of
from flprov.config.source import HIDDEN, describe_hidden

DEPTH = 20  # our deepest file needs 6
VALUES = 50_000  # a project of 2,000 sites has 20,000


@dataclass(frozen=True, kw_only=True)
class ScalarNode:
    """One word, number or quoted text."""

    line: int
    text: str
    meaning: Meaning


@dataclass(frozen=True, kw_only=True)
class ListNode:
    """A sequence."""

    line: int
    items: tuple[Node, ...]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A key of a mapping with its value."""

    line: int
    value: Node


@dataclass(frozen=True, kw_only=True)
class MapNode:
    """A mapping; no key stands twice."""

    line: int
    entries: dict[str, Entry]


@dataclass(frozen=True, kw_only=True)
class BrokenNode:
    """Something whose problem is on the report already; whoever reads it says nothing more."""

    line: int


Node = ScalarNode | ListNode | MapNode | BrokenNode


class _GuardedLoader(yaml.SafeLoader):
    """PyYAML's own scanner where libyaml is missing; it looks 1,024 brackets ahead, slowly."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: ANN401, N803
        if self.flow_level >= DEPTH:
            raise yaml.scanner.ScannerError(None, None, _too_deep(), self.get_mark())
        super().fetch_flow_collection_start(TokenClass)


LOADER: Any = getattr(yaml, "CSafeLoader", _GuardedLoader)


def parse_tree(text: str, report: Report) -> MapNode:
    """The top mapping of the one document in `text`; an empty document is an empty mapping.

    Raises:
        ConfigError: it cannot be read on; with everything found until there.
    """
    composer = _Composer(text, report)
    try:
        return composer.compose_document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        report.stop(line, _syntax_message(error, text, line))
    except yaml.YAMLError as error:
        report.stop(1, f"this is not YAML: {' '.join(str(error).split())}")


def _syntax_message(error: yaml.MarkedYAMLError, text: str, line: int) -> str:
    problem = error.problem or "it cannot be parsed"
    if problem == _too_deep():
        return problem
    lines = text.splitlines()
    here = lines[line - 1] if line <= len(lines) else ""
    if "\t" in here[: len(here) - len(here.lstrip())]:
        return "this line is indented with a tab; use spaces"
    context = f" ({error.context})" if error.context else ""
    return f"this is not YAML: {problem}{context}"


def _too_deep() -> str:
    return f"this is nested deeper than {DEPTH} levels"


class _Composer:
    """Turns the event stream of one file into nodes."""

    def __init__(self, text: str, report: Report) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=LOADER)
        self._report = report
        self._values = 0
        self._references: list[tuple[int, str]] = []  # line and text of each anchor and alias

    def compose_document(self) -> MapNode:
        next(self._events)  # StreamStart
        start = next(self._events)
        if isinstance(start, yaml.StreamEndEvent):
            return MapNode(line=1, entries={})
        if start.version or start.tags:
            self._stop(start, "YAML directives (%YAML, %TAG) are not allowed; delete the line")
        top = self._compose(0)
        next(self._events)  # DocumentEnd
        end = next(self._events)
        if not isinstance(end, yaml.StreamEndEvent):
            self._stop(end, "a second document starts here; one file is one document")
        self._verify_references()
        return self._verify_top(top)

    def _verify_references(self) -> None:
        """One line for all of them: a bomb has hundreds, and no key that follows means anything."""
        if not self._references:
            return
        line, first = self._references[0]
        more = len(self._references) - 1
        others = f" (and {more:,} more)" if more else ""
        self._report.stop(
            line, f"anchors and aliases are not allowed: write out what {first} stands for{others}"
        )

    def _verify_top(self, top: Node) -> MapNode:
        if isinstance(top, MapNode):
            return top
        if isinstance(top, ScalarNode) and top.meaning is Meaning.NULL:
            return MapNode(line=1, entries={})
        return self._report.stop(top.line, "the file must be a mapping: lines of `key: value`")

    def _compose(self, depth: int) -> Node:
        return self._compose_from(next(self._events), depth)

    def _compose_from(self, event: Any, depth: int) -> Node:  # noqa: ANN401 - PyYAML's events are untyped
        self._values += 1
        line = event.start_mark.line + 1
        if self._values > VALUES:
            self._stop(event, f"the file holds more than {VALUES:,} values")
        if isinstance(event, yaml.AliasEvent):
            self._references.append((line, f"*{event.anchor!s:.60}"))
            return BrokenNode(line=line)
        sound = self._verify_properties(event, line)
        node = self._compose_collection(event, line, depth + 1)
        return node if sound else BrokenNode(line=line)

    def _verify_properties(self, event: Any, line: int) -> bool:  # noqa: ANN401
        if event.anchor is not None:
            self._references.append((line, f"&{event.anchor[:60]}"))
        if event.tag is not None:
            self._report.problem(line, f"YAML tags are not allowed: remove {shown(event.tag)}")
        return event.anchor is None and event.tag is None

    def _compose_collection(self, event: Any, line: int, depth: int) -> Node:  # noqa: ANN401
        if isinstance(event, yaml.ScalarEvent):
            return self._compose_scalar(event, line)
        if depth > DEPTH:
            self._stop(event, _too_deep())
        if isinstance(event, yaml.SequenceStartEvent):
            return self._compose_list(line, depth)
        return self._compose_map(line, depth)

    def _compose_scalar(self, event: Any, line: int) -> Node:  # noqa: ANN401
        hidden = HIDDEN.search(event.value)
        if hidden is not None:  # written as an escape: "\u202e", "\0"
            self._report.problem(line, describe_hidden(hidden[0]))
            return BrokenNode(line=line)
        return ScalarNode(line=line, text=event.value, meaning=meaning_of(event.value, plain=not event.style))

    def _compose_list(self, line: int, depth: int) -> ListNode:
        items = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._compose_from(event, depth))
        return ListNode(line=line, items=tuple(items))

    def _compose_map(self, line: int, depth: int) -> MapNode:
        entries: dict[str, Entry] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            node = self._compose_from(event, depth)
            value = self._compose(depth)
            key = self._verify_key(node)
            if key is None:
                continue
            if key in entries:
                first = entries[key].line
                self._report.problem(node.line, f"key {shown(key)} stands here twice (first in line {first})")
                continue
            entries[key] = Entry(line=node.line, value=value)
        return MapNode(line=line, entries=entries)

    def _verify_key(self, node: Node) -> str | None:
        if isinstance(node, BrokenNode):
            return None
        if not isinstance(node, ScalarNode):
            self._report.problem(node.line, "a key must be a word, not a list or a mapping")
        elif node.text == "<<" and node.meaning is not Meaning.TEXT:
            self._report.problem(node.line, "merge keys (<<) are not allowed; write the keys out")
        elif node.meaning is not Meaning.TEXT:
            self._report.problem(node.line, f"a key must be text: quote {shown(node.text)}")
        elif not node.text or len(node.text) > 200:
            self._report.problem(node.line, "a key must have between 1 and 200 characters")
        else:
            return node.text
        return None

    def _stop(self, event: Any, message: str) -> NoReturn:  # noqa: ANN401
        self._report.stop(event.start_mark.line + 1, message)
