# SPDX-License-Identifier: Apache-2.0
"""What a machine has of what a job needs; in this interpreter and in another."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import packaging
import pytest

from flprov.errors import LocalError, Misuse
from flprov.jobs import check_needs

VERSION = packaging.__version__


@pytest.fixture
def other(tmp_path) -> Path:
    """The same interpreter under another name, so that it is asked and not looked into."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture(params=["own", "other"])
def python(request, other) -> Path | None:
    return None if request.param == "own" else other


def test_what_is_there_is_no_problem(python):
    needs = ["packaging", f"packaging=={VERSION}", "Packaging>=1", f"python>={platform.python_version()}"]
    assert check_needs(needs, python) == ()


def test_what_is_missing_is_named_with_what_was_found(python):
    needs = ["packaging>=9999", "no-such-thing-7>=2.4", "no-such-thing-7", "python>=9,<10"]
    assert check_needs(needs, python) == (
        f"needs packaging>=9999, found {VERSION}",
        "needs no-such-thing-7>=2.4, found none",
        "needs no-such-thing-7, found none",
        f"needs python<10,>=9, found {platform.python_version()}",
    )


def test_markers_are_those_of_the_interpreter(python):
    needs = ['no-such-thing-7; sys_platform == "amiga"', 'no-such-thing-8; python_version < "3"']
    assert check_needs(needs, python) == ()
    assert len(check_needs(['no-such-thing-7; sys_platform != "amiga"'], python)) == 1


def test_a_marker_that_cannot_be_decided_is_a_problem(python):
    (problem,) = check_needs(['packaging>=1; os_name ~= "posix"'], python)
    assert problem == 'needs packaging>=1 if os_name ~= "posix", which cannot be decided here'


def test_local_and_pre_release_versions_count(python, tmp_path, monkeypatch):
    found = {"torch": "2.13.0+cpu", "beta": "3.0rc1", "odd": "unknown"}
    if python is None:
        monkeypatch.setattr("importlib.metadata.version", found.__getitem__)
        expected = ("needs odd, found 'unknown', which is no version",)
        assert check_needs(["torch>=2.4", "torch==2.13.0", "beta>=2", "odd"]) == expected


def test_no_needs_ask_nobody():
    assert check_needs([], Path("/nowhere/python")) == ()


def test_same_interpreter_by_its_path_is_not_started(monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *args, **kwargs: pytest.fail("started"))
    assert check_needs(["packaging"], Path(sys.executable)) == ()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (None, "cannot be run: No such file"),
        ("exit 3", "ended with exit code 3"),
        ("echo hello", "did not answer as a Python interpreter does"),
        ('echo "{}"', "did not answer as a Python interpreter does"),
    ],
)
def test_broken_interpreter_is_the_sites_problem(tmp_path, script, words):
    path = tmp_path / "python"
    if script is not None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    with pytest.raises(LocalError, match=words) as caught:
        check_needs(["packaging"], path)
    assert "site.yml" in str(caught.value.hint)


def test_slow_interpreter_is_given_up(tmp_path, monkeypatch):
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\nexec sleep 30\n")
    path.chmod(0o755)
    monkeypatch.setattr("flprov.jobs.needs._TIMEOUT", 0.2)
    with pytest.raises(LocalError, match="did not answer within"):
        check_needs(["packaging"], path)


def test_environment_cannot_lend_packages(other, tmp_path, monkeypatch):
    folder = tmp_path / "lib" / "no_such_thing_7-9.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: no-such-thing-7\nVersion: 9\n")
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))
    assert check_needs(["no-such-thing-7"], other) == ("needs no-such-thing-7, found none",)


def test_what_is_no_requirement_is_misuse():
    with pytest.raises(Misuse):
        check_needs(["torch>>2"])
