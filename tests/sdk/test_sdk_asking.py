# SPDX-License-Identifier: Apache-2.0
"""What else a controller can ask: one site, one after the other, with own tensors, without a quorum."""

import numpy as np
import pytest
from ports import FakePort

from flprov.errors import JobFailed, Misuse, NotFound
from flprov.messages import Update, UpdateKind
from flprov.sdk import Answer, Sites, State
from flprov.sdk.gathering import Gathering

MODEL = {"w": np.zeros(2, np.float32)}
NAMES = ("a", "b", "c")


def plus_one(ask, site):
    return Update(params={"w": ask.model["w"] + np.float32(1)}, samples=5)


def by_one(ask, site):
    return Update(params={"w": np.ones(2, np.float32)}, kind=UpdateKind.DIFF, samples=0)


def in_a_round(body, answer=plus_one):
    """What `body(sites)` gives, and the port."""
    port = FakePort(answer)
    sites = Sites(port, names=NAMES, tasks=["train"], total=1)
    for _ in sites.rounds(State(model=MODEL)):
        return body(sites), port, sites
    raise AssertionError


@pytest.mark.parametrize("answer", [plus_one, by_one], ids=["full", "diff"])
def test_relay_gives_each_site_what_the_one_before_gave(answer):
    (model, updates), port, _ = in_a_round(lambda sites: sites.relay("train", MODEL), answer)
    assert [ask.to for ask in port.asks] == [("a",), ("b",), ("c",)]
    assert [float(ask.model["w"][0]) for ask in port.asks] == [0.0, 1.0, 2.0]
    assert [ask.task_id for ask in port.asks] == ["0/train/0", "0/train/1", "0/train/2"]
    assert model["w"].tolist() == [3.0, 3.0]
    assert [update.site for update in updates] == ["a", "b", "c"]


def test_relay_goes_in_the_order_that_it_is_told_with_what_it_is_told():
    body = lambda sites: sites.relay("train", MODEL, ["c", "a"], scalars={"lr": 0.5})  # noqa: E731
    _, port, _ = in_a_round(body)
    assert [(ask.to, ask.scalars) for ask in port.asks] == [(("c",), {"lr": 0.5}), (("a",), {"lr": 0.5})]


def test_relay_passes_over_who_does_not_answer():
    def answer(ask, site):
        return "away" if site == "b" else plus_one(ask, site)

    (model, _), port, sites = in_a_round(lambda sites: sites.relay("train", MODEL), answer)
    assert model["w"].tolist() == [2.0, 2.0]
    assert sites.absent == {"b": "away"}
    assert all(ask.optional for ask in port.asks)


def test_relay_of_which_nobody_answers_fails_and_says_why():
    with pytest.raises(JobFailed, match=r"no site answered task 'train' of round 0 \(a: x; b: x; c: x\)"):
        in_a_round(lambda sites: sites.relay("train", MODEL), lambda ask, site: "x")


def test_a_task_for_no_site_goes_to_none():
    def body(sites):
        assert list(sites.start("train", MODEL, to=[])) == []
        return sites.start("train", MODEL, to=[]).done

    done, port, _ = in_a_round(body)
    assert (done, port.asks) == (True, [])
    with pytest.raises(JobFailed, match=r"no site answered task 'train' of round 0 .none asked"):
        in_a_round(lambda sites: sites.train(MODEL, to=[]))


def test_send_is_to_one_and_gives_its_update():
    update, port, _ = in_a_round(lambda sites: sites.send("b", "train", MODEL))
    assert (update.site, port.asks[0].to, port.asks[0].optional) == ("b", ("b",), False)


def test_send_to_who_does_not_answer_can_be_dealt_with():
    def body(sites):
        try:
            return sites.send("a", "train", MODEL, optional=True)
        except JobFailed:
            return sites.send("b", "train", MODEL, optional=True)

    update, _, _ = in_a_round(body, lambda ask, site: "no" if site == "a" else plus_one(ask, site))
    assert update.site == "b"


def test_send_to_a_stranger_names_it():
    with pytest.raises(NotFound, match="'z', which is no site"):
        in_a_round(lambda sites: sites.send("z", "train", MODEL))


def test_tensors_of_ones_own_go_with_one_ask():
    own = {"a": {"c": np.ones(1)}, "c": {"c": np.zeros(1)}}
    _, port, _ = in_a_round(lambda sites: sites.train(MODEL, extra_of=own, requires=["c"]))
    (ask,) = port.asks
    assert (ask.to, ask.extra_of, ask.requires) == (NAMES, own, ("c",))


def test_tensors_for_who_is_not_asked_are_a_mistake():
    with pytest.raises(Misuse, match="'train' has tensors for 'c', to which it was not sent"):
        in_a_round(lambda sites: sites.train(MODEL, to=["a"], extra_of={"c": MODEL}))


def test_a_refused_update_leaves_its_site_absent():
    def body(sites):
        gathering = sites.start("train", MODEL)
        updates = gathering.updates()
        sites.refuse(updates[1], "not a ciphertext")
        return gathering

    gathering, port, sites = in_a_round(body)
    assert port.refused == [("0/train/0", "b", "not a ciphertext")]
    assert gathering.absent == sites.absent == {"b": "not a ciphertext"}
    assert [update.site for update in gathering.updates()] == ["a", "c"]


def test_refusing_what_never_came_is_a_mistake():
    with pytest.raises(Misuse, match="an update of b was refused that is none of this round"):
        in_a_round(lambda sites: sites.refuse(Update(site="b"), "x"))


def test_updates_are_given_out_once_in_the_order_in_which_they_came():
    def body(sites):
        port = sites._port
        gathering = sites.start("train", MODEL)  # answered from the last to the first
        found = []
        for number in range(3):
            gathering.take(port.wait([gathering.task_id]))
            if number == 0:
                found.append(gathering.fresh())
                gathering.take(Answer(task_id=gathering.task_id, site="c", update=found[0]))  # once more
        gathering.refuse(gathering._came["b"], "no")
        return [update.site for update in (*found, *gathering)], gathering

    (found, gathering), _, _ = in_a_round(body)
    assert found == ["c", "a"]
    assert [update.site for update in gathering.updates()] == ["a", "c"]
    assert gathering.fresh() is None


def test_asking_one_site_goes_through_no_list_of_all(monkeypatch):
    """Among thousands of sites, of which each has a task of its own."""

    class Names(tuple):
        def __contains__(self, name):
            raise AssertionError("all names were looked through")

    def body(sites):
        sites.names = Names(sites.names)
        monkeypatch.setattr(Gathering, "waiting", property(lambda _: pytest.fail("all sites were listed")))
        return [sites.start("train", MODEL, to=[name]).sites for name in NAMES]

    assert in_a_round(body)[0] == [("a",), ("b",), ("c",)]


def test_who_has_not_answered_cannot_be_asked_and_who_has_can():
    def body(sites):
        first = sites.start("train", MODEL, to=["a", "b"])
        with pytest.raises(Misuse, match="sent to a, which has not answered"):
            sites.start("train", MODEL)
        sites.start("train", MODEL, to=["c"])
        sites.wait_answer(first)  # of b
        return sites.start("train", MODEL, to=["b"]).sites

    assert in_a_round(body)[0] == ("b",)


def test_reports_and_the_wish_to_stop_pass_through():
    def body(sites):
        sites.report("thinking")
        return sites.aborted()

    found, port, _ = in_a_round(body)
    assert (found, port.reported) == (False, ["thinking"])
    port.is_aborted = True
