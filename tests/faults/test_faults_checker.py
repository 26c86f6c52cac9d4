# SPDX-License-Identifier: Apache-2.0
"""The checker finds nothing in a good history, and every violation that is planted into it, by name."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from faults.checker import RULES, check
from faults.history import (
    Acknowledged,
    Action,
    Books,
    History,
    JobClaim,
    Sample,
    Seen,
    read_history,
    write_history,
)

Plant = Callable[[History], History]
PLANTS: dict[str, list[Plant]] = {}


def plants(name: str) -> Callable[[Plant], Plant]:
    """What the rule of this name must find."""

    def keep(plant: Plant) -> Plant:
        PLANTS.setdefault(name, []).append(plant)
        return plant

    return keep


# ---- changing a history --------------------------------------------------------------------------


def job_of(history: History, token: str) -> str:
    return next(ack.object for ack in history.acknowledged if ack.what == "submit" and ack.token == token)


def with_record(history: History, kind: str, key: str, value: Any, site: str = "") -> History:
    """The history with a record that says something else; `value` None: without it."""
    books = history.sites[site] if site else history.server
    records: dict[str, dict[str, Any]] = copy.deepcopy(dict(books.records))  # type: ignore[arg-type]
    if value is None:
        del records[kind][key]
    else:
        records.setdefault(kind, {})[key] = value
    changed = Books(rows=books.rows, records=records)
    if site:
        return replace(history, sites={**history.sites, site: changed})
    return replace(history, server=changed)


def with_rows(history: History, rows: list[Any], site: str = "") -> History:
    """The history with these rows, numbered and chained afresh."""
    books = history.sites[site] if site else history.server
    fresh, previous = [], "0" * 64
    for index, row in enumerate(rows, 1):
        digest = f"{index:064x}"
        fresh.append(replace(row, index=index, previous=previous, digest=digest, whole=True))
        previous = digest
    changed = Books(rows=tuple(fresh), records=books.records)
    if site:
        return replace(history, sites={**history.sites, site: changed})
    return replace(history, server=changed)


def doubled(history: History, what: str, job: str, site: str = "") -> History:
    """The history with one row of this kind twice."""
    rows = list((history.sites[site] if site else history.server).rows)
    place = next(n for n, row in enumerate(rows) if row.what == what and row.object.startswith(job))
    return with_rows(history, [*rows[: place + 1], rows[place], *rows[place + 1 :]], site)


def without(history: History, what: str, about: str, site: str = "") -> History:
    """The history without the rows of this kind about something."""
    rows = (history.sites[site] if site else history.server).rows
    kept = [row for row in rows if not (row.what == what and _plain(row.object) == about)]
    assert len(kept) < len(rows)
    return with_rows(history, kept, site)


def _plain(about: str) -> str:
    """What a row is about, without what a task's id says of its content."""
    return re.sub(r"~[0-9a-f]+", "", about)


def claimed(history: History, job: str, after: float, **claim: Any) -> History:
    """The history with one more sample at its end, of this job."""
    last = max(sample.answered for sample in history.samples) + after
    sites = claim.pop("shown", {})
    processes = claim.pop("processes", ())
    sample = Sample(
        asked=last,
        answered=last,
        sites=sites,
        jobs={job: JobClaim(**claim)} if claim else {},
        processes=processes,
    )
    return replace(history, samples=(*history.samples, sample))


def a_process(history: History, job: str, party: str = "site-2") -> Seen:
    return Seen(pid=4711, started=1, party=party, job=job, kind="worker")


# ---- what is planted -----------------------------------------------------------------------------


@plants("submission-lost")
def _(history: History) -> History:
    return with_record(history, "job", job_of(history, "calm"), None)


@plants("token-lost")
def _(history: History) -> History:
    key = next(key for key in history.server.records["token"] if key.endswith("|calm"))
    return with_record(history, "token", key, None)


@plants("job-doubled")
def _(history: History) -> History:
    twin = dict(history.server.records["job"][job_of(history, "calm")])
    return with_record(history, "job", "1twin", twin)


@plants("job-doubled")
def _(history: History) -> History:
    other = Acknowledged(at=0, what="submit", object=job_of(history, "hit"), token="calm")
    return replace(history, acknowledged=(*history.acknowledged, other))


@plants("job-doubled")
def _(history: History) -> History:
    return doubled(history, "job.submit", job_of(history, "calm"))


@plants("abort-lost")
def _(history: History) -> History:
    ack = Acknowledged(at=0, what="abort", object=job_of(history, "calm"))
    return replace(history, acknowledged=(*history.acknowledged, ack))


@plants("mark-lost")
def _(history: History) -> History:
    ack = Acknowledged(at=0, what="lock", object="site-1")
    return replace(history, acknowledged=(*history.acknowledged, ack))


@plants("mark-lost")
def _(history: History) -> History:
    ack = Acknowledged(at=0, what="enable", object="site-1")
    marked = with_record(history, "enrolment", "site-1", {"name": "site-1", "drained": {"by": "ada"}})
    return replace(marked, acknowledged=(*history.acknowledged, ack))


