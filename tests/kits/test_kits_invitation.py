# SPDX-License-Identifier: Apache-2.0
"""An invite's line: there and back, and what comes of one that was cut, changed or forged."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import random
import zlib

import pytest
from join_parties import INVITE, SITE, Issuing, shifted
from kit_parties import NOW

from flprov.errors import FlprovError, IdentityRefused, Misuse
from flprov.kits import decode_invitation, encode_invitation
from flprov.pki import Identity, Kind, create_key, create_root


@pytest.fixture(scope="module")
def issuing(provisioned):
    return Issuing(provisioned)


@pytest.fixture(scope="module")
def invitation(issuing):
    return issuing.invitation()


@pytest.fixture(scope="module")
def line(invitation):
    return encode_invitation(invitation)


def refusal(text: str) -> FlprovError:
    with pytest.raises(FlprovError) as caught:
        decode_invitation(text)
    return caught.value


def raw(line: str) -> bytes:
    text = line.removeprefix("flprov1:")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def pack(body: bytes) -> str:
    """A line that is right in everything but what it holds."""
    packed = zlib.compress(body)
    head = len(packed).to_bytes(2, "big") + hashlib.sha256(packed).digest()[:4]
    return "flprov1:" + base64.urlsafe_b64encode(head + packed).decode().rstrip("=")


def body_of(line: str) -> bytes:
    return zlib.decompress(raw(line)[6:])


def test_a_line_says_what_was_put_into_it(invitation, line):
    found = decode_invitation(line)
    assert found == invitation
    assert (found.site, found.identity.invite) == (SITE, INVITE)
    assert found.expires > NOW


def test_a_line_is_short_and_one_word(line):
    assert len(line) < 2000
    assert line.startswith("flprov1:")
    assert not any(letter.isspace() for letter in line)


def test_blanks_and_line_ends_that_mail_puts_in_do_not_matter(invitation, line):
    wrapped = "\r\n  ".join(line[start : start + 60] for start in range(0, len(line), 60))
    assert decode_invitation(f"  {wrapped}\n\n") == invitation


def test_repr_shows_no_key(invitation, line):
    assert "PRIVATE" not in repr(invitation)
    assert line not in repr(invitation)


@pytest.mark.parametrize("kept", [1, 2, 3, 7, 60, 400, -1, -2, -3, -4, -60])
def test_a_line_that_was_cut_is_said_to_be_cut(line, kept):
    error = refusal(line[: len("flprov1:") + kept] if kept > 0 else line[:kept])
    assert isinstance(error, Misuse)
    assert "was cut on the way" in str(error)
    assert "ask for the line again" in str(error.hint)


def test_nothing_behind_the_mark_is_a_cut_line():
    assert "was cut on the way" in str(refusal("flprov1:"))


def test_one_letter_that_was_changed_is_noticed(line):
    chance = random.Random(7)
    for _ in range(200):
        where = chance.randrange(len("flprov1:") + 8, len(line) - 1)
        other = "A" if line[where] != "A" else "B"
        error = refusal(line[:where] + other + line[where + 1 :])
        assert isinstance(error, Misuse)
        assert "was changed on the way" in str(error)


def test_a_line_with_something_behind_it_was_changed(line):
    assert "changed on the way" in str(refusal(line + "AAAA"))


def test_odd_characters_are_named_without_repeating_the_line(line):
    error = refusal(line[:50] + "!" + line[51:])
    assert "odd characters" in str(error)
    assert line[8:40] not in str(error)


@pytest.mark.parametrize("text", ["", "hello", "https://x.example/flprov1", "flprov:AAA", "FLPROV1:A", "\0"])
def test_what_is_no_invite_is_said_to_be_none(text):
    error = refusal(text)
    assert isinstance(error, Misuse)
    assert "no invite" in str(error)


def test_a_newer_format_is_told_by_its_number(line):
    error = refusal(line.replace("flprov1:", "flprov2:"))
    assert "format 2, and this flprov reads format 1" in str(error)
    assert "install" in str(error.hint)


def test_absurd_lengths_are_refused_unread():
    assert "20001 characters" in str(refusal("flprov1:" + "A" * (20_001 - 8)))
    assert isinstance(refusal("flprov" + "9" * 19_000 + ":"), Misuse)


def test_a_bomb_in_the_compressed_part_does_not_go_off():
    error = refusal(pack(b"\0" * (48 << 20))[:20_000])
    assert isinstance(error, Misuse)
    small = refusal(pack(b"{" * (5 << 20)))  # 5 MiB in 5 KiB
    assert "would expand to more than 65536 bytes" in str(small)


def test_a_body_that_is_no_body_is_refused(line):
    head, _, parts = body_of(line).partition(b"\0")
    for body in (
        b"",
        b"{}",
        head,
        head + b"\0",
        b"[]\0" + parts,
        head + b"\0" + parts[:-1],
        head + b"\0\0\0",
    ):
        assert isinstance(refusal(pack(body)), Misuse | IdentityRefused)


def test_random_bodies_are_refused_and_never_crash(line):
    good, chance = bytearray(body_of(line)), random.Random(11)
    for _ in range(300):
        body = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        with contextlib.suppress(Misuse, IdentityRefused):
            decode_invitation(pack(bytes(body)))


def test_a_certificate_that_is_no_invites_is_refused(issuing, invitation):
    site = issuing.answer(invitation.private_pem)
    leaf = site.chain_pem.partition(b"-----END CERTIFICATE-----\n")
    error = refusal(encode_invitation(shifted(invitation, chain_pem=leaf[0] + leaf[1])))
    assert f"its certificate is of {SITE}, not of an invite" in str(error)


def test_a_key_that_is_not_the_certificates_is_refused(invitation):
    assert "is not the key of the certificate" in str(
        refusal(encode_invitation(shifted(invitation, private_pem=create_key())))
    )


def test_anchors_that_are_not_of_servers_are_refused(issuing, invitation):
    for kind in (Kind.SITE, Kind.PERSON, None):
        forged = shifted(invitation, server_anchors_pem=issuing.authorities.anchor(kind))
        assert "as the CA of servers that is none" in str(refusal(encode_invitation(forged)))
    other = create_root(project="other", trust_domain="other.example", days=30, now=NOW)
    assert "none of this project" in str(
        refusal(encode_invitation(shifted(invitation, server_anchors_pem=other.certificate_pem)))
    )


@pytest.mark.parametrize(
    "endpoints", [(), ("h:1",) * 17, ("",), ("h\x1b[2J:1",), ("h" * 301,), ("$(id):1",), ("h:1 `id`",)]
)
def test_addresses_that_are_none_are_refused(invitation, endpoints):
    assert isinstance(refusal(encode_invitation(shifted(invitation, endpoints=endpoints))), FlprovError)


@pytest.mark.parametrize("server", ["", "server;id", "-rf", "../server", "Server"])
def test_a_server_whose_name_is_none_is_refused(invitation, server):
    assert isinstance(refusal(encode_invitation(shifted(invitation, server=server))), FlprovError)


def test_the_longest_names_still_make_one_line_below_three_thousand(issuing):
    longest = Identity(trust_domain="heart.example", kind=Kind.SITE, org="o" * 63, name="s" * 63)
    line = encode_invitation(issuing.invitation(longest))
    assert len(line) < 2000
    assert decode_invitation(line).site == longest
