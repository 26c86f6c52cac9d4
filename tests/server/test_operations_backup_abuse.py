# SPDX-License-Identifier: Apache-2.0
"""Backups that somebody has made by hand: to fill a disk, to fool a restore, to open a door again."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from server_parties import PROJECT
from server_running import running
from test_operations_backup import bring_back, config, edit, fill, rewrite, save  # noqa: F401

from flprov._base import SystemClock
from flprov.errors import IdentityRefused, NotFound, StateDamaged
from flprov.kits import provision, read_publication
from flprov.pki import describe_leaf
from flprov.rpc import methods as m
from flprov.server.identities.trust import TrustKeeper
from flprov.server.operations.archive import ArchiveReader
from flprov.store import Row, open_store
from flprov.wire import pb


def tar_of(folder: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    target = folder / "made.tar"
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return target


def member(name: str, **pax: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.pax_headers = {key.replace("_", "."): value for key, value in pax.items()}
    return info


def raw(kind: bytes, size: bytes, name: bytes = b"state/x") -> bytes:
    """A header as no tar program writes it."""
    head = bytearray(512)
    head[0 : len(name)] = name
    head[100:124] = b"0000600\0" + b"0000000\0" * 2
    head[124:136] = size
    head[136:148] = b"00000000000\0"
    head[148:156] = b" " * 8
    head[156:157] = kind
    head[257:265] = b"ustar\x0000"
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + bytes(10240 - 512)


def extract(file: Path, folder: Path) -> None:
    folder.mkdir()
    with ArchiveReader(file) as reader:
        reader.extract(folder, step=lambda _size: None)


@pytest.mark.parametrize("map_", ["0,0", "abc", "-5,10", "1,2,3"])
def test_holes_are_no_bytes(tmp_path, map_):
    """A sparse member of a few bytes would fill the disk."""
    lie = member("state/x", GNU_sparse_map=map_, GNU_sparse_size=str(1 << 40))
    with pytest.raises(StateDamaged):
        extract(tar_of(tmp_path, (lie, b"")), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


HUGE = b"\x80" + (2**62).to_bytes(11, "big")
NEGATIVE = b"\xff" * 11 + b"\0"


@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"L", b"K", b"S"])
@pytest.mark.parametrize("size", [HUGE, NEGATIVE, b"77777777777\0"])
def test_length_that_is_a_lie_costs_neither_memory_nor_disk(tmp_path, kind, size):
    (tmp_path / "made.tar").write_bytes(raw(kind, size))
    with pytest.raises(StateDamaged):
        extract(tmp_path / "made.tar", tmp_path / "out")
    assert list((tmp_path / "out").rglob("*.*")) == []


def test_names_drive_no_terminal(tmp_path):
    info = member("state/\x1b[2J\u202e")
    for members in ([(info, b"")] * 2, [(info, b""), (manifest({}), b'{"files":{}}')]):
        with pytest.raises(StateDamaged) as refusal:
            extract(tar_of(tmp_path, *members), tmp_path / f"out{len(members[1][1])}")
        assert str(refusal.value).isprintable()


def manifest(files: dict[str, object]) -> tarfile.TarInfo:
    info = tarfile.TarInfo("manifest.json")
    info.size = len(json.dumps({"files": files}, separators=(",", ":")))
    return info


def test_folder_is_no_backup(tmp_path):
    with pytest.raises(NotFound, match="is a folder"):
        ArchiveReader(tmp_path)


# ---- restore -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lie", [{"log_index": 0}, {"log_index": 10**9}, {"log_digest": "0" * 64}])
async def test_backup_that_lies_about_its_log_is_refused(config, app, tmp_path, lie):  # noqa: F811
    """By it is judged what the restored server has forgotten."""
    await fill(config, app)
    store = open_store(config.state, clock=SystemClock())
    await store.commit([], Row(who="server", what="job.start", object="0job"))
    await store.close()
    save(config, tmp_path / "b.tar")
    rewrite(tmp_path / "b.tar", tmp_path / "bad.tar", edit("flprov-backup.json", **lie))
    with pytest.raises(StateDamaged, match="that is not so"):
        await bring_back(config, tmp_path / "bad.tar", force=True)


async def test_who_was_kept_out_in_another_past_is_kept_out_too(config, app, tmp_path, kit):  # noqa: F811
    """The state here was restored itself: its rows after that are not those of the backup."""
    await fill(config, app)
    save(config, tmp_path / "old.tar")
    store = open_store(config.state, clock=SystemClock())
    for _ in range(3):
        await store.commit([], Row(who="server", what="job.start", object="0job"))
    await store.close()
    save(config, tmp_path / "new.tar")
    await bring_back(config, tmp_path / "old.tar", force=True)
    async with running(config) as found:
        ada = found.connect(kit("ada"))
        await ada.unary(m.LOCK_SITE, pb.PartyChange(name="site-1", reason="odd"), 5.0)
        await ada.unary(m.REMOVE_PERSON, pb.PartyChange(name="mia"), 5.0)
    done = await bring_back(config, tmp_path / "new.tar", force=True)
    assert done.forgotten == ()  # nothing can be said of them, as rows
    async with running(config) as found:
        registry = found.server._operations.parts.registry
        assert registry.enrolment("site-1").locked.reason == "odd"
        assert registry.revocations.cutoff(kit("mia").identity.uri) is not None


async def test_people_whom_the_provisioner_has_revoked_since_stay_out(
    config,  # noqa: F811
    app,
    tmp_path,
    kit,
    kit_folder,
):
    """Their list is in a file of the state, which the restore replaces by an older one."""
    config = replace(config, listen="127.0.0.1:0")
    await fill(config, app)
    save(config, tmp_path / "b.tar")
    workspace = shutil.copytree(kit_folder.parent, tmp_path / "ws")
    without = replace(PROJECT, people=tuple(one for one in PROJECT.people if one.name != "leo"))
    now = SystemClock().now()
    provision(without, workspace, now=now)
    keeper = TrustKeeper(config.kit, config.state)
    trust = keeper.verify(read_publication(without, workspace).signed, now)
    assert trust is not None
    keeper.accept(trust)
    async with running(config, transport="grpc") as found:
        with pytest.raises(IdentityRefused, match="leo was revoked"):
            await found.connect(kit("leo")).unary(m.STATUS, pb.Query(), 5.0)
    done = await bring_back(config, tmp_path / "b.tar", force=True)
    assert done.denials == 1
    async with running(config, transport="grpc") as found:
        assert found.server._operations.parts.registry.revocations.is_revoked(
            f"{describe_leaf(kit('leo').chain_pem).serial:x}"
        )
        with pytest.raises(IdentityRefused, match="leo was revoked"):
            await found.connect(kit("leo")).unary(m.STATUS, pb.Query(), 5.0)
        for method in (m.STATUS, m.SHOW_TRUST, m.EXPORT_CRLS, m.LIST_CERTIFICATES, m.LIST_PEOPLE):
            await found.connect(kit("ada")).unary(method, pb.Query(), 5.0)
