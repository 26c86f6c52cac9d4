# SPDX-License-Identifier: Apache-2.0
"""The verdict on a log: whatever was done to it is found, at the first bad row, and said in words."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from faults.tampering import (
    NOW,
    PROJECT,
    ROWS,
    SoundLog,
    cut_tail,
    judge,
    rewrite_tail,
    tamper,
)
from sound_logs import forge, lines_of

from flprov.admin.audit import Judge, verify_log
from flprov.admin.exports import export_log, read_rows, read_witnesses
from flprov.errors import Conflict, NotFound, RemoteError
from flprov.pki import Kind, create_issuing, create_root, load_anchors
from flprov.store import Row, open_store
from flprov.testing.clock import FakeClock
from flprov.wire.documents import DisputeDocument, WitnessListDocument


def witnesses(log: SoundLog, head: int = ROWS, **more) -> WitnessListDocument:
    return WitnessListDocument(
        **{"project_id": PROJECT, "head": head, "digest": "", "receipts": log.receipts} | more
    )


def test_hundred_tamperings_are_each_found_at_the_first_bad_row(tmp_path):
    cases, sound = tamper(tmp_path, 100, seed=20261122)
    assert sound
    assert [str(case) for case in cases if not case.found] == []
    assert len({case.way for case in cases}) == 12


def test_sound_log_says_how_far_it_is_witnessed_and_its_last_digest(log):
    lines, told = lines_of(log), []
    verdict = verify_log(
        lines, witnesses(log), log.judge, source="server", progress=lambda *now: told.append(now)
    )
    assert (verdict.ok, verdict.rows, verdict.first_bad, verdict.problem) == (True, ROWS, None, "")
    assert verdict.agreed == ROWS
    assert verdict.digest == log.receipts[-1].digest
    assert told[-1] == (ROWS, ROWS)


def test_rewritten_tail_names_the_site_the_row_both_digests_and_how_far_all_agree(log):
    signed = log.signed
    forge(log, rewrite_tail, signed[4] + 1)
    verdict = judge(log, lines_of(log))
    against = next(one for one in verdict.witnesses if one.verdict == "differs")
    assert verdict.first_bad == against.index == signed[5]
    assert verdict.agreed == signed[4]
    for part in (f"site {against.site}", f"row {signed[5]}", against.vouched, against.found):
        assert part in verdict.problem
    assert f"somewhere from row {signed[4] + 1} to row {signed[5]}" in verdict.problem


def test_cut_off_tail_is_found_although_the_server_says_that_there_is_no_more(log):
    forge(log, cut_tail, 40)
    lines = lines_of(log)
    verdict = judge(log, lines)
    assert verdict.first_bad == 40
    assert "the log ends at row 39" in verdict.problem
    assert {one.verdict for one in verdict.witnesses if one.index >= 40} == {"missing"}


def test_log_that_ends_before_the_server_says_so_is_broken(log):
    verdict = verify_log(lines_of(log)[:50], witnesses(log), log.judge, source="server")
    assert verdict.first_bad == 51
    assert "row 51 is missing: the log is said to have 60 rows" in verdict.problem


def test_restored_log_is_sound_and_says_in_words_what_is_lost(log):
    async def restore() -> None:
        store = open_store(log.path.parent, clock=FakeClock(NOW + timedelta(hours=3)))  # after all receipts
        await store.commit(
            [], Row(who="spiffe://heart.example/server/server", what="server.restore", object="server")
        )
        for _ in range(30):
            await store.commit([], Row(who="server", what="job.start", object="j"))
        await store.close()

    forge(log, cut_tail, 40)
    asyncio.run(restore())
    verdict = judge(log, lines_of(log))
    lost = [one for one in verdict.witnesses if one.verdict == "restored"]
    assert verdict.ok
    assert lost
    assert all(one.index >= 40 for one in lost)
    assert verdict.agreed == max(index for index in log.signed if index < 40)
    assert "row 40 says that the server was restored from a backup" in verdict.notes[0]
    assert "are lost" in verdict.notes[0]


def test_dispute_that_a_site_has_reported_counts_as_a_receipt(log):
    """The server keeps the newest receipt of each site; what it vouched for before is in its dispute."""
    first, *rest = sorted(log.receipts, key=lambda receipt: receipt.index)
    forge(log, rewrite_tail, first.index)
    dispute = DisputeDocument(receipt=first, found="", noticed_at=NOW)
    verdict = verify_log(
        lines_of(log), witnesses(log, receipts=(), disputes=(dispute,)), log.judge, source="server"
    )
    assert (verdict.ok, verdict.first_bad) == (False, first.index)
    assert rest


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"digest": "ab" * 32}, "forged"),
        ({"index": 1}, "forged"),
        ({"signature": "00"}, "forged"),
        ({"signature": "no hex"}, "forged"),
        ({"site": "site-99"}, "forged"),
        ({"at": NOW + timedelta(hours=3)}, "forged"),
        ({"chain": "PEM"}, "unknown"),
        ({"at": NOW + timedelta(days=4000)}, "unknown"),
    ],
)
def test_receipt_that_was_tampered_with_is_no_receipt(log, change, verdict):
    bad = replace(log.receipts[0], **change)
    found = verify_log(lines_of(log), witnesses(log, receipts=(bad,)), log.judge, source="server")
    [one] = found.witnesses
    assert one.verdict == verdict
    assert found.ok is (verdict == "unknown")
    assert found.agreed is None


def test_receipt_counts_whose_certificate_has_expired_since(log):
    """Signed two hours after it was issued; nothing here looks at today's date."""
    assert NOW.year < 2027
    assert judge(log, lines_of(log)).agreed == ROWS


