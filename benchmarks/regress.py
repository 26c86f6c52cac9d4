#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whether the data plane has become slower or larger: ratios within one run, so that any machine can judge.

    python benchmarks/regress.py

Part of `make test`. Each time is divided by a probe of the same kind, made in the same seconds on the same
machine: raw TLS with as many bytes, commits and messages, the start of an interpreter. Memory is divided by
the model. The limits are generous: two to four times what a quiet machine shows. Whoever makes something
faster lowers its limit.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import probe as probes
from rows import MB
from systems.ours import Ours
from systems.processes import SERVER, SERVER_JOB, SITE, SITE_JOB
from systems.system import Job

MODEL = 100 * MB
SITES = 2
EMPTY = 40  # rounds without work
LARGE = 4  # rounds of 100 MB


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A ratio that is watched."""

    name: str
    most: float
    says: str  # what is divided by what


LIMITS = (
    Limit(name="round/100MB", most=10.0, says="a round of 100 MB / raw TLS with its bytes"),
    Limit(
        name="round/empty", most=30.0, says="a round without work / two commits and four messages over TLS"
    ),
    Limit(name="status", most=9.0, says="`flprov status` / `python -c 'import grpc, flprov.wire'`"),
    Limit(
        name="first", most=9.0, says="submit until the first task / `python -c 'import grpc, flprov.wire'`"
    ),
    Limit(name="simulate", most=28.0, says="8 sites x 10 rounds simulated / the same import"),
    Limit(name=f"memory/{SERVER}", most=1.6, says="RssAnon of the server / the model"),
    Limit(name=f"memory/{SERVER_JOB}", most=2.5, says="RssAnon of the workflow worker / the model"),
    Limit(name=f"memory/{SITE}", most=2.0, says="RssAnon of an agent / the model"),
    Limit(
        name=f"memory/{SITE_JOB}",
        most=3.5,
        says="RssAnon of a job worker, with the trainer's arrays / the model",
    ),
)


def main() -> int:
    """Measure, print every ratio; 1 when one is over its limit."""
    with tempfile.TemporaryDirectory(prefix="flprov-regress-", ignore_cleanup_errors=True) as name:
        found = ratios(measure(Path(name)))
    for limit in LIMITS:
        print(f"{limit.name:20} {found[limit.name]:6.2f} (limit {limit.most:g})  {limit.says}")
    problems = judge(found)
    print("\n".join(problems))
    return int(bool(problems))


def judge(found: Mapping[str, float]) -> list[str]:
    """What is over its limit, in words; a ratio that is missing is an error of ours."""
    return [
        f"{limit.name}: {found[limit.name]:.2f} is more than {limit.most:g} ({limit.says})"
        for limit in LIMITS
        if found[limit.name] > limit.most
    ]


def ratios(numbers: Mapping[str, float]) -> dict[str, float]:
    """Of the numbers that `measure` gives, in seconds and MB."""
    little = 2 * numbers["commit"] + 4 * numbers["trip"]
    found = {
        "round/100MB": numbers["round/100MB"] / numbers["tls"],
        "round/empty": numbers["round/empty"] / little,
        "status": numbers["status"] / numbers["import"],
        "first": numbers["first"] / numbers["import"],
        "simulate": numbers["simulate"] / numbers["import"],
    }
    memory = {key: value / (MODEL / MB) for key, value in numbers.items() if key.startswith("memory/")}
    return found | memory


def measure(folder: Path) -> dict[str, float]:
    """One network of two sites, and the probes before and after what they are divided into.

    What is short is taken at its fastest: other work on the machine can only add to it.
    """
    ours = Ours()
    network = ours.up(folder / "network", SITES)
    try:
        network.run(Job(rounds=1))
        imports = [_import()]
        status = [_timed(network.status) for _ in range(3)]
        first = [network.run(Job(rounds=1)).first_task for _ in range(2)]
        imports += [_import(), _import()]
        small = [probes.commit(folder), probes.tls_trip()]
        empty = network.run(Job(rounds=EMPTY)).rounds
        small += [probes.commit(folder), probes.tls_trip()]
        tls = [probes.tls_round(MODEL, SITES)]
        large = network.run(Job(rounds=LARGE, size=MODEL), watch=True)
        tls.append(probes.tls_round(MODEL, SITES))
    finally:
        network.down()
    simulated = [_timed(lambda to=to: ours.simulate(folder / to, sites=8, rounds=10, size=0)) for to in "ab"]
    return {
        "round/100MB": statistics.median(large.rounds),
        "round/empty": statistics.median(empty),
        "status": min(status),
        "first": min(first),
        "simulate": min(simulated),
        "import": min(*imports, _import()),
        "tls": statistics.mean(tls),
        "commit": statistics.mean(small[::2]),
        "trip": statistics.mean(small[1::2]),
        **{f"memory/{role}": large.peaks[role].anon for role in (SERVER, SERVER_JOB, SITE, SITE_JOB)},
    }


def _import() -> float:
    return _timed(lambda: subprocess.run([sys.executable, "-c", "import grpc, flprov.wire"], check=True))


def _timed(once: Callable[[], object]) -> float:
    began = time.monotonic()
    once()
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
