# SPDX-License-Identifier: Apache-2.0
"""Models that are files: known by their arrays, handed over once, named by their digest from then on."""

import gc
import subprocess
import sys

import numpy as np
import pytest

from flprov.blobs import digest_of
from flprov.errors import JobFailed, ProtocolError, UpdateRefused
from flprov.messages import Update, UpdateKind
from flprov.sdk import results_in, weighted_mean
from flprov.sdk.aggregation import mean_difference
from flprov.sdk.elementwise import calculate
from flprov.wire import encode_tensors, narrow, numpy_dtype, read_tensors, widen
from flprov.workers.modelfiles import ModelFiles

SIZE = 100_000  # numbers
MODEL = {"w": np.arange(SIZE, dtype=np.float32), "n": np.array(3)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.fixture
def files(folder):
    return ModelFiles(folder)


def in_out(folder):
    return sorted(path.name for path in (folder / "out").iterdir())


def updates(count=2, **changes):
    return [
        Update(site=f"s{n}", samples=n + 1, params={"w": MODEL["w"] + n, "n": np.array(n)}, **changes)
        for n in range(count)
    ]


def test_a_mean_is_in_the_file_that_is_handed_over(files, folder):
    plain = weighted_mean(updates())
    with results_in(files):
        mean = weighted_mean(updates())
    payload = files.payload(files.find(mean))
    assert (folder / "out" / payload.file).read_bytes() == encode_tensors(plain)
    assert payload.size == len(encode_tensors(plain))


def test_handed_over_once_it_goes_by_its_digest(files, folder):
    with results_in(files):
        mean = weighted_mean(updates())
    first = files.payload(files.find(mean))
    (folder / "out" / first.file).unlink()  # the server has it
    again = files.payload(files.find(dict(mean)))
    assert (again.digest, again.size) == (digest_of(encode_tensors(mean)), first.size)


def test_a_model_that_was_changed_in_place_is_another_one(files, folder):
    kept, file = files.keep(MODEL)
    assert files.find(kept) is file
    kept["w"][5] = -1.0
    assert files.find(kept) is None
    _, other = files.keep(kept)
    assert read_tensors(folder / "out" / other.name)["w"][5] == -1.0
    assert read_tensors(folder / "out" / file.name)["w"][5] == 5.0


@pytest.mark.parametrize(
    "change",
    [
        lambda model: {"w": model["w"]},
        lambda model: {**model, "more": np.ones(1)},
        lambda model: {**model, "n": np.array(3)},
        lambda model: {"v": model["w"], "n": model["n"]},
    ],
    ids=["less", "more", "an equal array", "another name"],
)
def test_other_tensors_are_another_model(files, change):
    kept, _ = files.keep(MODEL)
    assert files.find(change(kept)) is None


def test_once_the_weights_are_torchs_a_file_that_does_not_say_so_does_not_do(files):
    kept, _ = files.keep(MODEL)
    files.format = "pt"
    assert files.find(kept) is None
    again, _ = files.keep(kept)
    assert files.find(again) is not None


def test_a_result_that_nobody_wants_is_removed_with_its_last_array(files, folder):
    with results_in(files):
        mean = weighted_mean(updates())
        part = mean["w"][10:20]
    assert len(in_out(folder)) == 1
    del mean
    gc.collect()
    assert len(in_out(folder)) == 1  # somebody looks at ten numbers of it
    assert part[0] > 0
    del part
    gc.collect()
    assert in_out(folder) == []


FORKED = """
import gc, os, sys
from pathlib import Path
import numpy as np
from flprov.workers.modelfiles import ModelFiles

kept, _ = ModelFiles(Path(sys.argv[1])).keep({"w": np.zeros(100_000, np.float32)})
child = os.fork()
if not child:
    kept.clear()
    gc.collect()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(len(os.listdir(sys.argv[1] + "/out")))
"""


def test_a_process_that_was_forked_removes_nothing(folder):
    command = [sys.executable, "-c", FORKED, str(folder)]  # this one may have threads
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_file_that_was_handed_over_is_the_servers_to_remove(files, folder):
    kept, file = files.keep(MODEL)
    name = files.payload(file).file
    del kept
    gc.collect()
    assert in_out(folder) == [name]


def test_small_models_need_no_file(files, folder):
    small = {"w": np.ones(10, np.float32)}
    assert files.keep(small) == (small, None)
    with results_in(files):
        weighted_mean([Update(site="a", samples=1, params=small)])
    assert in_out(folder) == []


def test_what_the_server_has_not_kept_is_written_again(files):
    kept, file = files.keep(MODEL)
    files.payload(file)
    other, second = files.keep({"w": MODEL["w"] + 1})
    files.payload(second)
    files.settle(second, files.digest(second), None)
    assert files.find(kept) is None
    assert files.find(other) is second


def test_a_server_that_has_saved_another_model_is_not_believed(files):
    kept, file = files.keep(MODEL)
    assert files.digest(file) == digest_of(encode_tensors(kept))
    with pytest.raises(ProtocolError, match="another model"):
        files.settle(file, "0" * 64, None)


def test_a_mean_that_leaves_its_range_leaves_no_file(files, folder):
    base = {"w": np.full(SIZE, 60_000.0, np.float16)}
    with results_in(files), pytest.raises(UpdateRefused, match="'w' leaves the range of float16"):
        weighted_mean([Update(site="a", samples=1, params=base, kind=UpdateKind.DIFF)], base)
    with results_in(files), pytest.raises(JobFailed, match="'w' leaves the range"):
        calculate(lambda x: [x * 2], [base], {"w": base["w"].dtype})
    gc.collect()
    assert in_out(folder) == []


# ---- the same bits as one loop over all numbers would give -----------------------------------------


def numbers(dtype, size, source):
    if dtype == "BF16":
        bits = source.standard_normal(size).astype(np.float32).view(np.uint32) >> 16
        return bits.astype(np.uint16).view(numpy_dtype("BF16"))
    scale = 10.0 ** source.integers(-4, 4)
    found = (source.standard_normal(size) * scale).astype(numpy_dtype(dtype))
    found[::5] = -0.0
    return found


def wide(array):
    return widen(array, np.empty(array.size))


def one_sum(params, shares, base=None):
    """The mean by its definition: in float64, from 0 on, in the order of the sites, rounded once."""
    total = np.zeros(params[0].size)
    for array, share in zip(params, shares, strict=True):
        total = total + wide(array) * share
    if base is not None:
        total = total + wide(base) * sum(shares)
    out = np.empty_like(params[0])
    narrow(total / sum(shares), out)
    return out


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize("shares", [(1.0, 1.0), (0.25, 0.5, 0.25), (3.0, 2.0, 7.0)])
@pytest.mark.parametrize("processors", [1, 3])
def test_the_mean_is_the_same_bit_by_bit(files, monkeypatch, dtype, shares, processors):
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    monkeypatch.setattr("flprov.wire.spans._SPAN", 20_001)
    monkeypatch.setattr("flprov.wire.spans._WORTH_IT", 1)
    source = np.random.default_rng([len(dtype), len(shares)])
    params = [numbers(dtype, 100_003, source) for _ in shares]
    base = {"w": numbers(dtype, 100_003, source)}
    for kind, added in ((UpdateKind.FULL, None), (UpdateKind.DIFF, base["w"])):
        found = [
            Update(site=f"s{n}", weight=share, params={"w": array}, kind=kind)
            for n, (array, share) in enumerate(zip(params, shares, strict=True))
        ]
        with results_in(files):
            mean = weighted_mean(reversed(found), base)["w"]
        assert mean.tobytes() == one_sum(params, shares, added).tobytes(), kind


def test_differences_are_in_files_too(files, folder):
    with results_in(files):
        found = mean_difference(updates(), MODEL)
    assert found["w"].tolist()[:2] == pytest.approx([2 / 3, 2 / 3])
    assert len(in_out(folder)) == 1
