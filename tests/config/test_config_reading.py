# SPDX-License-Identifier: Apache-2.0
"""What a Section answers, and what it says when it cannot."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from flprov.config import Section, open_config
from flprov.errors import ConfigError, LocalError, NotFound

NAME = Path("project.yml")


def read(text: str, ask: Callable[[Section], object]) -> object:
    with open_config(NAME, text=text.encode()) as top:
        return ask(top)


def problems(text: str, ask: Callable[[Section], object]) -> list[str]:
    with pytest.raises(ConfigError) as caught, open_config(NAME, text=text.encode()) as top:
        ask(top)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_each_type_is_read_as_itself():
    text = """
name: heart study            # plain
title: "Größe: 3"            # quoted
rounds: 20
rate: 1e-3
whole: 2
strict: true
role: lead
absence: 10m
memory: 1GiB
sites: [a, "b"]
args: {epochs: 1, lr: 0.5, on: [~, "no", {x: false}]}
""".replace("on:", "opts:")
    with open_config(NAME, text=text.encode()) as top:
        assert top.text("name") == "heart study"
        assert top.text("title") == "Größe: 3"
        assert top.integer("rounds", minimum=1) == 20
        assert top.number("rate") == 0.001
        assert top.number("whole") == 2.0
        assert top.flag("strict") is True
        assert top.choice("role", ["member", "lead"]) == "lead"
        assert top.duration("absence") == timedelta(minutes=10)
        assert top.size("memory") == 2**30
        assert top.texts("sites") == ("a", "b")
        assert top.values("args") == {"epochs": 1, "lr": 0.5, "opts": [None, "no", {"x": False}]}


def test_absent_keys_take_their_defaults():
    with open_config(NAME, text=b"# nothing but comments\n") as top:
        assert top.keys() == ()
        assert top.text("name", None) is None
        assert top.text("title", "") == ""
        assert top.integer("rounds", 5) == 5
        assert top.texts("sites", ()) == ()
        assert top.duration("absence", timedelta(1)) == timedelta(1)
        assert top.section("limits", required=False) is None
        assert top.sections("people", required=False) == []


def test_a_section_whose_lines_are_all_comments_counts_as_absent():
    text = "ceilings:\n#  gpus: 1\npeople:\n"
    assert read(
        text, lambda top: (top.section("ceilings", required=False), top.sections("people", required=False))
    ) == (
        None,
        [],
    )


def test_null_means_absent_only_where_the_default_is_none():
    assert read("python: ~\n", lambda top: top.text("python", None)) is None
    assert read("gpus: null\n", lambda top: top.integer("gpus", None)) is None
    assert problems("rounds:\n", lambda top: top.integer("rounds", 5)) == [
        "project.yml:1: 'rounds' is empty; it must be a whole number"
    ]


def test_nested_sections_know_their_lines():
    text = "server:\n  name: s\nsites:\n  - name: a\n  - name: b\n    org: x\n"

    def ask(top: Section) -> None:
        server = top.section("server")
        assert server is not None
        assert (server.line(), server.line("name"), server.text("name")) == (1, 2, "s")
        first, second = top.sections("sites")
        assert [first.text("name"), second.text("name"), second.text("org")] == ["a", "b", "x"]
        assert (first.line(), second.line("org"), second.line("nothing")) == (4, 6, 5)
        second.problem("org", "there is no organisation 'x'")
        server.problem(None, "the server is lonely")

    assert problems(text, ask) == [
        "project.yml:1: the server is lonely",
        "project.yml:6: there is no organisation 'x'",
    ]


def test_a_problem_with_one_item_of_a_list_stands_at_its_line():
    def ask(top: Section) -> None:
        top.texts("endpoints")
        top.problem("endpoints", "this b is odd", item="b")
        top.problem("endpoints", "there is no c", item="c")

    assert problems("endpoints:\n  - a\n  - b\n", ask) == [
        "project.yml:1: there is no c",
        "project.yml:3: this b is odd",
    ]


def test_all_problems_come_at_once_by_line():
    text = "rounds: many\norg_nmae: x\nrole: leed\nsites:\n- nmae: a\n- 3\n"

    def ask(top: Section) -> None:
        for site in top.sections("sites"):
            site.text("name")
        top.choice("role", ["lead", "member"])
        top.integer("rounds")
        top.text("org_name")

    assert problems(text, ask) == [
        "project.yml:1: 'rounds' must be a whole number, not 'many'",
        "project.yml:1: key 'org_name' is missing",
        "project.yml:2: unknown key 'org_nmae' (did you mean 'org_name'?)",
        "project.yml:3: 'role' must be one of lead, member, not 'leed' (did you mean 'lead'?)",
        "project.yml:5: key 'name' is missing in this item of 'sites'",
        "project.yml:5: unknown key 'nmae' (did you mean 'name'?)",
        "project.yml:6: item 2 of 'sites' must be a mapping, not '3'",
    ]


def test_an_unknown_key_without_a_neighbour_lists_what_is_known():
    def ask(top: Section) -> None:
        top.text("name", "")
        top.text("org", "")

    assert problems("zzz: 1\n", ask) == ["project.yml:1: unknown key 'zzz' (known here: name, org)"]


def test_a_key_that_stands_there_already_is_not_suggested():
    found = problems("name: a\nnam: b\n", lambda top: top.text("name"))
    assert found == ["project.yml:2: unknown key 'nam'"]


def test_asking_with_has_makes_a_key_known():
    assert read("gpus: 1\n", lambda top: top.has("gpus")) is True
    assert read("", lambda top: top.has("gpus")) is False


@pytest.mark.parametrize(
    "word", ["no", "off", "Yes", "TRUE", "12:30:45", "1_000", "017", "0o17", "0x1F", "0b1"]
)
@pytest.mark.parametrize("kind", ["text", "integer", "number", "value", "texts", "values"])
def test_surprising_scalars_are_mistakes_that_ask_for_quotes(word, kind):
    value = {"texts": f"[{word}]", "values": f"{{k: {word}}}"}.get(kind, word)
    (problem,) = problems(f"k: {value}\n", lambda top: getattr(top, kind)("k"))
    assert problem.startswith("project.yml:1: ")
    assert "quote" in problem
    assert word in problem


@pytest.mark.parametrize(
    "word", [".inf", "-.Inf", ".nan", "2024-01-31", "+5", ".5", "5.", "Null", "=", "1:20"]
)
def test_more_surprising_scalars_are_not_text(word):
    (problem,) = problems(f"k: {word}\n", lambda top: top.text("k"))
    assert problem == f"project.yml:1: 'k' must be in quotes to be text: {word!r}"


@pytest.mark.parametrize("word", ["no", "12:30:45", "1_000", "0o17", "null", "true", "42", "", "~", "1.10"])
def test_whatever_is_quoted_is_text(word):
    assert read(f"k: '{word}'\n", lambda top: top.text("k", "")) == word
    assert read(f'k: "{word}"\n', lambda top: top.value("k")) == word


@pytest.mark.parametrize("word", ["42", "1.10", "true"])
def test_plain_numbers_and_booleans_are_not_text(word):
    assert problems(f"k: {word}\n", lambda top: top.text("k")) == [
        f"project.yml:1: 'k' must be in quotes to be text: {word!r}"
    ]


@pytest.mark.parametrize("word", ["no", "yes", "on", "True", "1", '"true"', "[]"])
def test_only_true_and_false_are_flags(word):
    (problem,) = problems(f"k: {word}\n", lambda top: top.flag("k"))
    assert problem.startswith("project.yml:1: 'k' must be true or false, not ")


def test_a_number_in_quotes_is_told_so():
    assert problems("k: '5'\n", lambda top: top.integer("k")) == [
        "project.yml:1: 'k' must be a whole number, not '5'; remove the quotes"
    ]


@pytest.mark.parametrize("word", ["9223372036854775808", "1" * 5000])
def test_numbers_beyond_63_bits_are_refused(word):
    for ask in ("integer", "value"):
        (problem,) = problems(f"k: {word}\n", lambda top, ask=ask: getattr(top, ask)("k"))
        assert "too large a number" in problem
        assert len(problem) < 100


def test_numbers_that_overflow_a_float_are_refused():
    assert problems("k: 1e999\n", lambda top: top.number("k")) == ["project.yml:1: 'k' is too large a number"]


def test_bounds_are_named():
    assert problems(
        "a: 0\nb: 1.5\n", lambda top: (top.integer("a", minimum=1), top.number("b", maximum=1.0))
    ) == [
        "project.yml:1: 'a' must be at least 1, not 0",
        "project.yml:2: 'b' must be at most 1.0, not 1.5",
    ]


def test_the_placeholder_after_a_mistake_keeps_to_the_bounds():
    seen = []
    problems(
        "k: x\nr: x\n", lambda top: seen.append((top.integer("k", minimum=3), top.choice("r", ["a", "b"])))
    )
    assert seen == [(3, "a")]


def test_text_must_match_its_pattern_as_a_whole():
    def ask(top: Section) -> None:
        top.text("a", pattern="[a-z]+", what="a name of lower-case letters")
        top.texts("b", pattern="[a-z]+", what="a name")

    assert problems("a: site-1\nb: [x, Y]\n", ask) == [
        "project.yml:1: 'a' must be a name of lower-case letters, not 'site-1'",
        "project.yml:2: item 2 of 'b' must be a name, not 'Y'",
    ]


def test_a_pattern_does_not_let_a_trailing_newline_through():
    (problem,) = problems('a: "x\\n"\n', lambda top: top.text("a", pattern="[a-z]+$"))
    assert problem == "project.yml:1: 'a' must be one line of text: it has a tab or a line break"


def test_required_text_may_not_be_empty():
    assert problems("a: ''\n", lambda top: top.text("a")) == ["project.yml:1: 'a' is empty; it must be text"]
    assert read("a: ''\n", lambda top: top.text("a", "x")) == ""


def test_text_over_the_longest_path_is_refused_and_not_repeated():
    (problem,) = problems(f"a: {'x' * 5000}\n", lambda top: top.text("a"))
    assert problem == "project.yml:1: 'a' is longer than 4096 characters"


def test_a_long_value_is_cut_in_the_message():
    (problem,) = problems(f"a: {'x' * 4000}\n", lambda top: top.integer("a"))
    assert len(problem) < 150


def test_wrong_shapes_are_named():
    text = "a: [1]\nb: {c: d}\nc: x\nd: x\ne: x\nf: x\n"

    def ask(top: Section) -> None:
        top.text("a")
        top.integer("b")
        top.texts("c")
        top.values("d")
        top.section("e")
        top.sections("f")

    found = [problem.split(": ", 1)[1] for problem in problems(text, ask)]
    assert found == [
        "'a' must be text, not a list",
        "'b' must be a whole number, not a mapping",
        "'c' must be a list (`[a, b]`, or lines that begin with `- `), not 'x'",
        "'d' must be a mapping (lines of `name: value` under `d:`), not 'x'",
        "'e' must be a mapping (lines of `name: value` under `e:`), not 'x'",
        "'f' must be a list (`[a, b]`, or lines that begin with `- `), not 'x'",
    ]


def test_an_empty_required_section_is_a_problem():
    assert problems("server:\n", lambda top: top.section("server")) == [
        "project.yml:1: 'server' is empty; it must be a mapping (lines of `name: value` under `server:`)"
    ]


def test_durations_and_sizes_name_the_units():
    found = problems("a: 10\nb: 10G\n", lambda top: (top.duration("a"), top.size("b")))
    assert "500ms, 1s, 10m, 24h, 90d" in found[0]
    assert "512MiB, 1GiB, 10GB" in found[1]


def test_a_file_with_thousands_of_mistakes_gives_a_readable_number_of_them():
    text = "".join(f"key{number}: 1\n" for number in range(5000))
    found = problems(text, lambda top: top.text("name", ""))
    assert len(found) == 51
    assert found[-1] == "project.yml: more than 50 problems; these are the first"


def test_an_error_of_the_reader_itself_is_not_hidden():
    with pytest.raises(ZeroDivisionError), open_config(NAME, text=b"unknown: 1\n"):
        raise ZeroDivisionError


def test_the_message_names_the_path_as_it_was_given(tmp_path):
    path = tmp_path / "site.yml"
    path.write_text("a: 1\n")
    with pytest.raises(ConfigError) as caught, open_config(path):
        pass
    assert str(caught.value) == f"{path}:1: unknown key 'a'"


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match=r"there is no file .*gone\.yml"), open_config(tmp_path / "gone.yml"):
        pass


def test_a_file_that_is_no_file_is_refused_without_waiting(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.yml")
    for path, words in (
        (tmp_path, "folder"),
        (tmp_path / "pipe.yml", "ordinary"),
        (Path("/dev/zero"), "ordinary"),
    ):
        with pytest.raises(ConfigError, match=words), open_config(path):
            pass


def test_a_path_through_a_file_cannot_be_read(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError, match="cannot be read"), open_config(tmp_path / "file" / "site.yml"):
        pass


def test_a_path_with_a_nul_is_refused():
    with pytest.raises(LocalError, match="cannot be read"), open_config(Path("a\0b")):
        pass
