# SPDX-License-Identifier: Apache-2.0
"""Invites: certificates that open one door, and only where somebody asks for an invite."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from villains import CLIENT, DOMAIN, INVITE, NOW, PERSON, SERVE, SERVER, SITE, forge, refuse, uris

from flprov.errors import IdentityRefused
from flprov.pki import Kind, create_issuing, issue_identity, load_anchors, sign, verify_peer, verify_signed

INVITE_URI = str(INVITE)


def invited(world, **changes):
    return forge(world.sites, names=uris(INVITE_URI), **changes)


def test_an_invite_is_known_where_one_is_expected(world):
    made = issue_identity(world.sites, INVITE, days=1, now=NOW)
    assert f"spiffe://{DOMAIN}/invite/uni-a/hospital-a/0123456789abcdef" == INVITE_URI
    assert verify_peer(made.chain_pem, world.clients, now=NOW, kinds={Kind.INVITE}) == INVITE
    assert verify_peer(invited(world), world.clients, now=NOW, kinds={Kind.SITE, Kind.INVITE}) == INVITE


def test_an_invite_is_nobody_where_none_is_expected(world):
    refuse(invited(world), world.clients, "is an invite's, where a server or a site or a person is expected")
    refuse(invited(world), world.clients, "is an invite's, where a site is expected", kinds={Kind.SITE})
    refuse(invited(world), world.everyone, "is an invite's, where a person is", kinds={Kind.PERSON})


@pytest.mark.parametrize("identity", [SITE, PERSON], ids=["site", "person"])
def test_nobody_else_passes_as_an_invite(world, identity):
    leaf = forge(world.of(identity.kind), names=uris(str(identity)))
    words = f"is a {identity.kind.value}'s, where an invite is expected"
    refuse(leaf, world.clients, words, kinds={Kind.INVITE})


@pytest.mark.parametrize(("ca", "eku"), [("people", CLIENT), ("servers", CLIENT), ("servers", SERVE)])
def test_only_the_sites_ca_makes_invites(world, ca, eku):
    leaf = forge(getattr(world, ca), names=uris(INVITE_URI), eku=[eku])
    refuse(leaf, world.everyone, f"{ca} CA, which may not issue an invite", kinds={Kind.INVITE})


@pytest.mark.parametrize("ca", ["people", "servers", "root"])
def test_no_other_ca_can_be_made_to_issue_one(world, ca):
    with pytest.raises(IdentityRefused, match="which may not issue an invite"):
        issue_identity(getattr(world, ca), INVITE, days=1, now=NOW)


def test_a_sites_ca_that_is_broken_into_makes_no_server_through_an_invite(world):
    refuse(invited(world, eku=[SERVE]), world.everyone, "serverAuth; an invite has clientAuth")
    refuse(invited(world, eku=[CLIENT, SERVE]), world.everyone, "an invite has clientAuth and nothing else")
    named = forge(world.sites, names=[*uris(INVITE_URI), x509.DNSName("fl.example.org")])
    refuse(named, world.everyone, "which an invite may not have", kinds={Kind.INVITE})


FALSE_IDS = {
    "none": "",
    "short": "0123456789abcde",
    "long": "0123456789abcdef0",
    "upper case": "0123456789ABCDEF",
    "not hex": "0123456789abcdeg",
    "a name": "hospital-a",
    "NUL": "0123456789abcde\x00",
    "trailing": "0123456789abcdef/x",
}


@pytest.mark.parametrize("invite", FALSE_IDS.values(), ids=FALSE_IDS)
def test_an_invite_whose_id_is_of_the_wrong_form_is_refused(world, invite):
    leaf = forge(world.sites, names=uris(f"spiffe://{DOMAIN}/invite/uni-a/hospital-a/{invite}"))
    refuse(leaf, world.clients, "invite id|is not server/<name>", kinds={Kind.INVITE})


def test_an_invite_of_another_trust_domain_is_refused(world):
    leaf = forge(world.sites, names=uris(INVITE_URI.replace(DOMAIN, "evil.example")))
    refuse(leaf, world.clients, "trust domain evil.example", kinds={Kind.INVITE})


def test_an_invite_signs_nothing(world):
    made = issue_identity(world.sites, INVITE, days=1, now=NOW)
    payload = b"a submission"
    with pytest.raises(IdentityRefused, match="is an invite's, where"):
        verify_signed(payload, sign(made.private_pem, payload), made.chain_pem, world.clients, now=NOW)


def test_there_is_no_ca_of_invites(world):
    with pytest.raises(IdentityRefused, match="no CA of its own for invites: the sites CA issues them"):
        create_issuing(world.root, kind=Kind.INVITE, days=9, now=NOW)
    anchors = load_anchors(world.sites.certificate_pem)
    assert anchors.kinds == {Kind.SITE, Kind.INVITE}
    assert load_anchors(world.people.certificate_pem).kinds == {Kind.PERSON}
    assert load_anchors(world.servers.certificate_pem).kinds == {Kind.SERVER}
    assert load_anchors(world.root.certificate_pem).kinds == set()


WAYS_BACK = {
    "site": (SITE, "`flprov invite create hospital-a` there, then `flprov join INVITE` here"),
    "invite": (INVITE, "`flprov invite create hospital-a` there, then `flprov join INVITE` here"),
    "person": (PERSON, "a new kit (`flprov provision` makes it)"),
    "server": (SERVER, "a new kit (`flprov provision` makes it)"),
}


@pytest.mark.parametrize(("identity", "words"), WAYS_BACK.values(), ids=WAYS_BACK)
def test_whoever_has_expired_is_told_the_way_back(world, identity, words):
    hosts = ["localhost"] if identity is SERVER else []
    made = issue_identity(world.of(identity.kind), identity, names=hosts, days=1, now=NOW)
    error = refuse(made.chain_pem, world.everyone, "expired on 2026-02-01", now=NOW + timedelta(days=2))
    assert words in error.hint


def test_the_way_back_of_something_without_an_identity_names_no_stranger(world):
    leaf = forge(world.sites, names=uris("spiffe://x/$(id)"), ends=NOW - timedelta(seconds=1))
    error = refuse(leaf, world.clients, "expired on")
    assert "$" not in error.hint
    nameless = forge(world.sites, names=[], ends=NOW - timedelta(seconds=1))
    assert "new kit" in refuse(nameless, world.clients, "expired on").hint


def test_two_invites_of_one_site_differ(world):
    other = replace(INVITE, invite="fedcba9876543210")
    assert other.uri != INVITE.uri
    assert other != INVITE