@plants("app-lost")
def _(history: History) -> History:
    ack = Acknowledged(at=0, what="upload", object="f" * 64)
    return replace(history, acknowledged=(*history.acknowledged, ack))


@plants("update-lost")
def _(history: History) -> History:
    job = job_of(history, "hit")
    record = copy.deepcopy(dict(history.server.records["round"][f"{job}/000001"]))
    record["contributors"] = [line for line in record["contributors"] if line["site"] != "site-2"]
    return with_record(history, "round", f"{job}/000001", record)


@plants("update-doubled")
def _(history: History) -> History:
    return doubled(history, "update.accept", job_of(history, "hit"))


@plants("contribution-doubled")
def _(history: History) -> History:
    job = job_of(history, "hit")
    record = copy.deepcopy(dict(history.server.records["round"][f"{job}/000001"]))
    record["contributors"].append(record["contributors"][0])
    return with_record(history, "round", f"{job}/000001", record)


@plants("contribution-invented")
def _(history: History) -> History:
    return without(history, "update.accept", f"{job_of(history, 'hit')}/1/train/0/site-2")


@plants("answer-doubled")
def _(history: History) -> History:
    return doubled(history, "task.answer", job_of(history, "calm"), "site-3")


@plants("answer-lost")
def _(history: History) -> History:
    return without(history, "task.answer", f"{job_of(history, 'calm')}/2/train/0", "site-3")


@plants("round-lost")
def _(history: History) -> History:
    return with_record(history, "round", f"{job_of(history, 'hit')}/000002", None)


@plants("round-lost")
def _(history: History) -> History:
    return without(history, "round.close", f"{job_of(history, 'hit')}/000003")


@plants("round-lost")
def _(history: History) -> History:
    return claimed(history, job_of(history, "gone"), 0.1, state="aborted", rounds=400)


@plants("round-doubled")
def _(history: History) -> History:
    return doubled(history, "round.close", job_of(history, "calm"))


@plants("result-lost")
def _(history: History) -> History:
    return replace(history, models={job_of(history, "calm"): history.models[job_of(history, "calm")]})


@plants("result-changed")
def _(history: History) -> History:
    ack = Acknowledged(at=0, what="result", object=job_of(history, "hit"), data="0" * 64)
    return replace(history, acknowledged=(*history.acknowledged, ack))


@plants("step-forbidden")
def _(history: History) -> History:
    return without(history, "job.finish", job_of(history, "calm"))


@plants("state-unlogged")
def _(history: History) -> History:
    return without(history, "job.end", job_of(history, "gone"))


@plants("restarted-after-end")
def _(history: History) -> History:
    rows = list(history.server.rows)
    job = job_of(history, "calm")
    ready = next(row for row in rows if row.what == "job.ready" and row.object.startswith(job))
    return with_rows(history, [*rows, ready])


@plants("claim-taken-back")
def _(history: History) -> History:
    calm = job_of(history, "calm")
    ended = claimed(history, calm, 0.1, state="completed", rounds=4)
    return claimed(ended, calm, 0.1, state="running", rounds=4)


@plants("wrong-end")
def _(history: History) -> History:
    job = job_of(history, "hit")
    return with_record(history, "job", job, {**history.server.records["job"][job], "state": "failed"})


@plants("rounds-missing")
def _(history: History) -> History:
    job = job_of(history, "hit")
    wanted = replace(history.expected[job], rounds=5)
    return replace(history, expected={**history.expected, job: wanted})


@plants("model-differs")
def _(history: History) -> History:
    return replace(history, models={**history.models, job_of(history, "hit"): "0" * 64})


@plants("below-quorum")
def _(history: History) -> History:
    job = job_of(history, "hit")
    record = copy.deepcopy(dict(history.server.records["round"][f"{job}/000001"]))
    record["contributors"] = record["contributors"][:2]
    return with_record(history, "round", f"{job}/000001", record)


@plants("site-unnamed")
def _(history: History) -> History:
    job = job_of(history, "hit")
    wanted = replace(history.expected[job], contributors=("site-1", "site-4"))
    return replace(history, expected={**history.expected, job: wanted})


@plants("degraded-hidden")
def _(history: History) -> History:
    job = job_of(history, "hit")
    record = dict(history.server.records["round"][f"{job}/000001"])
    return with_record(
        history, "round", f"{job}/000001", {**record, "absent": [{"site": "site-9", "reason": "x"}]}
    )


@plants("degraded-unexplained")
def _(history: History) -> History:
    job = job_of(history, "hit")
    wanted = replace(history.expected[job], states=("degraded",))
    changed = with_record(history, "job", job, {**history.server.records["job"][job], "state": "degraded"})
    return replace(changed, expected={**history.expected, job: wanted})


@plants("chain-broken")
def _(history: History) -> History:
    rows = list(history.server.rows)
    rows[7] = replace(rows[7], whole=False)
    return replace(history, server=Books(rows=tuple(rows), records=history.server.records))


