# SPDX-License-Identifier: Apache-2.0
"""Names: the four forms, and everything that only looks like one."""

import pytest

from flprov.errors import IdentityRefused
from flprov.pki import Identity, Kind, Role, parse_identity

GOOD = {
    "spiffe://heart.example/server/server1": Identity(
        trust_domain="heart.example", kind=Kind.SERVER, name="server1"
    ),
    "spiffe://heart.example/site/uni-a/hospital_a.2": Identity(
        trust_domain="heart.example", kind=Kind.SITE, org="uni-a", name="hospital_a.2"
    ),
    "spiffe://heart.example/person/uni-a/project_admin/ada": Identity(
        trust_domain="heart.example",
        kind=Kind.PERSON,
        org="uni-a",
        role=Role.PROJECT_ADMIN,
        name="ada",
    ),
    "spiffe://heart.example/invite/uni-a/hospital-a/00ff00ff00ff00ff": Identity(
        trust_domain="heart.example",
        kind=Kind.INVITE,
        org="uni-a",
        name="hospital-a",
        invite="00ff00ff00ff00ff",
    ),
}


@pytest.mark.parametrize(("uri", "identity"), GOOD.items())
def test_the_four_forms_are_read_and_written(uri, identity):
    assert parse_identity(uri) == identity
    assert identity.uri == uri
    assert str(identity) == uri


@pytest.mark.parametrize("role", Role)
def test_every_role_survives_the_round_trip(role):
    person = Identity(trust_domain="td", kind=Kind.PERSON, org="o", role=role, name="ada")
    assert parse_identity(person.uri) == person


HOSTILE_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "..%2fx",
    "a%2e",
    "-rf",
    "CON",
    "Hospital-a",
    "a b",
    "a\n",
    "a\x00b",
    "a\x00.evil",
    "a?x=1",
    "a#b",
    "a:b",
    "a@b",
    "a\\b",
    "~a",
    "a/",
    "_a",
    "a_",
    "a.",
    "$(id)",
    "*",
    "hоspital",  # a Cyrillic o
    "hospital\u202eb",
    "hospital\u200b",
    "ｈospital",
    "ﬁ",
    "é",
    "e\u0301",
    "٣",
    "ß",
    "ı",
    "K",  # the Kelvin sign
    "a" * 64,
    "a" * 5000,
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize(
    "form",
    [
        "spiffe://td/server/{}",
        "spiffe://td/site/{}/x",
        "spiffe://td/site/o/{}",
        "spiffe://{}/server/x",
        "spiffe://td/invite/{}/x/0123456789abcdef",
        "spiffe://td/invite/o/{}/0123456789abcdef",
        "spiffe://td/invite/o/x/{}",
    ],
)
def test_names_that_mislead_are_refused_everywhere(form, name):
    # A trust domain may be longer than a name; 64 letters are a good one.
    if form.startswith("spiffe://{}") and name == "a" * 64:
        assert parse_identity(form.format(name)).trust_domain == name
        return
    with pytest.raises(IdentityRefused) as caught:
        parse_identity(form.format(name))
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://",
        "spiffe:///server/x",
        "spiffe://td",
        "spiffe://td/",
        "spiffe://td/server",
        "spiffe://td/server/",
        "spiffe://td/server/x/",
        "spiffe://td/server//x",
        "spiffe://td/server/o/x",
        "spiffe://td/site/x",
        "spiffe://td/site/o/lead/x",
        "spiffe://td/person/o/x",
        "spiffe://td/person/o/lead/x/y",
        "spiffe://td/person/o/root/x",
        "spiffe://td/person/o/LEAD/x",
        "spiffe://td/person//lead/x",
        "spiffe://td/provisioner/x",
        "spiffe://td/invite/x",
        "spiffe://td/invite/o/x",
        "spiffe://td/invite/o/x/",
        "spiffe://td/invite/o/x/0123456789abcde",
        "spiffe://td/invite/o/x/0123456789abcdef0",
        "spiffe://td/invite/o/x/0123456789ABCDEF",
        "spiffe://td/invite/o/x/0123456789abcdeg",
        "spiffe://td/invite/o/x/0x23456789abcdef",
        "spiffe://td/invite/o/x/0123456789abcde\n",
        "spiffe://td/invite/o/x/0123456789abcdef\n",
        "spiffe://td/invite/o/x/٠١٢٣٤٥٦٧٨٩abcdef",
        "spiffe://td/invite/o/x/0123456789abcdef/y",
        "spiffe://td/invite//x/0123456789abcdef",
        "spiffe://td/site/o/x/0123456789abcdef",
        "spiffe://td/Server/x",
        "spiffe://td:8443/server/x",
        "spiffe://user@td/server/x",
        "spiffe://td/server/x?y",
        "spiffe://td/server/x#y",
        "SPIFFE://td/server/x",
        " spiffe://td/server/x",
        "spiffe://td/server/x ",
        "https://td/server/x",
        "td/server/x",
        "spiffe://td/server/" + "x" * 3000,
        "spiffe://" + "d" * 256 + "/server/x",
        "/" * 2000,
    ],
)
def test_other_forms_are_refused(uri):
    with pytest.raises(IdentityRefused):
        parse_identity(uri)


@pytest.mark.parametrize(
    "parts",
    [
        {"kind": Kind.SERVER, "name": "s", "org": "o"},
        {"kind": Kind.SERVER, "name": "s", "role": Role.LEAD},
        {"kind": Kind.SITE, "name": "s"},
        {"kind": Kind.SITE, "name": "s", "org": "o", "role": Role.LEAD},
        {"kind": Kind.PERSON, "name": "p", "org": "o"},
        {"kind": Kind.PERSON, "name": "p", "role": Role.LEAD},
        {"kind": Kind.SITE, "name": "../x", "org": "o"},
        {"kind": Kind.SITE, "name": "x", "org": "o/p"},
        {"kind": Kind.SERVER, "name": "x", "trust_domain": "A"},
        {"kind": Kind.SITE, "name": "x", "org": "o", "invite": "0123456789abcdef"},
        {"kind": Kind.SERVER, "name": "x", "invite": "0123456789abcdef"},
        {"kind": Kind.INVITE, "name": "x", "org": "o"},
        {"kind": Kind.INVITE, "name": "x", "invite": "0123456789abcdef"},
        {"kind": Kind.INVITE, "name": "x", "org": "o", "invite": "0123456789abcde"},
        {"kind": Kind.INVITE, "name": "x", "org": "o", "invite": "0123456789abcdef", "role": Role.LEAD},
    ],
)
def test_an_identity_that_breaks_the_rules_cannot_be_made(parts):
    with pytest.raises(IdentityRefused):
        Identity(**{"trust_domain": "td", **parts})


def test_the_refusal_names_the_part_and_the_rule():
    with pytest.raises(IdentityRefused, match="site name 'Hospital' is not a name") as caught:
        Identity(trust_domain="td", kind=Kind.SITE, org="o", name="Hospital")
    assert "a-z 0-9" in caught.value.hint
