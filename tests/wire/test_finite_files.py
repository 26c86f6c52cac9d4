# SPDX-License-Identifier: Apache-2.0
"""What is known of a tensor file whose bytes were seen as they came by."""

import numpy as np
import pytest

from flprov.errors import UpdateRefused
from flprov.wire import FiniteFiles, encode_tensors, numpy_dtype, tensor_infos, verify_update

RNG = np.random.default_rng(4)
FLOATS = {"F16": 0x7C00, "F32": 0x7F800000, "F64": 0x7FF << 52, "BF16": 0x7F80}
TINY_FLOATS = {"F8_E5M2": 0x7C, "F8_E4M3": 0x7F, "F8_E8M0": 0xFF}
MODEL = {
    "count": np.arange(3, dtype=np.int32),
    "empty": np.zeros((0, 4), np.float32),
    "half": RNG.standard_normal(101).astype(np.float16),
    "mask": np.array([True, False, True]),
    "w": RNG.standard_normal((300, 11)).astype(np.float32),
    "wide": RNG.standard_normal(7),
}


def passes(data: bytes, step: int, *, size: int | None = None) -> bool:
    files = FiniteFiles()
    watch = files.watch(len(data) if size is None else size)
    for start in range(0, len(data), step):
        watch.update(memoryview(data)[start : start + step])
    watch.named("digest")
    return "digest" in files


@pytest.mark.parametrize("step", [1, 3, 7, 8, 1000, 1 << 20])
def test_finite_numbers_pass_however_their_bytes_are_cut(step):
    assert passes(encode_tensors(MODEL), step)


@pytest.mark.parametrize("step", [1, 5, 64, 1 << 20])
@pytest.mark.parametrize(("dtype", "bits"), (FLOATS | TINY_FLOATS).items())
def test_one_number_that_is_not_finite_is_seen_wherever_it_stands(dtype, bits, step):
    kind = numpy_dtype(dtype)
    word = f"<u{kind.itemsize}"
    for place in (0, 20, 40):
        numbers = np.zeros(41, word)
        assert passes(encode_tensors({"a": np.ones(3), "w": numbers.view(kind)}), step)
        numbers[place] = bits
        assert not passes(encode_tensors({"a": np.ones(3), "w": numbers.view(kind)}), step)


def test_integers_may_look_like_infinity():
    assert passes(encode_tensors({"n": np.array([0x7F800000], np.int32), "w": np.ones(2, np.float32)}), 5)


def test_data_that_is_not_aligned_is_looked_at_all_the_same():
    infos = (
        b'"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}',
        b'"w":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}',
    )
    text = b"{" + b",".join(infos) + b"}"
    head = len(text).to_bytes(8, "little") + text + b"\1"
    for step in (2, 1 << 20):
        assert passes(head + np.ones(2, np.float32).tobytes(), step)
        assert not passes(head + np.array([1, np.nan], np.float32).tobytes(), step)


def test_large_tensors_are_looked_at_to_their_last_number():
    w = np.ones(400_000, np.float32)
    assert passes(encode_tensors({"w": w}), 1 << 20)
    w[-1] = np.inf
    assert not passes(encode_tensors({"w": w}), 1 << 20)


def test_what_was_not_seen_whole_or_is_no_tensor_file_is_not_known():
    data = encode_tensors(MODEL)
    assert not passes(data[:-1], 100, size=len(data))
    assert not passes(data, 100, size=len(data) - 1)
    assert not passes(data + b"x", 100, size=len(data))
    assert not passes(data[:4], 100)
    assert not passes((1 << 60).to_bytes(8, "little") + data, 100)
    assert not passes(b"\xff" * 5000, 100)
    assert not passes(b"", 100)


def test_what_passed_is_not_read_again_and_what_is_wrong_besides_is_still_found():
    bad = encode_tensors({"w": np.array([np.nan], np.float32)})
    infos = tensor_infos(bad)
    with pytest.raises(UpdateRefused, match="'w' holds NaN"):
        verify_update(infos, bad, "full", "full")
    assert verify_update(infos, bad, "full", "full", finite=True) == infos
    with pytest.raises(UpdateRefused, match="'v' is missing"):
        verify_update({"v": infos["w"]}, bad, "full", "full", finite=True)


def test_only_the_newest_are_remembered():
    files = FiniteFiles()
    for number in range(5000):
        watch = files.watch(10)
        watch.update((2).to_bytes(8, "little") + b"{}")
        watch.named(str(number))
    assert "4999" in files
    assert "0" not in files


def test_a_very_long_header_is_not_read_while_everybody_waits():
    """Of 100,000 tensors it took 0.8 s, in the server's event loop."""
    files = FiniteFiles()
    data = encode_tensors({f"layer-with-a-long-name-{n:06}": np.ones(1, np.float32) for n in range(20_000)})
    watch = files.watch(len(data))
    watch.update(data)
    watch.named("digest")
    assert "digest" not in files
