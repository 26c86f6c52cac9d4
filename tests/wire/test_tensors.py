# SPDX-License-Identifier: Apache-2.0
"""Tensors to bytes and files, and back."""

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from flprov.errors import Misuse, NotFound, ProtocolError
from flprov.wire import encode_tensors, numpy_dtype, read_metadata, read_tensors, tensor_infos, write_tensors
from flprov.wire.tensor_header import ITEM_SIZES


def example():
    return {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "bias": np.array([0.5, -0.5]),
        "steps": np.array(7, dtype=np.int64),
        "mask": np.array([True, False, True]),
        "empty": np.zeros((0, 4), np.float16),
    }


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


@pytest.fixture
def file(tmp_path):
    write_tensors(tmp_path / "model.safetensors", example(), {"format": "pt"})
    return tmp_path / "model.safetensors"


def test_tensors_come_back_from_bytes():
    assert_same(read_tensors(encode_tensors(example())), example())


def test_tensors_come_back_from_a_file(file):
    assert_same(read_tensors(file), example())


def test_no_tensors_are_a_file_too(tmp_path):
    assert write_tensors(tmp_path / "none", {}) == 16  # length, "{}" and padding
    assert read_tensors(tmp_path / "none") == {}


def test_the_file_has_the_bytes_of_encode(file):
    assert file.read_bytes() == encode_tensors(example(), {"format": "pt"})


def test_same_tensors_give_the_same_bytes_in_any_order():
    backwards = dict(reversed(example().items()))
    assert encode_tensors(backwards, {"a": "1", "b": "2"}) == encode_tensors(example(), {"b": "2", "a": "1"})


def test_the_reference_library_reads_what_we_write():
    assert_same(safetensors.numpy.load(encode_tensors(example(), {"format": "np"})), example())


def test_we_read_what_the_reference_library_writes():
    assert_same(read_tensors(safetensors.numpy.save(example())), example())


def test_every_tensor_is_aligned_to_its_items():
    start = read_header_length(encode_tensors(example()))
    assert start % 8 == 0
    for name, info in tensor_infos(encode_tensors(example())).items():
        assert info.start % ITEM_SIZES[info.dtype] == 0, name


def read_header_length(data):
    return 8 + int.from_bytes(data[:8], "little")


def test_metadata_comes_back(file):
    assert read_metadata(file) == {"format": "pt"}
    assert read_metadata(encode_tensors({})) == {}


def test_writing_to_a_mapped_tensor_leaves_the_file_alone(file):
    before = file.read_bytes()
    tensors = read_tensors(file)
    tensors["weight"][:] = 9.0
    assert file.read_bytes() == before
    assert read_tensors(file)["weight"][0, 0] == 0.0


def test_a_mapped_tensor_outlives_its_file(file):
    tensors = read_tensors(file)
    file.unlink()
    assert_same(tensors, example())


def test_an_existing_file_is_not_overwritten(file):
    with pytest.raises(FileExistsError):
        write_tensors(file, {})
    assert_same(read_tensors(file), example())


def test_big_endian_and_strided_arrays_travel_as_little_endian_rows():
    array = np.arange(12, dtype=">f4").reshape(3, 4).T
    found = read_tensors(encode_tensors({"x": array}))["x"]
    assert found.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(found, np.asarray(array))


def test_unaligned_tensors_of_a_foreign_writer_are_copied_to_aligned_memory():
    header = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'  # 54 bytes: data starts at 62
    found = read_tensors(len(header).to_bytes(8, "little") + header + np.float32([1, 2]).tobytes())["x"]
    assert found.flags.aligned
    assert found.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("BF16", torch.bfloat16), ("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2)],
)
def test_dtypes_that_numpy_lacks_pass_unharmed(name, dtype):
    tensor = torch.tensor([1.0, -2.5, 0.0, 448.0]).to(dtype)
    data = safetensors.torch.save({"x": tensor})
    found = read_tensors(data)["x"]
    assert found.dtype == numpy_dtype(name)
    again = safetensors.torch.load(encode_tensors({"x": found}))["x"]
    assert again.dtype == dtype
    assert torch.equal(again.float(), tensor.float())


def test_bit_patterns_of_bfloat16_cannot_be_added_by_mistake():
    array = np.zeros(2, numpy_dtype("BF16"))
    with pytest.raises(TypeError):
        array + array


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([None]), np.zeros(1, np.complex128)])
def test_a_dtype_that_cannot_travel_is_refused_by_name(array):
    with pytest.raises(Misuse, match="'odd'"):
        encode_tensors({"odd": array})


@pytest.mark.parametrize("name", ["", "__metadata__", "a\nb", "\u202eevil", "x" * 1025, "\ud800"])
def test_a_name_that_nobody_could_read_is_refused(name):
    with pytest.raises(ProtocolError, match="name"):
        encode_tensors({name: np.zeros(1)})


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match=r"'gone\.safetensors'"):
        read_tensors(tmp_path / "gone.safetensors")
