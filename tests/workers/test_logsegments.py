# SPDX-License-Identifier: Apache-2.0
"""A log in segments: the newest bytes are there, each at the offset that it has always had."""

import random

import pytest

from flprov.workers import LogSegments, log_segments, log_size, log_start, read_log, remove_log


def everything(base, offset=0, limit=1 << 16):
    """Every part that a reader gets from `offset` on."""
    parts = []
    while True:
        at, data = read_log(base, offset, limit)
        if not data:
            return parts, at
        parts.append((at, data))
        offset = at + len(data)


def test_a_log_that_was_never_written_is_empty(tmp_path):
    base = tmp_path / "log"
    assert (log_start(base), log_size(base), read_log(base, 0, 10)) == (0, 0, (0, b""))
    assert read_log(tmp_path / "no" / "folder", 5, 10) == (0, b"")


def test_a_short_log_is_one_plain_file(tmp_path):
    log = LogSegments(tmp_path / "log", limit=1000)
    assert log.append(b"one\n") == 4
    assert log.append(b"two\n") == 4
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("seed", range(20))
def test_what_is_there_is_what_was_written_at_that_offset(tmp_path, seed):
    chance = random.Random(seed)
    limit, written = chance.randrange(8, 400), b""
    log = LogSegments(tmp_path / "log", limit=limit)
    for _ in range(60):
        data = chance.randbytes(chance.randrange(0, 60))
        assert log.append(data) == len(data)
        written += data
        if chance.random() < 0.1:  # another shim goes on
            log.close()
            log = LogSegments(tmp_path / "log", limit=limit)
    start = log_start(tmp_path / "log")
    assert log.size == log_size(tmp_path / "log") == len(written)
    parts, end = everything(tmp_path / "log", limit=chance.randrange(1, 100))
    assert b"".join(data for _, data in parts) == written[start:]
    assert all(written[at : at + len(data)] == data for at, data in parts)
    assert end == len(written)
    assert len(written) - start <= limit
    assert len(written) - start >= min(len(written), limit - 2 * (limit // 8 + 1))


def test_reading_goes_on_after_what_was_dropped(tmp_path):
    log = LogSegments(tmp_path / "log", limit=80)
    log.append(bytes(range(200)))
    start = log_start(tmp_path / "log")
    assert start == 120
    assert log.dropped == 120
    assert read_log(tmp_path / "log", 3, 5) == (120, bytes(range(120, 125)))


def test_a_writer_may_skip_what_it_cannot_have(tmp_path):
    log = LogSegments(tmp_path / "log", limit=1000)
    log.append(b"old")
    log.skip_to(50)
    log.skip_to(20)  # the end is behind that already
    log.append(b"new")
    assert everything(tmp_path / "log") == ([(0, b"old"), (50, b"new")], 53)
    assert read_log(tmp_path / "log", 10, 2) == (50, b"ne")


def test_other_files_beside_it_are_no_segments(tmp_path):
    for name in ("log.txt", "log.12", "log.00000000000x", "alog", "logs"):
        (tmp_path / name).write_text("x")
    assert log_segments(tmp_path / "log") == []


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("")
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic link"):
        LogSegments(tmp_path / "log", limit=10)
    with pytest.raises(OSError, match="symbolic link"):
        read_log(tmp_path / "log", 0, 10)


def test_a_full_disk_loses_output_and_says_how_much():
    log = LogSegments("/dev/full", limit=1000)
    assert log.append(b"x" * 100) == 0
    assert log.dropped == 100
    log.close()


def test_all_segments_go_at_once(tmp_path):
    log = LogSegments(tmp_path / "log", limit=80)
    log.append(b"x" * 70)
    remove_log(tmp_path / "log")
    assert list(tmp_path.iterdir()) == []
