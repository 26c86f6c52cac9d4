# SPDX-License-Identifier: Apache-2.0
"""Which bytes of one tensor file stand in another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flprov.errors import ProtocolError
from flprov.wire import gaps, pb, sameness, unchanged, verify_same, write_tensors

FROZEN = {f"frozen{n}": np.random.default_rng(n).normal(size=3000) for n in range(3)}
HEAD = {"head": np.ones(2000)}


def written(path: Path, tensors, **metadata: str) -> Path:
    write_tensors(path, tensors, metadata)
    return path


def copied(base: Path, new: Path) -> bytes:
    """`new` as who has `base` puts it together."""
    made, old = bytearray(new.read_bytes()), base.read_bytes()
    for one in unchanged(base, new):
        made[one.offset : one.offset + one.size] = old[one.base_offset : one.base_offset + one.size]
    return bytes(made)


def total(base: Path, new: Path) -> int:
    return sum(one.size for one in unchanged(base, new))


def test_frozen_tensors_are_found_wherever_they_stand(tmp_path):
    base = written(tmp_path / "base", FROZEN | HEAD)
    new = written(tmp_path / "new", {"a_new_one": np.zeros(5000), **FROZEN, "head": np.zeros(2000)}, note="x")
    assert total(base, new) == 3 * 24_000
    assert copied(base, new) == new.read_bytes()


def test_neighbours_are_named_as_one(tmp_path):
    base, new = (written(tmp_path / n, FROZEN | HEAD) for n in ("base", "new"))
    [one] = unchanged(base, new)
    assert one.size == 3 * 24_000 + 16_000


@pytest.mark.parametrize(
    "changed",
    [
        {"head": np.ones(2001)},
        {"head": np.ones(2000, dtype=np.int64)},
        {"head": np.ones((1000, 2))},
        {"other": np.ones(2000)},
        {"head": np.concatenate([np.ones(1999), [2.0]])},
        {"head": np.concatenate([[-1.0], np.ones(1999)])},
        {"head": np.full(2000, np.nan)},
    ],
)
def test_another_shape_dtype_name_or_byte_is_a_change(tmp_path, changed):
    base, new = written(tmp_path / "base", HEAD), written(tmp_path / "new", changed)
    assert unchanged(base, new) == []


def test_nan_is_the_same_bytes_and_minus_zero_is_not(tmp_path):
    base = written(tmp_path / "base", {"nan": np.full(2000, np.nan), "zero": np.zeros(2000)})
    new = written(tmp_path / "new", {"nan": np.full(2000, np.nan), "zero": -np.zeros(2000)})
    assert total(base, new) == 16_000


def test_what_is_no_tensor_file_has_nothing_in_common(tmp_path):
    base = written(tmp_path / "base", HEAD)
    (tmp_path / "other").write_bytes(b"no tensors here")
    assert unchanged(base, tmp_path / "other") == unchanged(tmp_path / "other", base) == []
    assert unchanged(base, tmp_path / "nowhere") == []


def test_the_gaps_are_what_is_left(tmp_path):
    same = [
        pb.SameBytes(offset=10, size=10),
        pb.SameBytes(offset=20, size=5),
        pb.SameBytes(offset=50, size=50),
    ]
    assert list(gaps(same, 100)) == [(0, 10), (25, 50)]
    assert list(gaps(same, 100, 30)) == [(30, 50)]
    assert list(gaps(same, 100, 15)) == [(25, 50)]
    assert list(gaps(same, 100, 60)) == []
    assert list(gaps((), 100)) == [(0, 100)]
    assert list(gaps((), 0)) == []


@pytest.mark.parametrize(
    "parts",
    [
        [(0, 101, 0)],
        [(0, 0, 0)],
        [(50, 10, 995)],
        [(10, 10, 0), (5, 2, 0)],
        [(10, 10, 0), (19, 2, 0)],
        [(2**63, 2**63, 0)],
        [(0, 10, 2**64 - 1)],
    ],
)
def test_ranges_that_cannot_be_are_refused(parts):
    same = [pb.SameBytes(offset=o, size=s, base_offset=b) for o, s, b in parts]
    with pytest.raises(ProtocolError):
        verify_same(same, 100, 1000)


def test_more_ranges_than_anybody_needs_are_neither_named_nor_taken(tmp_path):
    """Each is a turn in another thread of the server."""
    same = [pb.SameBytes(offset=2 * n, size=1, base_offset=0) for n in range(sameness.MOST_RANGES + 1)]
    with pytest.raises(ProtocolError, match="10001 ranges"):
        verify_same(same, 1 << 20, 1000)
    verify_same(same[:-1], 1 << 20, 1000)


def test_of_too_many_ranges_the_first_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sameness, "MOST_RANGES", 2)
    many = {f"{n}": np.full(2000, 1.0) for n in range(8)}
    base = written(tmp_path / "base", many)
    new = written(tmp_path / "new", {name: tensor + int(name) % 2 for name, tensor in many.items()})
    assert total(base, new) == 2 * 16_000
    assert copied(base, new)[:100] == new.read_bytes()[:100]
