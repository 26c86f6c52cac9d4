# SPDX-License-Identifier: Apache-2.0
"""From a folder to a bundle and back: deterministic, complete, and only what may be in it."""

from __future__ import annotations

import io
import os
import socket
import stat
import zipfile

import blake3
import pytest

from flprov.errors import ConfigError, Conflict, LocalError, Misuse, NotFound, ProtocolError
from flprov.jobs import BundleLimits, build_bundle, list_bundle, load_job, read_bundle_spec, unpack_bundle

MINIMAL = "name: a\ntasks: train.py\n"


@pytest.fixture
def put(tmp_path):
    """put(data) -> path of a bundle file with these bytes."""

    def write(data: bytes):
        path = tmp_path / "bundle"
        path.write_bytes(data)
        return path

    return write


def test_bundle_comes_back_as_it_went_in(make_app, put, tmp_path):
    folder = make_app(
        files={"lib/deep/er.py": "z = 3\n", "empty.txt": "", "blob.bin": bytes(range(256)) * 9000}
    )
    bundle = build_bundle(folder)
    path = put(bundle.data)
    target = tmp_path / "jobs" / "app"
    target.parent.mkdir()
    assert unpack_bundle(path, target) == load_job(folder) == bundle.spec == read_bundle_spec(path)
    names = ("blob.bin", "empty.txt", "job.yml", "lib/deep/er.py", "model.py", "train.py")
    assert bundle.files == list_bundle(path) == names
    for name in names:
        assert (target / name).read_bytes() == (folder / name).read_bytes()
    assert list(target.parent.iterdir()) == [target]


def test_unpacked_files_are_read_only(make_app, put, tmp_path):
    old = os.umask(0o077)
    try:
        unpack_bundle(put(build_bundle(make_app(files={"lib/a.py": ""})).data), tmp_path / "out")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "out" / "train.py").stat().st_mode) == 0o444
    assert stat.S_IMODE((tmp_path / "out" / "lib" / "a.py").stat().st_mode) == 0o444


def test_digest_is_blake3_of_the_bytes(make_app):
    bundle = build_bundle(make_app())
    assert bundle.digest == blake3.blake3(bundle.data).hexdigest()


def test_times_modes_and_order_of_creation_do_not_matter(make_app):
    first = make_app(name="first", files={"b.py": "1", "a.py": "2", "lib/c.py": "3"})
    second = make_app(name="second", files={"lib/c.py": "3", "a.py": "2", "b.py": "1"})
    (second / "a.py").chmod(0o755)
    os.utime(second / "b.py", (0, 0))
    assert build_bundle(first).data == build_bundle(second).data
    (second / "a.py").write_text("changed")
    assert build_bundle(first).digest != build_bundle(second).digest


def test_form_never_changes(make_app):
    """Digests are names in records and signatures: this one must hold for ever."""
    bundle = build_bundle(make_app(MINIMAL, {"model.py": "y = 2\n", "größe/x.txt": "x"}))
    assert bundle.digest == "698a5651cce40eb2e3ce58afa63e4a39437fff93648fa47dfe88fe24dd2fb639"


def test_any_unzip_reads_a_bundle(make_app):
    bundle = build_bundle(make_app(files={"größe/模.txt": "hello"}))
    with zipfile.ZipFile(io.BytesIO(bundle.data)) as archive:
        assert archive.testzip() is None
        assert tuple(archive.namelist()) == bundle.files
        assert archive.read("größe/模.txt") == b"hello"
        info = archive.getinfo("train.py")
        assert (info.date_time, info.external_attr >> 16) == ((1980, 1, 1, 0, 0, 0), 0o100644)
        assert info.compress_type == zipfile.ZIP_STORED


def test_hidden_and_compiled_files_stay_at_home(make_app):
    skipped = [
        ".git/config",
        ".venv/bin/python",
        ".DS_Store",
        "__pycache__/train.cpython-311.pyc",
        "lib/.x",
        "a.pyc",
    ]
    folder = make_app(files=dict.fromkeys(skipped, "x"))
    (folder / ".link").symlink_to("/etc/passwd")
    assert build_bundle(folder).files == ("job.yml", "model.py", "train.py")


