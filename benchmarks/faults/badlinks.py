# SPDX-License-Identifier: Apache-2.0
"""Bad links and floods: each run ends completed, degraded or failed by the rule that stands here."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.apps import FLOODS, LARGE, SMALL, write_steps
from faults.cases import Settings, summary, try_case
from faults.history import Expectation, History
from faults.rig import ROOT, Rig

sys.path.insert(0, str(ROOT / "tests" / "links"))

from netns import BadLinks, Way, missing

SITE = "site-2"
SITES = ("site-1", "site-2", "site-3")
CONNECTIONS = 1_000
_LONG = 45.0  # seconds of a partition that outlasts detection and absence

__all__ = ["bad_links", "missing", "play", "run"]


@contextmanager
def bad_links() -> Iterator[BadLinks]:
    """Namespaces for a server and three sites."""
    with BadLinks(list(SITES)) as links:
        yield links


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fault, the job that runs meanwhile, and the rule by which that ends."""

    name: str
    rule: str
    harm: Callable[[Rig, ExitStack], None]  # returns when the fault is over
    states: tuple[str, ...] = ("completed",)
    sites: str = "absence: 60s"
    rounds: int = 12
    seconds: float = 0.5
    size: int = SMALL
    first: str = ""
    quick: bool = True  # part of a small campaign


def _cut(seconds: float, way: Way = Way.BOTH) -> Callable[[Rig, ExitStack], None]:
    def harm(rig: Rig, held: ExitStack) -> None:
        rig.links.cut(SITE, way)
        rig.note("cut", SITE, way.value)
        held.callback(_heal, rig)
        time.sleep(seconds)

    return harm


def _heal(rig: Rig) -> None:
    rig.links.heal(SITE)
    rig.links.fast(SITE)
    rig.note("heal", SITE)


def _shaken(
    seconds: float, begin: Callable[[Rig, ExitStack], Any], what: str
) -> Callable[[Rig, ExitStack], None]:
    def harm(rig: Rig, held: ExitStack) -> None:
        rig.note("shake", SITE, what)
        held.callback(_heal, rig)
        begin(rig, held)
        time.sleep(seconds)

    return harm


def _stall(seconds: float) -> Callable[[Rig, ExitStack], None]:
    def harm(rig: Rig, held: ExitStack) -> None:
        relay = rig.links.relay(SITE)  # was put there before the site came
        relay.stall()
        rig.note("cut", SITE, "the proxy stalls")
        held.callback(rig.note, "heal", SITE)
        held.callback(relay.go)
        time.sleep(seconds)

    return harm


def _silent(rig: Rig, held: ExitStack) -> None:
    """Half of them say nothing at all, the others stop in the middle of a TLS handshake."""
    address = (rig.links.server, rig.network.port)
    hello = bytes.fromhex("1603010200010001fc0303") + bytes(100)  # the beginning of a ClientHello
    for number in range(CONNECTIONS):
        connection = held.enter_context(socket.create_connection(address, timeout=10))
        if number % 2:
            connection.sendall(hello)
    time.sleep(5)


def _nothing(_rig: Rig, _held: ExitStack) -> None:
    """The fault is the job itself."""


_WITHOUT = "goes on without it: degraded, it is named; it comes back at a round boundary"
_WAITS = "all sites are needed and it is back within `absence`: completed"
_MIN = "min: 2, absence: 3s"

