# SPDX-License-Identifier: Apache-2.0
"""One node of the tree as a value of one type, or the Mistake that says why not.

A Mistake is a phrase without its subject ("must be a whole number, not ..."); the Section, which
knows the key, puts `'rounds'` before it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from flprov.config.report import Report, nearest, shown
from flprov.config.scalars import Meaning, meaning_of
from flprov.config.source import HIDDEN_OR_BREAK, describe_hidden
from flprov.config.tree import BrokenNode, ListNode, MapNode, Node, ScalarNode

V = TypeVar("V")
Number = TypeVar("Number", int, float)

LONGEST_TEXT = 4096  # PATH_MAX; nothing that we read is longer
LARGEST = 2**63 - 1


class Mistake(Exception):
    """Why a node is not what was asked; empty when that is on the report already."""


def word_of(node: Node, *meanings: Meaning) -> str:
    """The text of a scalar that has one of `meanings`."""
    if isinstance(node, BrokenNode):
        raise Mistake("")
    if isinstance(node, ScalarNode) and node.meaning in meanings:
        return node.text
    raise wrong_kind(node, meanings[0].value, quotable=Meaning.TEXT in meanings)


def wrong_kind(node: Node, wanted: str, *, quotable: bool = False) -> Mistake:
    """The Mistake for a node that is not `wanted`; `quotable` if quotes would make it right."""
    if isinstance(node, BrokenNode):
        return Mistake("")
    if isinstance(node, ListNode):
        return Mistake(f"must be {wanted}, not a list")
    if isinstance(node, MapNode):
        return Mistake(f"must be {wanted}, not a mapping")
    if node.meaning is Meaning.NULL:
        return Mistake(f"is empty; it must be {wanted}")
    word = shown(node.text)
    if quotable:
        return Mistake(f"must be in quotes to be text: {word}")
    if node.meaning is Meaning.AMBIGUOUS:
        return Mistake(f"must be {wanted}, not {word[1:-1]} (quote it if it is meant as text)")
    unquoted = meaning_of(node.text, plain=True).value == wanted and node.meaning is Meaning.TEXT
    return Mistake(f"must be {wanted}, not {word}" + ("; remove the quotes" if unquoted else ""))


def read_text(node: Node, pattern: str | None = None, what: str = "", *, empty: bool = False) -> str:
    """One line of text without hidden characters, that `pattern` matches as a whole."""
    text = word_of(node, Meaning.TEXT)
    if not text and not empty:
        raise Mistake(f"is empty; it must be {what or 'text'}")
    hidden = HIDDEN_OR_BREAK.search(text)
    if hidden is not None:
        tail = "it has a tab or a line break" if hidden[0] in "\t\r\n" else describe_hidden(hidden[0])
        raise Mistake(f"must be one line of text: {tail}")
    if len(text) > LONGEST_TEXT:
        raise Mistake(f"is longer than {LONGEST_TEXT} characters")
    if pattern is not None and re.fullmatch(pattern, text) is None:
        raise Mistake(
            f"must be {what or f'text that matches {pattern}'}, not {shown(text)}{_lookalike(text)}"
        )
    return text


def _lookalike(text: str) -> str:
    """Names the first character that is not ASCII: a Cyrillic o looks like a Latin one."""
    for character in text:
        if not character.isascii():
            return f" (with U+{ord(character):04X} {unicodedata.name(character, 'unnamed')})"
    return ""


def read_integer(node: Node, minimum: int | None, maximum: int | None) -> int:
    """A whole number of at most 63 bits."""
    word = word_of(node, Meaning.INTEGER)
    if len(word) > 20 or abs(int(word)) > LARGEST:
        raise Mistake(f"is too large a number: {shown(word, 24)[1:-1]}")
    return _within(int(word), minimum, maximum)


def read_number(node: Node, minimum: float | None, maximum: float | None) -> float:
    """A finite number."""
    found = float(word_of(node, Meaning.NUMBER, Meaning.INTEGER))
    if not math.isfinite(found):
        raise Mistake("is too large a number")
    return _within(found, minimum, maximum)


def _within(found: Number, minimum: Number | None, maximum: Number | None) -> Number:
    if minimum is not None and found < minimum:
        raise Mistake(f"must be at least {minimum}, not {found}")
    if maximum is not None and found > maximum:
        raise Mistake(f"must be at most {maximum}, not {found}")
    return found


def read_choice(node: Node, choices: Sequence[str]) -> str:
    """One of `choices`."""
    word = read_text(node)
    if word not in choices:
        best = nearest(word, choices)
        hint = f" (did you mean {best!r}?)" if best else ""
        raise Mistake(f"must be one of {', '.join(choices)}, not {shown(word)}{hint}")
    return word


def read_parsed(node: Node, parse: Callable[[str], V]) -> V:
    """What `parse` makes of a word or a whole number; its ValueError is the Mistake."""
    word = word_of(node, Meaning.TEXT, Meaning.INTEGER)
    try:
        return parse(word)
    except ValueError as error:
        raise Mistake(f"is wrong: {error}") from None


def read_list(node: Node, report: Report, key: str, read: Callable[[Node], V]) -> list[V]:
    """Each item as `read` reads it; items with mistakes go to the report and are left out."""
    if not isinstance(node, ListNode):
        raise wrong_kind(node, "a list (`[a, b]`, or lines that begin with `- `)")
    return list(_each(node, report, key, read))


def _each(node: ListNode, report: Report, key: str, read: Callable[[Node], V]) -> Iterator[V]:
    for number, item in enumerate(node.items, start=1):
        try:
            yield read(item)
        except Mistake as mistake:
            note(report, item.line, f"item {number} of {shown(key)}", mistake)


def read_value(node: Node, report: Report, key: str) -> object:
    """A JSON-like value: str, int, float, bool, None, list or dict, as deep as it is."""
    if isinstance(node, ListNode):
        return read_list(node, report, key, lambda item: read_value(item, report, key))
    if isinstance(node, MapNode):
        return dict(_pairs(node, report))
    if isinstance(node, BrokenNode):
        raise Mistake("")
    return _read_scalar(node)


def _read_scalar(node: ScalarNode) -> object:
    match node.meaning:
        case Meaning.TEXT:
            return node.text
        case Meaning.NULL:
            return None
        case Meaning.FLAG:
            return node.text == "true"
        case Meaning.INTEGER:
            return read_integer(node, None, None)
        case Meaning.NUMBER:
            return read_number(node, None, None)
        case Meaning.AMBIGUOUS:
            word = shown(node.text)
            raise Mistake(
                f"is ambiguous: text needs quotes ({word}), true and false are lower-case, "
                "numbers are plain decimals"
            )


def read_values(node: Node, report: Report, key: str) -> dict[str, object]:
    """A mapping of names to JSON-like values."""
    if not isinstance(node, MapNode):
        raise wrong_kind(node, f"a mapping (lines of `name: value` under `{key}:`)")
    return dict(_pairs(node, report))


def _pairs(node: MapNode, report: Report) -> Iterator[tuple[str, object]]:
    for key, entry in node.entries.items():
        try:
            yield key, read_value(entry.value, report, key)
        except Mistake as mistake:
            note(report, entry.line, shown(key), mistake)


def note(report: Report, line: int, subject: str, mistake: Mistake) -> None:
    """Put `subject` and the mistake's phrase on the report, unless it is there already."""
    if str(mistake):
        report.problem(line, f"{subject} {mistake}")
