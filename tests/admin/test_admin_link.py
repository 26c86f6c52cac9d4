# SPDX-License-Identifier: Apache-2.0
"""The blocking face on a connection: replies in order, bounded waits, and an end that leaves nothing open."""

from __future__ import annotations

import gc
import itertools
import threading

import pytest
from admin_server import NOW, WAITS, Network, Server, make_job

from flprov.admin.link import Link
from flprov.errors import Conflict, NotFound, ProtocolError, ServerUnavailable, TimedOut
from flprov.rpc import methods as m
from flprov.wire import documents as doc
from flprov.wire import pb

QUERY = pb.Query(id="j1")


def test_a_document_is_read(link: Link, server: Server):
    server.replies[m.SHOW_JOB] = make_job()
    assert link.document(doc.JobDocument, m.SHOW_JOB, QUERY) == make_job()
    assert server.requests(m.SHOW_JOB) == [QUERY]


def test_an_error_of_the_server_is_the_caller_s_with_its_hint(link: Link, server: Server):
    server.replies[m.SHOW_JOB] = Conflict("the token was used before", hint="give another --token")
    with pytest.raises(Conflict, match="token was used") as refused:
        link.unary(m.SHOW_JOB, QUERY)
    assert refused.value.hint == "give another --token"


@pytest.mark.parametrize(
    "json",
    [b"", b"[]", b"{", b"null", b'{"id": 3}', b'{"a": 1, "a": 2}', b"\xff", b'{"id": NaN}', b"[" * 9999],
)
def test_an_answer_that_is_no_such_document_is_a_protocol_error(link: Link, server: Server, json):
    server.replies[m.SHOW_JOB] = pb.Document(json=json)
    with pytest.raises(ProtocolError, match="not as expected"):
        link.document(doc.JobDocument, m.SHOW_JOB, QUERY)


def test_a_field_that_is_new_is_passed_over(link: Link, server: Server):
    server.replies[m.SUBMIT_JOB] = {"job_id": "j1", "app": "x", "state": "queued", "mood": "good"}
    found = link.document(doc.SubmitDocument, m.SUBMIT_JOB, pb.SubmitRequest())
    assert found == doc.SubmitDocument(job_id="j1", app="x", state="queued")


def test_replies_come_one_by_one_and_in_order(link: Link, server: Server):
    server.replies[m.DOWNLOAD_APP] = [bytes([n]) for n in range(200)]
    replies = link.download(m.DOWNLOAD_APP, pb.BlobRequest())
    assert [reply[0] for reply in replies] == list(range(200))


def test_an_error_in_the_middle_comes_after_what_was_before_it(link: Link, server: Server):
    server.replies[m.DOWNLOAD_APP] = [b"a", NotFound("it is gone")]
    replies = link.download(m.DOWNLOAD_APP, pb.BlobRequest())
    assert next(replies) == b"a"
    with pytest.raises(NotFound, match="it is gone"):
        next(replies)


def test_a_caller_that_is_slow_is_not_overrun(link: Link, server: Server):
    sent = itertools.count()
    server.replies[m.DOWNLOAD_APP] = (bytes([next(sent) % 256]) for _ in range(1000))
    replies = link.download(m.DOWNLOAD_APP, pb.BlobRequest())
    next(replies)
    server.replies[m.STATUS] = {}
    for _ in range(20):
        link.unary(m.STATUS, pb.Query())  # the loop has run meanwhile
    assert next(sent) < 100
    replies.close()


def test_waiting_ends_after_the_time_that_was_given(link: Link, server: Server):
    server.replies[m.WATCH_JOB] = [make_job(), WAITS]
    replies = link.download(m.WATCH_JOB, QUERY, timeout=0.05)
    next(replies)
    with pytest.raises(TimedOut, match=r"0\.05 s"):
        next(replies)
    assert server.ended.wait(5)


