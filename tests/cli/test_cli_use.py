# SPDX-License-Identifier: Apache-2.0
"""`flprov use`: whose kit later commands act with."""

from __future__ import annotations

import os
import shutil

import pytest
from cli_admin import FakeAdmin
from cli_process import run_process

from flprov.cli.acting import choice_file, chosen_kit, forget
from flprov.errors import Misuse


def test_it_says_as_whom_one_acts_and_remembers_it(run, kits):
    ran = run("use", str(kits / "leo"))
    assert ran.code == 0
    assert ran.out == "acting as leo (lead of org-a) in project heart\n"
    assert choice_file().read_text() == f"{kits / 'leo'}\n"
    assert choice_file().stat().st_mode & 0o777 == 0o600


def test_a_relative_path_is_remembered_whole(run, kits, tmp_path):
    shutil.copytree(kits / "leo", tmp_path / "mine")
    assert run("use", "mine").code == 0
    assert choice_file().read_text() == f"{tmp_path / 'mine'}\n"


def test_a_folder_whose_name_is_no_utf8_is_remembered_as_it_is(run, kits, tmp_path):
    odd = tmp_path / os.fsdecode(b"M\xfcller ")
    shutil.copytree(kits / "leo", odd)
    assert run("use", str(odd)).code == 0
    assert chosen_kit() == odd
    forget(odd)
    assert not choice_file().exists()


def test_a_choice_that_is_empty_is_none(kits):
    choice_file().parent.mkdir(parents=True, exist_ok=True)
    choice_file().write_text("")
    with pytest.raises(Misuse, match="no admin kit is chosen"):
        chosen_kit()


def test_later_commands_act_with_it(run, admin: FakeAdmin, kits, monkeypatch):
    monkeypatch.delenv("FLPROV_KIT")
    run("use", str(kits / "leo"))
    assert run("status").code == 0
    assert admin.kits == [kits / "leo"]


@pytest.mark.parametrize("name", ["site-1", "server"])
def test_a_kit_that_is_no_person_s_is_refused_and_not_remembered(run, kits, name):
    ran = run("use", str(kits / name))
    assert ran.code == 3
    assert "kit of a person is needed" in ran.err
    assert "this one is for" in ran.err
    assert not choice_file().exists()


def test_a_folder_that_is_not_there_is_not_found(run):
    ran = run("use", "gone")
    assert ran.code == 5
    assert not choice_file().exists()


def test_a_kit_that_was_changed_is_refused(run, kits, tmp_path):
    shutil.copytree(kits / "leo", tmp_path / "mine")
    (tmp_path / "mine" / "extra").touch()
    ran = run("use", "mine")
    assert ran.code == 3
    assert "extra" in ran.err


def test_a_choice_is_forgotten_only_by_its_own_name(run, kits):
    run("use", str(kits / "leo"))
    forget(kits / "ada")
    assert choice_file().exists()
    forget(kits / "leo")
    assert not choice_file().exists()


def test_in_a_process_of_its_own(kits, tmp_path):
    ran = run_process("use", str(kits / "leo"), folder=tmp_path)
    assert ran.code == 0
    assert (tmp_path / "config" / "flprov" / "kit").read_text() == f"{kits / 'leo'}\n"
