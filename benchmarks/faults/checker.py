# SPDX-License-Identifier: Apache-2.0
"""Judges a recorded history: every promise is one rule. No I/O; the same history, the same verdict.

python -m faults.checker history.json     (in benchmarks/)
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from faults.history import Expectation, History, JobClaim, LogLine, Sample, read_history
from flprov.jobs import TRANSITIONS, JobState

TERMINAL = frozenset(state.value for state in JobState if state.terminal)
GENESIS = "0" * 64
LEFT_AFTER = 10.0  # seconds after a job's end in which everything of it must be gone
NO_PROCESS = 15.0  # seconds for which a running job may have no process at all: killed and started again
# Rows that change a job's state; their outcome is the new state.
STEPS = frozenset({"job.deploy", "job.run", "job.finish", "job.fail", "job.abort", "job.end"})
# Rows of a job that goes on.
LIFE = frozenset({"job.deploy", "job.run", "job.ready", "update.accept", "round.close"})


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A promise that was broken."""

    rule: str
    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.about}: {self.text}"


Rule = Callable[[History], Iterator[Violation]]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    """Put a rule into the list."""
    RULES.append(function)
    return function


def check(history: History) -> list[Violation]:
    """Every violation, in the order of the rules; of those that differ by their moment only, the first."""
    found: dict[tuple[str, str], Violation] = {}
    for violation in (violation for one in RULES for violation in one(history)):
        found.setdefault((violation.rule, violation.about), violation)
    return list(found.values())


# ---- nothing that was acknowledged is lost -----------------------------------------------------


@rule
def submissions_are_kept(history: History) -> Iterator[Violation]:
    """A job that was acknowledged is there, as that job, under its token."""
    jobs, tokens = history.server.records.get("job", {}), history.server.records.get("token", {})
    named = {key.rpartition("|")[2]: value.get("job_id") for key, value in tokens.items()}
    for ack in _acknowledged(history, "submit"):
        if ack.object not in jobs:
            yield Violation(rule="submission-lost", about=ack.object, text="acknowledged, and not there")
        elif ack.token and named.get(ack.token) != ack.object:
            yield Violation(
                rule="token-lost", about=ack.object, text=f"token {ack.token} names {named.get(ack.token)}"
            )


@rule
def tokens_make_one_job(history: History) -> Iterator[Violation]:
    """One token, one job; and nothing was submitted that nobody asked for twice."""
    tokens = Counter(str(job.get("token")) for job in history.server.records.get("job", {}).values())
    for token, count in tokens.items():
        if count > 1:
            yield Violation(rule="job-doubled", about=token, text=f"{count} jobs of one token")
    heard: dict[str, set[str]] = {}
    for ack in _acknowledged(history, "submit"):
        heard.setdefault(ack.token, set()).add(ack.object)
    for token, ids in heard.items():
        if token and len(ids) > 1:
            yield Violation(rule="job-doubled", about=token, text=f"acknowledged as {sorted(ids)}")
    rows = Counter(row.object for row in history.server.rows if row.what == "job.submit")
    for job, count in rows.items():
        if count > 1:
            yield Violation(rule="job-doubled", about=job, text=f"submitted {count} times in the log")


@rule
def aborts_are_kept(history: History) -> Iterator[Violation]:
    """A job whose abort was acknowledged ends as aborted, if it had not ended before."""
    jobs = history.server.records.get("job", {})
    for ack in _acknowledged(history, "abort"):
        state = str(jobs.get(ack.object, {}).get("state"))
        if state not in ("aborting", "aborted"):
            yield Violation(rule="abort-lost", about=ack.object, text=f"acknowledged, and it is {state}")


@rule
def marks_are_kept(history: History) -> Iterator[Violation]:
    """Locks and drains that were acknowledged stand, until the opposite was acknowledged."""
    last: dict[tuple[str, str], str] = {}
    opposite = {"unlock": "lock", "enable": "drain"}
    for ack in history.acknowledged:
        if ack.what in ("lock", "unlock", "drain", "enable"):
            last[(opposite.get(ack.what, ack.what), ack.object)] = ack.what
    field = {"lock": "locked", "drain": "drained"}
    enrolments = history.server.records.get("enrolment", {})
    for (mark, site), said in last.items():
        stands = bool(enrolments.get(site, {}).get(field[mark]))
        if stands != (said == mark):
            yield Violation(rule="mark-lost", about=site, text=f"{said} was acknowledged, and it is not so")


