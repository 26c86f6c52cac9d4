# SPDX-License-Identifier: Apache-2.0
"""`flprov events` and `flprov audit`: lines for people, documents for programs, exit codes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cli_admin import BEEP, LEO, NOW, FakeAdmin
from cli_process import run_process

from flprov.errors import ServerUnavailable
from flprov.wire import documents as doc


def event(index: int, **changes: Any) -> doc.EventDocument:
    fields: dict[str, Any] = {
        "index": index,
        "at": NOW,
        "who": LEO,
        "what": "job.submit",
        "object": "0job",
        "outcome": "ok",
        "reason": "",
    }
    return doc.EventDocument(**(fields | changes))


def row(index: int, **changes: Any) -> doc.AuditRowDocument:
    return doc.AuditRowDocument(**vars(event(index, **changes)), previous="00" * 32, digest="ab" * 32)


VERDICT = doc.AuditVerdictDocument(
    source="server", ok=True, rows=1200, head=1200, digest="ab" * 32, agreed=1190, notes=("a note",)
)
WITNESS = doc.WitnessVerdict(
    site="site-1", index=1190, at=NOW, vouched="ab" * 32, found="ab" * 32, verdict="agrees"
)


class Log:
    """What the fake client answers, and what it was asked."""

    def __init__(self, admin: FakeAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Any] = []
        self.found: tuple[Any, ...] = (event(7), event(8, outcome="denied", reason=f"no {BEEP}\nmore"))
        self.verdict = VERDICT
        for name in ("events", "follow_events", "audit", "verify_log", "export_log"):
            monkeypatch.setattr(type(admin), name, getattr(self, name), raising=False)

    def events(self, _admin: Any = None, wanted: Any = None, **words: Any) -> doc.EventListDocument:
        self.asked.append((_admin if wanted is None else wanted, words))
        return doc.EventListDocument(events=self.found, next=9)

    def follow_events(self, wanted: Any, *, on_retry: Any, **words: Any) -> Any:
        self.asked.append((wanted, words))
        yield self.found[0]
        on_retry(ServerUnavailable("nothing listens at fl.example:8443"), 1, 0.42)
        yield from self.found[1:]

    def audit(self, wanted: Any, **words: Any) -> doc.AuditListDocument:
        self.asked.append((wanted, words))
        return doc.AuditListDocument(rows=(row(7), row(8, outcome="denied")), head=8)

    def verify_log(self, *, progress: Any, on_retry: Any) -> doc.AuditVerdictDocument:
        progress(1, 2)
        on_retry(ServerUnavailable("gone"), 1, 1.0)
        return self.verdict

    def export_log(self, path: Any, *, progress: Any, on_retry: Any) -> doc.AuditExportDocument:
        self.asked.append(path)
        progress(1, 1)
        assert on_retry
        return doc.AuditExportDocument(
            file=str(path), rows=1200, added=1100, head=1200, digest="ab" * 32, bytes=9 << 20
        )


@pytest.fixture
def log(admin: FakeAdmin, monkeypatch: pytest.MonkeyPatch) -> Log:
    return Log(admin, monkeypatch)


# ---- events --------------------------------------------------------------------------------


def test_events_are_one_line_each_and_cannot_drive_the_terminal(run, log):
    ran = run("events")
    assert ran.code == 0
    first, second = ran.out.splitlines()
    assert first.split() == ["7", *f"{NOW:%Y-%m-%d %H:%M:%S}".split(), "leo", "job.submit", "0job"]
    assert second.split()[5:9] == ["0job", "denied", "no", "�[31mred��"]
    [(wanted, words)] = log.asked
    assert words == {"start": 0, "last": 50}
    assert wanted.what == wanted.object == wanted.who == ""


def test_events_take_filters_and_an_index(run, log):
    ran = run("events", "--from", "1200", "--what", "job.", "--object", "0job", "--who", "leo")
    assert ran.code == 0
    [(wanted, words)] = log.asked
    assert words == {"start": 1200, "last": 0}
    assert (wanted.what, wanted.object, wanted.who) == ("job.", "0job", "leo")


def test_events_as_json_are_one_document(run, log):
    ran = run("events", "--json")
    assert [one["index"] for one in json.loads(ran.out)["events"]] == [7, 8]


def test_followed_events_as_json_are_one_document_a_line(run, log):
    ran = run("events", "--follow", "--json")
    assert [json.loads(line)["index"] for line in ran.out.splitlines()] == [7, 8]
    assert (
        ran.err.strip() == "nothing listens at fl.example:8443; it goes on where it was; try 1, next in 0 s"
    )


def test_no_events_say_so_and_print_nothing(run, log):
    log.found = ()
    ran = run("events")
    assert (ran.code, ran.out) == (0, "")
    assert "no such events" in ran.err


@pytest.mark.parametrize("words", [("--from", "0"), ("--from", "x"), ("--nonsense",)])
def test_events_refuse_what_makes_no_sense(run, log, words):
    assert run("events", *words).code == 2


# ---- audit ---------------------------------------------------------------------------------


def test_audit_lists_the_newest_fifty_or_what_is_asked_for(run, log):
    assert run("audit", "ls").code == 0
    assert run("audit", "ls", "-n", "5").code == 0
    assert run("audit", "ls", "--from", "3", "-n", "9").code == 0
    assert [words for _, words in log.asked] == [{"last": 50}, {"last": 5}, {"start": 3, "limit": 9}]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00+01:00", datetime(2026, 1, 31, 11, tzinfo=UTC)),
    ],
)
def test_audit_takes_times(run, log, text, moment):
    assert run("audit", "ls", "--since", text, "--outcome", "denied").code == 0
    [(wanted, _)] = log.asked
    assert (wanted.since, wanted.outcome) == (moment, "denied")


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("90s", timedelta(seconds=90)),
        ("30min", timedelta(minutes=30)),
        ("12h", timedelta(hours=12)),
        ("7d", timedelta(days=7)),
    ],
)
def test_audit_takes_how_long_ago_it_was(run, log, text, span):
    assert run("audit", "ls", "--until", text).code == 0
    [(wanted, _)] = log.asked
    assert abs(datetime.now(UTC) - wanted.until - span) < timedelta(seconds=30)


@pytest.mark.parametrize("text", ["yesterday", "7", "7w", "2026-13-01", "999999d", "", "-1h"])
def test_audit_refuses_what_is_no_time(run, log, text):
    ran = run("audit", "ls", "--since", text)
    assert ran.code == 2
    assert "is no time" in ran.err


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"witnesses": (WITNESS,)}, 0, "the log is as it was written"),
        (
            {"ok": False, "first_bad": 77, "problem": "row 77 does not match its digest: it was changed"},
            1,
            "the log is NOT as it was written",
        ),
        ({"witnesses": (doc.WitnessVerdict(**vars(WITNESS) | {"verdict": "restored"}),)}, 7, "1190"),
    ],
)
def test_verdict_is_said_in_words_and_in_the_exit_code(run, log, changes, code, said):
    log.verdict = doc.AuditVerdictDocument(**vars(VERDICT) | changes)
    ran = run("audit", "verify")
    assert ran.code == code
    assert said in ran.out
    assert log.verdict.problem in ran.out
    assert "note: a note" in ran.err
    again = run("audit", "verify", "--json")
    assert again.code == code
    assert json.loads(again.out)["first_bad"] == log.verdict.first_bad


def test_export_says_where_it_is_and_how_to_verify_it(run, log, tmp_path):
    ran = run("audit", "export", "-o", str(tmp_path / "audit.jsonl"))
    assert ran.code == 0
    assert "1,200 rows, 1,100 of them new (9.0 MiB)" in ran.out
    assert f"flprov audit verify {tmp_path / 'audit.jsonl'}" in ran.out
    assert run("audit", "export").code == 2


def test_export_is_verified_without_a_server_and_without_a_kit(tmp_path):
    """A real process: a file that is not there, nonsense, and a log of no rows."""
    missing = run_process("audit", "verify", str(tmp_path / "nothing"), folder=tmp_path)
    assert missing.code == 5
    (tmp_path / "nonsense").write_text("these are my holiday plans\n")
    nonsense = run_process("audit", "verify", str(tmp_path / "nonsense"), folder=tmp_path)
    assert nonsense.code == 1
    assert "row 1 cannot be read" in nonsense.out
