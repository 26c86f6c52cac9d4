# SPDX-License-Identifier: Apache-2.0
"""Backup and restore of a server's state: what is in the file, what is refused, what is said afterwards."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import shutil
import sqlite3
import stat
import tarfile
from pathlib import Path

import pytest
from server_running import copy_config, put_job, running

from flprov._base import SystemClock, from_document, hold_lock, parse_json, write_atomic
from flprov.blobs import BlobStore, digest_of
from flprov.errors import Conflict, KitRefused, LocalError, NotFound, StateDamaged
from flprov.jobs import JobState
from flprov.rpc import methods as m
from flprov.server import back_up, restore
from flprov.server.operations.archive import ArchiveReader
from flprov.store import Put, Row, open_store
from flprov.wire import documents as doc
from flprov.wire import pb


def silent(done: int, total: int) -> None:
    """Nobody watches."""


@pytest.fixture
def config(kit_folder, tmp_path, made_at):
    return copy_config(kit_folder, tmp_path, made_at)


def save(config, target: Path) -> doc.BackupDocument:
    return back_up(config.kit, config.state, target, now=SystemClock().now(), progress=silent)


async def bring_back(config, file: Path, *, force: bool = False) -> doc.RestoreDocument:
    return await restore(
        config.kit, config.state, file, by="root", clock=SystemClock(), force=force, progress=silent
    )


async def fill(config, app) -> str:
    """A state with a job, a blob that it names, one that nobody names, a log and a key."""
    await put_job(config, app, state=JobState.COMPLETED)
    stray = await BlobStore(config.state / "blobs").put(b"nobody names this")
    log = config.state / "jobs" / "0job" / "logs" / "site-1.log"
    log.parent.mkdir(parents=True)
    log.write_text("round 0\n")
    (config.state / "jobs" / "0job" / "series.jsonl").write_text('{"kind":"end","state":"completed"}\n')
    (config.state / "jobs" / "0job" / "workflow" / "work").mkdir(parents=True)
    (config.state / "jobs" / "0job" / "workflow" / "work" / "scratch").write_text("x")
    (config.state / "own").mkdir()
    (config.state / "own" / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    return stray


def names(file: Path) -> set[str]:
    with tarfile.open(file) as tar:
        return {info.name for info in tar}


# ---- backup ------------------------------------------------------------------------------------


async def test_backup_has_the_store_what_it_names_the_logs_and_the_rest(config, app, tmp_path):
    stray = await fill(config, app)
    found = save(config, tmp_path / "b.tar")
    inside = names(tmp_path / "b.tar")
    assert {
        "flprov-backup.json",
        "state/store.db",
        f"state/blobs/{app.digest[:2]}/{app.digest}",
        "state/jobs/0job/logs/site-1.log",
        "state/jobs/0job/series.jsonl",
        "state/own/key.pem",
        "manifest.json",
    } == inside
    assert not any(stray in name for name in inside)
    assert (found.jobs, found.blobs, found.keys, found.missing) == (1, 1, ("own/key.pem",), ())
    assert stat.S_IMODE((tmp_path / "b.tar").stat().st_mode) == 0o600
    assert not (config.state / "backup.partial").exists()
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


async def test_file_that_another_takes_the_place_of_meanwhile_is_whole(config, app, tmp_path):
    await fill(config, app)
    trust = config.state / "trust.json"
    trust.write_bytes(b"old")

    def publish(done: int, total: int) -> None:
        write_atomic(trust, b"a newer and longer bundle")

    back_up(config.kit, config.state, tmp_path / "b.tar", now=SystemClock().now(), progress=publish)
    with ArchiveReader(tmp_path / "b.tar") as reader:
        reader.extract(tmp_path / "out", step=lambda size: None)
    assert (tmp_path / "out" / "trust.json").read_bytes() in (b"old", b"a newer and longer bundle")


async def test_backup_overwrites_nothing(config, app, tmp_path):
    await fill(config, app)
    (tmp_path / "b.tar").write_text("precious")
    with pytest.raises(Conflict, match="not overwritten"):
        save(config, tmp_path / "b.tar")
    assert (tmp_path / "b.tar").read_text() == "precious"


async def test_there_is_nothing_to_back_up_before_the_first_start(config, tmp_path):
    with pytest.raises(NotFound, match="no server has run"):
        save(config, tmp_path / "b.tar")


async def test_backup_into_a_folder_that_is_not_there_is_not_found(config, app, tmp_path):
    await fill(config, app)
    with pytest.raises(NotFound, match="no folder"):
        save(config, tmp_path / "nowhere" / "b.tar")


async def test_blob_that_the_state_itself_lacks_is_named_and_stops_nothing(config, app, tmp_path):
    await fill(config, app)
    (config.state / "blobs" / app.digest[:2] / app.digest).unlink()
    assert save(config, tmp_path / "b.tar").missing == (app.digest,)


async def test_failed_backup_leaves_no_file(config, app, tmp_path, monkeypatch):
    await fill(config, app)
    limit = 4096

    def too_much(done: int, total: int) -> None:
        if done > limit:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        back_up(config.kit, config.state, tmp_path / "b.tar", now=SystemClock().now(), progress=too_much)
    assert not (tmp_path / "b.tar").exists()
    assert not (config.state / "backup.partial").exists()


async def test_backup_onto_a_disk_without_links_is_whole(config, app, tmp_path, monkeypatch):
    await fill(config, app)
    real = os.open

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")  # link(2), on FAT

    def without_tmpfile(path, flags, *more, **named):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(path, flags, *more, **named)

    monkeypatch.setattr("os.open", without_tmpfile)
    monkeypatch.setattr("os.link", refuse)
    save(config, tmp_path / "b.tar")
    assert (tmp_path / "b.tar").stat().st_size
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    with pytest.raises(Conflict, match="not overwritten"):
        save(config, tmp_path / "b.tar")


async def test_what_a_killed_backup_left_is_cleared_by_the_next(config, app, tmp_path):
    await fill(config, app)
    (config.state / "backup.partial").mkdir()
    (config.state / "backup.partial" / "store.db").write_text("half")
    save(config, tmp_path / "b.tar")
    assert not (config.state / "backup.partial").exists()


async def test_second_backup_at_the_same_time_is_refused(config, app, tmp_path):
    await fill(config, app)
    with hold_lock(config.state / "backup.partial.lock"), pytest.raises(Conflict, match="under way"):
        save(config, tmp_path / "b.tar")


async def test_running_server_keeps_its_blobs_while_it_is_backed_up(config, app, tmp_path):
    await fill(config, app)
    seen: list[bool] = []
    async with running(config) as found:
        jobs, blobs = found.server._jobs, found.server._blobs
        loop = asyncio.get_running_loop()

        def look(done: int, total: int) -> None:
            if not seen:
                asyncio.run_coroutine_threadsafe(drop(), loop).result()
                seen.append(blobs.has(app.digest))

        async def drop() -> None:
            jobs.apps.clear()
            run = jobs.get("0job")
            await jobs.delete(run, "ada", "gone")
            jobs.collect({app.digest})

        done = await asyncio.to_thread(
            back_up, config.kit, config.state, tmp_path / "b.tar", now=SystemClock().now(), progress=look
        )
        assert (done.running, seen) == (True, [True])
        async with asyncio.timeout(5):
            while blobs.has(app.digest):  # removed once the hold ends, which the socket tells
                await asyncio.sleep(0)
    with ArchiveReader(tmp_path / "b.tar") as reader:
        assert f"blobs/{app.digest[:2]}/{app.digest}" in reader.extract(None, step=lambda size: None).files


# ---- restore -----------------------------------------------------------------------------------


async def test_restored_state_is_what_was_saved(config, app, tmp_path):
    await fill(config, app)
    found = save(config, tmp_path / "b.tar")
    shutil.rmtree(config.state)
    done = await bring_back(config, tmp_path / "b.tar")
    assert (done.log_index, done.moved_aside, done.forgotten) == (found.log_index, "", ())
    blob = config.state / "blobs" / app.digest[:2] / app.digest
    assert digest_of(blob.read_bytes()) == app.digest
    assert stat.S_IMODE(blob.stat().st_mode) == 0o444
    assert (config.state / "jobs" / "0job" / "logs" / "site-1.log").read_text() == "round 0\n"
    assert (config.state / "jobs" / "0job" / "series.jsonl").is_file()
    assert stat.S_IMODE((config.state / "own" / "key.pem").stat().st_mode) == 0o600
    assert sorted(path.name for path in config.state.parent.iterdir() if "state" in path.name) == ["state"]


async def test_restored_server_starts_drained_and_warns_until_it_is_enabled(config, app, tmp_path, kit):
    await fill(config, app)
    save(config, tmp_path / "b.tar")
    shutil.rmtree(config.state)
    await bring_back(config, tmp_path / "b.tar")
    async with running(config) as found:
        ada = found.connect(kit("ada"))
        status = await read(ada, m.STATUS, pb.Query(), doc.StatusDocument)
        assert "restored from a backup" in status.server.drained
        assert "flprov server enable" in status.server.notes[0]
        assert any("cert revoke" in note for note in status.server.notes)
        await read(ada, m.ENABLE_SERVER, pb.PartyChange(), doc.DrainDocument)
        status = await read(ada, m.STATUS, pb.Query(), doc.StatusDocument)
        assert (status.server.drained, status.server.notes) == ("", ())
    async with running(config) as found:  # and after the next start, too
        status = await read(found.connect(kit("ada")), m.STATUS, pb.Query(), doc.StatusDocument)
        assert (status.server.drained, status.server.notes) == ("", ())


async def read(connection, method, request, kind):
    reply = await connection.unary(method, request, 5.0)
    return from_document(kind, parse_json(reply.json))


async def test_state_that_is_there_is_moved_aside_and_what_it_knows_is_told(config, app, tmp_path):
    await fill(config, app)
    save(config, tmp_path / "b.tar")
    store = open_store(config.state, clock=SystemClock())
    ada = "spiffe://heart.example/person/org-a/project_admin/ada"
    await store.commit([], Row(who=ada, what="site.lock", object="site-2", reason="odd"))
    await store.commit([], Row(who="site", what="site.connect", object="site-2"))
    await store.close()
    with pytest.raises(Conflict, match="holds the state of a server already"):
        await bring_back(config, tmp_path / "b.tar")
    done = await bring_back(config, tmp_path / "b.tar", force=True)
    assert [line.partition(" by ")[0] for line in done.forgotten] == ["site.lock site-2"]
    aside = open_store(Path(done.moved_aside), clock=SystemClock())
    assert aside.rows(limit=10)[-2].row.what == "site.lock"
    await aside.close()
    here = open_store(config.state, clock=SystemClock())
    [row] = [entry.row for entry in here.rows()]
    assert (row.what, row.data["by"], row.data["lost_index"]) == ("server.restore", "root", 2)
    await here.close()


async def test_running_server_is_not_restored(config, app, tmp_path):
    await fill(config, app)
    save(config, tmp_path / "b.tar")
    with hold_lock(config.state / "lock"), pytest.raises(KitRefused, match="is running"):
        await bring_back(config, tmp_path / "b.tar", force=True)


async def test_who_was_kept_out_since_the_backup_is_kept_out_after_it(config, app, tmp_path, kit):
    await fill(config, app)
    async with running(config) as found:
        ada = found.connect(kit("ada"))
        await ada.unary(m.LOCK_SITE, pb.PartyChange(name="site-3"), 5.0)
    save(config, tmp_path / "b.tar")
    async with running(config) as found:
        ada = found.connect(kit("ada"))
        await ada.unary(m.UNLOCK_SITE, pb.PartyChange(name="site-3"), 5.0)
        await ada.unary(m.LOCK_SITE, pb.PartyChange(name="site-1", reason="odd"), 5.0)
        await ada.unary(m.REMOVE_SITE, pb.PartyChange(name="site-2"), 5.0)
        await ada.unary(m.REMOVE_PERSON, pb.PartyChange(name="mia"), 5.0)
    done = await bring_back(config, tmp_path / "b.tar", force=True)
    assert done.denials >= 3
    assert any(line.startswith("site.unlock site-3") for line in done.forgotten)
    async with running(config) as found:
        registry = found.server._operations.parts.registry
        assert registry.enrolment("site-1").locked.reason == "odd"
        assert "site-2" not in registry.sites
        assert registry.revocations.cutoff(kit("mia").identity.uri) is not None
        assert registry.enrolment("site-3").locked is not None  # what lets somebody in is not taken over


async def test_who_was_kept_out_is_kept_out_also_when_a_row_of_the_old_log_is_damaged(
    config, app, tmp_path, kit
):
    await fill(config, app)
    save(config, tmp_path / "b.tar")
    async with running(config) as found:
        await found.connect(kit("ada")).unary(m.LOCK_SITE, pb.PartyChange(name="site-1", reason="odd"), 5.0)
    with sqlite3.connect(config.state / "store.db") as old:
        old.execute("UPDATE log SET line = '{}' WHERE ix = 1")
    old.close()
    assert (await bring_back(config, tmp_path / "b.tar", force=True)).denials
    async with running(config) as found:
        assert found.server._operations.parts.registry.enrolment("site-1").locked.reason == "odd"


def rewrite(source: Path, target: Path, change) -> None:
    """The same tar with its members changed: `change(name, data)` gives the new ones."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for info in old:
            for name, data in change(info.name, old.extractfile(info).read()):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                new.addfile(entry, io.BytesIO(data))


