# SPDX-License-Identifier: Apache-2.0
"""Tensor files from somebody who means harm."""

import json
import os
import time

import numpy as np
import pytest

from flprov.errors import ProtocolError
from flprov.wire import read_tensors, tensor_infos
from flprov.wire.tensor_header import MAX_HEADER


def pack(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def info(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


NAMED = [
    ("unknown dtype", {"bad": info(dtype="F33")}, b"\0" * 8),
    ("dtype of another type", {"bad": info(dtype=["F32"])}, b"\0" * 8),
    ("sub-byte dtype", {"bad": info(dtype="F4", shape=(16,))}, b"\0" * 8),
    ("negative shape", {"bad": info(shape=(-2,))}, b"\0" * 8),
    ("two negative sizes", {"bad": info(shape=(-1, -2))}, b"\0" * 8),
    ("fractional shape", {"bad": info(shape=(2.0,))}, b"\0" * 8),
    ("boolean shape", {"bad": info(shape=(True, 2))}, b"\0" * 8),
    ("overflowing shape", {"bad": info(shape=(1 << 62, 4))}, b"\0" * 8),
    ("shape that wraps to the right size", {"bad": info(shape=(1 << 33, 1 << 31, 2))}, b"\0" * 8),
    ("overflow hidden behind a zero", {"bad": info(shape=(1 << 62, 1 << 62, 0), offsets=(0, 0))}, b""),
    ("size above 63 bits", {"bad": info(shape=(1 << 64,))}, b"\0" * 8),
    ("too many dimensions", {"bad": info(shape=[1] * 33 + [2])}, b"\0" * 8),
    ("shape and offsets disagree", {"bad": info(shape=(3,))}, b"\0" * 8),
    ("negative offset", {"bad": info(offsets=(-8, 0))}, b"\0" * 8),
    ("end before start", {"bad": info(offsets=(8, 0))}, b"\0" * 8),
    ("three offsets", {"bad": info(offsets=(0, 8, 8))}, b"\0" * 8),
    ("no first byte", {"bad": info(offsets=(8, 16))}, b"\0" * 16),
    ("bytes behind the last", {"bad": info()}, b"\0" * 9),
    ("bytes missing", {"bad": info()}, b"\0" * 7),
    ("overlap", {"ok": info(), "bad": info(offsets=(4, 12))}, b"\0" * 12),
    ("same place twice", {"ok": info(), "bad": info()}, b"\0" * 8),
    ("gap", {"ok": info(), "bad": info(offsets=(12, 20))}, b"\0" * 20),
    ("missing key", {"bad": {"dtype": "F32", "shape": [2]}}, b"\0" * 8),
    ("further key", {"bad": {**info(), "class": "os.system"}}, b"\0" * 8),
    ("no object", {"bad": [1, 2]}, b"\0" * 8),
]


@pytest.mark.parametrize(("header", "data"), [row[1:] for row in NAMED], ids=[row[0] for row in NAMED])
def test_a_bad_tensor_is_refused_by_name(header, data):
    with pytest.raises(ProtocolError, match="'bad'"):
        tensor_infos(pack(header, data))


UNNAMED = {
    "nothing": b"",
    "half a length": b"\1\0\0",
    "no header": (5).to_bytes(8, "little"),
    "huge length": (MAX_HEADER + 1).to_bytes(8, "little") + b"{}",
    "length of all ones": b"\xff" * 8 + b"{}",
    "no JSON": pack(b"tensor"),
    "no UTF-8": pack(b'{"\xff":1}'),
    "a list": pack([]),
    "NaN": pack(b"NaN"),
    "key twice": pack(b'{"x":1,"x":2}'),
    "metadata of lists": pack({"__metadata__": {"a": []}}),
    "metadata is a list": pack({"__metadata__": []}),
    "name with a line break": pack({"a\nb": info()}, b"\0" * 8),
    "name written from right to left": pack({"\u202ebias": info()}, b"\0" * 8),
    "empty name": pack({"": info()}, b"\0" * 8),
    "overlong name": pack({"n" * 5000: info()}, b"\0" * 8),
    "bytes without tensors": pack({}, b"\0"),
    "endless number": pack(b'{"x":' + b"9" * 10_000 + b"}"),
    "pickle": b"\x80\x04\x95" + b"\0" * 100,
}


@pytest.mark.parametrize("data", UNNAMED.values(), ids=UNNAMED.keys())
def test_what_is_no_tensor_file_is_refused(data):
    with pytest.raises(ProtocolError):
        read_tensors(data)


@pytest.mark.parametrize("data", UNNAMED.values(), ids=UNNAMED.keys())
def test_what_is_no_tensor_file_is_refused_on_disk_too(data, tmp_path):
    (tmp_path / "update").write_bytes(data)
    with pytest.raises(ProtocolError):
        read_tensors(tmp_path / "update")


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 200_000,
        b'{"x":' * 200_000,
        b"[" + b"[]," * 5_000_000 + b"[]]",
        b"{" + b'"":{},' * 2_000_000 + b"}",
    ],
    ids=["nested lists", "nested objects", "many lists", "many objects"],
)
def test_a_header_made_to_cost_memory_is_refused_quickly(text):
    began = time.perf_counter()
    with pytest.raises(ProtocolError):
        tensor_infos(pack(text))
    assert time.perf_counter() - began < 2.0


def test_a_message_never_carries_the_whole_of_a_hostile_name():
    with pytest.raises(ProtocolError) as caught:
        tensor_infos(pack({"\x1b[31m" + "n" * 100_000: info()}, b"\0" * 8))
    assert len(str(caught.value)) < 300
    assert "\x1b" not in str(caught.value)


def test_a_declared_gigabyte_is_not_allocated(tmp_path):
    path = tmp_path / "update"
    path.write_bytes(pack({"bad": info(dtype="U8", shape=(1 << 30,), offsets=(0, 1 << 30))}, b"\0" * 8))
    with pytest.raises(ProtocolError, match="'bad'"):
        read_tensors(path)


def test_a_header_that_was_read_before_is_refused_over_other_data():
    good = pack({"ok": info()}, b"\0" * 8)
    assert tensor_infos(good) == tensor_infos(good)
    with pytest.raises(ProtocolError):
        tensor_infos(good + b"\0")
    with pytest.raises(ProtocolError):
        tensor_infos(good[:-1])


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(pack({}))
    (tmp_path / "update").symlink_to("secret")
    with pytest.raises(ProtocolError, match="a link"):
        read_tensors(tmp_path / "update")


def test_a_pipe_does_not_hang_the_reader(tmp_path):
    os.mkfifo(tmp_path / "update")
    with pytest.raises(ProtocolError, match="not a regular file"):
        read_tensors(tmp_path / "update")


def test_a_folder_is_no_tensor_file(tmp_path):
    with pytest.raises(ProtocolError):
        tensor_infos(tmp_path)


def test_random_changes_to_a_good_file_never_raise_anything_else():
    good = bytearray(pack({"a": info(), "b": info(dtype="I64", shape=(1,), offsets=(8, 16))}, b"\0" * 16))
    source = np.random.default_rng(7)
    refused = 0
    for _ in range(3000):
        data = bytearray(good)
        for place in source.integers(0, len(data), size=3):
            data[place] = source.integers(0, 256)
        try:
            read_tensors(bytes(data))
        except ProtocolError:
            refused += 1
    assert refused > 1000
