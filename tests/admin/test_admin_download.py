# SPDX-License-Identifier: Apache-2.0
"""Results on their way to a person: resumed, checked, and only in the folder that was asked for."""

from __future__ import annotations

import dataclasses
import json

import pytest
from admin_server import Files, Server

from flprov.admin import Admin
from flprov.blobs import digest_of
from flprov.errors import Conflict, NotFound, ProtocolError, ServerUnavailable
from flprov.rpc import methods as m
from flprov.wire import documents as doc

MODEL = bytes(range(256)) * 20
METRICS = json.dumps(
    {
        "job_id": "j1",
        "name": "heart",
        "rounds": [
            {
                "round": 0,
                "metrics": {"loss": 1.0},
                "sites": {"site-1": {"samples": 3, "metrics": {"loss": 1.5}}},
            }
        ],
    }
).encode()


@pytest.fixture
def files(server: Server):
    made = Files(server, model__safetensors=MODEL, metrics__json=METRICS)
    made.data["logs/site-1.log"] = b"round 0\n"
    return made


def offsets(server: Server, name: str) -> list[int]:
    return [request.offset for request in server.requests(m.DOWNLOAD_RESULT) if request.name == name]


def test_everything_is_brought_with_a_picture_of_the_metrics(admin: Admin, files: Files, tmp_path):
    found, note = admin.download("j1", tmp_path / "out")
    assert [str(path.relative_to(tmp_path / "out")) for path in found] == [
        "model.safetensors",
        "metrics.json",
        "logs/site-1.log",
        "metrics.png",
    ]
    assert found[0].read_bytes() == MODEL
    assert found[2].read_bytes() == b"round 0\n"
    assert found[3].read_bytes().startswith(b"\x89PNG")
    assert note == ""


def test_progress_is_told_by_file(admin: Admin, files: Files, tmp_path):
    seen = []
    admin.download("j1", tmp_path, progress=lambda *told: seen.append(told))
    assert ("model.safetensors", 1000, len(MODEL)) in seen
    assert ("model.safetensors", len(MODEL), len(MODEL)) in seen
    assert all(done <= total for _, done, total in seen)


def test_what_broke_off_goes_on_where_it_broke(admin: Admin, files: Files, server: Server, tmp_path):
    files.breaks = [ServerUnavailable("the line broke")] * 2
    for _ in range(2):
        with pytest.raises(ServerUnavailable):
            admin.download("j1", tmp_path)
        assert not (tmp_path / "model.safetensors").exists()
    found, _ = admin.download("j1", tmp_path)
    assert found[0].read_bytes() == MODEL
    assert offsets(server, "model.safetensors") == [0, 1000, 2000]
    assert not list(tmp_path.glob(".*"))


def test_a_second_download_fetches_nothing_that_is_whole(
    admin: Admin, files: Files, server: Server, tmp_path
):
    admin.download("j1", tmp_path)
    admin.download("j1", tmp_path)
    assert offsets(server, "model.safetensors") == [0]
    assert offsets(server, "logs/site-1.log") == [0, 0]  # it may have grown


def test_a_log_that_has_grown_is_fetched_whole(admin: Admin, files: Files, tmp_path):
    admin.download("j1", tmp_path)
    files.data["logs/site-1.log"] = b"round 0\nround 1\n"
    admin.download("j1", tmp_path)
    assert (tmp_path / "logs" / "site-1.log").read_bytes() == b"round 0\nround 1\n"


def test_a_file_of_another_job_is_not_overwritten(admin: Admin, files: Files, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"last week's")
    with pytest.raises(Conflict, match="there already") as refused:
        admin.download("j1", tmp_path)
    assert "-o" in (refused.value.hint or "")
    assert (tmp_path / "model.safetensors").read_bytes() == b"last week's"


@pytest.mark.parametrize("name", ["metrics.json", "metrics.png", "record.json", "logs/site-1.log"])
def test_a_job_that_runs_overwrites_nothing_of_another_one(admin: Admin, files: Files, tmp_path, name):
    """Its metrics, record and logs have no digest yet."""
    files.data["record.json"] = b"running"
    other = METRICS.replace(b"j1", b"j0") if name == "metrics.json" else b"my own"
    (tmp_path / "logs").mkdir()
    (tmp_path / name).write_bytes(other)
    files.data.pop("model.safetensors")
    files.announced = tuple(
        doc.ResultFile(name=file, size=len(data), digest="") for file, data in files.data.items()
    )
    with pytest.raises(Conflict, match=f"{name} is there already"):
        admin.download("j1", tmp_path)
    assert (tmp_path / name).read_bytes() == other


