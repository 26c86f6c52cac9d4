# SPDX-License-Identifier: Apache-2.0
"""Tensors in fewer bytes: rounded once, the same bits after the journey; hostile files are refused."""

import json

import numpy as np
import pytest

from flprov.errors import ProtocolError, UpdateRefused
from flprov.messages import Encoding, Precision
from flprov.wire import (
    encode_tensors,
    narrow,
    numpy_dtype,
    read_encodings,
    read_metadata,
    read_tensors,
    round_into,
    tensor_infos,
    verify_update,
    widen,
    write_tensors,
)

FP16 = Encoding(precision=Precision.FP16)
INT8 = Encoding(precision=Precision.INT8)
BLOCKS = Encoding(precision=Precision.INT8, block=16)
SPARSE = Encoding(sparse=True)
ALL = [
    FP16,
    INT8,
    BLOCKS,
    SPARSE,
    Encoding(precision=Precision.FP16, sparse=True),
    Encoding(precision=Precision.INT8, sparse=True),
    Encoding(precision=Precision.INT8, block=64, sparse=True),
]
FLOATS = ["F16", "BF16", "F32", "F64"]


def floats(dtype, values):
    array = np.zeros(np.shape(values), numpy_dtype(dtype))
    narrow(np.asarray(values, np.float64).reshape(-1), array.reshape(-1))
    return array


def rounded(array, encoding):
    out = np.zeros_like(array, subok=False)
    round_into(array, out, encoding)
    return out


def wide(array):
    return widen(array.reshape(-1), np.empty(array.size))


def model_of(array):
    return tensor_infos(encode_tensors({"w": array}))


def drawn(seed, size=2_003, *, zeros=0.0):
    source = np.random.default_rng(seed)
    values = source.standard_normal(size) * 10.0 ** source.integers(-4, 3, size)
    values[source.random(size) < zeros] = 0.0
    return values


# ---- rounding ------------------------------------------------------------------------------------


def test_eight_bits_of_hand_sized_numbers():
    array = np.float32([1.27, -0.635, 0.004, 0.006, 0.0])  # the scale is 0.01, rounded up to 16 bits
    found = rounded(array, INT8)
    scale = float(found[0]) / 127
    assert scale == pytest.approx(0.01, rel=2**-15)
    assert scale >= np.float32(1.27) / 127
    np.testing.assert_allclose(found / scale, [127, -63, 0, 1, 0], atol=1e-4)  # -63.5 and a little is -63


def test_half_precision_of_hand_sized_numbers():
    array = np.float32([1 + 2**-11, 1 + 3 * 2**-11, 2**-25, 2**-24, 1e6, -1e6])
    assert rounded(array, FP16).tolist() == [1.0, 1 + 2**-9, 0.0, 2**-24, 65504.0, -65504.0]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("block", [0, 16, 64])
@pytest.mark.parametrize("seed", range(5))
def test_the_error_of_eight_bits_is_at_most_half_a_scale(dtype, block, seed):
    array = floats(dtype, drawn(seed))
    exact, found = wide(array), wide(rounded(array, Encoding(precision=Precision.INT8, block=block)))
    step = block or exact.size
    unit = {"F16": 2**-11, "BF16": 2**-8, "F32": 2**-24, "F64": 2**-53}[dtype]
    for start in range(0, exact.size, step):
        part, error = exact[start : start + step], np.abs(exact - found)[start : start + step]
        scale = max(np.abs(part).max() / 127 * (1 + 2**-15), 2**-126)
        assert (error <= scale / 2 * (1 + 1e-9) + unit * np.abs(part) + unit * scale).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("encoding", ALL)
@pytest.mark.parametrize("values", [drawn(1), [1e-45, -3e-39, 0], [6e4, -6e4, 1], [-0.0, 0.0], [3.0], []])
def test_what_is_rounded_is_rounded_once_and_loses_nothing_on_its_way(dtype, encoding, values):
    once = rounded(floats(dtype, values), encoding)
    assert rounded(once, encoding).tobytes() == once.tobytes()
    back = read_tensors(encode_tensors({"w": once}, {"format": "pt"}, {"w": encoding}))
    assert (back["w"].dtype, back["w"].shape, back["w"].tobytes()) == (once.dtype, once.shape, once.tobytes())


def test_the_largest_float_keeps_finite():
    largest = np.float32([np.finfo(np.float32).max, -1.0])
    assert np.isfinite(rounded(largest, INT8)).all()


# ---- the journey ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "share"), [(FP16, 0.5), (INT8, 0.25), (Encoding(precision=Precision.INT8, block=64), 0.2656)]
)
def test_bytes_are_saved(encoding, share):
    array = rounded(np.float32(drawn(2, 100_000)), encoding)
    assert len(encode_tensors({"w": array}, {}, {"w": encoding})) == pytest.approx(
        share * array.nbytes, rel=0.01
    )