CASES = (
    Case(name="partition for 8 s", rule=_WAITS, harm=_cut(8)),
    Case(name="only the way to the site is cut, for 8 s", rule=_WAITS, harm=_cut(8, Way.TO_SITE)),
    Case(name="only the way to the server is cut, for 8 s", rule=_WAITS, harm=_cut(8, Way.TO_SERVER)),
    Case(
        name=f"partition for {_LONG:g} s, two of three suffice",
        rule=_WITHOUT,
        harm=_cut(_LONG),
        states=("degraded",),
        sites=_MIN,
        seconds=1.0,
        quick=False,
    ),
    Case(
        name=f"only the way to the site is cut, for {_LONG:g} s, two of three suffice",
        rule=_WITHOUT,
        harm=_cut(_LONG, Way.TO_SITE),
        states=("degraded",),
        sites=_MIN,
        seconds=1.0,
        quick=False,
    ),
    Case(
        name=f"only the way to the server is cut, for {_LONG:g} s, two of three suffice",
        rule=_WITHOUT,
        harm=_cut(_LONG, Way.TO_SERVER),
        states=("degraded",),
        sites=_MIN,
        seconds=1.0,
        quick=False,
    ),
    Case(
        name=f"partition for {_LONG:g} s of a site that is required",
        rule="what is required is waited for, however long: completed",
        harm=_cut(_LONG),
        sites=f"{_MIN}, required: [{SITE}]",
        quick=False,
    ),
    Case(
        name="5 % of all packets lost",
        rule=_WAITS,
        harm=_shaken(8, lambda rig, _: rig.links.lose(SITE, 5), "loses 5 %"),
        size=LARGE // 4,
    ),
    Case(
        name="64 kbit/s",
        rule="slow is not absent: completed",
        harm=_shaken(15, lambda rig, _: rig.links.slow(SITE, kbit=64), "64 kbit/s"),
        size=8_000,
    ),
    Case(
        name="64 kbit/s, and models of 240 KB",
        rule="slow is not absent: completed",
        harm=_shaken(100, lambda rig, _: rig.links.slow(SITE, kbit=64), "64 kbit/s"),
        size=60_000,
        rounds=3,
        quick=False,
    ),
    Case(
        name="up for 2 s, down for 2 s, for 20 s",
        rule=_WAITS,
        harm=_shaken(
            20, lambda rig, held: held.enter_context(rig.links.flapping(SITE, up=2.0, down=2.0)), "flapping"
        ),
        seconds=1.0,
        quick=False,
    ),
    Case(
        name="connections reset every second, for 12 s",
        rule=_WAITS,
        harm=_shaken(
            12, lambda rig, held: held.enter_context(rig.links.reset_storm(SITE, every=1.0)), "reset"
        ),
    ),
    Case(name="a proxy that stalls for 10 s", rule=_WAITS, harm=_stall(10)),
    Case(
        name=f"a proxy that stalls for {_LONG:g} s, two of three suffice",
        rule=_WITHOUT,
        harm=_stall(_LONG),
        states=("degraded",),
        sites=_MIN,
        seconds=1.0,
        quick=False,
    ),
    Case(
        name=f"{CONNECTIONS:,} connections that say nothing or half a handshake",
        rule="nobody notices: completed",
        harm=_silent,
    ),
    Case(
        name="a worker that floods its log",
        rule="the log is capped: completed",
        harm=_nothing,
        first=FLOODS["log lines"],
        rounds=4,
    ),
    Case(
        name="a worker that floods with updates",
        rule="more answers than were asked for end its process; all sites are needed: failed, it is named",
        harm=_nothing,
        states=("failed",),
        first=FLOODS["updates"],
        rounds=4,
    ),
    Case(
        name="a worker that floods with progress",
        rule="what is too much is dropped: completed",
        harm=_nothing,
        first=FLOODS["progress"],
        rounds=4,
    ),
)


def run(settings: Settings) -> dict[str, Any]:
    """Play the cases; the part's line in the report."""
    lacking = missing()
    if lacking:
        return summary([], part="badlinks", name="bad links", target="-", measured=lacking, met=False)
    chosen = [
        (number, case)
        for number, case in enumerate(CASES)
        if settings.case in (None, number) and (case.quick or not settings.small)
    ][: settings.count]
    verdicts = [
        try_case(
            settings,
            "badlinks",
            number,
            f"{case.name}. Rule: {case.rule}",
            lambda place, case=case: play(place, case),
        )
        for number, case in chosen
    ]
    green = sum(verdict.green for verdict in verdicts)
    samples = sum(verdict.details.get("samples", 0) for verdict in verdicts)
    return summary(
        verdicts,
        part="badlinks",
        name=f"{len(verdicts)} runs over bad links, with silent connections and with floods",
        target="each ends by its stated rule, and no status line is false meanwhile",
        measured=f"{green} of {len(verdicts)} did; {samples:,} status answers checked",
        met=True,
        rules={verdict.case: verdict.details for verdict in verdicts},
    )


def play(folder: Path, case: Case) -> tuple[History, list[str], dict[str, Any]]:
    """One job, and the fault from its second round on."""
    with bad_links() as links, ExitStack() as held:
        if "proxy" in case.name:
            links.relay(SITE)
        rig = held.enter_context(Rig(folder, case.name, links=links))
        app = write_steps(
            folder / "steps",
            size=case.size,
            rounds=case.rounds,
            seconds=case.seconds,
            sites=case.sites,
            first=case.first,
        )
        job = rig.submit(app, "once")
        quorum = 2 if "min: 2" in case.sites else 3
        rig.expect(
            job,
            Expectation(
                states=case.states,
                rounds=case.rounds if "failed" not in case.states else None,
                contributors=SITES,
                quorum=quorum,
            ),
        )
        rig.insist(lambda admin: next(j for j in admin.watch(job) if j.rounds_done >= 1 or j.finished_at))
        with ExitStack() as harmed:
            case.harm(rig, harmed)
        state = rig.wait(job)
        if state in ("completed", "degraded"):
            rig.take_result(job)
        rig.look_until_clean()
        broken = _named(rig, job, case)
        history = rig.history()
        return history, broken, {"state": state, "samples": len(history.samples)}


def _named(rig: Rig, job: str, case: Case) -> list[str]:
    """What went wrong is told with the site's name."""
    if case.states == ("completed",):
        return []
    why = rig.insist(lambda admin: admin.why(job))
    said = " ".join([why.answer, *(f"{cause.party} {cause.message}" for cause in why.causes)])
    return [] if SITE in said else [f"why-silent: {SITE} is not named in {said!r}"]