def test_a_job_that_was_downloaded_while_it_ran_is_downloaded_again_when_it_has_ended(
    admin: Admin, files: Files, tmp_path
):
    model = files.data.pop("model.safetensors")
    files.data["record.json"] = b"running"
    admin.download("j1", tmp_path)
    ended = METRICS.replace(b"1.0", b"0.5")
    files.data |= {"metrics.json": ended, "record.json": b"completed", "model.safetensors": model}
    files.announced = tuple(
        doc.ResultFile(name=name, size=len(data), digest="" if "/" in name else digest_of(data))
        for name, data in files.data.items()
    )
    admin.download("j1", tmp_path)
    assert (tmp_path / "metrics.json").read_bytes() == ended
    assert (tmp_path / "record.json").read_bytes() == b"completed"


def test_no_file_of_the_person_s_own_is_overwritten_however_it_is_announced(
    admin: Admin, files: Files, tmp_path
):
    (tmp_path / "train.py").write_text("print('mine')")
    files.data["train.py"] = b"print('theirs')"
    files.announced = (doc.ResultFile(name="train.py", size=15, digest=""),)
    with pytest.raises(Conflict):
        admin.download("j1", tmp_path)
    assert (tmp_path / "train.py").read_text() == "print('mine')"


def test_other_bytes_than_announced_are_not_kept(admin: Admin, files: Files, tmp_path):
    files.announced = (doc.ResultFile(name="model.safetensors", size=len(MODEL), digest=digest_of(b"x")),)
    with pytest.raises(ProtocolError, match="other bytes than announced") as refused:
        admin.download("j1", tmp_path)
    assert refused.value.hint == "download it again"
    assert list(tmp_path.iterdir()) == []


def test_more_bytes_than_announced_are_not_waited_for(admin: Admin, files: Files, tmp_path):
    files.announced = (doc.ResultFile(name="model.safetensors", size=1500, digest=digest_of(MODEL)),)
    with pytest.raises(ProtocolError, match="longer than the 1500 bytes"):
        admin.download("j1", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_partial_file_that_is_too_long_is_begun_anew(admin: Admin, files: Files, server: Server, tmp_path):
    (tmp_path / ".model.safetensors.partial").write_bytes(b"x" * (len(MODEL) + 1))
    found, _ = admin.download("j1", tmp_path)
    assert found[0].read_bytes() == MODEL
    assert offsets(server, "model.safetensors") == [0]


def test_a_partial_file_with_other_bytes_is_found_out_and_begun_anew(admin: Admin, files: Files, tmp_path):
    (tmp_path / ".model.safetensors.partial").write_bytes(b"x" * 100)
    with pytest.raises(ProtocolError):
        admin.download("j1", tmp_path)
    found, _ = admin.download("j1", tmp_path)
    assert found[0].read_bytes() == MODEL


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/../../x",
        "/etc/passwd",
        "//x",
        "..\\x",
        "a\\..\\x",
        ".bashrc",
        ".ssh/authorized_keys",
        "logs/../../x",
        "logs/.hidden",
        "a\x00b",
        "a\nb",
        "a\x1b[2Jb",
        "\u202egnp.exe",
    ],
)
@pytest.mark.parametrize("digest", ["", digest_of(b"evil")])
def test_a_name_that_leads_elsewhere_is_refused(
    admin: Admin, files: Files, server: Server, tmp_path, name, digest
):
    files.announced = (doc.ResultFile(name=name, size=4, digest=digest),)
    target = tmp_path / "deep" / "out"
    with pytest.raises(ProtocolError, match="no place here"):
        admin.download("j1", target)
    assert server.requests(m.DOWNLOAD_RESULT) == []
    assert list(target.iterdir()) == []


def test_a_job_without_results_brings_what_there_is(admin: Admin, files: Files, tmp_path):
    del files.data["metrics.json"]
    found, note = admin.download("j1", tmp_path)
    assert len(found) == 2
    assert "no metrics.json" in note


@pytest.mark.parametrize(
    "metrics", [b"", b"no json", b"[]", b"{}", b'{"rounds": 3}', b'{"rounds": [{"metrics": [1]}]}', b"\xff"]
)
def test_metrics_that_nobody_can_draw_are_no_reason_to_fail(admin: Admin, files: Files, tmp_path, metrics):
    files.data["metrics.json"] = metrics
    found, note = admin.download("j1", tmp_path)
    assert len(found) == 3
    assert note
    assert (tmp_path / "metrics.json").read_bytes() == metrics


def test_a_job_that_is_not_there_makes_no_folder(admin: Admin, server: Server, tmp_path):
    server.replies[m.LIST_RESULTS] = NotFound("no job 'j9'", hint="flprov job ls")
    with pytest.raises(NotFound, match="j9"):
        admin.download("j9", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_it_downloads_the_job_that_the_server_resolved(admin: Admin, files: Files, server: Server, tmp_path):
    admin.download("last", tmp_path)
    assert {request.job_id for request in server.requests(m.DOWNLOAD_RESULT)} == {"j1"}
    assert dataclasses.asdict(files.listed()[0])["name"] == "model.safetensors"
