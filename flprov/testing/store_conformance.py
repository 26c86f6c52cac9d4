# SPDX-License-Identifier: Apache-2.0
"""What every store must do. Subclass `StoreConformance` in a test module that has a `store` fixture."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from datetime import timedelta

from flprov.errors import LocalError
from flprov.store import (
    Change,
    Delete,
    Head,
    LogRow,
    Put,
    Row,
    RowFilter,
    Store,
    read_line,
    verify_chain,
    verify_lines,
)

ROW = Row(who="spiffe://example.org/person/org/lead/ada", what="job.submit", object="job-1")


async def _failure(commit: Awaitable[int]) -> LocalError:
    try:
        index = await commit
    except LocalError as error:
        return error
    raise AssertionError(f"the commit was accepted with index {index}")


async def _refused(store: Store, changes: Sequence[Change], row: Row | None = None) -> LocalError:
    """The commit is refused, nothing of it is there, and the store still works."""
    head, before = store.head, store.load("job")
    error = await _failure(store.commit(changes, row))
    assert (store.head, store.load("job")) == (head, before)
    assert await store.commit([], ROW) == head + 1
    return error


class StoreConformance:
    """The suite. Each test takes a fresh store."""

    async def test_new_store_is_empty(self, store: Store) -> None:
        assert (store.head, store.rows(), store.load("job"), store.get("job", "a")) == (0, [], {}, None)

    async def test_commit_makes_record_and_row_visible(self, store: Store) -> None:
        assert await store.commit([Put("job", "a", {"state": "queued"})], ROW) == 1
        assert store.get("job", "a") == {"state": "queued"}
        assert store.load("job") == {"a": {"state": "queued"}}
        assert [(found.index, found.row) for found in store.rows()] == [(1, ROW)]
        assert store.head == 1

    async def test_rows_count_from_one_without_gaps(self, store: Store) -> None:
        assert [await store.commit([], ROW) for _ in range(3)] == [1, 2, 3]

    async def test_rows_that_come_before_are_logged_in_order_with_the_row(self, store: Store) -> None:
        first, second = (replace(ROW, object=text) for text in ("first", "second"))
        assert await store.commit([Put("job", "a", {})], ROW, before=[first, second]) == 3
        assert [found.row for found in store.rows()] == [first, second, ROW]
        assert verify_chain(store.rows()) is None
        assert await store.commit([], None, before=[first]) == 4

    async def test_commit_without_row_takes_no_index(self, store: Store) -> None:
        assert await store.commit([Put("job", "a", {})], None) == 0
        assert (store.head, store.load("job")) == (0, {"a": {}})

    async def test_changes_of_one_commit_are_applied_in_order(self, store: Store) -> None:
        changes: list[Change] = [Put("job", "a", {"n": 1}), Delete("job", "a"), Put("job", "a", {"n": 2})]
        await store.commit([*changes, Put("job", "b", {}), Delete("job", "b")], None)
        assert store.load("job") == {"a": {"n": 2}}

    async def test_put_replaces_the_whole_record(self, store: Store) -> None:
        await store.commit([Put("job", "a", {"x": 1, "y": 2})], None)
        await store.commit([Put("job", "a", {"x": 3})], None)
        assert store.get("job", "a") == {"x": 3}

    async def test_deleting_what_is_absent_is_fine(self, store: Store) -> None:
        assert await store.commit([Delete("job", "nobody")], ROW) == 1

    async def test_kinds_are_apart(self, store: Store) -> None:
        await store.commit([Put("job", "a", {"n": 1}), Put("site", "a", {"n": 2})], None)
        assert (store.load("job"), store.load("site")) == ({"a": {"n": 1}}, {"a": {"n": 2}})

    async def test_load_is_in_order_of_ids(self, store: Store) -> None:
        await store.commit([Put("job", name, {}) for name in ("b", "ä", "A", "a", "10", "9")], None)
        assert list(store.load("job")) == ["10", "9", "A", "a", "b", "ä"]

    async def test_strange_text_comes_back_as_it_was(self, store: Store) -> None:
        text = "\x00 ' \" ; DROP TABLE log; -- \u202e\U0001f600\n"
        row = Row(who=text, what=text, object=text, outcome=text, reason=text, data={text: text})
        await store.commit([Put(text, text, {text: [text, None, True, 1, 0.1, 2**63, -0.0, 1e-300]})], row)
        assert store.load(text) == {text: {text: [text, None, True, 1, 0.1, 2**63, -0.0, 1e-300]}}
        assert store.rows()[0].row == row
        assert verify_chain(store.rows()) is None

    async def test_what_is_read_is_a_copy(self, store: Store) -> None:
        value: dict[str, object] = {"sites": ["a"]}
        await store.commit([Put("job", "a", value)], None)
        value["sites"] = []
        store.load("job")["a"]["sites"].append("b")
        assert store.get("job", "a") == {"sites": ["a"]}

    async def test_value_is_taken_when_commit_is_called(self, store: Store) -> None:
        value = {"n": 1}
        pending = asyncio.ensure_future(store.commit([Put("job", "a", value)], None))
        await asyncio.sleep(0)
        value["n"] = 2
        await pending
        assert store.get("job", "a") == {"n": 1}

    async def test_rows_are_read_from_an_index_on(self, store: Store) -> None:
        await asyncio.gather(*(store.commit([], replace(ROW, object=str(n))) for n in range(1, 8)))
        assert [found.row.object for found in store.rows(3, 2)] == ["3", "4"]
        assert [found.index for found in store.rows(-5, 2)] == [1, 2]
        assert store.rows(8) == store.rows(1, 0) == store.rows(1, -1) == []

    async def test_concurrent_commits_all_land_in_the_order_they_were_called(self, store: Store) -> None:
        commits = [
            store.commit([Put("job", str(n), {"n": n})], replace(ROW, object=str(n))) for n in range(300)
        ]
        assert await asyncio.gather(*commits) == list(range(1, 301))
        assert [found.row.object for found in store.rows()] == [str(n) for n in range(300)]
        assert store.load("job") == {str(n): {"n": n} for n in range(300)}
        assert verify_chain(store.rows()) is None

    async def test_bad_commit_among_concurrent_ones_fails_alone(self, store: Store) -> None:
        def change(n: int) -> Put:
            return Put("job", str(n), {"n": math.nan if n == 5 else n})

        commits = [store.commit([change(n)], ROW) for n in range(10)]
        outcomes = await asyncio.gather(*commits, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [int] * 5 + [LocalError] + [int] * 4
        assert [outcome for outcome in outcomes if isinstance(outcome, int)] == list(range(1, 10))
        assert set(store.load("job")) == set("012346789")
        assert verify_chain(store.rows()) is None

    async def test_value_without_json_form_is_refused_whole(self, store: Store) -> None:
        for value in (math.inf, object(), b"bytes", "\ud800", 10**5000):
            error = await _refused(store, [Put("job", "good", {}), Put("job", "bad", {"x": value})], ROW)
            assert "'job' 'bad'" in str(error)

    async def test_value_nested_without_end_is_refused(self, store: Store) -> None:
        value: dict[str, object] = {}
        value["self"] = value
        await _refused(store, [Put("job", "bad", value)], ROW)

    async def test_record_that_is_no_mapping_is_refused(self, store: Store) -> None:
        await _refused(store, [Put("job", "bad", ["a"])])  # type: ignore[arg-type]

    async def test_name_that_is_no_text_is_refused(self, store: Store) -> None:
        await _refused(store, [Put("job", "\udcff", {})])
        await _refused(store, [Delete("job", None)])  # type: ignore[arg-type]

    async def test_row_that_could_not_be_read_again_is_refused(self, store: Store) -> None:
        change = [Put("job", "a", {})]
        await _refused(store, change, replace(ROW, data={"x": object()}))
        await _refused(store, change, replace(ROW, data=["x"]))  # type: ignore[arg-type]
        await _refused(store, change, replace(ROW, who=None))  # type: ignore[arg-type]

    async def test_cancelled_caller_leaves_whole_commit_and_sound_log(self, store: Store) -> None:
        waiting = asyncio.ensure_future(store.commit([Put("job", "a", {})], ROW))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert await store.commit([], ROW) == 2
        assert store.load("job") == {"a": {}}
        assert verify_chain(store.rows()) is None

    async def test_urgent_commit_is_a_commit(self, store: Store) -> None:
        assert await store.commit([Put("job", "a", {})], ROW, urgent=True) == 1

    async def test_every_tampering_breaks_the_chain(self, store: Store) -> None:
        for n in range(5):
            await store.commit([], replace(ROW, object=str(n), data={"n": n}))
        rows = store.rows()
        assert verify_chain(rows) is None
        assert verify_chain(rows[2:]) is None
        forged = replace(rows[2], row=replace(rows[2].row, who="mallory"))
        assert verify_chain([*rows[:2], forged, *rows[3:]]) == 3
        assert verify_chain([*rows[:2], replace(rows[2], at=rows[0].at.replace(year=2020)), *rows[3:]]) == 3
        assert verify_chain([*rows[:2], *rows[3:]]) == 3
        assert verify_chain([*rows[:3], rows[2], *rows[3:]]) == 4
        assert verify_chain([rows[0], rows[2], rows[1], *rows[3:]]) == 2
        assert verify_chain([replace(rows[0], previous="1" * 64), *rows[1:]]) == 1

    # ---- finding ---------------------------------------------------------------------------

    FILTERS = (
        RowFilter(),
        RowFilter(what="job.submit"),
        RowFilter(what="job."),
        RowFilter(what="job"),
        RowFilter(what="nothing."),
        RowFilter(families=("job", "call")),
        RowFilter(families=("job",), what="site."),
        RowFilter(families=("site",), what="site.connect", object="b"),
        RowFilter(object="a"),
        RowFilter(who="ada"),
        RowFilter(who="spiffe://example.org/person/org/lead/ada"),
        RowFilter(who="server"),
        RowFilter(who="org"),
        RowFilter(outcome="ok"),
        RowFilter(outcome="denied"),
        RowFilter(outcome="denied", who="ada", object="a", what="call"),
        RowFilter(object="\u202e' %", what="job."),
    )

    async def _fill(self, store: Store) -> list[LogRow]:
        """Rows of every sort, some hundred of them."""
        whos = ("server", ROW.who, "spiffe://example.org/site/org/b", "unknown")
        whats = (("job.submit", "ok"), ("site.connect", "ok"), ("call", "denied"), ("job.abort", "failed"))
        objects = ("a", "b", "\u202e' %")
        for n in range(144):
            what, outcome = whats[n % 4]
            row = Row(who=whos[n // 4 % 4], what=what, object=objects[n // 16 % 3], outcome=outcome)
            await store.commit([], row)
        return store.rows()

    async def test_rows_are_found_by_what_stands_in_them(self, store: Store) -> None:
        rows = await self._fill(store)
        for wanted in self.FILTERS:
            expected = [row for row in rows if wanted.matches(row)]
            assert await store.find(wanted) == expected, wanted
            assert await store.find(wanted, start=40, limit=5) == [r for r in expected if r.index >= 40][:5]
            assert await store.find(wanted, newest=True, limit=3) == expected[-3:], wanted
            assert await store.find(wanted, limit=0) == []
        assert any(wanted.matches(row) for row in rows for wanted in self.FILTERS[-2:])

    async def test_rows_are_found_by_their_time(self, store: Store) -> None:
        rows = await self._fill(store)
        at = rows[70].at
        for moment in (at, at + timedelta(microseconds=300), at - timedelta(days=1), at + timedelta(days=1)):
            for wanted in (
                RowFilter(since=moment),
                RowFilter(until=moment),
                RowFilter(since=at, until=moment),
            ):
                assert await store.find(wanted) == [row for row in rows if wanted.matches(row)]

    async def test_lines_are_the_rows_and_verify(self, store: Store) -> None:
        assert await store.lines() == []
        rows = await self._fill(store)
        lines = await store.lines()
        assert [read_line(line) for line in lines] == rows
        assert verify_lines(lines) == Head(index=144, digest=rows[-1].digest)
        assert await store.lines(143, 5) == lines[142:]
        assert await store.lines(-3, 2) == lines[:2]

    # ---- waiting ---------------------------------------------------------------------------

    async def test_who_waits_for_rows_hears_of_them(self, store: Store) -> None:
        waiting = asyncio.ensure_future(store.wait_beyond(1))
        assert await store.commit([], ROW) == 1
        await store.commit([Put("job", "a", {})], None)
        await asyncio.sleep(0)
        assert not waiting.done()
        assert await store.commit([], ROW) == 2
        assert await asyncio.wait_for(waiting, 10) == 2

    async def test_what_is_there_need_not_be_waited_for(self, store: Store) -> None:
        await store.commit([], ROW)
        assert await asyncio.wait_for(store.wait_beyond(0), 10) == 1

    async def test_row_is_there_when_who_waited_hears_of_it(self, store: Store) -> None:
        async def follow() -> list[str]:
            found: list[str] = []
            while len(found) < 200:
                await store.wait_beyond(len(found))
                found += [row.row.object for row in store.rows(len(found) + 1)]
            return found

        followers = [asyncio.ensure_future(follow()) for _ in range(5)]
        await asyncio.gather(*(store.commit([], replace(ROW, object=str(n))) for n in range(200)))
        for found in await asyncio.wait_for(asyncio.gather(*followers), 20):
            assert found == [str(n) for n in range(200)]

    async def test_listener_hears_until_it_stops(self, store: Store) -> None:
        heard: list[int] = []
        stop = store.listen(heard.append)
        await store.commit([], ROW)
        await store.wait_beyond(0)
        stop()
        await store.commit([], ROW)
        await store.wait_beyond(1)
        await asyncio.sleep(0)
        assert heard == [1]

    async def test_cancelled_wait_leaves_nothing_behind(self, store: Store) -> None:
        waiting = asyncio.ensure_future(store.wait_beyond(0))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert await store.commit([], ROW) == 1

    async def test_closing_ends_every_wait(self, store: Store) -> None:
        waiting = asyncio.ensure_future(store.wait_beyond(0))
        await asyncio.sleep(0)
        await store.close()
        for late in (waiting, store.wait_beyond(0)):
            assert "closed" in str(await _failure(late))

    async def test_closed_store_refuses_commits(self, store: Store) -> None:
        pending = asyncio.ensure_future(store.commit([], ROW))
        await asyncio.sleep(0)
        await store.close()
        assert await pending == 1
        await store.close()
        assert "closed" in str(await _failure(store.commit([], ROW)))
