# SPDX-License-Identifier: Apache-2.0
"""Files of tensors that are filled in pieces, and what the kernel says of a mapping of them."""

import threading

import numpy as np
import pytest

from flprov.wire import (
    TensorFile,
    each_span,
    encode_tensors,
    give_back,
    is_untouched,
    mapping_of,
    numpy_dtype,
    read_tensors,
    write_tensors,
)

NUMBERS = np.arange(3_000_000, dtype=np.float32)
BF16 = numpy_dtype("BF16")
MIXED = {
    "b": np.arange(5, dtype=np.int8),
    "w": NUMBERS[:1000].reshape(10, 100),
    "h": np.arange(7, dtype=np.uint16).view(BF16),
    "none": np.empty((0, 3), np.float64),
    "one": np.array(2.5),
}


def filled(path, tensors, metadata=None):
    wanted = {name: (array.dtype, array.shape) for name, array in tensors.items()}
    with TensorFile(path, wanted, metadata) as file:
        for name, array in tensors.items():
            for start in reversed(range(0, array.size, 400)):
                file.put(name, start, array.reshape(-1)[start : start + 400])
    return file


def test_the_bytes_are_those_that_are_written_in_one_go(tmp_path):
    file = filled(tmp_path / "m", MIXED, {"format": "pt"})
    assert (tmp_path / "m").read_bytes() == encode_tensors(MIXED, {"format": "pt"})
    assert file.size == (tmp_path / "m").stat().st_size
    assert list(file.tensors) == list(MIXED)
    assert all(file.tensors[name].tobytes() == array.tobytes() for name, array in MIXED.items())


def test_what_raises_on_the_way_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="no idea"), TensorFile(tmp_path / "m", {"w": (BF16, (3,))}):
        raise ValueError("no idea")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    (tmp_path / "m").write_bytes(b"mine")
    with pytest.raises(FileExistsError), TensorFile(tmp_path / "m", {"w": (BF16, (3,))}):
        pass
    assert (tmp_path / "m").read_bytes() == b"mine"


@pytest.fixture
def mapped(tmp_path):
    write_tensors(tmp_path / "m", {"w": NUMBERS})
    return read_tensors(tmp_path / "m")["w"]


def test_a_mapping_is_touched_by_writing_and_not_by_reading(mapped):
    data = mapping_of(mapped[5:].reshape(-1))
    assert float(mapped.sum()) > 0
    assert is_untouched(data)
    mapped[2_000_000] = 7.0
    assert not is_untouched(data)


def test_an_array_in_memory_has_no_mapping(tmp_path):
    assert mapping_of(NUMBERS) is None
    give_back(NUMBERS[:100_000].copy())  # and nothing is lost
    write_tensors(tmp_path / "small", {"w": NUMBERS[:10]})
    assert mapping_of(read_tensors((tmp_path / "small").read_bytes())["w"]) is None


def resident():
    """Bytes of files that this process has mapped and touched."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssFile"))


def test_pages_that_were_read_are_given_back_and_come_again(mapped):
    before = resident()
    total = float(mapped.sum(dtype=np.float64))
    assert resident() - before > NUMBERS.nbytes / 2
    give_back(mapped)
    assert resident() - before < NUMBERS.nbytes / 4
    assert float(mapped.sum(dtype=np.float64)) == total


def test_pages_of_several_files_are_given_back_at_once_but_for_those_that_were_written_to(mapped, tmp_path):
    write_tensors(tmp_path / "other", {"w": NUMBERS})
    other = read_tensors(tmp_path / "other")["w"]
    before = resident()
    other[1_000_000] = -1.0
    total = float(mapped.sum(dtype=np.float64)) + float(other.sum(dtype=np.float64))
    give_back(mapped, NUMBERS, other)
    assert NUMBERS.nbytes / 2 < resident() - before < NUMBERS.nbytes * 5 / 4
    assert float(mapped.sum(dtype=np.float64)) + float(other.sum(dtype=np.float64)) == total


def test_what_was_written_to_is_not_given_back(mapped):
    mapped[1_000_000] = -1.0
    give_back(mapped)
    assert mapped[1_000_000] == -1.0
    give_back(mapped[2_000_000:])  # of a part that nobody has written to
    assert mapped[2_000_001] == 2_000_001


def test_every_number_is_in_one_span_and_large_tensors_go_to_several_threads(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    seen, threads, both = [], set(), threading.Barrier(2)

    def do(name, where):
        if threading.get_ident() not in threads:
            threads.add(threading.get_ident())
            both.wait(30)
        seen.append((name, where.start, where.stop))

    sizes = {"a": 5_000_000, "none": 0, "b": 3}
    each_span(sizes, do)
    assert len(threads) == 2
    seen.sort()
    assert [stop for _, _, stop in seen[:-1]] == [*(start for _, start, _ in seen[1:-1]), 5_000_000]
    assert seen[-1] == ("b", 0, 3)


def test_a_small_model_of_many_updates_goes_to_several_threads_too(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    sizes = {f"layer{number}": 25_000 for number in range(10)}
    seen: dict[str, set[int]] = {"alone": set(), "deep": set()}
    each_span(sizes, lambda *_: seen["alone"].add(threading.get_ident()))
    both = threading.Barrier(2)

    def do(_name, _where):
        if threading.get_ident() not in seen["deep"]:
            seen["deep"].add(threading.get_ident())
            both.wait(30)

    each_span(sizes, do, deep=1000)
    assert seen["alone"] == {threading.get_ident()}
    assert len(seen["deep"]) == 2


def test_the_first_of_several_failures_is_told(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)

    def do(name, where):
        raise ValueError(f"{name} at {where.start}")

    with pytest.raises(ValueError, match="a at 0"):
        each_span({"a": 5_000_000, "b": 5_000_000}, do)