@rule
def uploads_are_kept(history: History) -> Iterator[Violation]:
    """An app whose upload was acknowledged is there."""
    apps = history.server.records.get("app", {})
    for ack in _acknowledged(history, "upload"):
        if ack.object not in apps:
            yield Violation(rule="app-lost", about=ack.object, text="acknowledged, and not there")


@rule
def updates_are_kept(history: History) -> Iterator[Violation]:
    """An accepted update is in its round's record; each site once for each task."""
    accepted: Counter[str] = Counter()
    rounds = _rounds(history)
    for row in history.server.rows:
        if row.what != "update.accept" or row.outcome != "ok":
            continue
        accepted[row.object] += 1
        job, number, site = row.object.split("/")[0], row.object.split("/")[1], row.object.split("/")[-1]
        record = rounds.get(job, {}).get(int(number))
        if record is not None and site not in _sites_of(record, "contributors"):
            yield Violation(
                rule="update-lost", about=row.object, text="accepted, and not in its round's record"
            )
        if record is None and _final(history, job) in ("completed", "degraded"):
            yield Violation(rule="update-lost", about=row.object, text="accepted, and its round is not there")
    for key, count in accepted.items():
        if count > 1:
            yield Violation(rule="update-doubled", about=key, text=f"accepted {count} times")


@rule
def contributors_have_answered(history: History) -> Iterator[Violation]:
    """Who is named as a contributor has an accepted update, once, and an answer in the site's own log."""
    accepted = {
        (parts[0], int(parts[1]), parts[-1])
        for row in history.server.rows
        if row.what == "update.accept" and row.outcome == "ok"
        for parts in [row.object.split("/")]
    }
    for job, rounds in _rounds(history).items():
        for number, record in rounds.items():
            sites = _sites_of(record, "contributors")
            for site, count in Counter(sites).items():
                if count > 1:
                    yield Violation(
                        rule="contribution-doubled", about=f"{job}/{number}", text=f"{site} {count} times"
                    )
                if (job, number, site) not in accepted:
                    yield Violation(
                        rule="contribution-invented",
                        about=f"{job}/{number}",
                        text=f"{site} was never accepted",
                    )


@rule
def answers_are_kept_once(history: History) -> Iterator[Violation]:
    """A site answers each task once, and what the server accepted is in the site's own log."""
    for name, books in history.sites.items():
        answers = Counter(
            row.object for row in books.rows if row.what == "task.answer" and row.outcome == "ok"
        )
        for key, count in answers.items():
            if count > 1:
                yield Violation(rule="answer-doubled", about=f"{name}: {key}", text=f"kept {count} times")
        for row in history.server.rows:
            if row.what != "update.accept" or row.outcome != "ok" or not row.object.endswith(f"/{name}"):
                continue
            if row.object.removesuffix(f"/{name}") not in answers:
                yield Violation(
                    rule="answer-lost", about=row.object, text="accepted, and the site has no row of it"
                )


@rule
def committed_rounds_are_kept(history: History) -> Iterator[Violation]:
    """Rounds are there without gaps, each closed once, as many as the job says and as were ever shown."""
    rounds, jobs = _rounds(history), history.server.records.get("job", {})
    closed = Counter(row.object for row in history.server.rows if row.what == "round.close")
    for key, count in closed.items():
        if count > 1:
            yield Violation(rule="round-doubled", about=key, text=f"closed {count} times")
    for job, record in jobs.items():
        have = sorted(rounds.get(job, {}))
        begin = _first_round(record)
        done = int(record.get("round", 0))
        if have != list(range(begin, done)):
            yield Violation(
                rule="round-lost", about=job, text=f"the job is in round {done}, there are {have}"
            )
        in_log = sum(1 for key in closed if key.startswith(f"{job}/"))
        if in_log != done - begin:
            yield Violation(
                rule="round-lost", about=job, text=f"{in_log} rows of rounds, {done - begin} records"
            )
        shown = max((claim.rounds for _, claim in _claims(history, job)), default=0)
        if shown > done:
            yield Violation(rule="round-lost", about=job, text=f"{shown} rounds were shown, {done} are there")


