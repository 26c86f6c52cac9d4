# SPDX-License-Identifier: Apache-2.0
"""Packed kits: AES-256 that other programs open, and unpacking what may be hostile."""

from __future__ import annotations

import errno
import json
import shutil
import stat
import subprocess
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pyzipper
from click.testing import CliRunner
from kit_parties import NOW, PROJECT, contents

from flprov.cli.kit import kit as kit_command
from flprov.errors import Conflict, KitRefused, LocalError, Misuse, NotFound
from flprov.kits import load_kit, make_passphrase, pack_kit, provision, unpack_kit

SECRET = b"correct horse battery"
SEVEN = next((path for name in ("7z", "7zz", "7za") if (path := shutil.which(name))), None)


def pack(kit: Path, target: Path, secret: bytes = SECRET):
    return pack_kit(kit, target, passphrase=secret, now=NOW)


def unpack(path: Path, folder: Path, secret: bytes = SECRET):
    return unpack_kit(path, folder, passphrase=secret, now=NOW)


@pytest.fixture
def packed(kit, tmp_path) -> Path:
    pack(kit, tmp_path / "hospital-a.zip")
    return tmp_path / "hospital-a.zip"


def test_a_kit_goes_round(kit, packed, tmp_path):
    found = unpack(packed, tmp_path / "there/deep")
    assert found.folder == tmp_path / "there/deep/hospital-a"
    assert contents(found.folder) == contents(kit)
    assert stat.S_IMODE((found.folder / "identity/key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((found.folder / "start.sh").stat().st_mode) == 0o755
    load_kit(found.folder, now=NOW)
    assert [path.name for path in (tmp_path / "there/deep").iterdir()] == ["hospital-a"]


def test_a_servers_kit_goes_round_and_its_keys_are_private_from_the_first_moment(
    workspace, tmp_path, monkeypatch
):
    made = {}

    def look(partial: Path) -> None:
        made.update({path.name: stat.S_IMODE(path.stat().st_mode) for path in partial.rglob("*key.pem")})

    monkeypatch.setattr("flprov.kits.packing.sync_tree", look)
    pack(workspace / "kits/server", tmp_path / "server.zip")
    found = unpack(tmp_path / "server.zip", tmp_path)
    assert contents(found.folder) == contents(workspace / "kits/server")
    assert made == {"key.pem": 0o600, "servers.key.pem": 0o600, "sites.key.pem": 0o600}


def test_every_file_is_ae_2_with_256_bits_in_a_fixed_order(packed, kit, tmp_path):
    with pyzipper.AESZipFile(packed) as archive:
        entries = archive.infolist()
    assert {(entry.wz_aes_version, entry.wz_aes_strength, entry.CRC) for entry in entries} == {(2, 3, 0)}
    names = [entry.filename for entry in entries]
    assert names == sorted(f"hospital-a/{name}" for name in contents(kit))
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert stat.S_IMODE(packed.stat().st_mode) == 0o600
    assert b"PRIVATE KEY" not in packed.read_bytes()
    pack(kit, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").stat().st_size == packed.stat().st_size
    assert (tmp_path / "again.zip").read_bytes() != packed.read_bytes()  # salts


@pytest.mark.skipif(SEVEN is None, reason="7-Zip is not installed here (Debian: p7zip-full)")
def test_7_zip_opens_it(packed, kit, tmp_path):
    words = [SEVEN, "x", f"-p{SECRET.decode()}", f"-o{tmp_path / 'seven'}", packed]
    subprocess.run(words, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    assert contents(tmp_path / "seven/hospital-a") == contents(kit)
    load_kit(tmp_path / "seven/hospital-a", now=NOW)
    shown = subprocess.run([SEVEN, "l", "-slt", packed], check=True, capture_output=True, text=True).stdout
    assert "Method = AES-256" in shown
    wrong = subprocess.run(
        [*words[:2], "-pwrong", f"-o{tmp_path / 'w'}", packed], capture_output=True, check=False
    )
    assert wrong.returncode != 0


def test_a_wrong_passphrase_and_no_zip_at_all(packed, tmp_path):
    with pytest.raises(KitRefused, match="does not open"):
        unpack(packed, tmp_path / "there", b"wrong horse battery")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(KitRefused, match="not a zip file"):
        unpack(tmp_path / "text.zip", tmp_path / "there")
    with pytest.raises(NotFound):
        unpack(tmp_path / "nothing.zip", tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_nothing_is_overwritten(kit, packed, tmp_path):
    before = packed.read_bytes()
    with pytest.raises(Conflict):
        pack(kit, packed)
    assert packed.read_bytes() == before
    unpack(packed, tmp_path / "there")
    (tmp_path / "there/hospital-a/mine").write_text("")
    with pytest.raises(Conflict):
        unpack(packed, tmp_path / "there")
    assert (tmp_path / "there/hospital-a/mine").exists()


def test_a_usb_stick_has_no_links_and_takes_a_kit_all_the_same(kit, tmp_path, monkeypatch):
    def refuse(_source: object, _target: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")  # link(2), on FAT

    monkeypatch.setattr("os.link", refuse)
    pack(kit, tmp_path / "stick.zip")
    assert [path.name for path in tmp_path.glob("*stick*")] == ["stick.zip"]
    unpack(tmp_path / "stick.zip", tmp_path / "there")
    before = (tmp_path / "stick.zip").read_bytes()
    monkeypatch.setattr("flprov.kits.packing.os.path.lexists", lambda _path: False)  # somebody was quicker
    with pytest.raises(Conflict, match="is already there"):
        pack(kit, tmp_path / "stick.zip")
    assert (tmp_path / "stick.zip").read_bytes() == before


def test_a_kit_that_was_changed_is_not_packed(kit, tmp_path):
    (kit / "README.md").write_text("changed")
    with pytest.raises(KitRefused, match=r"README\.md was changed"):
        pack(kit, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def test_a_folder_that_is_not_there_is_named_and_nothing_stays(kit, tmp_path):
    with pytest.raises(LocalError, match="cannot be written"):
        pack(kit, tmp_path / "nowhere/x.zip")


@pytest.mark.parametrize("secret", [b"", b"short", "ä".encode() * 12, b"twelve\x00bytes"])
def test_passphrases_that_are_guessed_or_read_differently_are_refused(kit, tmp_path, secret):
    with pytest.raises(Misuse):
        pack(kit, tmp_path / "x.zip", secret)
    assert not (tmp_path / "x.zip").exists()


def test_made_passphrases_are_long_and_never_the_same():
    made = {make_passphrase() for _ in range(100)}
    assert len(made) == 100
    assert all(len(one) == 29 and not set("01lo") & set(one) for one in made)


# ---- hostile files -----------------------------------------------------------------------------


def forge(path: Path, files: dict[str, bytes], *, nbits: int = 256, **attributes) -> Path:
    """A zip such as somebody who knows the passphrase could make."""
    form = {"nbits": nbits, "force_wz_aes_version": 2}
    with pyzipper.AESZipFile(path, "w", encryption=pyzipper.WZ_AES, encryption_kwargs=form) as archive:
        archive.setpassword(SECRET)
        for name, data in files.items():
            entry = archive.zipinfo_cls(name)
            for key, value in attributes.items():
                setattr(entry, key, value)
            archive.writestr(entry, data, compress_type=pyzipper.ZIP_DEFLATED)
    return path


def as_packed(kit: Path) -> dict[str, bytes]:
    return {f"hospital-a/{name}": data for name, data in contents(kit).items()}


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "hospital-a/../../evil",
        "/etc/evil",
        "hospital-a/a/b/c",
        "hospital-b/kit.yml",
        "C:\\evil",
        "hospital-a/.hidden",
        "hospital-a/KIT.YML",
        "evil",
    ],
)
def test_names_that_no_kit_has_are_refused(kit, tmp_path, name):
    path = forge(tmp_path / "x.zip", as_packed(kit) | {name: b"evil"})
    with pytest.raises(KitRefused, match="is no packed kit"):
        unpack(path, tmp_path / "there")
    assert not list(tmp_path.rglob("*evil*"))
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("change", ["changed", "dropped", "added", "renamed"])
def test_what_is_not_the_kit_that_was_made_is_refused_and_nothing_stays(kit, tmp_path, change):
    files = as_packed(kit)
    if change == "changed":
        files["hospital-a/kit.yml"] += b"#"
    elif change == "dropped":
        del files["hospital-a/start.sh"]
    elif change == "added":
        files["hospital-a/sitecustomize.py"] = b""
    else:
        files = {name.replace("hospital-a", "hospital-b", 1): data for name, data in files.items()}
    with pytest.raises(KitRefused) as caught:
        unpack(forge(tmp_path / "x.zip", files), tmp_path / "there")
    assert ".partial" not in str(caught.value)
    assert list((tmp_path / "there").iterdir()) == []


def test_a_link_in_it_becomes_no_link(kit, tmp_path):
    files = as_packed(kit) | {"hospital-a/start.sh": b"/etc/passwd"}
    path = forge(tmp_path / "x.zip", files, create_system=3, external_attr=(stat.S_IFLNK | 0o777) << 16)
    with pytest.raises(KitRefused, match=r"start\.sh was changed"):
        unpack(path, tmp_path / "there")


def test_files_that_are_not_encrypted_or_only_with_128_bits_are_refused(kit, tmp_path):
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        for name, data in as_packed(kit).items():
            archive.writestr(name, data)
    for path in (tmp_path / "plain.zip", forge(tmp_path / "weak.zip", as_packed(kit), nbits=128)):
        with pytest.raises(KitRefused, match="is not encrypted with AES-256"):
            unpack(path, tmp_path / "there")


def test_a_bomb_is_not_expanded(kit, tmp_path):
    path = forge(tmp_path / "x.zip", as_packed(kit) | {"hospital-a/bomb": bytes(65 << 20)})
    assert path.stat().st_size < 1 << 20
    with pytest.raises(KitRefused, match="too large"):
        unpack(path, tmp_path / "there")


def test_many_files_are_not_expanded_to_more_than_a_kit_can_have(kit, tmp_path):
    bomb = bytes(60 << 20)
    path = forge(tmp_path / "x.zip", {f"hospital-a/{name}": bomb for name in ("a", "b", "c")})
    with pytest.raises(KitRefused, match="it would be larger than 128 MiB"):
        unpack(path, tmp_path)


def test_any_byte_that_was_flipped_is_noticed(packed, kit, tmp_path):
    """Each refused by name, or without effect: a time, say, or a flag that nobody reads."""
    good = packed.read_bytes()
    for number, place in enumerate(range(0, len(good), len(good) // 60)):
        (tmp_path / "x.zip").write_bytes(good[:place] + bytes([good[place] ^ 0x41]) + good[place + 1 :])
        there = tmp_path / f"there-{number}"
        try:
            unpack(tmp_path / "x.zip", there)
        except KitRefused:
            assert not there.exists() or list(there.iterdir()) == []
        else:
            assert contents(there / "hospital-a") == contents(kit)


# ---- as people type it -------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a workspace whose kits are good today."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLPROV_PACK_PASSPHRASE", raising=False)
    provision(PROJECT, tmp_path / "workspace", now=datetime.now(UTC))
    return tmp_path


def run(*words, **options):
    return CliRunner().invoke(kit_command, [str(word) for word in words], **options)


def test_pack_makes_a_passphrase_and_says_it_once_on_stderr(here):
    packed = run("pack", "workspace/kits/hospital-a", "-o", "h.zip")
    assert packed.exception is None, packed.output
    secret = next(
        line.strip() for line in packed.stderr.splitlines() if line.count("-") == 4 and line[0] == " "
    )
    assert secret not in packed.stdout
    assert "SHA256:" in packed.stderr
    (here / "secret").write_text(secret + "\n")
    opened = run("unpack", "h.zip", "-o", "there", "--passphrase-file", "secret")
    assert opened.exception is None, opened.output
    assert "site hospital-a of heart" in opened.stdout
    assert run("verify", "there/hospital-a").exit_code == 0


def test_a_passphrase_from_file_or_environment_is_not_shown(here):
    (here / "secret").write_text("correct horse battery\n")
    packed = run("pack", "workspace/kits/alice", "-o", "a.zip", "--passphrase-file", "secret", "--json")
    document = json.loads(packed.stdout)
    assert (document["kit"], document["file"]) == ("alice", "a.zip")
    assert document["bytes"] == (here / "a.zip").stat().st_size
    assert "correct" not in packed.output
    opened = run("unpack", "a.zip", "--json", env={"FLPROV_PACK_PASSPHRASE": "correct horse battery"})
    document = json.loads(opened.stdout)
    assert document["folder"] == str(here / "alice")
    assert document["kind"] == "person"
    assert document["root_fingerprint"].startswith("SHA256:")


def test_nothing_is_asked_without_a_terminal(here):
    assert run("pack", "workspace/kits/alice", "-o", "a.zip").exception is None
    error = run("unpack", "a.zip").exception
    assert isinstance(error, Misuse)
    assert "--passphrase-file" in error.hint
    assert isinstance(run("pack", "workspace/kits/alice", "-o", "b.zip", "--passphrase").exception, Misuse)
    assert not (here / "b.zip").exists()
