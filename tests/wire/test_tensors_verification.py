# SPDX-License-Identifier: Apache-2.0
"""Whether an update fits its task."""

import math
import tracemalloc

import numpy as np
import pytest

from flprov.errors import ProtocolError, UpdateRefused
from flprov.messages import UpdateKind
from flprov.wire import (
    encode_tensors,
    format_kinds,
    numpy_dtype,
    parse_kinds,
    tensor_infos,
    verify_numbers,
    verify_update,
    write_tensors,
)


def model(**changes):
    tensors = {"w": np.zeros((2, 2), np.float32), "n": np.array(3, np.int64)} | changes
    return {name: array for name, array in tensors.items() if array is not None}


INFOS = tensor_infos(encode_tensors(model()))


def verify(tensors, kind="full", expects="full,diff", infos=INFOS):
    return verify_update(infos, encode_tensors(tensors), kind, expects)


@pytest.mark.parametrize("kind", ["full", "diff"])
def test_an_update_like_its_model_passes(kind):
    assert verify(model(), kind) == INFOS


def test_an_update_in_a_file_passes(tmp_path):
    write_tensors(tmp_path / "update", model())
    assert verify_update(INFOS, tmp_path / "update", "full", "full") == INFOS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": None}, "'w' is missing"),
        ({"extra": np.zeros(1)}, "'extra' is not in the model"),
        ({"w": np.zeros((4,), np.float32)}, r"'w' is F32\[4\], the model's is F32\[2, 2\]"),
        ({"w": np.zeros((2, 2))}, r"'w' is F64\[2, 2\], the model's is F32\[2, 2\]"),
        ({"n": np.array([3], np.int64)}, r"'n' is I64\[1\]"),
        ({"w": np.array([[0, 0], [0, np.nan]], np.float32)}, "'w' holds NaN"),
        ({"w": np.array([[0, 0], [0, -np.inf]], np.float32)}, "'w' holds NaN or infinity"),
    ],
)
@pytest.mark.parametrize("kind", ["full", "diff"])
def test_an_update_unlike_its_model_is_refused_by_name(change, message, kind, tmp_path):
    with pytest.raises(UpdateRefused, match=message):
        verify(model(**change), kind)
    write_tensors(tmp_path / "update", model(**change))
    with pytest.raises(UpdateRefused, match=message):
        verify_update(INFOS, tmp_path / "update", kind, "full,diff")


BAD_BITS = [
    ("F16", np.array([0, np.nan], np.float16)),
    ("F64", np.array([0, np.inf])),
    ("C64", np.array([0, complex(0, np.nan)], np.complex64)),
    ("BF16 NaN", np.array([0, 0x7FC0], np.uint16).view(numpy_dtype("BF16"))),
    ("BF16 -inf", np.array([0, 0xFF80], np.uint16).view(numpy_dtype("BF16"))),
    ("F8_E5M2 inf", np.array([0, 0x7C], np.uint8).view(numpy_dtype("F8_E5M2"))),
    ("F8_E4M3 NaN", np.array([0, 0xFF], np.uint8).view(numpy_dtype("F8_E4M3"))),
    ("F8_E8M0 NaN", np.array([0, 0xFF], np.uint8).view(numpy_dtype("F8_E8M0"))),
]


@pytest.mark.parametrize("array", [row[1] for row in BAD_BITS], ids=[row[0] for row in BAD_BITS])
def test_nan_is_found_in_every_floating_point_format(array):
    with pytest.raises(UpdateRefused, match="'x' holds NaN or infinity"):
        verify({"x": array}, infos=None)


LARGEST = [
    np.array([np.finfo(np.float16).max], np.float16),
    np.array([0x7F7F, 0xFF7F], np.uint16).view(numpy_dtype("BF16")),
    np.array([0x7B, 0xFB], np.uint8).view(numpy_dtype("F8_E5M2")),
    np.array([0x7E, 0xFE], np.uint8).view(numpy_dtype("F8_E4M3")),
    np.array([-1], np.int64),  # all bits set, and a number all the same
    np.array([0xFFFF], np.uint16),
]


@pytest.mark.parametrize("array", LARGEST, ids=lambda array: str(array.dtype))
def test_the_largest_finite_numbers_pass(array):
    assert "x" in verify({"x": array}, infos=None)


@pytest.mark.parametrize("bad", ["a", "c", "e"])
def test_of_tensors_that_are_read_together_the_first_bad_one_is_named(bad):
    tensors = {name: np.zeros(3, np.float32) for name in "acde"} | {"b": np.zeros(3, np.int32)}
    tensors |= {"none": np.zeros(0, np.float32), "wide": np.zeros(3)}
    assert verify(tensors, infos=None).keys() == tensors.keys()
    for name in {bad, "e"}:
        tensors[name] = np.array([0, 0, np.nan], np.float32)
    with pytest.raises(UpdateRefused, match=f"'{bad}' holds NaN"):
        verify(tensors, infos=None)


