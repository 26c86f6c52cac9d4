# SPDX-License-Identifier: Apache-2.0
"""examples/cifar10: where the pictures come from, how they are split and learnt, and all of it, tiny."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from app_runner import ROOT
from PIL import Image

from flprov.errors import ConfigError, Conflict, JobFailed, Misuse, NotFound
from flprov.jobs import load_job
from flprov.sdk import as_tensors, build_controller, load_model
from flprov.wire import encode_tensors

Load = Callable[[str], ModuleType]
APP = ROOT / "examples" / "cifar10"
DATA = Path(os.environ.get("FLPROV_DATA", ROOT.parent / "shared" / "data")) / "cifar10"


@pytest.fixture
def pictures(load_example: Load) -> ModuleType:
    return load_example("cifar10/pictures")


@pytest.fixture
def source(load_example: Load) -> ModuleType:
    return load_example("cifar10/source")


@pytest.fixture
def partition(load_example: Load) -> ModuleType:
    return load_example("cifar10/partition")


@pytest.fixture
def learning(load_example: Load):
    learning = load_example("cifar10/learning")
    threads = torch.get_num_threads()
    learning.prepare_torch()
    yield learning
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("default")


def silent(part: str, done: int, total: int) -> None:
    """Nobody is told."""


# ---- pictures and network ------------------------------------------------------------------


def test_network_is_the_tutorials(load_example: Load) -> None:
    net = load_example("cifar10/model").Net()
    assert sum(weight.numel() for weight in net.parameters()) == 62_006
    one = torch.randn(2, 3, 32, 32)
    pool, relu = torch.nn.MaxPool2d(2, 2), torch.nn.functional.relu
    hidden = pool(relu(net.conv2(pool(relu(net.conv1(one)))))).flatten(1)
    expected = net.fc3(relu(net.fc2(relu(net.fc1(hidden)))))
    assert torch.equal(net(one), expected)


def test_numbers_are_around_zero(pictures: ModuleType) -> None:
    pixel = torch.tensor([125, 185, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    found = pictures.scale(pixel).flatten().tolist()
    assert found == pytest.approx([-0.3 / 63.0, 62.0 / 62.1, -113.9 / 66.7], rel=1e-4)


def numbered(pictures: ModuleType, count: int):
    """Pictures whose every byte is their number, and labels likewise."""
    numbers = np.arange(count, dtype=np.uint8)
    pixels = np.broadcast_to(numbers[:, None, None, None], (count, 32, 32, 3)).copy()
    return pictures.Pictures(pixels=pixels, labels=numbers)


def test_an_epoch_has_each_picture_once_with_its_label(pictures: ModuleType) -> None:
    batches = pictures.Batches(numbered(pictures, 50))
    sizes, seen = [], []
    for pixels, labels in batches.shuffled(16):
        sizes.append(len(labels))
        numbers = pixels[:, 0, 0, 0] * 63.0 + 125.3
        assert torch.allclose(numbers, labels.float(), atol=1e-3)
        seen += labels.tolist()
    assert sizes == [16, 16, 16, 2]
    assert sorted(seen) == list(range(50)) != seen


def test_batches_follow_from_the_seed(pictures: ModuleType, source: ModuleType) -> None:
    batches = pictures.Batches(source.make_pictures(40, seed=3))
    epochs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        epochs.append(torch.cat([pixels for pixels, _ in batches.shuffled(16)]))
    assert torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], epochs[2])


def test_parts_are_cut_out_of_the_mirrored_margin(pictures: ModuleType, source: ModuleType) -> None:
    made = source.make_pictures(2, seed=0)
    windows = pictures.Batches(made)._cut()
    original = torch.from_numpy(made.pixels).permute(0, 3, 1, 2)
    assert windows.shape == (2, 9, 9, 3, 32, 32)
    assert torch.equal(windows[:, 4, 4], original)
    assert torch.equal(windows[:, 4, 8, :, :, :28], original[:, :, :, 4:])
    assert torch.equal(windows[:, 0, 4, :, 3], original[:, :, 1])  # row -1 is row 1, not row 0 again


def test_measuring_takes_each_picture_as_it_is(pictures: ModuleType) -> None:
    batches = pictures.Batches(numbered(pictures, 200))
    pictures.MEASURED = 64
    parts = list(batches.in_order())
    assert [len(labels) for _, labels in parts] == [64, 64, 64, 8]
    assert torch.cat([labels for _, labels in parts]).tolist() == list(range(200))


def test_a_sample_is_random_seeded_and_in_order(pictures: ModuleType) -> None:
    everything = numbered(pictures, 100)
    rows = everything.sample(30, seed=0).labels.tolist()
    assert rows == sorted(set(rows)) == everything.sample(30, seed=0).labels.tolist()
    assert rows not in (list(range(30)), everything.sample(30, seed=1).labels.tolist())
    assert len(everything.sample(None, seed=0)) == len(everything.sample(101, seed=0)) == 100


def test_files_are_mapped_not_read(pictures: ModuleType, source: ModuleType, tmp_path: Path) -> None:
    made = source.make_pictures(5, seed=0)
    made.save(tmp_path, "train")
    loaded = pictures.load_pictures(tmp_path, "train")
    assert isinstance(loaded.pixels, np.memmap)
    assert np.array_equal(loaded.pixels, made.pixels)
    assert np.array_equal(loaded.labels, made.labels)


# ---- learning ------------------------------------------------------------------------------


def trained(load_example: Load, learning: ModuleType, **options):
    """A network after four epochs over 500 made-up pictures, with its batches for measuring."""
    pictures, source = load_example("cifar10/pictures"), load_example("cifar10/source")
    torch.manual_seed(0)
    net = load_example("cifar10/model").Net()
    batches = pictures.Batches(source.make_pictures(500, seed=1))
    learning.train(net, batches, epochs=4, lr=0.02, **options)
    return net, pictures.Batches(source.make_pictures(200, seed=2))


def test_network_learns_and_the_same_bits_again(load_example: Load, learning: ModuleType) -> None:
    losses: list[float] = []
    first, test = trained(load_example, learning, on_epoch=losses.append)
    again, _ = trained(load_example, learning)
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert learning.measure(first, test)["accuracy"] > 0.15  # of ten classes
    assert all(
        torch.equal(*pair)
        for pair in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_gradients_are_corrected_before_each_step(load_example: Load, learning: ModuleType) -> None:
    pictures, source = load_example("cifar10/pictures"), load_example("cifar10/source")
    net = load_example("cifar10/model").Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    calls = []

    def cancel() -> None:
        calls.append(float(net.fc3.bias.grad.abs().sum()))
        for weight in net.parameters():
            weight.grad.zero_()

    batches = pictures.Batches(source.make_pictures(130, seed=1))
    learning.train(net, batches, epochs=2, lr=0.1, correct=cancel)
    assert len(calls) == 2 * 3  # 64, 64 and 2 of 130
    assert all(size > 0 for size in calls)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_baseline_takes_the_steps_of_one_site_and_of_all(
    load_example: Load, learning: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline, experiment = load_example("cifar10/baseline"), load_example("cifar10/experiment")
    source = load_example("cifar10/source")
    taken = 0
    real = baseline.steps

    def counted(*args, **options):
        nonlocal taken
        for loss in real(*args, **options):
            taken += 1
            yield loss

    monkeypatch.setattr(baseline, "steps", counted)
    told = []
    plan = experiment.Plan(pictures="x", training=256, test=20, sites=4, alpha=1.0, rounds=2, epochs=2)
    curves = baseline.train_pooled(
        plan,
        source.make_pictures(256, seed=1),
        source.make_pictures(20, seed=2),
        lambda name, number, accuracy, seconds: told.append((name, number, taken)),
    )
    # 256 pictures are 4 steps; a round of 2 epochs takes 8, a quarter of them at each of the 4 sites.
    assert told == [("pooled", 0, 2), ("pooled", 1, 4), ("pooled_all", 0, 8), ("pooled_all", 1, 16)]
    assert [(curve.name, len(curve.accuracy)) for curve in curves] == [("pooled", 2), ("pooled_all", 2)]


# ---- the split -----------------------------------------------------------------------------


def split_as_flare(labels, sites: int, alpha: float) -> list[list[int]]:
    """FLARE's rule in plain lists, on the generator that it uses: what ours must give."""
    np.random.seed(0)
    while True:
        own: list[list[int]] = [[] for _ in range(sites)]
        for label in range(10):
            rows = np.where(labels == label)[0]
            np.random.shuffle(rows)
            shares = np.random.dirichlet([alpha] * sites)
            shares = np.array([0 if len(own[k]) >= len(labels) / sites else shares[k] for k in range(sites)])
            ends = (np.cumsum(shares / shares.sum()) * len(rows)).astype(int)[:-1]
            for k, part in enumerate(np.split(rows, ends)):
                own[k] += part.tolist()
        if min(map(len, own)) >= 10:
            break
    for rows in own:
        np.random.shuffle(rows)
    return own