def edit(name: str, **changes):
    """Of a JSON member."""

    def change(found: str, data: bytes):
        yield found, json.dumps(json.loads(data) | changes).encode() if found == name else data

    return change


def flip(name, data):
    yield name, data[:-1] + b"?" if name.endswith(".log") else data


def lose(name, data):
    if not name.endswith(".log"):
        yield name, data


def add(name, data):
    yield name, data
    if name == "flprov-backup.json":
        yield "state/more", b"x"


def double(name, data):
    yield name, data
    if name.endswith(".log"):
        yield name, data


def escape(name, data):
    yield ("state/../../escaped" if name.endswith(".log") else name), data


def stop_early(name, data):
    if name != "manifest.json":
        yield name, data


@pytest.mark.parametrize("change", [flip, lose, add, double, escape, stop_early])
async def test_damaged_backup_is_refused_and_changes_nothing(config, app, tmp_path, change):
    await fill(config, app)
    save(config, tmp_path / "b.tar")
    rewrite(tmp_path / "b.tar", tmp_path / "bad.tar", change)
    before = sorted(path.name for path in config.state.parent.iterdir())
    with pytest.raises(StateDamaged, match=r"bad\.tar"):
        await bring_back(config, tmp_path / "bad.tar", force=True)
    assert {path.name for path in config.state.parent.iterdir()} <= {*before, "restore.lock"}
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("kept", [0, 100, 600, 5000, -1, -11000])
async def test_backup_that_was_cut_off_is_refused(config, app, tmp_path, kept):
    await fill(config, app)
    save(config, tmp_path / "b.tar")
    data = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[:kept] if kept >= 0 else data[: len(data) - 10240 + kept])
    with pytest.raises(StateDamaged, match=r"cut\.tar"):
        await bring_back(config, tmp_path / "cut.tar", force=True)