@pytest.mark.parametrize("place", [0, (1 << 18) - 1, 1 << 18, (1 << 19) + 6])
def test_a_single_nan_is_found_wherever_it_is(place):
    values = np.zeros((1 << 19) + 7, np.float32)
    values[place] = np.nan
    with pytest.raises(UpdateRefused, match="'w'"):
        verify({"a": np.zeros(3, np.int8), "w": values, "z": np.zeros(5)}, infos=None)


def test_a_kind_that_the_task_does_not_take_is_refused():
    with pytest.raises(UpdateRefused, match="'diff', the task takes full"):
        verify(model(), "diff", "full")


@pytest.mark.parametrize("kind", ["", "FULL", "pickle", "full,diff", "x" * 10_000])
def test_a_kind_that_does_not_exist_is_refused(kind):
    with pytest.raises(UpdateRefused, match="kind") as caught:
        verify(model(), kind)
    assert len(str(caught.value)) < 200


def test_without_a_model_a_full_update_chooses_the_names_and_must_be_finite():
    assert set(verify({"any": np.zeros(2)}, infos=None)) == {"any"}
    with pytest.raises(UpdateRefused, match="NaN"):
        verify({"any": np.full(2, np.nan)}, infos={})


def test_without_a_model_there_is_no_difference():
    with pytest.raises(UpdateRefused, match="no model"):
        verify(model(), "diff", infos=None)


@pytest.mark.parametrize("infos", [None, INFOS])
def test_weights_without_a_tensor_are_refused(infos):
    with pytest.raises(UpdateRefused, match="no tensors"):
        verify({}, infos=infos)


def test_opaque_tensors_are_not_looked_into():
    assert "secret" in verify({"secret": np.full(3, np.nan)}, "opaque", "opaque")


def test_a_task_that_expects_nothing_takes_no_tensors():
    assert verify({}, expects="") == {}
    with pytest.raises(UpdateRefused, match="'n' came, but the task takes no tensors"):
        verify(model(), expects="")


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\xff" * 64, b'{"x":1}'])
def test_what_is_no_tensor_file_is_refused_as_an_update(data, tmp_path):
    with pytest.raises(UpdateRefused, match="no tensor file"):
        verify_update(INFOS, data, "full", "full")
    (tmp_path / "update").write_bytes(data)
    with pytest.raises(UpdateRefused, match="no tensor file"):
        verify_update(INFOS, tmp_path / "update", "full", "full")


def test_a_missing_file_is_refused_as_an_update(tmp_path):
    with pytest.raises(UpdateRefused, match="no tensor file"):
        verify_update(INFOS, tmp_path / "gone", "full", "full")


def test_verification_takes_little_memory_whatever_the_size(tmp_path):
    write_tensors(tmp_path / "update", {"w": np.zeros(16 << 20, np.float32)})  # 64 MiB
    tracemalloc.start()
    verify_update(None, tmp_path / "update", "full", "full")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("samples", [0, 1, 2**53])
def test_sample_counts_in_range_pass(samples):
    verify_numbers(samples, None, {"loss": 0.5})
    verify_numbers(samples, 0.0, {})


@pytest.mark.parametrize(
    ("samples", "weight", "metrics", "message"),
    [
        (-1, None, {}, "samples is -1"),
        (2**53 + 1, None, {}, "samples"),
        (2**63, None, {}, "samples"),
        (1, -0.5, {}, "weight is -0.5"),
        (1, math.nan, {}, "weight is nan"),
        (1, math.inf, {}, "weight is inf"),
        (1, None, {"loss": math.nan}, "'loss' is nan"),
        (1, None, {"loss": -math.inf}, "'loss' is -inf"),
        (1, None, {"": 1.0}, "name"),
        (1, None, {"x" * 129: 1.0}, "name"),
        (1, None, {"a\x1b[2J": 1.0}, "name"),
        (1, None, {f"m{n}": 1.0 for n in range(257)}, "257 metrics"),
    ],
)
def test_numbers_out_of_range_are_refused(samples, weight, metrics, message):
    with pytest.raises(UpdateRefused, match=message):
        verify_numbers(samples, weight, metrics)


def test_kinds_travel_as_a_text():
    kinds = (UpdateKind.FULL, UpdateKind.DIFF)
    assert parse_kinds(format_kinds(kinds)) == kinds
    assert parse_kinds(format_kinds(())) == ()
    with pytest.raises(ProtocolError):
        parse_kinds("full,os.system")