LABELS = np.repeat(np.arange(10), 100).astype(np.uint8)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 5.0])
def test_split_is_flares(partition: ModuleType, alpha: float) -> None:
    rows = partition.split_labels(LABELS, sites=8, alpha=alpha)
    assert [mine.tolist() for mine in rows] == split_as_flare(LABELS, 8, alpha)


def test_every_picture_is_at_one_site_and_every_site_has_some(partition: ModuleType) -> None:
    rows = partition.split_labels(LABELS, sites=8, alpha=0.2, seed=4)
    assert sorted(np.concatenate(rows).tolist()) == list(range(1000))
    assert min(map(len, rows)) >= partition.FEWEST
    counts = partition.count_classes(LABELS, rows)
    assert [sum(own) for own in counts] == [len(mine) for mine in rows]
    assert np.sum(counts, axis=0).tolist() == [100] * 10


def test_lower_alpha_is_less_even(partition: ModuleType) -> None:
    def spread(alpha: float) -> float:
        rows = partition.split_labels(LABELS, sites=5, alpha=alpha)
        return float(np.std(partition.count_classes(LABELS, rows)))

    assert spread(0.1) > 1.5 * spread(1.0) > 1.5 * 1.5 * spread(100.0)


@pytest.mark.parametrize(("sites", "alpha"), [(101, 0.5), (8, 0.0), (8, -1.0), (8, float("nan")), (0, 0.5)])
def test_split_that_cannot_be_is_refused(partition: ModuleType, sites: int, alpha: float) -> None:
    with pytest.raises(Misuse, match="do not split"):
        partition.split_labels(LABELS, sites=sites, alpha=alpha)