@plants("chain-broken")
def _(history: History) -> History:
    books = history.sites["site-1"]
    rows = (*books.rows[:3], *books.rows[4:])
    return replace(history, sites={**history.sites, "site-1": Books(rows=rows, records=books.records)})


def later(history: History, **changes: Any) -> History:
    """The history with one more look, well after every end."""
    last = history.left[-1]
    return replace(
        history, left=(*history.left, replace(last, at=max(last.ended.values()) + 10.5, **changes))
    )


@plants("process-left")
def _(history: History) -> History:
    return later(history, processes=(a_process(history, job_of(history, "gone")),))


@plants("lease-left")
def _(history: History) -> History:
    return later(history, leases={"site-1": (job_of(history, "gone"),)})


@plants("file-left")
def _(history: History) -> History:
    return later(history, files=(f"ws/kits/site-1.local/state/jobs/{job_of(history, 'gone')}",))


@plants("file-left")
def _(history: History) -> History:
    return later(history, files=("ws/kits/server.local/state/blobs/partial/0123.part",))


@plants("site-keeps")
def _(history: History) -> History:
    key = f"{job_of(history, 'calm')}/3/train/0"
    return with_record(history, "answer", key, {"answer": "", "round": 3}, site="site-1")


@plants("stop-unproven")
def _(history: History) -> History:
    return without(history, "job.stop", job_of(history, "gone"), "site-2")


@plants("died")
def _(history: History) -> History:
    return replace(history, died=("site-1: exit 1: KeyError: 'x'",))


@plants("false-connected")
def _(history: History) -> History:
    last = max(sample.answered for sample in history.samples)
    killed = replace(history, actions=(*history.actions, Action(at=last + 1, what="kill", party="site-2")))
    return claimed(killed, "", 1 + history.death + 0.5, shown={"site-2": "connected"})


@plants("false-connected")
def _(history: History) -> History:
    last = max(sample.answered for sample in history.samples)
    actions = [a for a in history.actions if a.what != "stop"]
    cut = replace(history, actions=(*actions, Action(at=last + 1, what="cut", party="site-2")))
    return claimed(cut, "", 1 + history.detection + 0.5, shown={"site-2": "connected"})


@plants("false-disconnected")
def _(history: History) -> History:
    still = replace(history, actions=tuple(a for a in history.actions if a.what != "stop"))
    return claimed(still, "", history.detection + 60, shown={"site-2": "disconnected"})


@plants("false-running")
def _(history: History) -> History:
    job = job_of(history, "gone")
    still = replace(history, actions=tuple(a for a in history.actions if a.what != "stop"))
    for after in (20, 10, 10):
        still = claimed(still, job, after, state="running", rounds=1)
    return still


@plants("false-ended")
def _(history: History) -> History:
    job = job_of(history, "gone")
    return claimed(history, job, 0.1, state="aborted", rounds=1, processes=(a_process(history, job),))


@plants("state-invented")
def _(history: History) -> History:
    return claimed(history, job_of(history, "gone"), 0.1, state="degraded", rounds=1)


# ---- the tests -----------------------------------------------------------------------------------


@pytest.mark.network
def test_a_good_history_is_found_good(recorded):
    assert [str(violation) for violation in check(recorded)] == []


@pytest.mark.network
def test_a_good_history_has_something_for_every_rule_to_look_at(recorded):
    assert {action.what for action in recorded.actions} >= {"start", "ready", "kill", "stop"}
    assert {ack.what for ack in recorded.acknowledged} >= {"submit", "abort", "result"}
    assert len(recorded.samples) > 5
    assert any(sample.processes for sample in recorded.samples)
    assert recorded.left
    assert set(recorded.sites) == {"site-1", "site-2", "site-3"}
    assert all(books.rows for books in (recorded.server, *recorded.sites.values()))


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "plant"),
    [
        pytest.param(name, one, id=f"{name}-{n}")
        for name, found in PLANTS.items()
        for n, one in enumerate(found)
    ],
)
def test_a_planted_violation_is_found_and_named(recorded, name, plant):
    found = {violation.rule for violation in check(plant(recorded))}
    assert name in found


@pytest.mark.network
def test_a_process_of_a_site_that_is_named_as_unconfirmed_is_no_lie(recorded):
    job = job_of(recorded, "gone")
    named = claimed(
        recorded,
        job,
        0.1,
        state="aborted",
        rounds=1,
        unconfirmed=("site-2",),
        processes=(a_process(recorded, job),),
    )
    assert check(named) == []


def test_every_rule_is_planted_against():
    """Each rule's violations are those that some plant names."""
    import inspect
    import re

    from faults import checker

    named = set(re.findall(r'rule="([a-z-]+)"', inspect.getsource(checker)))
    assert named == set(PLANTS)
    assert len(RULES) >= 15


@pytest.mark.network
def test_a_history_that_was_kept_is_judged_as_before(recorded, tmp_path):
    bad = PLANTS["round-lost"][0](recorded)
    write_history(bad, tmp_path / "history.json")
    assert check(read_history(tmp_path / "history.json")) == check(bad)
