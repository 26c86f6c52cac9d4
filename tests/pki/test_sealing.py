# SPDX-License-Identifier: Apache-2.0
"""Sealing between two sites: who can open it, and everybody who cannot."""

import pytest

from flprov.errors import IdentityRefused
from flprov.pki import (
    EXCHANGE_KEY_BYTES,
    create_exchange_key,
    derive_secret,
    exchange_public_key,
    open_sealed,
    seal,
)

ANN, BOB, EVE = (create_exchange_key() for _ in range(3))
SECRET = b"what the hospitals agreed on by telephone"


def to_bob(data=b"the key", **changes):
    given = {"private": ANN, "recipient": exchange_public_key(BOB), "purpose": b"job 1"} | changes
    return seal(data, **given)


def by_bob(sealed, **changes):
    given = {"private": BOB, "sender": exchange_public_key(ANN), "purpose": b"job 1"} | changes
    return open_sealed(sealed, **given)


@pytest.mark.parametrize("secret", [b"", SECRET])
def test_the_recipient_opens_what_was_sealed(secret):
    assert by_bob(to_bob(secret=secret), secret=secret) == b"the key"


def test_sealing_twice_gives_other_bytes_that_do_not_show_the_content():
    one, other = to_bob(), to_bob()
    assert one != other
    assert b"the key" not in one


@pytest.mark.parametrize(
    "changes",
    [
        {"private": EVE},
        {"sender": exchange_public_key(EVE)},
        {"purpose": b"job 2"},
        {"secret": SECRET},
    ],
    ids=["somebody else", "from somebody else", "another purpose", "another secret"],
)
def test_nothing_else_opens_it(changes):
    with pytest.raises(IdentityRefused, match="does not open"):
        by_bob(to_bob(), **changes)


@pytest.mark.parametrize("place", [0, 11, 12, 18, -1])
def test_every_changed_byte_is_noticed(place):
    sealed = bytearray(to_bob())
    sealed[place] ^= 1
    with pytest.raises(IdentityRefused, match="does not open"):
        by_bob(bytes(sealed))


@pytest.mark.parametrize("sealed", [b"", b"short", bytes(12)])
def test_what_is_too_short_is_refused(sealed):
    with pytest.raises(IdentityRefused, match="does not open"):
        by_bob(sealed)


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(32)], ids=["empty", "short", "of low order"])
def test_a_public_key_that_is_none_is_refused(public):
    with pytest.raises(IdentityRefused, match="public key is none"):
        to_bob(recipient=public)


def test_a_carrier_that_swaps_the_keys_fails_where_the_sites_share_a_secret():
    """Without a secret it succeeds: that is the attack which the secret is for."""
    for secret, opens in [(b"", True), (SECRET, False)]:
        caught = to_bob(recipient=exchange_public_key(EVE), secret=secret)
        try:
            assert (
                open_sealed(caught, private=EVE, sender=exchange_public_key(ANN), purpose=b"job 1")
                == b"the key"
            )
            assert opens
        except IdentityRefused:
            assert not opens


def test_a_derived_secret_is_one_for_each_purpose():
    one, other = derive_secret(SECRET, b"job 1"), derive_secret(SECRET, b"job 2")
    assert (len(one), one != other) == (32, True)
    assert derive_secret(SECRET, b"job 1") == one


def test_both_halves_have_the_size_that_is_said():
    assert len(ANN) == len(exchange_public_key(ANN)) == EXCHANGE_KEY_BYTES