def test_alpha_too_low_for_so_many_sites_ends_with_advice(
    partition: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "ATTEMPTS", 3)
    with pytest.raises(Misuse, match=r"alpha 0\.0001") as caught:
        partition.split_labels(LABELS, sites=8, alpha=0.0001)
    assert "--alpha" in (caught.value.hint or "")


def test_each_site_gets_its_own_and_together_they_have_all(load_example: Load, tmp_path: Path) -> None:
    sites, pictures = load_example("cifar10/sites"), load_example("cifar10/pictures")
    everything = numbered(pictures, 20)
    rows = [np.array([5, 0, 19]), np.array([7]), np.delete(np.arange(20), [0, 5, 7, 19])]
    names = ["site-1", "site-2", "site-3"]
    (tmp_path / "sites" / "old").mkdir(parents=True)  # of another run
    sites.write_sites(tmp_path / "sites", names, everything, everything.take(slice(7)), rows)
    assert sorted(path.name for path in (tmp_path / "sites").iterdir()) == names
    own = pictures.load_pictures(tmp_path / "sites" / "site-1", "train")
    assert own.labels.tolist() == own.pixels[:, 0, 0, 0].tolist() == [0, 5, 19]
    test = [pictures.load_pictures(tmp_path / "sites" / name, "test").labels.tolist() for name in names]
    assert test == [[0, 3, 6], [1, 4], [2, 5]]
    assert sorted(sites.gather_sites(tmp_path / "sites", names, "train").labels.tolist()) == list(range(20))


