# SPDX-License-Identifier: Apache-2.0
"""A log that sites have vouched for, and the ways in which somebody on the server's machine can forge it.

Each way is a function on the server's own database, with the row at which the verdict has to point. Where a
forger chains one row anew, the row behind it is the first that cannot be right; where the whole tail is
chained anew, it is the first row from there on that a site has signed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flprov._base import to_iso
from flprov.admin.audit import Judge, verify_log
from flprov.pki import Identity, Kind, create_issuing, create_root, issue_identity, load_anchors, sign
from flprov.store import Row, open_store
from flprov.store.chain import digest_row
from flprov.testing.clock import FakeClock
from flprov.wire import witness_bytes
from flprov.wire.documents import AuditVerdictDocument, ReceiptDocument, WitnessListDocument

ROWS = 60
SITES = 8
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DOMAIN, PROJECT = "heart.example", "a-project"
_VERBS = ("job.submit", "site.connect", "update.accept", "round.close", "call")


@dataclass(frozen=True, kw_only=True)
class SoundLog:
    """A log as it was written, and what the sites have signed about it."""

    path: Path  # of store.db
    receipts: tuple[ReceiptDocument, ...]
    judge: Judge

    @property
    def signed(self) -> list[int]:
        """The rows that somebody vouches for, in order."""
        return sorted(receipt.index for receipt in self.receipts)

    def first_signed(self, row: int) -> int:
        """The first of them from this row on."""
        return next(index for index in self.signed if index >= row)


async def write_log(folder: Path, chance: random.Random) -> SoundLog:
    """Sixty rows, and eight sites each of which has signed one of them; the last row is among those."""
    clock = FakeClock(NOW)
    store = open_store(folder, clock=clock)
    for number in range(1, ROWS + 1):
        clock.advance(chance.uniform(0, 60))
        verb = chance.choice(_VERBS)
        row = Row(
            who=f"spiffe://{DOMAIN}/site/org-a/site-{number % SITES}",
            what=verb,
            object=f"job-{number % 7}",
            outcome="denied" if verb == "call" else "ok",
            reason="naïve \u2713" if number % 9 == 0 else "",
            data={"round": number, "loss": chance.random()},
        )
        await store.commit([], row)
    digests = {row.index: row.digest for row in store.rows(limit=ROWS)}
    await store.close()
    chosen = [*chance.sample(range(1, ROWS), SITES - 1), ROWS]
    return _sign(folder / "store.db", {index: digests[index] for index in chosen})


def _sign(path: Path, digests: dict[int, str]) -> SoundLog:
    root = create_root(project="heart", trust_domain=DOMAIN, days=3650, now=NOW)
    sites = create_issuing(root, kind=Kind.SITE, days=1825, now=NOW)
    receipts = []
    for number, (index, digest) in enumerate(digests.items()):
        identity = Identity(trust_domain=DOMAIN, kind=Kind.SITE, org="org-a", name=f"site-{number}")
        credential = issue_identity(sites, identity, days=90, now=NOW)
        at = NOW + timedelta(hours=2)
        signature = sign(credential.private_pem, witness_bytes(PROJECT, index, digest, to_iso(at)))
        receipts.append(
            ReceiptDocument(
                site=identity.name,
                identity=identity.uri,
                index=index,
                digest=digest,
                at=at,
                signature=signature.hex(),
                chain=credential.chain_pem.decode(),
            )
        )
    judge = Judge(project_id=PROJECT, anchors=load_anchors(sites.certificate_pem))
    return SoundLog(path=path, receipts=tuple(receipts), judge=judge)


# ---- the forger ----------------------------------------------------------------------------


class Forger:
    """Writes into the database, and knows how rows are chained."""

    def __init__(self, connection: sqlite3.Connection, log: SoundLog, chance: random.Random) -> None:
        self.db = connection
        self.log = log
        self.chance = chance

    def row(self, index: int) -> list[str]:
        """at, line, previous, digest."""
        query = "SELECT at, line, previous, digest FROM log WHERE ix = ?"
        return list(self.db.execute(query, (index,)).fetchone())

    def put(self, index: int, columns: list[str]) -> None:
        """Replace a row."""
        query = "UPDATE log SET at = ?, line = ?, previous = ?, digest = ? WHERE ix = ?"
        self.db.execute(query, (*columns, index))

    def forged_line(self, line: str) -> str:
        """The same row with something else in it."""
        found = json.loads(line)
        part = self.chance.choice(("who", "what", "object", "outcome", "reason", "data", "more"))
        found[part] = {"round": -1} if part == "data" else f"forged {self.chance.random()}"
        return json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def chain(self, first: int, last: int) -> None:
        """Make rows follow each other again, as far as their digests go."""
        previous = self.row(first - 1)[3] if first > 1 else "0" * 64
        for index in range(first, last + 1):
            at, line, _, _ = self.row(index)
            digest = digest_row(index, at, line.encode(), previous)
            self.put(index, [at, line, previous, digest])
            previous = digest

    def move(self, first: int, by: int) -> None:
        """Give rows from here on other places."""
        self.db.execute("UPDATE log SET ix = -(ix + ?) WHERE ix >= ?", (by, first))
        self.db.execute("UPDATE log SET ix = -ix WHERE ix < 0")


def change_column(forger: Forger, row: int) -> int:
    """Any one column of any row: one character of it, or what the row says."""
    columns, place = forger.row(row), forger.chance.randrange(4)
    if place == 1:
        columns[place] = forger.forged_line(columns[place])
    else:
        text = columns[place]
        at = forger.chance.randrange(len(text))
        other = forger.chance.choice([c for c in '0a}"\u202e\n' if c != text[at]])
        columns[place] = text[:at] + other + text[at + 1 :]
    forger.put(row, columns)
    return row


def add_whitespace(forger: Forger, row: int) -> int:
    """What a parser would pass over."""
    at, line, previous, digest = forger.row(row)
    forger.put(row, [at, line.replace(":", ": ", 1), previous, digest])
    return row


def renumber(forger: Forger, row: int) -> int:
    """A row gets another place."""
    forger.db.execute("UPDATE log SET ix = ? WHERE ix = ?", (ROWS + forger.chance.randrange(1, 99), row))
    return row


def delete(forger: Forger, row: int) -> int:
    """A row, or several."""
    forger.db.execute("DELETE FROM log WHERE ix BETWEEN ? AND ?", (row, row + forger.chance.randrange(3)))
    return row


def delete_and_close_up(forger: Forger, row: int) -> int:
    """A row, and the ones behind it move up."""
    forger.db.execute("DELETE FROM log WHERE ix = ?", (row,))
    forger.move(row + 1, -1)
    return row


def insert(forger: Forger, row: int) -> int:
    """A row that never was, copied from another; the ones behind it move down."""
    copied = forger.row(forger.chance.choice([n for n in range(1, ROWS + 1) if n != row]))
    forger.move(row, 1)
    query = "INSERT INTO log (ix, at, line, previous, digest) VALUES (?, ?, ?, ?, ?)"
    forger.db.execute(query, (row, *copied))
    return row


def insert_chained(forger: Forger, row: int) -> int:
    """The same, and it follows the one before: unless it was signed, the row behind it cannot be right."""
    insert(forger, row)
    forger.chain(row, row)
    return row if row in forger.log.signed else row + 1


def swap(forger: Forger, row: int) -> int:
    """Two rows change places."""
    other = forger.chance.choice([n for n in range(1, ROWS + 1) if n != row])
    one, two = forger.row(row), forger.row(other)
    forger.put(row, two)
    forger.put(other, one)
    return min(row, other)


def change_chained(forger: Forger, row: int) -> int:
    """One row is changed, with its digest: unless it was signed, the row behind it cannot be right."""
    at, line, previous, digest = forger.row(row)
    forger.put(row, [at, forger.forged_line(line), previous, digest])
    forger.chain(row, row)
    return row if row in forger.log.signed else row + 1


def rewrite_tail(forger: Forger, row: int) -> int:
    """A row is changed, and all digests from there on: only what sites have signed tells."""
    at, line, previous, digest = forger.row(row)
    forger.put(row, [at, forger.forged_line(line), previous, digest])
    forger.chain(row, ROWS)
    return forger.log.first_signed(row)


def rewrite_tail_longer(forger: Forger, row: int) -> int:
    """The same, with a row more."""
    insert(forger, row)
    forger.chain(row, ROWS + 1)
    return forger.log.first_signed(row)


def cut_tail(forger: Forger, row: int) -> int:
    """The end of the log is gone."""
    forger.db.execute("DELETE FROM log WHERE ix >= ?", (row,))
    return row


WAYS: tuple[Callable[[Forger, int], int], ...] = (
    change_column,
    add_whitespace,
    renumber,
    delete,
    delete_and_close_up,
    insert,
    insert_chained,
    swap,
    change_chained,
    rewrite_tail,
    rewrite_tail_longer,
    cut_tail,
)


# ---- a case --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    """One tampering and the verdict on it."""

    way: str
    row: int
    expected: int
    verdict: AuditVerdictDocument

    @property
    def found(self) -> bool:
        """Whether the verdict is that the log is not as it was, and points at the right row."""
        return not self.verdict.ok and self.verdict.first_bad == self.expected

    def __str__(self) -> str:
        found = f"{self.verdict.first_bad} {self.verdict.problem}"
        return f"{self.way} at row {self.row}: row {self.expected} is bad, found: {found}"


def judge(log: SoundLog, lines: list[bytes]) -> AuditVerdictDocument:
    """What an admin is told of these rows, when the server claims no more than there are."""
    witnesses = WitnessListDocument(project_id=PROJECT, head=len(lines), digest="", receipts=log.receipts)
    return verify_log(lines, witnesses, log.judge, source="server")


async def play(log: SoundLog, folder: Path, number: int, chance: random.Random) -> Case:
    """Tamper with a copy of the log while a server has it open, and ask for the verdict."""
    folder.mkdir(parents=True)
    path = Path(shutil.copy(log.path, folder / "store.db"))
    store = open_store(folder, clock=FakeClock(NOW))  # the server runs: it read its last row long ago
    way, row = WAYS[number % len(WAYS)], chance.randrange(1, ROWS + 1)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        expected = way(Forger(connection, log, chance), row)
    lines = await store.lines(limit=10 * ROWS)
    await store.close()
    shutil.rmtree(folder)
    return Case(way=way.__name__, row=row, expected=expected, verdict=judge(log, lines))


def tamper(folder: Path, count: int, seed: int, only: int | None = None) -> tuple[list[Case], bool]:
    """So many tamperings, each on its own copy of a log; the same ones for the same seed.

    Returns:
        The cases, and whether the log was found sound before.
    """

    async def every() -> tuple[list[Case], bool]:
        log = await write_log(folder / "sound", random.Random(seed))
        sound = await is_sound(log)
        found = []
        for number in range(count) if only is None else [only]:
            chance = random.Random(f"{seed}/{number}")
            found.append(await play(log, folder / f"case-{number}", number, chance))
        return found, sound

    return asyncio.run(every())


async def is_sound(log: SoundLog) -> bool:
    """Whether the log that nobody has touched is found to be sound, by all its witnesses."""
    store = open_store(log.path.parent, clock=FakeClock(NOW))
    verdict = judge(log, await store.lines(limit=10 * ROWS))
    await store.close()
    return verdict.ok and verdict.agreed == ROWS and {one.verdict for one in verdict.witnesses} == {"agrees"}