def test_receipt_under_another_ca_does_not_count_and_says_so(log):
    root = create_root(project="other", trust_domain="heart.example", days=30, now=NOW)
    stranger = create_issuing(root, kind=Kind.SITE, days=20, now=NOW)
    other = Judge(project_id=PROJECT, anchors=load_anchors(stranger.certificate_pem))
    verdict = verify_log(lines_of(log), witnesses(log), other, source="server")
    assert verdict.ok
    assert verdict.agreed is None
    assert "no site vouches for any of it" in verdict.notes[0]
    assert "does not count" in verdict.notes[1]


def test_without_a_kit_only_the_chain_is_verified_and_that_is_said(log):
    verdict = verify_log(
        lines_of(log), witnesses(log), Judge(project_id=PROJECT, anchors=None), source="file"
    )
    assert verdict.ok
    assert "no admin kit is at hand" in verdict.notes[0]


# ---- exports -------------------------------------------------------------------------------


def serve(lines: list[bytes]):
    def fetch(start: int) -> Iterator[bytes]:
        yield from lines[start - 1 :]

    return fetch


def test_export_is_continued_and_verifies_offline(log, tmp_path):
    lines, file = lines_of(log), tmp_path / "audit.jsonl"
    first = export_log(file, serve(lines[:25]), witnesses(log, head=25, receipts=()))
    second = export_log(file, serve(lines), witnesses(log))
    third = export_log(file, serve(lines), witnesses(log))
    assert [(one.rows, one.added) for one in (first, second, third)] == [(25, 25), (60, 35), (60, 0)]
    assert list(read_rows(file)) == lines
    assert file.stat().st_mode & 0o777 == 0o600
    verdict = verify_log(read_rows(file), read_witnesses(file), log.judge, source=str(file))
    assert (verdict.ok, verdict.agreed) == (True, ROWS)


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_export_that_was_cut_short_goes_on_where_it_was(log, tmp_path, cut):
    lines, file = lines_of(log), tmp_path / "audit.jsonl"
    export_log(file, serve(lines[:25]), witnesses(log, head=25, receipts=()))
    file.write_bytes(file.read_bytes()[:-cut])
    assert export_log(file, serve(lines), witnesses(log)).rows == ROWS
    assert list(read_rows(file)) == lines