def test_a_tenth_of_the_numbers_takes_a_fifth_of_the_bytes():
    array = np.float32(drawn(3, 100_000, zeros=0.9))
    assert len(encode_tensors({"w": array}, {}, {"w": SPARSE})) == pytest.approx(0.2 * array.nbytes, rel=0.05)


@pytest.mark.parametrize("encoding", [FP16, INT8, SPARSE])
def test_what_would_lose_or_gain_nothing_travels_whole(encoding):
    array = np.float32(drawn(4))
    data = encode_tensors({"w": array}, {}, {"w": encoding})
    assert data == encode_tensors({"w": array})


def test_integers_and_booleans_travel_sparse_and_unharmed():
    tensors = {"n": np.zeros(1000, np.int64), "b": np.zeros((10, 100), bool)}
    tensors["n"][[3, 999]] = -7
    tensors["b"][9, 99] = True
    data = encode_tensors(
        tensors, {}, dict.fromkeys(tensors, Encoding(precision=Precision.INT8, sparse=True))
    )
    assert len(data) < 1000
    found = read_tensors(data)
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)


def test_a_file_is_decoded_into_room_without_a_name(tmp_path):
    array = rounded(np.float32(drawn(5, 1_000_000)), INT8)
    size = write_tensors(tmp_path / "w", {"w": array, "n": np.array(3)}, {"format": "pt"}, {"w": INT8})
    assert size == (tmp_path / "w").stat().st_size < array.nbytes / 3
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = read_tensors(tmp_path / "w", scratch=scratch)
    assert np.array_equal(found["w"], array)
    assert list(scratch.iterdir()) == []
    assert read_metadata(tmp_path / "w") == {"format": "pt"}
    assert read_encodings(tmp_path / "w") == {"w": INT8}
    assert tensor_infos(tmp_path / "w")["w"].shape == (1_000_000,)


def test_a_tensor_with_the_name_of_a_part_is_not_confused_with_it():
    array = rounded(np.float32(drawn(6)), INT8)
    tensors = {"w": array, "w@data": np.int8([1]), "w@data@data": np.int8([2])}
    found = read_tensors(encode_tensors(tensors, {}, {"w": INT8}))
    assert {name: value.tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in tensors.items()
    }


def test_the_checks_of_an_update_see_what_it_becomes():
    array = rounded(np.float32(drawn(7)), BLOCKS)
    data = encode_tensors({"w": array}, {}, {"w": BLOCKS})
    assert verify_update(model_of(array), data, "full", "full,diff") == tensor_infos(data)
    with pytest.raises(UpdateRefused, match=r"'w' is F32\[2003\], the model's is F32\[2002\]"):
        verify_update(model_of(array[1:]), data, "full", "full,diff")


# ---- hostile files -------------------------------------------------------------------------------

MODEL = model_of(np.zeros(64, np.float32))


def forged(parts, **row):
    """A file with these entries for the tensor w, and that row of metadata for it."""
    row = {"dtype": "F32", "shape": [64], **row}
    tensors = {"w" + name: value for name, value in parts.items()}
    return encode_tensors(tensors, {"flprov.encodings": json.dumps({"w": row})})


def int8(scale=0.5, *, blocks=1, numbers=None):
    data = np.ones(64, np.int8) if numbers is None else np.int8(numbers)
    return {"@data": data, "@scales": np.full(blocks, scale, np.float32)}


def sparse(places, numbers=None):
    data = np.ones(len(places), np.float32) if numbers is None else np.float32(numbers)
    return {"@data": data, "@indices": np.asarray(places, np.uint32)}


