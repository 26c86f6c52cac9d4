# SPDX-License-Identifier: Apache-2.0
"""The rows of the benchmark: what each is, how often it is run on whom, and what flprov has to reach.

`phases.py` measures them, `table.py` and `plots.py` show them. `--rows 'round/*/2'` takes some.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

SYSTEMS = ("flprov", "flare", "flower")
PEERS = ("flare", "flower")
MB = 1_000_000
SIZES = {"empty": 0, "1MB": MB, "10MB": 10 * MB, "100MB": 100 * MB, "1GB": 1000 * MB}
_WORDS = {
    "empty": "without work",
    "1MB": "of 1 MB",
    "10MB": "of 10 MB",
    "100MB": "of 100 MB",
    "1GB": "of 1 GB",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing that is measured, the same way on every system."""

    key: str
    name: str
    definition: str
    unit: str = "s"  # s | MB
    target: float | None = None  # what flprov's median may be at most


@dataclass(frozen=True, kw_only=True)
class RoundRow:
    """A row for which a job is run, and which of its rounds says a number."""

    size: str  # a key of SIZES
    sites: int
    rounds: Mapping[str, int]  # by system; each but the last gives a number
    target: float | None = None
    of_tls: float | None = None  # how many times what raw TLS needs for its bytes it may take
    eager: bool = False
    watch: bool = False  # memory too
    left_out: Mapping[str, str] = field(default_factory=dict)  # by system: why

    @property
    def key(self) -> str:
        """`round/100MB/2`."""
        return f"round/{self.size}/{self.sites}" + ("/short-polls" if self.eager else "")


LIKE_EMPTY = "with 2 and 8 sites such a round took them as long as one without work; to spare time"


def _rounds(flprov: int, flare: int, flower: int) -> dict[str, int]:
    return {"flprov": flprov, "flare": flare, "flower": flower}


# In the order in which they are run.
ROUNDS = (
    RoundRow(size="empty", sites=2, rounds=_rounds(600, 4, 3), target=0.005),
    RoundRow(
        size="empty", sites=2, rounds=_rounds(50, 8, 0), eager=True, left_out={"flower": "no such settings"}
    ),
    RoundRow(size="1MB", sites=2, rounds=_rounds(20, 3, 3)),
    RoundRow(size="10MB", sites=2, rounds=_rounds(10, 3, 3)),
    RoundRow(size="100MB", sites=2, rounds=_rounds(26, 3, 3), target=0.8, of_tls=2.3, watch=True),
    RoundRow(size="1GB", sites=2, rounds=_rounds(12, 2, 2), target=9.0, watch=True),
    RoundRow(size="empty", sites=8, rounds=_rounds(60, 3, 3)),
    RoundRow(size="1MB", sites=8, rounds=_rounds(15, 3, 3)),
    RoundRow(size="100MB", sites=8, rounds=_rounds(4, 3, 2), watch=True),
    RoundRow(size="empty", sites=32, rounds=_rounds(20, 2, 2)),
    RoundRow(size="1MB", sites=32, rounds=_rounds(8, 0, 0), left_out=dict.fromkeys(PEERS, LIKE_EMPTY)),
    RoundRow(size="100MB", sites=32, rounds=_rounds(3, 2, 2), watch=True),
)
PROVISIONED = (2, 100, 1000)
NETWORKS = (2, 8, 32)

# The roles of processes.py whose memory has a row, and the limit of RssAnon in MB; a job's process at a site
# has the trainer's own arrays besides: the model that it returns.
MEMORY = {"server": 250.0, "server, job": 250.0, "site": 250.0, "site, job": 250.0}


@dataclass(frozen=True, kw_only=True)
class SimulationRow:
    """A row for which virtual sites are run: ten rounds, or fewer where they are slow."""

    key: str
    sites: int
    size: int
    rounds: Mapping[str, int]  # by system; 0: not run


SIMULATED = 10  # rounds that a row stands for
SIMULATIONS = (
    SimulationRow(key="simulate/8x10", sites=8, size=0, rounds=_rounds(10, 10, 10)),
    SimulationRow(key="simulate/1000x10", sites=1000, size=MB, rounds=_rounds(10, 0, 2)),
)


def _commands() -> Iterator[Row]:
    yield Row(key="help", name="`--help`", definition="Wall time of the command.", target=0.2)
    for sites in PROVISIONED:
        yield Row(
            key=f"provision/{sites}",
            name=f"provision {sites:,} sites",
            definition="Wall time of the command in a new folder.",
            target=3.0 if sites == 1000 else None,
        )
    for sites in NETWORKS:
        yield Row(
            key=f"start/{sites}",
            name=f"start a server and {sites} sites",
            definition="From nothing, identities too where the system has them, until server and all sites "
            "are ready.",
            target=1.5 if sites == 2 else None,
        )
    yield Row(
        key="status", name="status", definition="Wall time of the command that shows all sites.", target=0.25
    )
    for trainer, what in (("numpy", "numpy"), ("torch", "a trainer that imports torch")):
        yield Row(
            key=f"first/{trainer}",
            name=f"submit until the first task, {what}",
            definition="From the start of the submit command until the train function begins at the first "
            "site; on a network that has run a job before.",
            target=0.5,
        )


def _of_rounds() -> Iterator[Row]:
    for row in ROUNDS:
        yield Row(
            key=row.key,
            name=f"a round {_WORDS[row.size]}, {row.sites} sites" + (", short polls" if row.eager else ""),
            definition="From the start of the train function at the first site until the same in the next "
            "round: compute, send, check, average, keep, send out again.",
            target=row.target,
        )
    yield Row(
        key="round/p99",
        name="the 99th percentile of rounds without work, 2 sites",
        definition="Of all rounds of `round/empty/2`; for systems with a hundred of them.",
        target=0.015,
    )


def _of_memory() -> Iterator[Row]:
    for row in (row for row in ROUNDS if row.watch):
        for role, limit in MEMORY.items():
            own = SIZES[row.size] / MB if role == "site, job" else 0.0
            yield Row(
                key=f"memory/{row.size}/{row.sites}/{role.replace(', ', '-')}",
                name=f"memory of the {role}, {row.size}, {row.sites} sites",
                definition="The most RssAnon of any process of this role during the job"
                + (", the trainer's own arrays with it." if own else "."),
                unit="MB",
                target=limit + own if row.size in ("100MB", "1GB") else None,
            )


def _of_the_rest() -> Iterator[Row]:
    yield Row(
        key="abort",
        name="abort until the last process is gone",
        definition="From the start of the command until the last process of the job has ended; its trainer "
        "ignores SIGTERM.",
        target=1.2,
    )
    yield Row(
        key="simulate/8x10",
        name="simulate 8 sites x 10 rounds",
        definition="Wall time of the command; the model has ten numbers.",
        target=1.0,
    )
    yield Row(
        key="simulate/1000x10",
        name="simulate 1,000 sites x 10 rounds of 1 MB",
        definition="Wall time of the command; where fewer rounds were run, the first one's time is added "
        "for each that is missing.",
        target=15.0,
    )


ROWS = {row.key: row for row in (*_commands(), *_of_rounds(), *_of_the_rest(), *_of_memory())}