def test_a_timeout_of_nothing_is_no_timeout(link: Link, server: Server):
    server.replies[m.WATCH_JOB] = [make_job()] * 3
    assert len(list(link.download(m.WATCH_JOB, QUERY, timeout=None))) == 3


def test_leaving_early_ends_the_call_at_the_server(link: Link, server: Server):
    server.replies[m.WATCH_JOB] = [make_job(), WAITS]
    for _ in link.download(m.WATCH_JOB, QUERY):
        break
    gc.collect()
    assert server.ended.wait(5)


def test_several_calls_may_be_open_at_once(link: Link, server: Server):
    server.replies[m.WATCH_JOB] = [make_job("queued"), make_job("running")]
    server.replies[m.SHOW_JOB] = make_job()
    first, second = (link.download(m.WATCH_JOB, QUERY) for _ in range(2))
    next(first)
    assert link.document(doc.JobDocument, m.SHOW_JOB, QUERY).id == "j1"
    assert len(list(second)) == 2
    assert len(list(first)) == 1


def test_a_server_that_goes_away_is_named(link: Link, server: Server, network: Network):
    server.replies[m.WATCH_JOB] = [make_job(), WAITS]
    replies = link.download(m.WATCH_JOB, QUERY)
    next(replies)
    network.stop()
    with pytest.raises(ServerUnavailable):
        next(replies)
    with pytest.raises(ServerUnavailable):
        link.unary(m.STATUS, pb.Query())


# ---- the end -----------------------------------------------------------------------------------


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_closing_leaves_no_thread_and_twice_is_fine(network: Network, kit):
    link = Link(network.connect(kit.identity))
    assert "flprov link" in threads()
    link.close()
    link.close()
    assert "flprov link" not in threads()


def test_closing_closes_the_connection(network: Network, kit):
    connection = network.connect(kit.identity)
    Link(connection).close()
    with Link(connection) as link, pytest.raises(ServerUnavailable, match="closed here"):
        link.unary(m.STATUS, pb.Query())


def test_a_closed_link_makes_no_calls(network: Network, kit):
    link = Link(network.connect(kit.identity))
    link.close()
    with pytest.raises(ServerUnavailable, match="closed"):
        link.unary(m.STATUS, pb.Query())
    with pytest.raises(ServerUnavailable, match="closed"):
        next(link.download(m.WATCH_JOB, QUERY))


def test_who_iterates_over_a_closed_link_is_told_and_does_not_wait(server: Server, network: Network, kit):
    server.replies[m.WATCH_JOB] = [make_job(), WAITS]
    link = Link(network.connect(kit.identity))
    replies = link.download(m.WATCH_JOB, QUERY)
    next(replies)
    link.close()
    assert server.ended.wait(5)
    with pytest.raises(ServerUnavailable, match="closed"):
        next(replies)


def test_an_iterator_that_outlives_its_link_is_collected_in_silence(
    server: Server, network: Network, kit, recwarn
):
    server.replies[m.WATCH_JOB] = [make_job(), WAITS]
    link = Link(network.connect(kit.identity))
    replies = link.download(m.WATCH_JOB, QUERY)
    next(replies)
    link.close()
    del replies
    gc.collect()
    assert list(recwarn) == []


def test_an_interrupted_call_is_cancelled_at_the_server(link: Link, server: Server, monkeypatch):
    """Ctrl-C while the main thread waits for a reply."""
    server.replies[m.WATCH_JOB] = [WAITS]
    import queue

    class Interrupted(queue.SimpleQueue):
        def get(self, *_: object, **__: object):
            raise KeyboardInterrupt

    monkeypatch.setattr("flprov.admin.link.queue.SimpleQueue", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(link.download(m.WATCH_JOB, QUERY))
    monkeypatch.undo()
    server.replies[m.SHOW_JOB] = make_job(started_at=NOW)
    assert link.document(doc.JobDocument, m.SHOW_JOB, QUERY).started_at == NOW
