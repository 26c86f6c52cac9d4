# SPDX-License-Identifier: Apache-2.0
"""`flprov app`: checked and built without a server, brought to it, listed and shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_admin import APP, BEEP, FakeAdmin, make_app
from cli_process import run_process

from flprov.blobs import digest_of
from flprov.errors import PermissionRefused
from flprov.wire import documents as doc


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "heart"
    folder.mkdir()
    (folder / "job.yml").write_text("name: heart\ntasks: train.py\n")
    (folder / "train.py").write_text("x = 1\n")
    return folder


# ---- build -------------------------------------------------------------------------------------


def test_a_build_names_the_app_its_digest_and_files(run, app: Path):
    ran = run("app", "build", "heart")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "app     heart"
    assert ran.out.splitlines()[-2:] == ["  job.yml", "  train.py"]


def test_its_json_is_one_document(run, app: Path):
    found = run("app", "build", "heart", "--json").document(doc.AppBuildDocument)
    assert (found.name, found.files, found.bundle) == ("heart", ("job.yml", "train.py"), None)
    assert len(found.digest) == 64


def test_the_bundle_is_written_where_it_was_asked_for(run, app: Path, tmp_path: Path):
    ran = run("app", "build", "heart", "-o", "heart.bundle", "--json")
    found = ran.document(doc.AppBuildDocument)
    data = (tmp_path / "heart.bundle").read_bytes()
    assert (digest_of(data), len(data), found.bundle) == (found.digest, found.size, "heart.bundle")
    (tmp_path / "heart.bundle").unlink()
    assert "bundle written to heart.bundle" in run("app", "build", "heart", "-o", "heart.bundle").out


def test_no_file_is_overwritten(run, app: Path, tmp_path: Path):
    (tmp_path / "mine").write_text("mine")
    ran = run("app", "build", "heart", "-o", "mine")
    assert (ran.code, ran.out) == (2, "")
    assert "mine is there already" in ran.err
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_an_error_and_no_trace(run, app: Path):
    ran = run("app", "build", "heart", "-o", "gone/heart.bundle")
    assert (ran.code, ran.out) == (1, "")
    assert "gone/" in ran.err
    assert "No such file or directory" in ran.err


def test_all_mistakes_are_told_with_their_lines(run, app: Path):
    (app / "job.yml").write_text("name: heart\ntask: train.py\nargs: [1]\n")
    ran = run("app", "build", "heart", "--json")
    assert (ran.code, ran.out) == (2, "")
    assert "job.yml:2: unknown key 'task' (did you mean 'tasks'?)" in ran.err
    assert "job.yml:3:" in ran.err


@pytest.mark.parametrize(
    ("workflow", "said"),
    [
        ("{type: fedporx, mu: 0.1}", "no workflow 'fedporx' (did you mean 'fedprox'?)"),
        ("{type: fedavg, fractoin: 0.1}", "unknown option 'fractoin' (did you mean 'fraction'?)"),
        ("{type: fedopt, optimizer: adma}", "'adma' is not one of sgd, adam, yogi, adagrad"),
        ("{type: federated_statistics}", "add the line `  statistics: module:function`"),
        ("{type: federated_evaluation}", "needs a task 'evaluate', and 'tasks' has train"),
        ("{type: scaffold}", "add the line `model: module:Class`"),
        ("{type: fedavg}\nfilters: {result: {site: [{type: clip_norm, max_norm: -1}]}}", "max_norm is -1.0"),
        (
            "{type: fedavg}\nfilters: {result: {server: [{type: quantize, to: fp15}]}}",
            "not one of fp16, int8",
        ),
        ("{type: fedavg}\nfilters: {task: {site: [{type: clipp}]}}", "did you mean 'clip'?"),
        (
            "{type: fedavg}\nfilters: {task: {server: [{type: clip_norm, max_norm: 1}]}}",
            "works on results only",
        ),
    ],
)
def test_a_workflow_that_could_not_start_is_refused_before_there_is_a_bundle(run, app: Path, workflow, said):
    (app / "job.yml").write_text(f"name: heart\ntasks: train.py\nworkflow: {workflow}\n")
    ran = run("app", "build", "heart", "-o", "bundle")
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert not Path("bundle").exists()


@pytest.mark.parametrize("name", ["gone", "heart/job.yml"])
def test_what_is_no_folder_is_not_found(run, app: Path, name):
    ran = run("app", "build", name)
    assert ran.code == 5
    assert "job.yml" in ran.err


# ---- with a server -----------------------------------------------------------------------------


def test_an_upload_says_what_to_do_next(run, admin: FakeAdmin, app: Path):
    ran = run("app", "upload", "heart")
    assert ran.code == 0
    assert ran.out == f"uploaded heart {APP[:12]} (4.2 MiB)\nrun it: flprov job submit heart\n"
    assert admin.calls == [("upload", {"folder": Path("heart")})]
    assert ran.err == ""  # nobody watches, so there is no bar


def test_an_upload_as_json_is_one_document(run, admin: FakeAdmin, app: Path):
    assert run("app", "upload", "heart", "--json").document(doc.AppDocument) == make_app()


def test_a_role_that_may_not_upload_is_refused(run, admin: FakeAdmin, app: Path):
    admin.fails["upload"] = PermissionRefused("mia may not call /flprov.v1.Admin/UploadApp")
    assert run("app", "upload", "heart").code == 3


def test_apps_are_listed(run, admin: FakeAdmin):
    out = run("app", "ls").out.splitlines()
    assert out[0].split() == ["APP", "NAME", "SIZE", "UPLOADED", "BY"]
    assert out[1].split() == [APP[:12], "heart", "4.2", "MiB", "3", "h", "ago", "leo"]
    assert run("app", "ls", "--json").document(doc.AppListDocument).apps == admin.app_documents


def test_no_apps_are_a_header_and_an_empty_list(run, admin: FakeAdmin):
    admin.app_documents = ()
    assert len(run("app", "ls").out.splitlines()) == 1
    assert run("app", "ls", "--json").json() == {"apps": []}


def test_one_app_is_shown_with_its_files(run, admin: FakeAdmin):
    out = run("app", "show", "heart").out
    assert f"digest    {APP}" in out
    assert out.splitlines()[-2:] == ["  job.yml", "  train.py"]
    assert run("app", "show", "heart", "--json").document(doc.AppDocument) == make_app()


def test_what_the_server_says_cannot_drive_the_terminal(run, admin: FakeAdmin, app: Path):
    admin.app_documents = (make_app(name=BEEP, files=(BEEP,), uploaded_by=BEEP),)
    for words in (["ls"], ["show", "x"], ["upload", "heart"]):
        out = run("app", *words).out
        assert "red" in out
        assert not {"\x1b", "\x07", "\u202e"} & set(out), words


def test_in_processes_of_their_own_two_builds_have_one_digest(app: Path, tmp_path: Path):
    first, second = (run_process("app", "build", "heart", "--json", folder=tmp_path) for _ in range(2))
    assert first.code == 0
    assert first.out == second.out
