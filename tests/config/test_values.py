# SPDX-License-Identifier: Apache-2.0
"""`flprov._base.dataclass` is the standard library's in all that it does, whatever it is made of."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import field

import pytest

from flprov._base import dataclass


@dataclass(frozen=True, kw_only=True)
class Quick:
    """Some of every kind of field."""

    name: str
    own: int = 3
    words: list[str] = field(default_factory=list)
    secret: str = field(default="", repr=False)
    seen: int = field(default=0, compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usual:
    """The same."""

    name: str
    own: int = 3
    words: list[str] = field(default_factory=list)
    secret: str = field(default="", repr=False)
    seen: int = field(default=0, compare=False)


@dataclass(frozen=True, kw_only=True)
class Longer(Quick):
    """One that inherits, and looks at what it was given."""

    more: int

    def __post_init__(self) -> None:
        if self.more < 0:
            raise ValueError("less")


@dataclass(frozen=True, kw_only=True)
class Named:
    """One with methods of its own."""

    name: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named)

    def __repr__(self) -> str:
        return "named"


GIVEN = {"name": "a", "words": ["b"], "secret": "c", "seen": 4}


def test_fields_values_and_words_are_those_of_the_standard_library():
    quick, usual = Quick(**GIVEN), Usual(**GIVEN)
    assert dataclasses.asdict(quick) == dataclasses.asdict(usual)
    assert [f.name for f in dataclasses.fields(Quick)] == [f.name for f in dataclasses.fields(Usual)]
    assert repr(quick) == repr(usual).replace("Usual", "Quick")
    assert "secret" not in repr(quick)


def test_equal_are_those_of_one_class_whose_compared_fields_are():
    assert Quick(name="a") == Quick(name="a", seen=9)
    assert Quick(name="a") != Quick(name="b")
    assert Quick(name="a") != Usual(name="a")
    assert Named(name="a") == Named(name="b")
    assert repr(Named(name="a")) == "named"
    assert hash(Named(name="a")) == hash(Named(name="a"))


def test_each_instance_has_a_default_of_its_own():
    one, other = Quick(name="a"), Quick(name="a")
    one.words.append("x")
    assert other.words == []


@pytest.mark.parametrize("given", [{}, {"name": "a", "other": 1}, {"other": 1}])
def test_what_is_missing_or_unknown_is_a_type_error_that_names_it(given):
    with pytest.raises(TypeError, match="other" if "other" in given else "name"):
        Quick(**given)
    with pytest.raises(TypeError):
        Quick("a")  # type: ignore[misc]


def test_nothing_can_be_changed():
    quick = Quick(name="a")
    with pytest.raises(dataclasses.FrozenInstanceError, match="name"):
        quick.name = "b"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError, match="name"):
        del quick.name
    assert dataclasses.replace(quick, name="b") == Quick(name="b")
    assert quick.name == "a"


def test_a_copy_and_a_pickle_are_equal_and_as_frozen():
    longer = Longer(name="a", more=1)
    for made in (copy.deepcopy(longer), pickle.loads(pickle.dumps(longer))):
        assert made == longer
        with pytest.raises(dataclasses.FrozenInstanceError):
            made.more = 2  # type: ignore[misc]


def test_an_heir_has_all_fields_and_is_checked():
    assert Longer(name="a", more=1) != Longer(name="a", more=2)
    with pytest.raises(ValueError, match="less"):
        Longer(name="a", more=-1)


def test_only_frozen_and_keyword_only_classes_are_made():
    with pytest.raises(TypeError, match="frozen"):
        dataclass(frozen=False, kw_only=True)
