# SPDX-License-Identifier: Apache-2.0
"""JSON from outside: what it may hold, and that everything else is a ValueError."""

from __future__ import annotations

import pytest

from flprov._base import canonical_json, dataclass, from_document, parse_json


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One number."""

    seconds: float = 0.0


@pytest.mark.parametrize(
    "data",
    ['"\\ud800"', b'{"\\uDFFF": 1}', b'["\\\\\\udbff"]', b'"\xed\xa0\x80"', '"\ud800"', b'"\xff"'],
)
def test_text_that_cannot_be_written_again_is_refused(data):
    with pytest.raises(ValueError):
        parse_json(data)


@pytest.mark.parametrize(
    "data", ['"\\ud83d\\ude00"', '"\\\\ud800"', b'"\xc3\xa4\\u0041"', b'\xef\xbb\xbf"a"']
)
def test_whole_pairs_and_what_only_looks_like_an_escape_are_text(data):
    assert canonical_json(parse_json(data))


def test_a_whole_number_beyond_all_floats_is_named_and_refused():
    with pytest.raises(ValueError, match=r"Measured\.seconds: a number larger"):
        from_document(Measured, parse_json(f'{{"seconds": 1{"0" * 400}}}'))
    assert from_document(Measured, {"seconds": 10**300}).seconds == 1e300
