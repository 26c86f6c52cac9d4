# SPDX-License-Identifier: Apache-2.0
"""Errors in messages: every class of the tree comes out as it went in, with its nature."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flprov.errors import ConfigError, FlprovError, Nature, SiteLocked, error_class
from flprov.wire import error_of, failure_of, parse_message, pb


def tree(kind: type[FlprovError] = FlprovError) -> Iterator[type[FlprovError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == "flprov.errors":
            yield from tree(child)


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_class_words_hint_and_nature_survive_the_way(kind):
    data = failure_of(kind("what was found", hint="what to type")).SerializeToString()
    found = error_of(parse_message(pb.Failure, data))
    assert type(found) is kind
    assert (str(found), found.hint, found.nature) == ("what was found", "what to type", kind.nature)


def test_every_mistake_of_a_file_survives():
    found = error_of(failure_of(ConfigError(["a.yml:1: x", "a.yml:2: y"])))
    assert isinstance(found, ConfigError)
    assert found.problems == ["a.yml:1: x", "a.yml:2: y"]


def test_a_cause_does_not_travel():
    error = FlprovError("the kit cannot be read")
    error.__cause__ = OSError("/secret/path")
    assert "secret" not in str(failure_of(error))


def test_a_failure_without_a_word_says_so():
    assert str(error_of(pb.Failure())) == "the other side gave no reason"


@pytest.mark.parametrize("code", ["", "no-such-code", "JobFailed"])
def test_a_code_that_is_not_ours_is_an_error_all_the_same_and_not_retried(code):
    found = error_of(pb.Failure(code=code, message="x"))
    assert type(found) is FlprovError
    assert found.nature is Nature.CONFIGURATION


def test_natures_are_as_the_design_says():
    """Written out by hand: what is retried is decided here."""
    transient = {kind.__name__ for kind in tree() if kind.nature is Nature.TRANSIENT}
    identity = {kind.__name__ for kind in tree() if kind.nature is Nature.IDENTITY}
    assert transient == {
        "SiteLocked",
        "NoRoom",
        "Unavailable",
        "ServerUnavailable",
        "SiteUnavailable",
        "TimedOut",
        "LocalError",
        "RemoteError",
    }
    assert identity == {"IdentityRefused", "PermissionRefused", "KitRefused"}
    assert error_class("site-locked") is SiteLocked
