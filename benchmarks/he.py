# SPDX-License-Identifier: Apache-2.0
"""What homomorphic encryption costs: seconds, bytes, memory and error, for a model of ten million numbers.

    python benchmarks/he.py [--parameters 10000000] [--sites 8]

Each step runs in a process of its own, as it does in a job: a site encrypts, the workflow verifies and
adds, a site decrypts. Memory is the peak of RssAnon less what the process had before the step.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from report import machine

from flprov import __version__
from flprov.messages import Site, Task, Update, UpdateKind
from flprov.sdk import Gathering, Sites, weighted_mean
from flprov.sdk.he.averaging import EncryptedMean
from flprov.sdk.he.ciphertexts import decrypt_tensors, read_ciphertexts
from flprov.sdk.he.ckks import DEGREE, FLOOD_BITS, LIMIT, MODULUS_BITS, SCALE, Cipher
from flprov.sdk.he.envelope import EncryptedEnvelope
from flprov.sdk.he.keys import SiteKeys
from flprov.wire import read_tensors, write_tensors

RESULTS = Path(__file__).parent / "results"
_EVERY = 0.01  # seconds between two looks at the memory
Numbers = dict[str, float]


def make_models(folder: Path, parameters: int, sites: int) -> None:
    """One model of `parameters` float32 in three tensors for each site, with weights of 0.05."""
    shapes = [parameters // 2, parameters // 3, parameters - parameters // 2 - parameters // 3]
    for number in range(sites):
        source = np.random.default_rng(number)
        model = {
            f"layer{index}": source.normal(0.0, 0.05, size).astype(np.float32)
            for index, size in enumerate(shapes)
        }
        write_tensors(folder / f"clear-{number}", model)


def encrypt(folder: Path, number: int, sites: int) -> Numbers:
    """What the last filter of a site does, and the file that leaves its worker."""
    site = Site(name="a", job_id="j", folder=folder)
    SiteKeys(site).make()
    params = read_tensors(folder / f"clear-{number}")
    scalars = {"he.unit": 1024.0 * sites, "he.limit": LIMIT / sites}
    task = Task(name="train", params={}, round=0, rounds=1, job_id="j", scalars=scalars)
    update = Update(params=params, samples=1000 + number)
    with Watch() as watch:
        closed = EncryptedEnvelope().close(update, task, site)
        size = write_tensors(folder / f"update-{number}", closed.params)
    return watch.numbers | {"bytes": float(size)}


def add(folder: Path, sites: int) -> Numbers:
    """What the workflow does with the updates of a round."""
    updates = [
        Update(
            params=read_tensors(folder / f"update-{number}"),
            kind=UpdateKind.OPAQUE,
            samples=1000 + number,
            site=f"site-{number}",
        )
        for number in range(sites)
    ]
    names = [update.site for update in updates]
    mean = EncryptedMean(Sites(_Arrived(), names=names, tasks=["train"], total=1))
    with Watch() as watch:
        for update in updates:
            mean.verify(update, None, unit=1024.0 * sites)
        total = mean.add(updates)
        size = write_tensors(folder / "sum", total)
    return watch.numbers | {"bytes": float(size)}


def decrypt(folder: Path, sites: int) -> Numbers:
    """What a site does with the new model before its trainer sees it; and how far it is from the truth."""
    site = Site(name="a", job_id="j", folder=folder)
    cipher = Cipher(SiteKeys(site).require().secret)
    with Watch() as watch:
        found = decrypt_tensors(read_ciphertexts(read_tensors(folder / "sum")), cipher)
    clear = [
        Update(params=read_tensors(folder / f"clear-{n}"), samples=1000 + n, site=f"site-{n}")
        for n in range(sites)
    ]
    truth = weighted_mean(clear)
    error = max(float(np.abs(found[name] - truth[name]).max()) for name in truth)
    return watch.numbers | {"error": error}


class Watch:
    """Seconds and the peak of the memory that no file backs, of this process."""

    def __init__(self) -> None:
        self.numbers: Numbers = {}
        self._over = threading.Event()
        self._peak = 0

    def __enter__(self) -> Watch:
        self._before = anonymous_memory()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self._began
        self._over.set()
        self._thread.join()
        self.numbers = {"seconds": seconds, "memory": float(max(0, self._peak - self._before))}

    def _look(self) -> None:
        while not self._over.wait(_EVERY):
            self._peak = max(self._peak, anonymous_memory())


def anonymous_memory() -> int:
    """RssAnon of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("the kernel does not say RssAnon")


class _Arrived:
    """A port to nobody: the updates are there already."""

    def ask(self, *_: object) -> Gathering:
        raise NotImplementedError


def run_apart(step: Callable[..., Numbers], *args: object) -> Numbers:
    """`step` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(step, args)


def measure(parameters: int, sites: int) -> dict[str, Numbers]:
    """All steps, one after the other."""
    with tempfile.TemporaryDirectory(prefix="flprov-he-") as name:
        folder = Path(name)
        os.environ["TMPDIR"] = name  # as in a worker, where it is the job's folder
        make_models(folder, parameters, sites)
        first, *_ = [run_apart(encrypt, folder, number, sites) for number in range(sites)]
        return {
            "encrypt": first,
            "add": run_apart(add, folder, sites),
            "decrypt": run_apart(decrypt, folder, sites),
        }


def write(steps: Mapping[str, Numbers], *, parameters: int, sites: int, folder: Path, load: float) -> Path:
    """The result files; the path of the one to read."""
    made = datetime.now(UTC).isoformat(timespec="seconds")
    document = {
        "machine": machine(), "load": load, "version": __version__, "made": made,
        "parameters": parameters, "sites": sites, "steps": steps,
        "degree": DEGREE, "modulus_bits": MODULUS_BITS, "scale_bits": math.log2(SCALE), "limit": LIMIT,
        "flood_bits": FLOOD_BITS,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "he.json").write_text(json.dumps(document, indent=1) + "\n")
    names = {
        "encrypt": "a site encrypts its update",
        "add": f"the workflow verifies and adds {sites} updates",
        "decrypt": "a site decrypts the sum",
    }
    rows = [
        f"| {names[step]} | {found['seconds']:.2f} s | {found['memory'] / 2**20:.0f} MiB"
        f" | {found.get('bytes', 0) / 2**20:.0f} MiB | {found.get('bytes', 0) / parameters:.2f} |"
        for step, found in steps.items()
    ]
    lines = [
        f"# Homomorphic encryption: {parameters:,} parameters, {sites} sites",
        "",
        f"{machine()}; load average before the start {load:.2f}; flprov {__version__}; {made}.",
        "",
        f"CKKS: degree {DEGREE}, one prime of {MODULUS_BITS} bits (SEAL's table allows 109 for 128 bits of"
        f" security), scale 2^{math.log2(SCALE):.0f}, numbers up to {LIMIT:.0f} in a sum.",
        "",
        f"Largest error of the mean of {sites} models with weights of 0.05: {steps['decrypt']['error']:.1e}.",
        "",
        "Made by `python benchmarks/he.py`.",
        "",
        "| step | time | memory, RssAnon | file | bytes a number |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"In clear the same model is {4 * parameters / 2**20:.0f} MiB each way. The memory of the last"
        " step is the model itself.",
    ]
    path = folder / "he.md"
    path.write_text("\n".join(lines) + "\n")
    return path


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    steps = measure(given.parameters, given.sites)
    print(
        write(
            steps, parameters=given.parameters, sites=given.sites, folder=given.output, load=load
        ).read_text()
    )


if __name__ == "__main__":
    main()