@rule
def results_are_kept(history: History) -> Iterator[Violation]:
    """A job that ended well has a result, and the one that was downloaded."""
    for job in history.expected:
        state = _final(history, job)
        if state in ("completed", "degraded") and not history.models.get(job):
            yield Violation(rule="result-lost", about=job, text=f"it is {state} and has no model")
    for ack in _acknowledged(history, "result"):
        if ack.data != history.models.get(ack.object, ack.data):
            yield Violation(rule="result-changed", about=ack.object, text="it was another one before")


# ---- states ------------------------------------------------------------------------------------


@rule
def states_follow_the_table(history: History) -> Iterator[Violation]:
    """Every step in the log is one that the table of states has; nothing happens after the end."""
    now: dict[str, str] = {}
    for row in history.server.rows:
        if row.what == "job.submit":
            now[row.object] = "queued"
        if row.what not in STEPS or row.object not in now:
            continue
        old = JobState(now[row.object])
        try:
            new = JobState(row.outcome)
        except ValueError:
            continue
        if new not in TRANSITIONS[old]:
            yield Violation(
                rule="step-forbidden", about=row.object, text=f"{old.value} -> {new.value} in row {row.index}"
            )
        now[row.object] = new.value
    for job, record in history.server.records.get("job", {}).items():
        if job in now and now[job] != record.get("state"):
            yield Violation(
                rule="state-unlogged", about=job, text=f"{record.get('state')}, the log says {now[job]}"
            )


@rule
def ends_are_final(history: History) -> Iterator[Violation]:
    """Nothing is accepted, closed or started of a job after its end; no claim takes an end back."""
    ended: dict[str, int] = {}
    for row in history.server.rows:
        job = row.object.split("/")[0]
        if row.what == "job.end":
            ended[job] = row.index
        elif job in ended and row.what in LIFE and row.outcome != "refused":
            yield Violation(rule="restarted-after-end", about=job, text=f"{row.what} in row {row.index}")
    for job in history.server.records.get("job", {}):
        over = ""
        for sample, claim in _claims(history, job):
            if over and claim.state != over:
                yield Violation(
                    rule="claim-taken-back",
                    about=job,
                    text=f"{over}, then {claim.state} at {sample.answered:.1f}",
                )
            over = claim.state if claim.state in TERMINAL else over


@rule
def jobs_end_by_their_rule(history: History) -> Iterator[Violation]:
    """A job ended as its case says, with the rounds, contributors and model that go with it."""
    for job, wanted in history.expected.items():
        state = _final(history, job)
        if state not in wanted.states:
            reason = history.server.records.get("job", {}).get(job, {}).get("reason", "")
            yield Violation(
                rule="wrong-end", about=job, text=f"{state} ({reason}), not {' or '.join(wanted.states)}"
            )
            continue
        yield from _rounds_as_expected(history, job, wanted, state)
        if state == "completed" and wanted.model and history.models.get(job) != wanted.model:
            yield Violation(
                rule="model-differs",
                about=job,
                text=f"{history.models.get(job)}, undisturbed {wanted.model}",
            )


def _rounds_as_expected(history: History, job: str, wanted: Expectation, state: str) -> Iterator[Violation]:
    rounds = _rounds(history).get(job, {})
    well = state in ("completed", "degraded")
    if well and wanted.rounds is not None and len(rounds) != wanted.rounds:
        yield Violation(rule="rounds-missing", about=job, text=f"{len(rounds)} of {wanted.rounds}")
    lacking = {number for number, one in rounds.items() if one.get("absent") or one.get("refused")}
    for number, record in rounds.items():
        sites = set(_sites_of(record, "contributors"))
        if len(sites) < wanted.quorum:
            yield Violation(rule="below-quorum", about=f"{job}/{number}", text=f"{sorted(sites)}")
        named = sites | set(_sites_of(record, "absent")) | set(_sites_of(record, "refused"))
        if not set(wanted.contributors) <= named:
            missing = sorted(set(wanted.contributors) - named)
            yield Violation(
                rule="site-unnamed", about=f"{job}/{number}", text=f"nothing is said of {missing}"
            )
    if state == "completed" and lacking:
        yield Violation(
            rule="degraded-hidden", about=job, text=f"completed, and rounds {sorted(lacking)} lacked"
        )
    if state == "degraded" and not lacking:
        yield Violation(rule="degraded-unexplained", about=job, text="degraded, and no round lacked a site")


