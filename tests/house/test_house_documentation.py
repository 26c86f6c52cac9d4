# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows is there: commands, options, files, keys, links, exit codes."""

from __future__ import annotations

import ast
import itertools
import json
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from house_docs import Shown, anchors, blocks, command_in, commands, links, pages, prose, read_page
from house_tree import ROOT, modules, verify_none

from flprov import errors
from flprov.cli import root
from flprov.errors import ExitCode, FlprovError
from flprov.jobs import JobSpec, load_job
from flprov.kits import provision, read_hosts
from flprov.pki import Kind
from flprov.policy import load_policy, load_site_settings
from flprov.project import load_project
from flprov.sdk import build_controller, build_result_filters, build_task_filters
from flprov.server import load_server_config

DOCS = ROOT / "docs"
PLACEHOLDER = re.compile(r"[\[\]|…]|\.\.\.")


# ---- commands ----------------------------------------------------------------------------------


def find_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the first words name, and the words that are left for it.

    Raises:
        LookupError: there is no such command.
    """
    command: click.Command = root
    rest = _without_options(root, list(words))
    context = click.Context(root)
    while isinstance(command, click.Group) and rest:
        try:
            found = command.get_command(context, rest[0])
        except ImportError as error:
            raise LookupError(f"{rest[0]} is not there yet ({error})") from error
        if found is None:
            raise LookupError(f"there is no command {' '.join(words)!r}: {rest[0]!r}")
        command, rest = found, rest[1:]
    return command, rest


def _without_options(command: click.Command, words: list[str]) -> list[str]:
    """The words after the options that stand before the first command."""
    while words and words[0].startswith("-"):
        option = _option(command, words[0])
        words = words[1 if option.is_flag or "=" in words[0] else 2 :]
    return words


def _option(command: click.Command, word: str) -> click.Option:
    name = word.partition("=")[0]
    parameters = command.get_params(click.Context(command))
    for parameter in parameters:
        if isinstance(parameter, click.Option) and name in (*parameter.opts, *parameter.secondary_opts):
            return parameter
    raise LookupError(f"{command.name} has no option {name}")


def verify_shown(shown: Shown) -> None:
    """Raise LookupError if what a page shows could not be typed."""
    loose = not shown.whole or PLACEHOLDER.search(shown.text)
    for words in _alternatives(shlex.split(shown.text.replace("'", "")), loose=bool(loose)):
        if words == ["--version"]:
            continue
        command, rest = find_command(words)
        if loose:
            _verify_options(command, rest)
        else:
            _verify_arguments(command, rest, shown.text)


def _alternatives(words: list[str], *, loose: bool) -> Iterator[list[str]]:
    """`job ls|show` is two commands; `[-o DIR]` is an option all the same."""
    if not loose:
        yield words
        return
    words = [word.strip("[].,…") for word in words]
    words = [word for word in words if word]
    for number, word in enumerate(words):
        if "|" in word and not word.startswith("-"):
            for choice in word.split("|"):
                yield from _alternatives([*words[:number], choice, *words[number + 1 :]], loose=True)
            return
    yield words


def _verify_options(command: click.Command, words: list[str]) -> None:
    for word in words:
        if re.match(r"--?[a-z]", word):
            _option(command, word)


def _verify_arguments(command: click.Command, words: list[str], text: str) -> None:
    """The words must fill the command's arguments; their values are placeholders, so types are not asked."""
    context = click.Context(command)
    try:
        values, left, _ = command.make_parser(context).parse_args(list(words))
    except click.UsageError as error:
        raise LookupError(f"{text!r}: {error.format_message()}") from error
    if isinstance(command, click.Group) and not command.invoke_without_command:
        raise LookupError(f"{text!r} names no command of the group {command.name}")
    if left:
        raise LookupError(f"{text!r}: {command.name} does not take {left}")
    for parameter in command.get_params(context):
        missing = not values.get(parameter.name or "") or "UNSET" in repr(values.get(parameter.name or ""))
        if parameter.required and missing and "--help" not in words:
            raise LookupError(f"{text!r}: {command.name} wants {parameter.human_readable_name}")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_shows_can_be_typed(page):
    problems = []
    for shown in commands(page):
        try:
            verify_shown(shown)
        except LookupError as error:
            problems.append(f"{shown.where}: {error}")
    verify_none(problems)