@pytest.mark.parametrize("target", ["/etc/passwd", "train.py", "nowhere", "/tmp"])
def test_links_are_refused_by_name(make_app, target):
    folder = make_app()
    (folder / "link.txt").symlink_to(target)
    with pytest.raises(Misuse, match=r"'link\.txt' is a link"):
        build_bundle(folder)


def test_linked_folder_is_refused(make_app, tmp_path):
    folder = make_app()
    (tmp_path / "elsewhere").mkdir()
    (folder / "lib").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Misuse, match="'lib' is a link"):
        build_bundle(folder)


def test_pipes_and_sockets_are_refused_and_do_not_hang(make_app, monkeypatch):
    folder = make_app()
    os.mkfifo(folder / "pipe")
    with pytest.raises(Misuse, match="'pipe' is not an ordinary file"):
        build_bundle(folder)
    (folder / "pipe").unlink()
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        with pytest.raises((Misuse, LocalError)):
            build_bundle(folder)


@pytest.mark.parametrize(
    "name", ["a:b", "CON.txt", "-rf", "evil.pth", "sitecustomize.py", "flprov.py", "A.py"]
)
def test_unsafe_names_are_refused_when_building(make_app, name):
    with pytest.raises(Misuse):
        build_bundle(make_app(files={name: "", "a.py": ""}))


def test_names_that_are_not_utf8_are_refused(make_app):
    folder = make_app()
    (folder / os.fsdecode(b"bad\xff.py")).write_text("")
    with pytest.raises(Misuse, match="udcff"):
        build_bundle(folder)


def test_limits_are_named(make_app):
    folder = make_app(files={f"f{n}": "x" * 10 for n in range(10)})
    for limits, words in [
        (BundleLimits(files=12), "more than 12 files"),
        (BundleLimits(file_bytes=100), "'job.yml' is larger than 100 bytes"),
        (BundleLimits(total_bytes=300), "larger than 300 bytes together"),
    ]:
        with pytest.raises(Misuse, match=words):
            build_bundle(folder, limits=limits)
    assert len(build_bundle(folder, limits=BundleLimits(files=13)).files) == 13


def test_deep_folders_are_refused(make_app):
    folder = make_app()
    (folder / ("d/" * 40)).mkdir(parents=True)
    with pytest.raises(Misuse, match="folders deep"):
        build_bundle(folder)


def test_only_an_app_is_built(tmp_path, make_app):
    with pytest.raises(NotFound):
        build_bundle(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"job\.yml:1"):
        build_bundle(make_app("name: A\ntasks: train.py\n"))


def test_what_the_job_names_must_be_in_the_bundle(make_app):
    with pytest.raises(ConfigError):
        build_bundle(make_app('name: a\ntasks: {train: ".hidden/x.py"}\n', {".hidden/x.py": ""}))


def test_unreadable_file_is_named(make_app, monkeypatch):
    folder = make_app()
    real = os.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith("model.py"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(LocalError, match=r"model\.py cannot be read: Permission denied"):
        build_bundle(folder)


def test_repr_is_short(make_app):
    assert len(repr(build_bundle(make_app(files={"big": "x" * 10000})))) < 100


def test_existing_target_is_left_alone(make_app, put, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(Conflict):
        unpack_bundle(put(build_bundle(make_app()).data), target)
    assert list(target.iterdir()) == []


def test_missing_bundle_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        unpack_bundle(tmp_path / "none", tmp_path / "out")


def test_full_disk_leaves_nothing_behind(make_app, put, tmp_path, monkeypatch):
    path = put(build_bundle(make_app()).data)

    def full(descriptor, mode):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    (tmp_path / "jobs").mkdir()
    with pytest.raises(LocalError, match="No space left"):
        unpack_bundle(path, tmp_path / "jobs" / "app")
    assert list((tmp_path / "jobs").iterdir()) == []


def test_bundle_may_not_be_a_device():
    with pytest.raises(ProtocolError, match="not an ordinary file"):
        list_bundle(__import__("pathlib").Path("/dev/zero"))
