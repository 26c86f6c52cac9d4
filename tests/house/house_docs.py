# SPDX-License-Identifier: Apache-2.0
"""The documentation as data: its pages, code blocks, links and the commands that it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from house_tree import ROOT

SHELL = ("sh", "bash", "console", "shell")
_FENCE = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_COMMENT = re.compile(r"(?:^|\s)#\s.*$|\s*#$")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    before: str  # the last paragraph above it

    @property
    def shown(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A command line that a page shows."""

    where: str
    text: str
    whole: bool  # out of a block that people copy, not a mention in a sentence


_FIELD = re.compile(r"{{.*?}}")
_TAG = re.compile(r"{%.*?%}")


def read_page(page: Path) -> str:
    """The text of a page; of a template, as if it were filled in."""
    text = page.read_text(encoding="utf-8")
    return _TAG.sub("", _FIELD.sub("NAME", text)) if page.is_relative_to(ROOT / "templates") else text


def pages() -> list[Path]:
    """Every page that is written for people, templates of the kits' READMEs among them."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "templates").rglob("*.md")]
    return sorted([*found, *(ROOT / "examples").rglob("*.md")])


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    text = read_page(page)
    for match in _FENCE.finditer(text):
        above = text[: match.start()]
        yield Block(
            page=page,
            line=above.count("\n") + 1,
            language=match[3].strip().partition(" ")[0],
            text=match[4],
            before=above.rstrip().rpartition("\n\n")[2],
        )


def prose(page: Path) -> str:
    """A page without its fenced blocks; the lines keep their numbers."""
    text = read_page(page)
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)


def commands(page: Path) -> Iterator[Shown]:
    """Every `flprov ...` that a page shows, in blocks and in sentences."""
    for block in blocks(page):
        if block.language in SHELL:
            for line in _logical_lines(block.text):
                if (found := command_in(line)) is not None:
                    yield Shown(where=block.shown, text=found, whole=True)
    for number, line in enumerate(_logical_lines(prose(page)), 1):
        indented = [line] if line.startswith("    ") else []
        for code in indented or _CODE.findall(line):
            if (found := command_in(code)) is not None:
                yield Shown(where=f"{page.relative_to(ROOT)}:{number}", text=found, whole=bool(indented))


def _logical_lines(text: str) -> list[str]:
    return text.replace("\\\n", " ").splitlines()


def command_in(line: str) -> str | None:
    """What stands after `flprov` in a line of shell; None if the line runs something else."""
    line = _COMMENT.sub("", line.strip()).removeprefix("$ ").strip()
    line = re.sub(r"^(?:sudo (?:-u \w+ )?)?(?:\w+=\S+ )*", "", line)
    match = re.match(r"(?:\S*/)?flprov(?:\s+(.*))?$", line)
    return None if match is None else re.split(r"\s*(?:\||&&|;|>|<)\s*(?![^\[<]*[\]>])", match[1] or "")[0]


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Line and target of each link that stays in the tree."""
    for number, line in enumerate(prose(page).splitlines(), 1):
        for target in re.findall(r"\]\(([^)\s]+)\)", line):
            if not re.match(r"[a-z]+:", target):
                yield number, target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}
