# SPDX-License-Identifier: Apache-2.0
"""`logs` in policy.yml: strictly read, and masking that moves nothing."""

from __future__ import annotations

import re

import pytest

from flprov.errors import ConfigError
from flprov.policy import LogRules, load_policy
from flprov.policy.masking import mask


def load(tmp_path, text: str) -> LogRules:
    path = tmp_path / "policy.yml"
    path.write_text(text)
    return load_policy(path).logs


def test_without_the_section_logs_are_shared_and_capped(tmp_path):
    assert load(tmp_path, "allow: {}\n") == LogRules(share=True, cap=16 << 20, redact=())


def test_all_of_it_is_read(tmp_path):
    rules = load(tmp_path, 'logs: {share: false, cap: 1MiB, redact: ["MRN[0-9]+", "a|b"]}\n')
    assert rules == LogRules(share=False, cap=1 << 20, redact=("MRN[0-9]+", "a|b"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('logs:\n  redact: ["ok", "(x"]\n', r":2: 'redact' has '\(x', which is no regular expression"),
        (
            'logs: {redact: ["x{4294967295}"]}\n',
            "is no regular expression: the repetition number is too large",
        ),
        ('logs: {redact: ["a\\nb"]}\n', "redact"),
        (f'logs: {{redact: ["{"x" * 1001}"]}}\n', "is no pattern: one line of 1 to 1000 characters"),
        ("logs: {redact: MRN}\n", "redact"),
        ("logs: {share: no}\n", "share"),
        ("logs: {cap: 1KiB}\n", "the least is 64KiB"),
        ("logs: {cap: lots}\n", "cap"),
        ("logs: {shared: true}\n", "did you mean 'share'"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("data", "masked"),
    [
        (b"", b""),
        (b"MRN1", b"****"),
        (b"x MRN12\nMRN\n3", b"x *****\nMRN\n3"),
        ("Zoë MRN1 é".encode(), "Zoë **** é".encode()),
        (b"\x80MRN9\xff", b"\x80****\xff"),
    ],
)
def test_masking_keeps_every_byte_s_place(data, masked):
    assert mask(data, [re.compile("MRN[0-9]+")]) == masked


def test_several_patterns_are_tried_one_after_the_other():
    assert mask(b"ab 12\n", [re.compile("[0-9]+"), re.compile("b.*")]) == b"a****\n"