def test_what_is_forged_well_passes():
    verify_update(MODEL, forged(int8(), precision="int8"), "diff", "diff")
    verify_update(MODEL, forged(sparse([0, 5, 63]), sparse=True), "diff", "diff")
    assert read_tensors(forged(sparse([0, 63]), sparse=True))["w"].sum() == 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (forged(int8(np.nan), precision="int8"), "NaN"),
        (forged(int8(np.inf), precision="int8"), "infinity"),
        (forged(int8(0.0), precision="int8"), "'w' has a scale that is not above 0"),
        (forged(int8(-1.0), precision="int8"), "'w' has a scale that is not above 0"),
        (forged(int8(3.4e38), precision="int8"), "'w' has a scale that is not above 0 and at most"),
        (forged(int8(numbers=[-128] * 64), precision="int8"), "'w' holds -128"),
        (forged(int8(blocks=2), precision="int8"), "'w' needs 1 scales"),
        (forged(int8(blocks=2), precision="int8", block=16), "'w' needs 4 scales"),
        (forged(int8(), precision="int8", block=1), "'w' has blocks of 1 numbers"),
        (forged(int8(), precision="int8", block=-16), "'w' has blocks of -16 numbers"),
        (forged({"@data": np.ones(64, np.float16)}, precision="int8"), "'w' needs its data as I8"),
        (forged({"@data": np.ones(64, np.int8)}, precision="int8"), "no 'w@scales'"),
        (forged({"@data": np.full(64, np.inf, np.float16)}, precision="fp16"), "infinity"),
        (forged(int8(), precision="int4"), "int4"),
        (forged(int8(), precision="int8", dtype="I64"), "'w' is I64, which is not sent as int8"),
        (forged(int8(), precision="int8", dtype="F31"), "unknown dtype 'F31'"),
        (forged(int8(), precision="int8", shape=[8, 8]), r"'w' is F32\[8, 8\], its numbers are I8\[64\]"),
        (forged(int8(), precision="int8", shape=[-64]), "'w' has a shape"),
        (forged(sparse([1 << 31]), sparse=True, shape=[1 << 62]), "overflows"),
        (forged(sparse([0]), sparse=True, shape=[1 << 33]), "'w' is sparse and has more than"),
        (forged(sparse([64]), sparse=True), "'w' has a number at place 64 of 64"),
        (forged(sparse([3, 3]), sparse=True), "'w' has places that do not increase"),
        (forged(sparse([3, 2]), sparse=True), "'w' has places that do not increase"),
        (forged(sparse([0, 1], [1, np.nan]), sparse=True), "NaN"),
        (forged(sparse([0, 1], [1]), sparse=True), r"'w' has F32\[1\] numbers at U32\[2\] places of 64"),
        (forged(sparse(range(65)), sparse=True), "places of 64"),
        (forged({"": np.ones(64, np.float32)}), "'w' is there twice"),
        (forged({"@data": np.ones(64, np.float32)}), "'w' is declared encoded, and is not"),
        (forged({**int8(), "@indices": np.ones(9)}, precision="int8"), "'w@indices' is not in the model"),
        (forged({**sparse([0]), "@scales": np.ones(9)}, sparse=True), "'w@scales' is not in the model"),
        (encode_tensors({"w": np.zeros(64, np.float32)}, {"flprov.encodings": "[]"}), "cannot be read"),
        (encode_tensors({"w": np.zeros(64, np.float32)}, {"flprov.encodings": "{"}), "cannot be read"),
        (forged(sparse([0]), sparse=True, shape=[1 << 30]), r"the model's is F32\[64\]"),  # a bomb of 4 GiB
    ],
)
def test_a_hostile_file_is_refused_with_the_tensor_named(data, said):
    with pytest.raises(UpdateRefused, match=said):
        verify_update(MODEL, data, "diff", "diff")


def test_a_sparse_tensor_that_nothing_bounds_is_refused():
    data = forged(sparse([0]), sparse=True, shape=[1 << 30])
    with pytest.raises(UpdateRefused, match="'w' is sparse, but its task carried no model"):
        verify_update(None, data, "full", "full")
    with pytest.raises(ProtocolError, match="'w' is sparse"):
        read_tensors(data, sparse=False)


def test_an_opaque_update_is_not_encoded():
    with pytest.raises(UpdateRefused, match="'w' of an opaque update is encoded"):
        verify_update(None, forged(int8(), precision="int8"), "opaque", "opaque")


def test_a_place_outside_its_tensor_is_not_written_to():
    with pytest.raises(ProtocolError, match="place 64 of 64"):
        read_tensors(forged(sparse([64]), sparse=True))


def test_places_that_go_on_in_the_next_piece_increase_too():
    """A million places are read in several pieces; the last of one is compared with the first of the next."""
    places = np.arange(600_000, dtype=np.uint32)
    places[300_000 - 37_856 :] -= (
        1  # 2^18 places a piece: the first of the second equals the last of the first
    )
    model = model_of(np.zeros(600_000, np.float32))
    good = forged(sparse(np.arange(600_000)), sparse=True, shape=[600_000])
    verify_update(model, good, "diff", "diff")
    with pytest.raises(UpdateRefused, match="do not increase"):
        verify_update(model, forged(sparse(places), sparse=True, shape=[600_000]), "diff", "diff")


@pytest.mark.parametrize("seed", range(200))
def test_no_damage_is_worse_than_a_refusal(seed):
    source = np.random.default_rng(seed)
    array = rounded(np.float32(drawn(seed, 64, zeros=0.5)), BLOCKS)
    marks = {"w": Encoding(precision=Precision.INT8, block=16, sparse=bool(seed % 2))}
    data = bytearray(encode_tensors({"w": array}, {}, marks))
    for _ in range(source.integers(1, 4)):
        data[source.integers(len(data))] = source.integers(256)
    try:
        verify_update(MODEL, bytes(data), "diff", "diff")
    except UpdateRefused:
        return
    found = read_tensors(bytes(data))
    assert found["w"].shape == (64,)
    assert np.isfinite(found["w"]).all()