async def test_file_that_is_no_backup_is_refused(config, app, tmp_path):
    (tmp_path / "b.tar").write_text("hello")
    with pytest.raises(StateDamaged):
        await bring_back(config, tmp_path / "b.tar")
    with pytest.raises(NotFound):
        await bring_back(config, tmp_path / "none.tar")


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"schema": 99, "flprov": "9.9"}, StateDamaged, "made by a newer flprov, 9.9"),
        ({"format": 2, "flprov": "9.9"}, StateDamaged, "made by a newer flprov, 9.9"),
        ({"project_id": "other", "project": "lung"}, KitRefused, "another project than this kit: lung"),
        ({"server": "other"}, KitRefused, "of the server other"),
        ({"bytes": 1 << 60}, LocalError, "MiB free"),
    ],
)
async def test_backup_of_another_server_or_a_newer_flprov_is_refused_by_name(
    config, app, tmp_path, changes, error, match
):
    await fill(config, app)
    save(config, tmp_path / "b.tar")
    rewrite(tmp_path / "b.tar", tmp_path / "x.tar", edit("flprov-backup.json", **changes))
    with pytest.raises(error, match=match):
        await bring_back(config, tmp_path / "x.tar", force=True)


async def test_backup_of_an_older_flprov_is_migrated(config, app, tmp_path, monkeypatch):
    from flprov.server.operations import restore as module
    from flprov.store import schema, snapshot, sqlite

    await fill(config, app)
    save(config, tmp_path / "b.tar")
    newer = (*schema.SCHEMA, ("CREATE TABLE later (x)",))
    monkeypatch.setattr(sqlite, "open_database", lambda path: schema.open_database(path, newer))
    monkeypatch.setattr(module, "NEWEST_SCHEMA", len(newer))
    await bring_back(config, tmp_path / "b.tar", force=True)
    with sqlite3.connect(config.state / "store.db") as database:
        assert database.execute("PRAGMA user_version").fetchone() == (len(newer),)
    database.close()
    assert len(schema.SCHEMA) == snapshot.NEWEST_SCHEMA


async def test_what_a_killed_restore_left_goes_and_states_stay(config, app, tmp_path):
    await fill(config, app)
    save(config, tmp_path / "b.tar")
    local = config.state.parent
    for name, marked in (("state.replaced-1", True), ("state.replaced-2", False)):
        (local / name).mkdir()
        (local / name / "store.db").write_text("x")
        if marked:
            (local / name / ".unfinished").touch()
    await bring_back(config, tmp_path / "b.tar", force=True)
    assert not (local / "state.replaced-1").exists()
    assert (local / "state.replaced-2").exists()
    assert not (config.state / ".unfinished").exists()


async def test_records_of_the_backup_are_there_after_the_restore(config, app, tmp_path):
    await fill(config, app)
    store = open_store(config.state, clock=SystemClock())
    await store.commit([Put("mine", "a", {"x": 1})], None)
    await store.close()
    save(config, tmp_path / "b.tar")
    await bring_back(config, tmp_path / "b.tar", force=True)
    store = open_store(config.state, clock=SystemClock())
    assert store.get("mine", "a") == {"x": 1}
    await store.close()