def test_comments_of_project_yml_name_commands_that_exist():
    text = (ROOT / "project.yml").read_text()
    comments = re.findall(r"# ?(.*)$", text, re.MULTILINE)
    verify_none(missing_commands("\n".join(comments), "project.yml"))


def test_hints_and_messages_name_commands_that_exist():
    """Every `flprov ...` in a text of the package: people type what they read."""
    problems = []
    for module in modules():
        hints = set(_hints(module.tree))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "flprov " in node.value:
                text = f" {node.value}" if node in hints else node.value
                problems += missing_commands(text, f"{module.shown}:{node.lineno}")
    verify_none(problems)


def _hints(tree: ast.Module) -> Iterator[ast.AST]:
    """The first text of each `hint=...`: it may begin with the command, without quotes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "hint":
            yield node.value.values[0] if isinstance(node.value, ast.JoinedStr) else node.value


def missing_commands(text: str, where: str) -> Iterator[str]:
    """What a text shows as a command (in backquotes, or first in an indented line), and is none."""
    shown = re.findall(r"`flprov ([a-z][^`]*)`", text) + re.findall(
        r"^[ \t]+flprov ([a-z].*)", text, re.MULTILINE
    )
    for line in shown:
        words = list(itertools.takewhile(re.compile(r"[a-z-]+").fullmatch, line.split()))
        try:
            find_command(words[:2])
        except LookupError as error:
            yield f"{where}: {error}"


def test_a_command_that_is_not_there_is_found():
    with pytest.raises(LookupError, match="no command"):
        verify_shown(Shown(where="", text="jobs ls", whole=True))
    assert list(missing_commands("see `flprov frobnicate x`", "here")) != []
    assert list(missing_commands(" flprov use KIT   (or this)", "here")) == []
    assert list(missing_commands("flprov provisions networks", "here")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("status --jsno", "jsno"),
        ("job show", "wants"),
        ("job show a b", "does not take"),
        ("job submit APP --set", "set"),
        ("site", "names no command"),
    ],
)
def test_a_command_that_could_not_be_typed_is_found(text, message):
    with pytest.raises(LookupError, match=message):
        verify_shown(Shown(where="", text=text, whole=True))


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("--kit KIT status --json", True),
        ("job submit my-app --set rounds=20 --set args.lr=0.1 --wait", True),
        ("job ls|show [--json]", False),
        ("site start", False),
        ("--version", True),
    ],
)
def test_what_can_be_typed_is_let_pass(text, whole):
    verify_shown(Shown(where="", text=text, whole=whole))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("$ flprov status   # the ladder", "status"),
        ("FLPROV_KIT=x /opt/flprov/bin/flprov job ls --json | jq .", "job ls --json"),
        ("sudo -u flprov flprov site start KIT", "site start KIT"),
        ("flprov kit ls > kits.txt", "kit ls"),
        ("pip install flprov", None),
        ("flprov-site.service", None),
        ("cd flprov && make test", None),
    ],
)
def test_commands_are_found_in_lines_of_shell(line, found):
    assert command_in(line) == found


# ---- files that pages show ---------------------------------------------------------------------

JOB_KEYS = {
    "name",
    "workflow",
    "model",
    "tasks",
    "args",
    "data",
    "needs",
    "sites",
    "resources",
    "filters",
}
POLICY_KEYS = {"allow", "ceilings", "unconfined", "tracebacks", "logs", "filters", "statistics", "tasks"}
SITE_KEYS = {"he_secret", "datasets", "python", "proxy", "metrics", "warm"}
SERVER_KEYS = {"tracking", "checkpoints", "retention", "quota", "quotas", "listen", "metrics", "warm"}
HOSTS_KEYS = {"kits", "defaults", "hosts"}
PROJECT_KEYS = {"name", "trust_domain", "root_fingerprint", "organisations", "server", "sites", "people"} | {
    "validity"
}
YAML_BLOCKS = [block for page in pages() for block in blocks(page) if block.language in ("yaml", "yml")]


def load_shown(text: str, folder: Path) -> str:
    """Load a file that a page shows; a part of one is laid over a whole one. Returns which file it is."""
    document = yaml.safe_load(text)
    keys = set(document)
    if keys <= POLICY_KEYS and not keys <= JOB_KEYS:
        load_policy(_write(folder / "policy.yml", text))
        return "policy.yml"
    if keys <= SERVER_KEYS:
        report = provision(load_project(ROOT / "project.yml"), folder / "w", now=datetime.now(UTC))
        [kit] = [kit.folder for kit in report.kits if kit.kind is Kind.SERVER]
        kit.with_name(f"{kit.name}.local").mkdir()
        _write(kit.with_name(f"{kit.name}.local") / "server.yml", text)
        load_server_config(kit, now=datetime.now(UTC))
        return "server.yml"
    if keys <= SITE_KEYS:
        load_site_settings(_write(folder / "site.yml", text))
        return "site.yml"
    if keys <= HOSTS_KEYS:
        read_hosts(_write(folder / "hosts.yml", text), user="me")
        return "hosts.yml"
    if keys <= JOB_KEYS and not keys & (PROJECT_KEYS - {"name", "sites"}) and _is_job(document):
        whole = text if {"name", "tasks"} <= keys else yaml.safe_dump(_SHORTEST | document, sort_keys=False)
        _write_app(folder, yaml.safe_load(whole))
        _write(folder / "job.yml", whole)
        _verify_ours(load_job(folder))
        return "job.yml"
    if keys <= PROJECT_KEYS:
        sample = yaml.safe_load((ROOT / "project.yml").read_text())
        whole = text if "trust_domain" in keys else yaml.safe_dump(sample | document, sort_keys=False)
        load_project(_write(folder / "project.yml", whole))
        return "project.yml"
    raise AssertionError(f"keys of no file that we have: {sorted(keys)}")


def _verify_ours(spec: JobSpec) -> None:
    """What a job names of ours must be there: its workflow with these options, its filters."""
    if spec.workflow.type is not None:
        build_controller(spec.workflow.type, None, spec.workflow.options)
    filters = spec.filters
    for where, build in (("task", build_task_filters), ("result", build_result_filters)):
        for side in ("server", "site"):
            chain = getattr(filters, f"{where}_{side}")
            build([entry for entry in chain if ":" not in str(entry["type"])], f"filters.{where}.{side}")


_SHORTEST = {"name": "x", "tasks": "train.py"}


def _is_job(document: dict[str, object]) -> bool:
    return not isinstance(document.get("sites"), list) and set(document) != {"name"}


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)  # site.yml may hold a password
    return path


def _write_app(folder: Path, job: dict[str, object]) -> None:
    """Empty files in the place of those that a job.yml names."""
    texts = [text for text in _texts(job) if text.endswith((".py", ".safetensors")) or ":" in text]
    for text in texts:
        name = text if ":" not in text else text.partition(":")[0].replace(".", "/") + ".py"
        if re.fullmatch(r"[\w/.-]+", name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


@pytest.mark.parametrize("block", YAML_BLOCKS, ids=lambda block: block.shown)
def test_every_yaml_that_a_page_shows_is_taken(block, tmp_path):
    assert load_shown(block.text, tmp_path)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("allow: {organisations: [org-a]}", "policy.yml"),
        ("datasets: {heart: /data/heart}", "site.yml"),
        ("name: x\ntasks: train.py", "job.yml"),
        ("sites: {min: 2}", "job.yml"),
        ("sites:\n  - {name: hospital-d, org: org-a}", "project.yml"),
    ],
)
def test_a_part_of_a_file_is_told_by_its_keys(text, kind, tmp_path):
    assert load_shown(text, tmp_path) == kind


@pytest.mark.parametrize(
    "text",
    [
        "allow: {organisation: [a]}",
        "name: x\ntasks: nothing",
        "sites: {mni: 2}",
        "workflow: {type: fedmagic}",
        "filters: {result: {site: [{type: clip_nrom}]}}",
    ],
)
def test_a_shown_file_with_a_mistake_is_found(text, tmp_path):
    with pytest.raises(errors.ConfigError):
        load_shown(text, tmp_path)


def test_every_json_that_a_page_shows_is_json():
    shown = [block for page in pages() for block in blocks(page) if block.language == "json"]
    for block in shown:
        assert json.loads(block.text) is not None, block.shown
    assert all(block.language for page in pages() for block in blocks(page) if block.text.startswith("{"))


# ---- links, names, tables ----------------------------------------------------------------------


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for line, target in links(page):
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name}:{line} links to {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{page.name}:{line} links to {target}"


def test_every_page_of_docs_can_be_found_from_the_readme():
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in seen and page.suffix == ".md" and page.exists():
            seen.add(page)
            waiting += [(page.parent / target.partition("#")[0]).resolve() for _, target in links(page)]
    verify_none(set(DOCS.rglob("*.md")) - seen)


def test_files_and_folders_of_the_tree_that_pages_name_exist():
    named = re.compile(r"`((?:flprov|docs|tests|templates|scripts|examples|benchmarks|\.ci)/[\w./-]*)`")
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in pages()
        for name in named.findall(prose(page))
        if not (ROOT / name).exists()
    ]
    verify_none(missing)


def test_the_page_of_exit_codes_is_what_the_program_does():
    text = (DOCS / "exit-codes.md").read_text()
    rows = re.findall(r"^\| `?(\d+)`? \| `?(\w+)`? \|", text, re.MULTILINE)
    assert [(int(number), name.upper()) for number, name in rows] == [
        (code.value, code.name) for code in ExitCode
    ]


def test_the_page_of_exit_codes_lists_every_error_with_its_code():
    text = (DOCS / "exit-codes.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| `?(\d)`? \|", text, re.MULTILINE)
    assert {code: int(number) for code, number in rows} == {
        kind("").code: int(kind.exit_code) for kind in _all_errors()
    }


def _all_errors() -> Iterator[type[FlprovError]]:
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, FlprovError):
            yield value


def test_the_page_of_roles_is_the_method_table():
    from flprov.pki import Role
    from flprov.rpc import methods

    text = (DOCS / "security.md").read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]*)\|", text, re.MULTILINE)
    shown = {
        name: set(re.findall(r"\w+", roles)) for names, roles in rows for name in re.findall(r"\w+", names)
    }
    for method in methods.METHODS:
        service, name = method.path.split("/")[1:]
        if service.endswith("Admin"):
            assert shown[name] == {role.value for role in method.roles}, name
        else:
            assert shown[name] == {kind.value for kind in method.kinds}, name
    assert {role.value for role in Role} <= set().union(*shown.values())


def test_the_page_of_the_ladder_has_the_rungs_that_the_server_shows():
    places = ("server/sights/ladder.py", "wire/documents/ladder.py", "agent/outlook.py")
    trees = [ast.parse((ROOT / "flprov" / place).read_text()) for place in places]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    rungs = {
        keyword.value.value
        for call in calls
        for keyword in call.keywords
        if ast.unparse(call.func) == "Rung"
        and keyword.arg == "name"
        and isinstance(keyword.value, ast.Constant)
    }
    shown = re.findall(r"^\| `(\w+)` \|", (DOCS / "operating.md").read_text(), re.MULTILINE)
    assert rungs
    assert rungs == set(shown)


def test_the_page_of_kits_names_every_file_that_kits_have(tmp_path):
    report = provision(load_project(ROOT / "project.yml"), tmp_path / "w", now=datetime.now(UTC))
    text = (DOCS / "provisioning.md").read_text()
    files = {
        path.relative_to(kit.folder).as_posix() for kit in report.kits for path in kit.folder.rglob("*.*")
    }
    unnamed = {
        name for name in files if f"`{name}`" not in text and f"`{name.partition('/')[0]}/`" not in text
    }
    verify_none(sorted(unnamed))


def test_make_has_every_target_that_pages_name():
    makefile = (ROOT / "Makefile").read_text()
    named = {
        name
        for page in pages()
        for name in re.findall(r"(?:^|`)make ([a-z]+)", read_page(page), re.MULTILINE)
    }
    assert {"demo", "test"} <= named
    verify_none(name for name in sorted(named) if f"\n{name}:" not in makefile)


def test_the_version_has_its_line_in_the_changelog():
    from flprov import __version__

    assert re.search(rf"^## {re.escape(__version__)}\b", (DOCS / "changelog.md").read_text(), re.MULTILINE)
    assert f"flprov, version {__version__}" in CliRunner().invoke(root, ["--version"]).output


def test_the_licence_is_the_one_that_the_files_name():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()