# ---- the log -----------------------------------------------------------------------------------


@rule
def chains_hold(history: History) -> Iterator[Violation]:
    """Every party's log is a chain without gaps."""
    for party, books in {"server": history.server, **history.sites}.items():
        broken = _first_broken(books.rows)
        if broken is not None:
            yield Violation(rule="chain-broken", about=party, text=f"at row {broken}")


def _first_broken(rows: tuple[LogLine, ...]) -> int | None:
    index, digest = 1, GENESIS
    if rows and rows[0].index > 1:  # older ones were let go, as retention says
        index, digest = rows[0].index, rows[0].previous
    for row in rows:
        if not row.whole or row.index != index or row.previous != digest:
            return index
        index, digest = row.index + 1, row.digest
    return None


# ---- nothing lingers ---------------------------------------------------------------------------


@rule
def nothing_is_left(history: History) -> Iterator[Violation]:
    """10 s after a job's end no process, lease or temporary file of it is there."""
    for look in history.left:
        over = {job for job, ended in look.ended.items() if look.at - ended >= LEFT_AFTER}
        for process in look.processes:
            if process.job in over:
                yield Violation(
                    rule="process-left",
                    about=process.job,
                    text=f"{process.kind} {process.pid} at {process.party}",
                )
        for site, jobs in look.leases.items():
            for job in set(jobs) & over:
                yield Violation(rule="lease-left", about=job, text=f"at {site}")
        for name in look.files:
            if over and (_names_job(name, over) or not _names_job(name, set(look.ended))):
                yield Violation(rule="file-left", about=name, text="temporary, and still there")


def _names_job(path: str, jobs: set[str]) -> bool:
    return any(part in jobs for part in path.split("/"))


@rule
def sites_have_let_go(history: History) -> Iterator[Violation]:
    """A site whose server says that it confirmed keeps nothing of an ended job: no job, no answer."""
    for job, record in history.server.records.get("job", {}).items():
        if record.get("state") not in TERMINAL:
            continue
        for site, books in history.sites.items():
            if site in record.get("unconfirmed", ()) or site not in record.get("targets", ()):
                continue
            if any(
                job in key.split("/") for kind in ("job", "answer") for key in books.records.get(kind, {})
            ):
                yield Violation(rule="site-keeps", about=job, text=f"{site} has records of an ended job")


@rule
def stops_are_proven(history: History) -> Iterator[Violation]:
    """A site that is not named as unconfirmed and had taken the job has a row that it stopped it."""
    for job, record in history.server.records.get("job", {}).items():
        if record.get("state") not in TERMINAL:
            continue
        for site, books in history.sites.items():
            took = [row.index for row in books.rows if row.what == "job.accept" and _accepts(row, job)]
            stopped = [row.index for row in books.rows if row.what == "job.stop" and row.object == job]
            if took and site not in record.get("unconfirmed", ()) and max(stopped, default=0) < max(took):
                yield Violation(
                    rule="stop-unproven", about=job, text=f"{site} took it and has no row of its stop"
                )


def _accepts(row: LogLine, job: str) -> bool:
    return row.object == job and row.outcome == "ok"


@rule
def nobody_dies_alone(history: History) -> Iterator[Violation]:
    """Server and agents end when they are killed or stopped, and not otherwise."""
    for line in history.died:
        party, _, text = line.partition(": ")
        yield Violation(rule="died", about=party, text=text)


# ---- what was claimed --------------------------------------------------------------------------


@rule
def connected_is_true(history: History) -> Iterator[Violation]:
    """A site is not shown as connected for longer than the documented time after it was cut or killed."""
    for sample in history.samples:
        for site, state in sample.sites.items():
            gone = _gone_since(history, site, sample.asked)
            if state != "connected" or gone is None:
                continue
            since, patience, how = gone
            if sample.asked - since > patience:
                yield Violation(
                    rule="false-connected",
                    about=site,
                    text=f"shown as connected {sample.asked - since:.1f} s after {how}",
                )


def _gone_since(history: History, site: str, moment: float) -> tuple[float, float, str] | None:
    """Since when the site is away at that moment, how soon that must be known, and how it went."""
    found: tuple[float, float, str] | None = None
    for action in history.actions:
        if action.at > moment:
            break
        if action.party != site:
            continue
        if action.what in ("kill", "stop"):
            found = (action.at, history.death, action.what)
        elif action.what == "cut" and found is None:
            found = (action.at, history.detection, action.what)
        elif action.what in ("start", "heal"):
            found = None
    return found


