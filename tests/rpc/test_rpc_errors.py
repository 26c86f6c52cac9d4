# SPDX-License-Identifier: Apache-2.0
"""Errors across a wire: each of our classes and each of gRPC's codes has its counterpart."""

from __future__ import annotations

import inspect

import pytest

from flprov import errors
from flprov.rpc import from_report, to_report
from flprov.rpc.crossing import Report, clean_text, cut_text
from flprov.rpc.grpc_settings import grpc
from flprov.rpc.status import STATUS, WITHOUT_CODE, from_status, to_status

CLASSES = {
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, errors.FlprovError) and found.__module__ == errors.__name__
}
SERVER = "fl.example.org:8443"


def test_each_of_our_errors_has_a_status():
    assert set(STATUS) == CLASSES


def test_each_status_has_an_error():
    assert set(WITHOUT_CODE) == set(grpc.StatusCode)


def test_no_error_of_ours_looks_like_success_or_like_a_crash_of_grpc():
    assert not {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED} & set(STATUS.values())


def test_refusals_are_neither_internal_nor_unknown():
    refusals = [code for kind, code in STATUS.items() if issubclass(kind, errors.Refused | errors.Misuse)]
    assert grpc.StatusCode.INTERNAL not in refusals


@pytest.mark.parametrize("kind", sorted(CLASSES, key=lambda kind: kind.__name__))
def test_error_survives_the_trip_through_metadata(kind):
    sent = kind("größer als erlaubt", hint="do this")
    code, details, trailers = to_status(sent)
    got = from_status(code, details, trailers, server=SERVER)
    assert type(got) is (errors.RemoteError if issubclass(kind, errors.LocalError) else kind)
    assert (str(got), got.hint) == ("größer als erlaubt", "do this")
    assert details.isascii()


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_status_without_our_metadata_names_the_server(code):
    got = from_status(code, "some \x1b[31m words", (), server=SERVER)
    assert type(got) is WITHOUT_CODE[code]
    assert SERVER in str(got)
    assert "\x1b" not in str(got)


def test_unknown_code_of_a_newer_peer_is_a_plain_failure():
    got = from_report(Report(code="quota-refused", message=b"too much"))
    assert type(got) is errors.FlprovError
    assert str(got) == "too much"


@pytest.mark.parametrize("code", ["__class__", "exception", "os.system", "", "FlprovError"])
def test_code_from_a_peer_names_no_class_but_ours(code):
    assert type(from_report(Report(code=code, message=b"x"))) is errors.FlprovError


def test_report_without_a_message_still_says_something():
    assert str(from_report(Report(code="not-found", message=b""))) == "the other side gave no reason"


def test_report_never_carries_the_cause():
    error = errors.NotFound("no such job")
    error.__cause__ = OSError("/secret/path")
    assert b"secret" not in to_report(error).message


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain\ntwo lines", "plain\ntwo lines"),
        ("\x1b]0;title\x07", "?]0;title?"),
        ("\rgone", "?gone"),
        ("abc\u202edef", "abc?def"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        ("\x9b31m", "?31m"),
    ],
)
def test_text_from_a_peer_cannot_drive_a_terminal(text, clean):
    assert clean_text(text) == clean


def test_cut_never_splits_a_character():
    for limit in range(12, 40):
        cut = cut_text("ä€" * 40, limit)
        assert len(cut) <= limit
        assert cut.decode().endswith(" [...]")
    assert cut_text("short", 5) == b"short"


def test_lone_surrogate_crosses():
    assert "?" in str(from_report(to_report(errors.NotFound("a\udc80b"))))
