# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 (Krizhevsky, 2009) from where a user has it: 50,000 pictures to learn from, 10,000 to measure on.

Either as its author publishes it for Python, <https://www.cs.toronto.edu/~kriz/cifar.html>, or as
`cifar10_jpeg.npz`, which has the same pictures as JPEG. They are decoded once, and kept.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pictures import SIZE, Pictures, load_pictures

from flprov.errors import ConfigError, NotFound

JPEG = "cifar10_jpeg.npz"
ARCHIVE = "cifar-10-python.tar.gz"
BATCHES = "cifar-10-batches-py"
# The author's files are pickles, which can run anything when they are read. So they are read only when
# they are, byte for byte, those that he published: these are the MD5 sums that torchvision checks too.
PUBLISHED = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
PARTS = {"train": [name for name in PUBLISHED if name != "test_batch"], "test": ["test_batch"]}
TOLD = 1000  # JPEGs between two reports

Tell = Callable[[str, int, int], None]  # what is being read, how many pictures are done, of how many


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the pictures come from."""

    path: Path  # a .npz, a .tar.gz, or a folder

    @property
    def lossy(self) -> bool:
        """Whether the pixels are only nearly the published ones."""
        return self.path.suffix == ".npz"


def find_source(folder: Path) -> Source:
    """CIFAR-10 in `folder`, or in a folder `cifar10` there.

    Raises:
        NotFound: it is not there.
    """
    for place in (folder, folder / "cifar10"):
        for name in (BATCHES, ARCHIVE, JPEG):
            if (place / name).exists():
                return Source(path=place / name)
        if all((place / name).is_file() for name in PUBLISHED):
            return Source(path=place)
    raise NotFound(
        f"{folder} has neither {ARCHIVE} nor {BATCHES}/ nor {JPEG}",
        hint=f"download {ARCHIVE} (163 MB) from https://www.cs.toronto.edu/~kriz/cifar.html into it",
    )


def load_source(source: Source, cache: Path, tell: Tell) -> tuple[Pictures, Pictures]:
    """What there is to learn from, and what to measure on; decoded into `cache`, unless they are there.

    Raises:
        ConfigError: the files are not CIFAR-10.
    """
    if not cache.is_dir():
        partial = cache.with_name(f"{cache.name}.partial")  # a run that was ended half way leaves this
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for part in PARTS:
            read = read_jpegs if source.lossy else read_batches
            read(source.path, part, tell).save(partial, part)
        partial.rename(cache)
    return load_pictures(cache, "train"), load_pictures(cache, "test")


# ---- as JPEG -------------------------------------------------------------------------------


def read_jpegs(file: Path, part: str, tell: Tell) -> Pictures:
    """The pictures of one part. One core does 10,000 a second; sharing that out costs more than it saves."""
    from PIL import Image  # late: who has the published files does not need it

    try:
        with np.load(file, allow_pickle=False) as arrays:
            data, offsets, labels = (arrays[f"{part}_{name}"] for name in ("jpeg", "off", "y"))
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(f"{file} is not what it should be: {error}") from error
    pixels = np.empty((len(labels), SIZE, SIZE, 3), dtype=np.uint8)
    for number, (start, stop) in enumerate(pairwise(offsets.tolist())):
        pixels[number] = Image.open(io.BytesIO(data[start:stop])).convert("RGB")
        if (number + 1) % TOLD == 0 or number + 1 == len(labels):
            tell(part, number + 1, len(labels))
    return Pictures(pixels=pixels, labels=labels)


# ---- as published --------------------------------------------------------------------------


def read_batches(path: Path, part: str, tell: Tell) -> Pictures:
    """The pictures of one part, from the published files."""
    pixels, labels = [], []
    for name in PARTS[part]:
        batch = unpickle(verified(read_bytes(path, name), name, path))
        planes = batch[b"data"].reshape(-1, 3, SIZE, SIZE)  # red, then green, then blue
        pixels.append(planes.transpose(0, 2, 3, 1))
        labels.append(np.array(batch[b"labels"], dtype=np.uint8))
        tell(part, sum(map(len, labels)), len(labels[0]) * len(PARTS[part]))
    return Pictures(pixels=np.concatenate(pixels), labels=np.concatenate(labels))


def read_bytes(path: Path, name: str) -> bytes:
    """One of the published files, out of the folder or the archive."""
    try:
        if path.is_dir():
            return (path / name).read_bytes()
        with tarfile.open(path) as archive:
            member = archive.extractfile(f"{BATCHES}/{name}")
            return b"" if member is None else member.read()
    except (OSError, KeyError, tarfile.TarError) as error:
        raise ConfigError(f"{path} has no {name} that can be read: {error}") from error


def verified(data: bytes, name: str, path: Path) -> bytes:
    """The bytes, if they are the published ones."""
    found = hashlib.md5(
        data, usedforsecurity=False
    ).hexdigest()  # a second file for a given sum is not feasible
    if found != PUBLISHED[name]:
        raise ConfigError(
            f"{name} in {path} is not the published one: its MD5 sum is {found}, not {PUBLISHED[name]}",
            hint=f"download {ARCHIVE} again, from https://www.cs.toronto.edu/~kriz/cifar.html",
        )
    return data


def unpickle(data: bytes) -> dict[bytes, NDArray[np.uint8]]:
    """What a published file holds."""
    found: dict[bytes, NDArray[np.uint8]] = pickle.loads(data, encoding="bytes")  # verified: see PUBLISHED
    return found


# ---- made up -------------------------------------------------------------------------------


def make_pictures(count: int, *, seed: int) -> Pictures:
    """Noise over a pattern of stripes for each class: easy to learn, and there without a download."""
    source = np.random.default_rng(seed)
    labels = source.integers(10, size=count).astype(np.uint8)
    down, across = np.mgrid[:SIZE, :SIZE]
    angles = labels * (np.pi / 10)  # of the stripes
    waves = down * np.cos(angles)[:, None, None] + across * np.sin(angles)[:, None, None]
    stripes = 128 + 60 * np.sin(waves * 0.8)[..., None]
    pixels = np.clip(stripes + source.normal(0, 30, (count, SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
    return Pictures(pixels=pixels, labels=labels)
