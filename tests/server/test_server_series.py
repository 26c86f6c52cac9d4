# SPDX-License-Identifier: Apache-2.0
"""The numbers that jobs tell, on the server's disk: each once, bounded, followed; whatever a site sends."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest
from server_fakes import PATIENCE
from server_network import WireSite
from server_parties import NOW

from flprov.errors import PermissionRefused, ProtocolError
from flprov.jobs import JobState
from flprov.rpc import methods as m
from flprov.server.records import RoundRecord
from flprov.server.series import SeriesBook, file
from flprov.server.series.file import SeriesFile
from flprov.wire import SeriesEnd, SeriesFull, SeriesJob, SeriesPoint, pb, read_series
from flprov.wire.documents import Contributor

HEAD = SeriesJob(job_id="j", name="heart", submitted_by="leo", submitted_at="x", sites=("a", "b"))
TIME = 1_000.0


def points(*values: float, name: str = "loss", first: int = 1, **more: object) -> list[pb.Point]:
    return [
        pb.Point(name=name, value=value, step=number, at=TIME - 1, **more)
        for number, value in enumerate(values, start=first)
    ]


@pytest.fixture
def book(tmp_path: Path) -> SeriesBook:
    return make_book(tmp_path)


def make_book(folder: Path) -> SeriesBook:
    return SeriesBook(folder, lambda _: HEAD)


def lines(book: SeriesBook) -> list[object]:
    return list(read_series(book.path("j").read_bytes()))


def told(book: SeriesBook) -> list[tuple[str, str, float]]:
    return [(one.site, one.name, one.value) for one in lines(book) if isinstance(one, SeriesPoint)]


def a_round(number: int, **metrics: float) -> RoundRecord:
    line = Contributor(site="a", samples=1, weight=1.0, bytes=1, seconds=1.0, metrics=metrics)
    return RoundRecord(
        job_id="j", round=number, started_at=NOW, finished_at=NOW, contributors=(line,), absent=(),
        refused=(), metrics=metrics,
    )  # fmt: skip


async def test_points_are_on_disk_when_they_are_acknowledged_behind_a_line_about_the_job(book):
    assert await book.take("j", "a", "s", 0, points(3.0, 2.0, task="train", round=4), TIME) == 2
    head, first, *_ = lines(book)
    assert head == HEAD
    assert first == SeriesPoint(name="loss", value=3.0, step=1, at=TIME - 1, site="a", round=4, task="train")
    assert told(book) == [("a", "loss", 3.0), ("a", "loss", 2.0)]


async def test_rounds_that_are_quicker_than_a_write_is_worth_share_one(book, monkeypatch):
    writes: list[int] = []
    write = SeriesFile.add

    def add(file: SeriesFile, additions: list[object]) -> None:
        writes.append(len(additions))
        write(file, additions)

    monkeypatch.setattr(SeriesFile, "add", add)
    monkeypatch.setattr("flprov.server.series.book._PAUSE", 0.3)
    await book.take("j", "a", "s", 0, points(3.0), TIME)
    for number in range(10):
        book.note_round(a_round(number, loss=1.0))
        await asyncio.sleep(0.001)
    await book.close()
    assert writes == [1, 10]


async def test_the_same_points_again_are_there_once_also_after_a_restart(book, tmp_path):
    await book.take("j", "a", "s", 0, points(3.0, 2.0), TIME)
    await book.take("j", "a", "s", 0, points(3.0, 2.0, 1.0), TIME)
    again = make_book(tmp_path)
    await again.take("j", "a", "s", 1, points(2.0, 1.0, 0.5), TIME)
    await again.take("j", "b", "s", 0, points(9.0), TIME)
    await again.take("j", "a", "a new agent", 0, points(7.0), TIME)
    values = [(site, value) for site, _, value in told(again)]
    assert values == [("a", 3.0), ("a", 2.0), ("a", 1.0), ("a", 0.5), ("b", 9.0), ("a", 7.0)]


@pytest.mark.parametrize(
    ("point", "kept"),
    [
        (pb.Point(name="x", value=math.nan), None),
        (pb.Point(name="x", value=math.inf), None),
        (pb.Point(name="", value=1), None),
        (pb.Point(name="\x1b[2J", value=1), "�[2J"),
        (pb.Point(name="a\nb", value=1), "a b"),
        (pb.Point(name="y" * 10_000, value=1), "y" * 100),
    ],
)
async def test_a_site_cannot_write_what_is_no_number_or_no_name(book, point, kept):
    await book.take("j", "a", "s", 0, [point, *points(5.0)], TIME)
    names = [name for _, name, _ in told(book)]
    assert names[-1] == "loss"
    assert len(names) == (1 if kept is None else 2)
    assert all(name.isprintable() and len(name) <= 100 for name in names)
    if kept and kept[0].isascii():
        assert names[0] == kept


@pytest.mark.parametrize("at", [math.nan, math.inf, -5.0, TIME + 1, 0.0])
async def test_no_point_is_of_the_future_or_of_no_time(book, at):
    await book.take("j", "a", "s", 0, [pb.Point(name="x", value=1, at=at, step=1 << 63)], TIME)
    (point,) = [line for line in lines(book) if isinstance(line, SeriesPoint)]
    assert point.at == TIME
    assert point.step == 1 << 53


async def test_a_site_has_its_part_of_the_file_and_not_the_others(book, monkeypatch, tmp_path):
    monkeypatch.setattr(file, "MOST_PER_JOB", 9)  # of two sites and the workflow: three each
    await book.take("j", "a", "s", 0, points(*range(10)), TIME)
    await book.take("j", "a", "s", 10, points(*range(10)), TIME)
    again = make_book(tmp_path)
    await again.take("j", "a", "s", 20, points(*range(10)), TIME)
    await again.take("j", "b", "s", 0, points(1.0), TIME)
    assert [site for site, _, _ in told(again)] == ["a", "a", "a", "b"]
    assert [line for line in lines(again) if isinstance(line, SeriesFull)] == [SeriesFull(site="a", points=3)]


async def test_what_is_not_kept_makes_no_file_grow(book, monkeypatch):
    monkeypatch.setattr(file, "MOST_PER_JOB", 9)  # of two sites and the workflow: three each
    await book.take("j", "a", "s", 0, points(*range(10)), TIME)
    await book.take("j", "b", "s", 0, points(1.0), TIME)
    size = book.path("j").stat().st_size
    for number in range(1, 20):
        assert await book.take("j", "a", "s", 9 + number, points(1.0), TIME) == 10 + number
        assert await book.take("j", "b", "s", number, points(math.nan), TIME) == 1 + number
    assert book.path("j").stat().st_size == size
    await book.take("j", "b", "s", 20, points(2.0), TIME)
    await book.take("j", "b", "s", 20, points(2.0, 3.0), TIME)
    assert [value for site, _, value in told(book) if site == "b"] == [1.0, 2.0, 3.0]


async def test_a_site_cannot_have_names_without_end(book, monkeypatch):
    monkeypatch.setattr(file, "MOST_NAMES", 3)
    await book.take("j", "a", "s", 0, [pb.Point(name=f"m{n}", value=n) for n in range(9)], TIME)
    await book.take("j", "a", "s", 9, [pb.Point(name="m1", value=1.5), pb.Point(name="m8", value=1)], TIME)
    assert [name for _, name, _ in told(book)] == ["m0", "m1", "m2", "m1"]


async def test_rounds_are_there_once_globally_and_per_site(book, tmp_path):
    book.note_round(a_round(0, loss=0.5))
    book.note_round(a_round(0, loss=0.5))
    await book.close()
    again = make_book(tmp_path)  # notes all the rounds that it has read
    again.note_round(a_round(0, loss=0.5))
    again.note_round(a_round(1, loss=0.25))
    await again.close()
    assert told(again) == [("", "loss", 0.5), ("a", "loss", 0.5), ("", "loss", 0.25), ("a", "loss", 0.25)]
    assert [one.step for one in lines(again) if isinstance(one, SeriesPoint)] == [1, 1, 2, 2]


async def test_half_a_line_is_cut_off_before_the_next_one(book, tmp_path):
    await book.take("j", "a", "s", 0, points(3.0), TIME)
    with book.path("j").open("ab") as out:
        out.write(b'{"kind":"point","na')
    again = make_book(tmp_path)
    await again.take("j", "a", "s", 1, points(2.0), TIME)
    assert told(again) == [("a", "loss", 3.0), ("a", "loss", 2.0)]
    assert b"na\n" not in again.path("j").read_bytes()
    assert again.path("j").read_bytes().endswith(b"}\n")


async def test_after_the_end_nothing_comes(book, tmp_path):
    await book.take("j", "a", "s", 0, points(3.0), TIME)
    book.end("j", "completed")
    book.end("j", "completed")
    await book.take("j", "a", "s", 1, points(2.0), TIME)
    assert told(book) == [("a", "loss", 3.0)]
    assert [line for line in lines(book) if isinstance(line, SeriesEnd)] == [SeriesEnd(state="completed")]


async def test_an_end_that_a_kill_kept_is_written_at_the_next_start(book, tmp_path):
    await book.take("j", "a", "s", 0, points(3.0), TIME)
    for _ in range(2):
        again = make_book(tmp_path)
        again.rest("j", "failed")
        await again.close()
        assert [line for line in lines(again) if isinstance(line, SeriesEnd)] == [SeriesEnd(state="failed")]


async def test_a_job_that_told_nothing_leaves_no_file(book):
    book.end("j", "aborted")
    await book.close()
    assert not book.path("j").exists()


async def test_who_follows_sees_points_as_they_come_and_goes_on_from_an_offset(book):
    await book.take("j", "a", "s", 0, points(3.0), TIME)
    stream = book.follow("j", 0, live=True)
    at, first = await anext(stream)
    assert at == 0
    following = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.01)
    assert not following.done()
    await book.take("j", "a", "s", 1, points(2.0), TIME)
    offset, second = await following
    assert offset == len(first)
    assert [line.value for line in read_series(second) if isinstance(line, SeriesPoint)] == [2.0]
    book.end("j", "completed")
    rest = b"".join([data async for _, data in stream])
    assert list(read_series(rest)) == [SeriesEnd(state="completed")]
    # From inside a line: the next whole one.
    later = [data async for _, data in book.follow("j", offset + 3, live=False)]
    assert b"".join(later) in second + rest
    assert all(one is not None for one in read_series(later[0]))


@pytest.mark.parametrize("offset", [1 << 40, (1 << 64) - 1])
async def test_an_offset_behind_the_end_gives_nothing(book, offset):
    await book.take("j", "a", "s", 0, points(3.0), TIME)
    assert [data async for _, data in book.follow("j", offset, live=False)] == []


async def test_a_job_without_a_head_keeps_nobody_waiting_and_no_other_job(tmp_path, caplog):
    heads = {"j": HEAD}
    book = SeriesBook(tmp_path, lambda job_id: heads[job_id])
    async with asyncio.timeout(PATIENCE):
        await book.take("gone", "a", "s", 0, points(1.0), TIME)
        await book.take("j", "a", "s", 0, points(2.0), TIME)
    assert told(book) == [("a", "loss", 2.0)]
    assert "job gone: numbers that it told are lost" in caplog.text
    await book.close()


async def test_a_full_disk_costs_points_and_nothing_else(book, tmp_path, caplog):
    (tmp_path / "j").write_text("in the way of the folder")
    await book.take("j", "a", "s", 0, points(3.0), TIME)
    await book.take("j", "a", "s", 1, points(3.0), TIME)
    assert caplog.text.count("numbers that jobs tell are lost") == 1
    (tmp_path / "j").unlink()
    await book.take("j", "a", "s", 2, points(2.0), TIME)
    assert told(book) == [("a", "loss", 2.0)]


async def test_a_deleted_job_leaves_nothing_to_be_written(book):
    following = asyncio.ensure_future(anext(book.follow("j", 0, live=True)))
    await asyncio.sleep(0.01)
    book.forget("j")
    following.cancel()
    assert not book.path("j").exists()


# ---- over the wire -----------------------------------------------------------------------------


@pytest.fixture
async def job(world):
    await world.put_job(state=JobState.RUNNING, members=("site-1",), targets=("site-1",))
    world.jobs.load()


async def send(site: WireSite, **message: object) -> pb.PointsReply:
    request = pb.PointsMessage(**{"job_id": "0job", "source": "s"} | message)
    return await site.connection.unary(m.SEND_POINTS, request, timeout=5.0)


async def test_a_site_tells_of_its_own_jobs_only(job, network, world):
    mine, other = WireSite(network), WireSite(network, "site-2")
    assert (await send(mine, points=points(1.0))).next == 1
    for site, job_id in ((other, "0job"), (mine, "another")):
        with pytest.raises(PermissionRefused):
            await send(site, job_id=job_id, points=points(1.0))
    with pytest.raises(ProtocolError, match="at most 2000 may"):
        await send(mine, points=points(*range(2001)))
    with pytest.raises(ProtocolError, match="no site has told 18446744073709551615 numbers"):
        await send(mine, points=points(1.0), first=(1 << 64) - 1)
    found = list(read_series(world.jobs.series.path("0job").read_bytes()))
    assert [line.site for line in found if isinstance(line, SeriesPoint)] == ["site-1"]
    assert found[0].params["workflow"] == "fedavg"


async def test_nobody_waits_for_numbers_of_a_job_that_was_deleted_before_they_were_written(book):
    await book.take("j", "a", "s", 0, points(1.0), TIME)  # the writer rests a moment after it
    waiting = asyncio.create_task(book.take("j", "a", "s", 1, points(2.0), TIME))
    await asyncio.sleep(0)
    book.forget("j")
    async with asyncio.timeout(10):
        assert await waiting == 2
    await book.close()