def test_export_notices_that_the_server_was_rewritten_since(log, tmp_path):
    file = tmp_path / "audit.jsonl"
    export_log(file, serve(lines_of(log)[:25]), witnesses(log, head=25))
    before = file.read_bytes()
    forge(log, rewrite_tail, 10)
    with pytest.raises(RemoteError, match=r"does not continue .*audit\.jsonl: row 25 is another one there"):
        export_log(file, serve(lines_of(log)), witnesses(log))
    assert file.read_bytes() == before  # with the receipts, which the server may have no more


@pytest.mark.parametrize(("left", "says"), [(25, "another one there"), (20, "not there any more")])
def test_export_notices_a_log_that_was_rewritten_and_has_no_new_row(log, tmp_path, left, says):
    file = tmp_path / "audit.jsonl"
    export_log(file, serve(lines_of(log)[:25]), witnesses(log, head=25))
    before = file.read_bytes()
    forge(log, rewrite_tail, 10)
    with pytest.raises(RemoteError, match=f"row 25 is {says}"):
        export_log(file, serve(lines_of(log)[:left]), witnesses(log, head=left, receipts=()))
    assert file.read_bytes() == before


def test_rows_that_are_broken_further_on_take_no_receipt_from_an_export(log, tmp_path):
    lines, file = lines_of(log), tmp_path / "audit.jsonl"
    export_log(file, serve(lines[:25]), witnesses(log, head=25))
    before = file.read_bytes()
    with pytest.raises(RemoteError, match="the server's log is broken: row 31 is missing"):
        export_log(file, serve([*lines[:30], *lines[31:]]), witnesses(log))
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "these are my holiday plans\n",
        "these are my holiday plans",  # no line ends
        '{"log":"hello","stream":"stdout"}\n' * 3,  # as Docker writes
        '{"index":7,"at":',
    ],
)
def test_nothing_that_is_no_export_is_overwritten(log, tmp_path, text):
    file = tmp_path / "holiday.txt"
    file.write_text(text)
    with pytest.raises(Conflict, match="is there already"):
        export_log(file, serve(lines_of(log)), witnesses(log))
    assert file.read_text() == text


def test_two_exports_into_one_file_do_not_write_over_each_other(log, tmp_path):
    """As of a cron job that is started while the one before still fetches."""
    lines, file = lines_of(log), tmp_path / "audit.jsonl"

    def fetch(_start: int) -> Iterator[bytes]:
        yield from lines[:40]
        with pytest.raises(Conflict, match="another export writes"):
            export_log(file, serve(lines), witnesses(log))

    export_log(file, fetch, witnesses(log, head=40, receipts=()))
    assert list(read_rows(file)) == lines[:40]


def test_what_somebody_wrote_behind_the_rows_of_an_export_is_kept(log, tmp_path):
    lines, file = lines_of(log), tmp_path / "audit.jsonl"
    before = b"".join(lines[:25]) + b"my notes on all this"
    file.write_bytes(before)
    with pytest.raises(Conflict, match="what comes after row 25 is no row"):
        export_log(file, serve(lines), witnesses(log))
    assert file.read_bytes() == before


def test_export_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="no file"):
        list(read_rows(tmp_path / "nothing"))


def test_every_changed_byte_of_an_export_is_found(log, tmp_path):
    lines, file = lines_of(log), tmp_path / "audit.jsonl"
    export_log(file, serve(lines), witnesses(log))
    chance, data = random.Random(5), file.read_bytes()
    rows = data.index(b'{"log":')
    for _ in range(60):
        at = chance.randrange(rows)
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << chance.randrange(7)]) + data[at + 1 :])
        verdict = verify_log(read_rows(file), read_witnesses(file), log.judge, source=str(file))
        assert verdict.first_bad == data[:at].count(b"\n") + 1, at