@rule
def away_is_true(history: History) -> Iterator[Violation]:
    """A site that nothing was done to for a long time is not shown as disconnected."""
    for sample in history.samples:
        for site, state in sample.sites.items():
            if state == "disconnected" and _undisturbed(history, site, sample.asked):
                yield Violation(
                    rule="false-disconnected", about=site, text=f"at {sample.asked:.1f}, with no cause"
                )


def _undisturbed(history: History, site: str, moment: float) -> bool:
    """Whether site and server are both up, and nothing was done to either for the time to reconnect."""
    last = [
        a for a in history.actions if a.at <= moment and a.party in (site, "server") and a.what != "strike"
    ]
    up = {a.party: a.what in ("ready", "heal") for a in last}
    return all(up.get(party) for party in (site, "server")) and moment - last[-1].at > history.detection


@rule
def running_is_true(history: History) -> Iterator[Violation]:
    """A job that is shown as running has a process somewhere, or gets one soon."""
    for job in history.server.records.get("job", {}):
        since: float | None = None
        for sample, claim in _claims(history, job):
            alive = any(process.job == job for process in sample.processes)
            if claim.state != "running" or alive or _disturbed(history, sample.asked):
                since = None
                continue
            since = sample.answered if since is None else since
            if sample.answered - since > NO_PROCESS:
                yield Violation(
                    rule="false-running", about=job, text=f"no process for {sample.answered - since:.1f} s"
                )
                break


def _disturbed(history: History, moment: float) -> bool:
    """Whether the campaign did something in the last seconds."""
    return any(0 <= moment - action.at <= NO_PROCESS for action in history.actions)


@rule
def ended_is_true(history: History) -> Iterator[Violation]:
    """A job that is shown as ended has no process where the site is not named, and none at the server."""
    for sample in history.samples:
        for process in sample.processes:
            claim = sample.jobs.get(process.job)
            if claim is None or claim.state not in TERMINAL or process.party in claim.unconfirmed:
                continue
            yield Violation(
                rule="false-ended",
                about=process.job,
                text=f"shown as {claim.state}, and {process.kind} {process.pid} is alive at {process.party}",
            )


@rule
def shown_states_are_real(history: History) -> Iterator[Violation]:
    """What was shown of a job is a way that its log has taken: no state that it never was in."""
    been: dict[str, set[str]] = {}
    for row in history.server.rows:
        if row.what == "job.submit":
            been.setdefault(row.object, set()).add("queued")
        elif row.what in STEPS:
            been.setdefault(row.object, set()).add(row.outcome)
    for job, states in been.items():
        for sample, claim in _claims(history, job):
            if claim.state not in states:
                yield Violation(
                    rule="state-invented", about=job, text=f"shown as {claim.state} at {sample.answered:.1f}"
                )
                break


# ---- looking things up -------------------------------------------------------------------------


def _acknowledged(history: History, what: str):
    return [ack for ack in history.acknowledged if ack.what == what]


def _claims(history: History, job: str) -> list[tuple[Sample, JobClaim]]:
    return [(sample, sample.jobs[job]) for sample in history.samples if job in sample.jobs]


def _final(history: History, job: str) -> str:
    return str(history.server.records.get("job", {}).get(job, {}).get("state", "not there"))


def _rounds(history: History) -> dict[str, dict[int, dict]]:
    found: dict[str, dict[int, dict]] = {}
    for record in history.server.records.get("round", {}).values():
        found.setdefault(str(record["job_id"]), {})[int(record["round"])] = dict(record)
    return found


def _first_round(record: dict) -> int:
    """0, or where a clone began."""
    origin = record.get("origin") or {}
    return int(origin.get("round", 0)) if isinstance(origin, dict) else 0


def _sites_of(record: dict, name: str) -> list[str]:
    return [str(line["site"]) for line in record.get(name, ())]


def main(words: list[str]) -> int:
    """Judge histories that were kept; 1 when a promise was broken."""
    broken = 0
    for word in words:
        found = check(read_history(Path(word)))
        broken += len(found)
        print("\n".join(map(str, found)) or f"{word}: nothing was broken")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