# ---- where the pictures come from ----------------------------------------------------------


def jpegs(folder: Path, parts: dict[str, int]) -> Path:
    """The packed file, with pictures of one colour: picture i has the grey 2 i."""
    arrays: dict[str, np.ndarray] = {}
    for part, count in parts.items():
        files = []
        for number in range(count):
            out = io.BytesIO()
            Image.new("RGB", (32, 32), (2 * number,) * 3).save(out, "JPEG")
            files.append(out.getvalue())
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(files), dtype=np.uint8)
        arrays[f"{part}_off"] = np.cumsum([0, *map(len, files)])
        arrays[f"{part}_y"] = np.arange(count, dtype=np.uint8) % 10
    np.savez(folder / "cifar10_jpeg.npz", **arrays)
    return folder / "cifar10_jpeg.npz"


def test_jpegs_are_decoded_once(source: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = jpegs(tmp_path, {"train": 7, "test": 3})
    monkeypatch.setattr(source, "TOLD", 4)
    told = []
    found = source.find_source(tmp_path)
    cache = tmp_path / "cache"
    cache.with_name("cache.partial").mkdir()  # a run that was ended half way
    training, test = source.load_source(found, cache, lambda *words: told.append(words))
    assert told == [("train", 4, 7), ("train", 7, 7), ("test", 3, 3)]
    assert training.pixels.shape == (7, 32, 32, 3)
    assert training.pixels[:, 9, 9, 1].tolist() == pytest.approx([2 * n for n in range(7)], abs=2)
    assert (training.labels.tolist(), test.labels.tolist()) == (list(range(7)), [0, 1, 2])
    file.unlink()
    again, _ = source.load_source(found, cache, silent)
    assert np.array_equal(again.pixels, training.pixels)


def test_other_npz_is_refused(source: ModuleType, tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10_jpeg.npz", other=np.zeros(3))
    with pytest.raises(ConfigError, match="not what it should be"):
        source.load_source(source.find_source(tmp_path), tmp_path / "cache", silent)
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def published(source: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder as it is published, but with four pictures a file: red is their number."""
    folder, sums = tmp_path / "data" / source.BATCHES, {}
    folder.mkdir(parents=True)
    for number, name in enumerate(source.PUBLISHED):
        data = np.zeros((4, 3, 32, 32), dtype=np.uint8)
        data[:, 0] = (number * 4 + np.arange(4))[:, None, None]
        data[:, 1] = 100 + data[:, 0]
        batch = {b"data": data.reshape(4, -1), b"labels": [number, 1, 2, 3]}
        (folder / name).write_bytes(pickle.dumps(batch))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(source, "PUBLISHED", sums)
    return folder


@pytest.mark.parametrize("form", ["folder", "folder itself", "archive"])
def test_published_files_are_read(source: ModuleType, published: Path, tmp_path: Path, form: str) -> None:
    place = published if form == "folder itself" else published.parent
    if form == "archive":
        with tarfile.open(place / source.ARCHIVE, "w:gz") as archive:
            archive.add(published, source.BATCHES)
        published.rename(tmp_path / "away")
    training, test = source.load_source(source.find_source(place), tmp_path / "cache", silent)
    assert training.pixels[:, 31, 31].tolist() == [[n, 100 + n, 0] for n in range(20)]
    assert training.labels.reshape(5, 4).tolist() == [[n, 1, 2, 3] for n in range(5)]
    assert test.pixels[:, 0, 0, 0].tolist() == [20, 21, 22, 23]


class Harmful:
    """What a pickle can do."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_changed_file_is_refused_before_it_can_do_anything(
    source: ModuleType, published: Path, tmp_path: Path
) -> None:
    (published / "data_batch_2").write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
    with pytest.raises(ConfigError, match=r"data_batch_2 .* MD5 sum is") as caught:
        source.load_source(source.find_source(published.parent), tmp_path / "cache", silent)
    assert "cs.toronto.edu" in (caught.value.hint or "")
    assert not (tmp_path / "harm").exists()


def test_sums_are_those_that_everybody_checks(source: ModuleType) -> None:
    text = "".join(f"{name} {value}\n" for name, value in sorted(source.PUBLISHED.items()))
    assert hashlib.sha256(text.encode()).hexdigest().startswith("293001d70759")


def test_missing_data_say_where_to_get_them(source: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"cifar-10-python\.tar\.gz") as caught:
        source.find_source(tmp_path)
    assert "https://www.cs.toronto.edu/~kriz/cifar.html" in (caught.value.hint or "")


@pytest.mark.skipif(
    not DATA.is_dir(), reason="CIFAR-10 is not here: FLPROV_DATA names the folder that has it"
)
@pytest.mark.slow
def test_real_pictures_are_whole(source: ModuleType, tmp_path: Path) -> None:
    parts = source.load_source(source.find_source(DATA), tmp_path / "cache", silent)
    for found, each in zip(parts, (5000, 1000), strict=True):
        assert np.bincount(found.labels).tolist() == [each] * 10
        middle = found.pixels[::10].mean(axis=(0, 1, 2))
        assert middle.tolist() == pytest.approx([125.3, 123.0, 113.9], abs=2)


# ---- jobs, results, command line -----------------------------------------------------------


def make_plan(experiment: ModuleType, **values):
    usual = {"pictures": "x", "training": 60, "test": 20, "sites": 2, "alpha": 0.5, "rounds": 7, "epochs": 3}
    return experiment.Plan(**{**usual, **values})


def make_curve(experiment: ModuleType, name: str, *accuracy: float):
    values = {
        "workflow": experiment.options_of(name, make_plan(experiment)),
        "loss": accuracy,
        "seconds": 1.5,
    }
    return experiment.Curve(name=name, plan=make_plan(experiment), accuracy=accuracy, **values)


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedopt", "fedavg_he"])
def test_every_workflow_is_a_job(load_example: Load, tmp_path: Path, name: str) -> None:
    experiment = load_example("cifar10/experiment")
    app = experiment.prepare_app(tmp_path / "app", make_plan(experiment, seed=9), name)
    spec = load_job(app)
    assert (spec.workflow.type, spec.workflow.rounds, spec.workflow.seed) == (name, 7, 9)
    assert (spec.args, spec.sites.min, spec.data) == ({"epochs": 3, "lr": 0.01}, 2, ("cifar10",))
    build_controller(spec.workflow.type, None, spec.workflow.options)


def test_job_without_the_line_that_is_to_change_is_noticed(
    load_example: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_example("cifar10/experiment")
    for name in experiment.CODE:
        (tmp_path / name).touch()
    (tmp_path / "job.yml").write_text("name: cifar10\nworkflow: {type: fedavg}\nargs: {}\n")
    monkeypatch.setattr(experiment, "APP", tmp_path)
    with pytest.raises(JobFailed, match="0 lines that begin with 'sites'"):
        experiment.prepare_app(tmp_path / "app", make_plan(experiment), "fedavg")


def test_jobs_and_baseline_start_from_the_same_weights(load_example: Load) -> None:
    net = load_example("cifar10/model").Net
    torch.manual_seed(0)
    expected = as_tensors(net().state_dict())
    tensors, _ = load_model("model:Net", APP)
    assert all(np.array_equal(tensors[name], value) for name, value in expected.items())


def test_curve_is_kept_as_it_was(load_example: Load, tmp_path: Path) -> None:
    experiment = load_example("cifar10/experiment")
    curve = make_curve(experiment, "fedopt", 0.25, 0.5)
    experiment.write_curve(tmp_path / "curves" / "fedopt.json", curve)
    assert experiment.read_curve(tmp_path / "curves" / "fedopt.json") == curve


def test_ends_are_judged(load_example: Load) -> None:
    experiment, results = load_example("cifar10/experiment"), load_example("cifar10/results")
    ends = {"pooled": 0.60, "pooled_all": 0.9, "fedavg": 0.551, "fedprox": 0.549, "fedopt": 0.61}
    curves = {name: make_curve(experiment, name, 0.1, end) for name, end in ends.items()}
    found = [(verdict.found, verdict.met) for verdict in results.judge_accuracy(curves)]
    assert found == [("4.9 below", True), ("5.1 below", False), ("1.0 above", True), ("+5.9 points", True)]
    del curves["pooled"]
    curves["fedopt"] = make_curve(experiment, "fedopt", 0.54)
    assert [(v.found, v.met) for v in results.judge_accuracy(curves)] == [("-1.1 points", False)]


def test_largest_difference_of_weights_is_found(load_example: Load, tmp_path: Path) -> None:
    results = load_example("cifar10/results")
    clear = {"a": np.array([1.0, 2.0], dtype=np.float32), "b": np.zeros((2, 2), dtype=np.float32)}
    other = {"a": np.array([1.0, 1.5], dtype=np.float32), "b": np.full((2, 2), -0.25, dtype=np.float32)}
    files = [tmp_path / "clear", tmp_path / "other"]
    for file, tensors in zip(files, (clear, other), strict=True):
        file.write_bytes(encode_tensors(tensors, {}))
    assert results.largest_difference(*files) == 0.5
    assert not results.judge_encryption(*files).met
    assert results.judge_encryption(files[0], files[0]).met
    files[1].write_bytes(encode_tensors({"a": clear["a"]}, {}))
    with pytest.raises(ValueError, match="hold other tensors"):
        results.largest_difference(*files)


def test_results_name_what_was_done_and_not_where(load_example: Load, tmp_path: Path) -> None:
    experiment, results = load_example("cifar10/experiment"), load_example("cifar10/results")
    curves = {
        name: make_curve(experiment, name, *np.linspace(0.1, end, 7).tolist())
        for name, end in {"pooled": 0.5, "fedavg": 0.4}.items()
    }
    verdicts = results.judge_accuracy(curves)
    files = results.write_results(tmp_path / "r", curves, verdicts, ["| split |"], command="python x DATA")
    assert [file.name for file in files] == ["cifar10.json", "cifar10.md", "cifar10.png"]
    document = json.loads(files[0].read_text())
    assert document["curves"]["fedavg"]["accuracy"][-1] == 0.4
    text = files[1].read_text()
    assert '| FedAvg | `{"type": "fedavg"}` | 10.00 % | 20.00 % | 40.00 % | 30.00 % |' in text
    assert "10.0 below, MISSED" in text
    assert "`python x DATA`" in text
    assert str(tmp_path) not in text
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_command_asks_for_the_data(
    load_example: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_example("cifar10/run")
    monkeypatch.delenv("FLPROV_DATA", raising=False)
    for words in ([], ["--size", "full"], ["--size", "tiny", "--rounds", "0"], ["--workflows", "fedsgd"]):
        with pytest.raises(SystemExit) as stopped:
            run.read_options(words)
        assert stopped.value.code == 2
    assert "FLPROV_DATA" in capsys.readouterr().err
    assert run.read_options(["--check-poc"]).size == "tiny"


def test_command_that_is_shown_has_no_folder_of_this_machine(load_example: Load) -> None:
    run = load_example("cifar10/run")
    options = run.read_options(["/some/where", "--size", "full", "--rounds", "9", "-o", "/else/where"])
    assert run.typed(options) == (
        "python examples/cifar10/run.py DATA --size full --alpha 0.5 --rounds 9 --seed 0"
    )


def test_kept_curve_of_other_options_is_not_mixed_in(load_example: Load, tmp_path: Path) -> None:
    run, experiment = load_example("cifar10/run"), load_example("cifar10/experiment")
    experiment.write_curve(tmp_path / "fedavg.json", make_curve(experiment, "fedavg", 0.5))
    assert run.read_kept(tmp_path / "fedavg.json", make_plan(experiment)).accuracy == (0.5,)
    assert run.read_kept(tmp_path / "fedopt.json", make_plan(experiment)) is None
    with pytest.raises(Conflict, match="other options"):
        run.read_kept(tmp_path / "fedavg.json", make_plan(experiment, alpha=0.1))


@pytest.fixture
def tiny(load_example: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs the command at its smallest, on made-up pictures; the modules stay this process's own."""
    run = load_example("cifar10/run")
    monkeypatch.delenv("FLPROV_DATA", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    threads = torch.get_num_threads()
    yield lambda *words: run.main(["--size", "tiny", "-o", str(tmp_path / "out"), *words])
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("default")


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(600)  # four jobs and a network: 25 s on a machine that does nothing else
def test_all_of_it_runs_resumes_and_agrees_with_a_real_network(
    tiny: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny() == 0, capsys.readouterr()
    output = capsys.readouterr().out
    assert "no weight of FedAvg-HE's mean is further than 0.0001 from FedAvg's: " in output
    document = json.loads((tmp_path / "out" / "cifar10.json").read_text())
    assert list(document["curves"]) == ["pooled", "pooled_all", "fedavg", "fedprox", "fedopt", "fedavg_he"]
    curves = {name: curve["accuracy"] for name, curve in document["curves"].items()}
    losses = {name: curve["loss"] for name, curve in document["curves"].items()}
    assert {len(curve) for curve in curves.values()} == {2}
    # After one round FedOpt has no momentum yet, and encryption changes next to nothing; mu does.
    assert losses["fedopt"][0] == pytest.approx(losses["fedavg"][0], rel=1e-5)
    assert losses["fedavg_he"] == pytest.approx(losses["fedavg"], rel=1e-4)
    assert losses["fedprox"][0] != losses["fedavg"][0]
    assert losses["fedopt"][1] != pytest.approx(losses["fedavg"][1], rel=1e-5)
    assert document["verdicts"][0]["met"]

    assert tiny("--workflows", "pooled", "fedavg") == 0
    assert "by an earlier run" in capsys.readouterr().out
    assert tiny("--alpha", "0.9") == 2
    assert "other options" in capsys.readouterr().err

    assert tiny("--check-poc") == 0
    assert "the same, bit for bit" in capsys.readouterr().out
    assert not (tmp_path / "out" / "network").exists()


def test_weights_that_differ_in_a_bit_are_not_the_same(load_example: Load, tmp_path: Path) -> None:
    agreement = load_example("cifar10/agreement")
    one = np.array([1.0, 2.0], dtype=np.float32)
    for name, tensors in {
        "one": {"a": one},
        "again": {"a": one.copy()},
        "next": {"a": np.nextafter(one, np.float32(9))},
        "wide": {"a": one.astype(np.float64)},
        "more": {"a": one, "b": one},
    }.items():
        (tmp_path / name).write_bytes(encode_tensors(tensors, {}))
    same = {
        n: agreement.same_weights(tmp_path / "one", tmp_path / n) for n in ("again", "next", "wide", "more")
    }
    assert same == {"again": True, "next": False, "wide": False, "more": False}
