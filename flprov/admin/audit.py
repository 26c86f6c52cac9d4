# SPDX-License-Identifier: Apache-2.0
"""The verdict on a log: its hash chain, row by row, and what the sites have signed about it.

Everything is judged on the machine of whoever asks: the rows as they came, the receipts under the CAs that
this person's kit vouches for. Nothing that the server says of itself is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from flprov._base import SystemClock, to_iso
from flprov.admin.exports import read_rows, read_witnesses
from flprov.admin.trust import PersonTrust
from flprov.errors import IdentityRefused
from flprov.kits import look_at_kit
from flprov.pki import Anchors, Kind, verify_peer, verify_signed
from flprov.store import START, BrokenRow, Head, read_line, verify_line
from flprov.wire import witness_bytes
from flprov.wire.documents import (
    AuditVerdictDocument,
    ReceiptDocument,
    WitnessListDocument,
    WitnessVerdict,
)

Progress = Callable[[int, int], None]  # rows verified, rows in all
_RESTORED = b'"what":"server.restore"'
_STEP = 1000  # rows between two words about progress
_CLOCKS_APART = timedelta(minutes=10)  # of a site and the server


@dataclass(frozen=True, kw_only=True)
class Judge:
    """By what receipts are judged."""

    project_id: str
    anchors: Anchors | None  # of sites; None: receipts are not judged


@dataclass
class _Seen:
    """What was seen of the log while it passed by."""

    head: Head = START
    broken: BrokenRow | None = None
    digests: dict[int, str] = field(default_factory=dict)  # of the rows that somebody vouched for
    restores: list[tuple[int, datetime, str]] = field(default_factory=list)  # index, when, in words


def verify_log(
    lines: Iterable[bytes],
    witnesses: WitnessListDocument | None,
    judge: Judge,
    *,
    source: str,
    progress: Progress | None = None,
) -> AuditVerdictDocument:
    """Read a log once, from row 1 to its end, and say what is wrong with it. Memory does not grow with it.

    Args:
        lines: as `Store.lines` makes them.
        witnesses: what was signed about it.
        judge: by what receipts are judged.
        source: where the log is from, for the verdict.
        progress: told now and then.
    """
    receipts = _receipts(witnesses)
    total = witnesses.head if witnesses else 0
    seen = _read(lines, {receipt.index for receipt in receipts}, total, progress)
    if seen.broken is None and witnesses is not None and seen.head.index < witnesses.head:
        seen.broken = BrokenRow(
            index=seen.head.index + 1,
            problem=f"row {seen.head.index + 1} is missing: the log is said to have {witnesses.head} rows",
        )
    verdicts = tuple(_judge(receipt, seen, judge) for receipt in receipts)
    return _conclude(seen, verdicts, judge, source, asked=witnesses is not None)


def _receipts(witnesses: WitnessListDocument | None) -> list[ReceiptDocument]:
    """Each once, in the order of the rows that they are about."""
    if witnesses is None:
        return []
    every = [*witnesses.receipts, *(dispute.receipt for dispute in witnesses.disputes)]
    found = {(receipt.site, receipt.index, receipt.digest): receipt for receipt in every}
    return [found[key] for key in sorted(found, key=lambda key: (key[1], key[0], key[2]))]


def _read(lines: Iterable[bytes], vouched: set[int], total: int, progress: Progress | None) -> _Seen:
    seen = _Seen()
    for line in lines:
        found = verify_line(line, seen.head)
        if isinstance(found, BrokenRow):
            seen.broken = found
            break
        seen.head = found
        if found.index in vouched:
            seen.digests[found.index] = found.digest
        if _RESTORED in line:
            _note_restore(line, seen)
        if progress and found.index % _STEP == 0:
            progress(found.index, max(total, found.index))
    if progress:
        progress(seen.head.index, max(seen.head.index, 1))
    return seen


def _note_restore(line: bytes, seen: _Seen) -> None:
    row = read_line(line)
    if row.row.what == "server.restore":
        who = row.row.who.rpartition("/")[2]
        words = (
            f"row {row.index} says that the server was restored from a backup on"
            f" {row.at:%Y-%m-%d %H:%M:%S} UTC by {who}"
        )
        seen.restores.append((row.index, row.at, words))


def verify_export(path: Path, kit: Path | None, *, progress: Progress | None = None) -> AuditVerdictDocument:
    """The verdict on an export, without the server.

    Args:
        path: the file.
        kit: an admin's; None: only the hash chain is verified.
        progress: told now and then.

    Raises:
        NotFound: there is no such file.
        Conflict: what it says of its receipts cannot be read.
    """
    witnesses = read_witnesses(path)
    judge = _own_judge(kit)
    if judge is None:
        judge = Judge(project_id=witnesses.project_id if witnesses else "", anchors=None)
    return verify_log(read_rows(path), witnesses, judge, source=str(path), progress=progress)


def _own_judge(kit: Path | None) -> Judge | None:
    if kit is None:
        return None
    now = SystemClock().now()
    loaded = look_at_kit(kit, now=now, kind=Kind.PERSON)
    return Judge(project_id=loaded.project_id, anchors=PersonTrust(loaded, now).sites)


# ---- receipts ------------------------------------------------------------------------------


def _judge(receipt: ReceiptDocument, seen: _Seen, judge: Judge) -> WitnessVerdict:
    verdict, text = _verify(receipt, judge) or _compare(receipt, seen)
    return WitnessVerdict(
        site=receipt.site,
        index=receipt.index,
        at=receipt.at,
        vouched=receipt.digest,
        found=seen.digests.get(receipt.index, ""),
        verdict=verdict,
        text=text,
    )


def _verify(receipt: ReceiptDocument, judge: Judge) -> tuple[str, str] | None:
    """What is wrong with the receipt itself. The certificate counts that was valid when it was signed."""
    if judge.anchors is None:
        return "unknown", "no kit at hand says which CAs vouch for sites"
    chain = receipt.chain.encode()
    try:
        signer = verify_peer(chain, judge.anchors, now=receipt.at, kinds=[Kind.SITE])
    except IdentityRefused as error:
        return "unknown", str(error)
    try:
        payload = witness_bytes(judge.project_id, receipt.index, receipt.digest, to_iso(receipt.at))
        verify_signed(
            payload,
            bytes.fromhex(receipt.signature),
            chain,
            judge.anchors,
            now=receipt.at,
            kinds=[Kind.SITE],
        )
    except (IdentityRefused, ValueError) as error:
        return "forged", f"this is not what site {receipt.site} signed: {error}"
    if signer.name != receipt.site:
        return "forged", f"{signer} has signed it, and not site {receipt.site}"
    return None


def _compare(receipt: ReceiptDocument, seen: _Seen) -> tuple[str, str]:
    index, found = receipt.index, seen.digests.get(receipt.index, "")
    if found == receipt.digest:
        return "agrees", ""
    if not found and seen.broken is not None and index >= seen.broken.index:
        return "unknown", f"the log is broken before row {index}"
    signed = (
        f"site {receipt.site} signed on {receipt.at:%Y-%m-%d %H:%M:%S} UTC that row {index} has the digest"
        f" {receipt.digest}"
    )
    there = f"the log has {found} there" if found else f"the log ends at row {seen.head.index}"
    for first, restored_at, words in seen.restores:  # it explains what was signed before it, and no later row
        if first <= index and receipt.at <= restored_at + _CLOCKS_APART:
            return "restored", f"{signed}, and {there}: {words}"
    return ("differs" if found else "missing"), f"{signed}, and {there}"


def _conclude(
    seen: _Seen, verdicts: tuple[WitnessVerdict, ...], judge: Judge, source: str, *, asked: bool
) -> AuditVerdictDocument:
    against = [one for one in verdicts if one.verdict in ("differs", "missing")]
    forged = [one for one in verdicts if one.verdict == "forged"]
    first, problem = None, ""
    if against and (seen.broken is None or against[0].index < seen.broken.index):
        first, problem = _place(against[0], seen), _rewritten(against[0], _agreed(verdicts))
    elif seen.broken is not None:
        first, problem = seen.broken.index, seen.broken.problem
    elif forged:
        problem = forged[0].text
    return AuditVerdictDocument(
        source=source,
        ok=seen.broken is None and not against and not forged,
        rows=seen.head.index,
        head=seen.head.index,
        digest=seen.head.digest,
        first_bad=first,
        problem=problem,
        witnesses=verdicts,
        agreed=_agreed(verdicts),
        notes=tuple(_notes(verdicts, judge, asked=asked)),
    )


def _place(against: WitnessVerdict, seen: _Seen) -> int:
    """The first row that is known to be bad. Of rows that were cut off, that is the first one."""
    return seen.head.index + 1 if against.verdict == "missing" else against.index


def _agreed(verdicts: Iterable[WitnessVerdict]) -> int | None:
    """The newest row that somebody vouches for and up to which nobody says otherwise."""
    verdicts = list(verdicts)
    limit = min(
        (one.index for one in verdicts if one.verdict in ("differs", "missing", "restored")), default=None
    )
    good = [one.index for one in verdicts if one.verdict == "agrees" and (limit is None or one.index < limit)]
    return max(good, default=None)


def _rewritten(first: WitnessVerdict, agreed: int | None) -> str:
    """What was done to the log, as far as the witnesses can tell."""
    since = f"row {agreed + 1}" if agreed is not None else "row 1"
    if first.verdict == "missing":
        return f"{first.text}: rows were cut off the end, or rewritten from somewhere after {since} on"
    where = (
        since
        if agreed is not None and agreed + 1 == first.index
        else f"somewhere from {since} to row {first.index}"
    )
    return f"{first.text}: the log was rewritten {where}, and its hash chain with it"


def _contradicting(one: WitnessVerdict, verdicts: Iterable[WitnessVerdict], accusers: set[str]) -> str:
    """The sites that accuse nobody and whose newest row lies on or after this one."""
    found = {other.site for other in verdicts if other.verdict == "agrees" and other.index >= one.index}
    return ", ".join(sorted(found - accusers))


def _notes(verdicts: tuple[WitnessVerdict, ...], judge: Judge, *, asked: bool) -> Iterator[str]:
    if not asked:
        yield "what the sites have signed is not part of this: only the hash chain was verified"
    elif judge.anchors is None:
        yield "no admin kit is at hand, so what the sites have signed was not verified"
    elif not any(one.verdict == "agrees" for one in verdicts):
        yield "no site vouches for any of it: whoever can write on the server's disk can have rewritten it"
    against = [one for one in verdicts if one.verdict in ("differs", "missing")]
    for one in against:
        if others := _contradicting(one, verdicts, {found.site for found in against}):
            yield (
                f"{others} vouch for the log as it is now, and beyond row {one.index}: unless they saw it"
                f" only after that, site {one.site} has signed what never was"
            )
    for one in verdicts:
        if one.verdict == "restored":
            yield f"{one.text}; the rows that site {one.site} saw from there on are lost"
        elif one.verdict == "unknown" and judge.anchors is not None:
            yield f"the receipt of site {one.site} for row {one.index} does not count: {one.text}"
