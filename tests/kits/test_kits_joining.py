# SPDX-License-Identifier: Apache-2.0
"""The kit of a site that joined: as whole as a provisioned one, and what comes of every forgery."""

from __future__ import annotations

import base64
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from join_parties import CONTACT, SITE, Issuing, sign_again
from kit_parties import NOW, PROJECT

from flprov._base import canonical_json, parse_json, write_tree
from flprov.errors import IdentityRefused, KitRefused, Misuse
from flprov.kits import (
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
    load_kit,
    pack_kit,
    provision,
    sign_request,
    unpack_kit,
)
from flprov.kits.joining import compose_joined, read_settings, verify_answer
from flprov.pki import (
    Kind,
    create_issuing,
    create_key,
    create_request,
    create_root,
    fingerprint,
    issue_identity,
    public_key_pem,
    verify_request,
    verify_signature,
)


@pytest.fixture(scope="module")
def issuing(provisioned):
    return Issuing(provisioned)


@pytest.fixture(scope="module")
def made(issuing, tmp_path_factory):
    """Made once; not to be changed."""
    return issuing.join(tmp_path_factory.mktemp("joined") / SITE.name)


@pytest.fixture
def joined(made, tmp_path):
    return shutil.copytree(made, tmp_path / SITE.name)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Another project of the same name and trust domain."""
    folder = tmp_path_factory.mktemp("foreign") / "workspace"
    provision(PROJECT, folder, now=NOW)
    return Issuing(folder)


def refusal(kit, now=NOW) -> KitRefused:
    with pytest.raises(KitRefused) as caught:
        load_kit(kit, now=now)
    return caught.value


def key_of(kit) -> bytes:
    return (kit / "identity/key.pem").read_bytes()


# ---- a whole kit -------------------------------------------------------------------------------


def test_a_joined_kit_has_all_that_a_provisioned_one_has_and_its_proof(joined, workspace):
    def names(folder):
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    assert names(joined) - names(workspace / "kits/hospital-a") == {"trust.json"}
    assert names(workspace / "kits/hospital-a") <= names(joined)


def test_a_joined_kit_is_loaded_as_any_other(joined, issuing):
    kit = load_kit(joined, now=NOW, kind=Kind.SITE)
    assert (kit.identity, kit.name, kit.org, kit.project) == (SITE, "hospital-d", "org-a", "heart")
    assert kit.endpoints == ("fl.heart.example:8443",)
    assert kit.contact == CONTACT
    assert fingerprint(kit.anchors["root"].pem) == issuing.authorities.root_fingerprint
    assert kit.anchors["people"].pem == issuing.trust.anchors["people"].pem
    assert (joined / "identity/key.pem").stat().st_mode & 0o777 == 0o600


def test_it_is_still_good_when_its_first_certificate_has_expired(issuing, tmp_path):
    kit = issuing.join(tmp_path / "short", days=1.0)
    assert load_kit(kit, now=NOW.replace(year=2027)).identity == SITE


def test_it_is_packed_and_unpacked(joined, tmp_path):
    pack_kit(joined, tmp_path / "kit.zip", passphrase=b"twelve letters", now=NOW)
    unpack_kit(tmp_path / "kit.zip", tmp_path / "there", passphrase=b"twelve letters", now=NOW)
    assert load_kit(tmp_path / "there" / SITE.name, now=NOW).identity == SITE


def test_its_readme_names_every_file_and_says_that_it_joined(joined):
    text = (joined / "README.md").read_text()
    assert "joined with an invite" in text
    assert "`trust.json`" in text
    assert "Made by `flprov join`" in (joined / "kit.yml").read_text()


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_the_readmes_openssl_commands_accept_it(tmp_path):
    now = datetime.now(UTC)  # what openssl goes by
    provision(PROJECT, tmp_path / "ws", now=now)
    today = Issuing(tmp_path / "ws", now=now)
    kit = today.join(tmp_path / SITE.name)
    [recipe] = [
        part.partition("```")[0]
        for part in (kit / "README.md").read_text().split("```sh\n")
        if "openssl dgst" in part.partition("```")[0]
    ]
    words = ["bash", "-e", "-o", "pipefail", "-c", recipe]
    done = subprocess.run(words, cwd=kit, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["signer.pem: OK", "Verified OK"]
    (kit / "start.sh").write_text("evil")
    assert subprocess.run(words, cwd=kit, capture_output=True, check=False).returncode != 0


# ---- villains with the site's own key: what it cannot make of its kit ---------------------------


def test_any_changed_file_is_refused_by_name(joined):
    (joined / "start.sh").write_text("evil")
    assert "start.sh was changed after the kit was made" in str(refusal(joined))


def test_anchors_of_others_are_refused_even_when_signed(joined, foreign):
    for name, kind in (("servers", Kind.SERVER), ("people", Kind.PERSON)):
        own = (joined / f"anchors/{name}.pem").read_bytes()
        forged = foreign.authorities.anchor(kind)
        for pem in (forged, own + forged):
            sign_again(joined, key_of(joined), {f"anchors/{name}.pem": pem})
            assert f"anchors/{name}.pem holds a CA that its trust bundle does not name" in str(
                refusal(joined)
            )
        sign_again(joined, key_of(joined), {f"anchors/{name}.pem": own})
    assert load_kit(joined, now=NOW).identity == SITE


def test_another_root_is_refused_even_when_signed(joined, foreign):
    sign_again(joined, key_of(joined), {"anchors/root.pem": foreign.authorities.anchor(None)})
    assert "manifest.json is refused" in str(refusal(joined))


def test_the_trust_bundle_of_another_project_is_refused(joined, foreign):
    sign_again(joined, key_of(joined), {"trust.json": foreign.authorities.signed_trust.encode()})
    assert "manifest.json is refused" in str(refusal(joined))


def test_a_kit_of_another_project_from_end_to_end_has_another_root(joined, foreign, issuing):
    """It is right in itself: whom the root belongs to is what people compare by telephone."""
    changes = {
        "trust.json": foreign.authorities.signed_trust.encode(),
        "anchors/root.pem": foreign.authorities.anchor(None),
        "anchors/servers.pem": foreign.authorities.anchor(Kind.SERVER),
        "anchors/people.pem": foreign.authorities.anchor(Kind.PERSON),
    }
    sign_again(joined, key_of(joined), changes)
    assert "manifest.json is refused" in str(refusal(joined))  # its certificate is not of that project


@pytest.mark.parametrize("name", ["trust.json", "anchors/people.pem", "anchors/servers.pem"])
def test_without_its_proof_it_is_refused(joined, name):
    sign_again(joined, key_of(joined), {name: None})
    assert f"it has no {name}" in str(refusal(joined))


def test_a_trust_bundle_that_was_edited_is_refused(joined):
    bundle = parse_json((joined / "trust.json").read_bytes())
    bundle["document"] = bundle["document"].replace('"version":1', '"version":2')
    sign_again(joined, key_of(joined), {"trust.json": canonical_json(bundle)})
    assert "the signature is not by" in str(refusal(joined))


@pytest.mark.parametrize("kind", [Kind.SERVER, Kind.PERSON])
def test_a_manifest_of_another_kind_is_refused(joined, kind):
    sign_again(joined, key_of(joined), {}, kind=kind)
    assert f"only the provisioner signs the kit of a {kind.value}" in str(refusal(joined))


def test_a_server_or_person_kit_that_a_site_signed_is_refused(joined, workspace):
    proof = {name: (joined / name).read_bytes() for name in ("trust.json", "signer.pem")}
    for name, kind in (("server", Kind.SERVER), ("alice", Kind.PERSON)):
        kit = workspace / "kits" / name
        sign_again(kit, key_of(joined), proof | {"anchors/people.pem": b"x"}, kind=kind)
        assert "only the provisioner signs the kit" in str(refusal(kit))
        sign_again(kit, key_of(joined), proof, kind=Kind.SITE)
        assert isinstance(refusal(kit), KitRefused)


def test_another_sites_kit_that_a_site_signed_is_refused(joined, workspace):
    kit = workspace / "kits/hospital-a"
    proof = {name: (joined / name).read_bytes() for name in ("trust.json", "signer.pem")}
    sign_again(kit, key_of(joined), proof)
    assert f"{SITE} signed it, and it is the kit of site hospital-a" in str(refusal(kit))


def test_its_own_certificate_in_another_sites_kit_is_refused(joined, workspace):
    kit = workspace / "kits/hospital-a"
    names = ("trust.json", "signer.pem", "identity/cert.pem", "identity/key.pem")
    sign_again(kit, key_of(joined), {name: (joined / name).read_bytes() for name in names})
    assert f"{SITE} signed it, and it is the kit of site hospital-a" in str(refusal(kit))


def test_another_certificate_of_the_same_site_as_signer_is_refused(joined, issuing):
    other = create_key()
    sign_again(joined, other, {"signer.pem": issuing.answer(other).chain_pem})
    assert "signed it with another certificate than the one in it" in str(refusal(joined))


def test_a_signature_by_another_key_is_refused(joined):
    sign_again(joined, create_key(), {})
    assert "the signature is not by" in str(refusal(joined))


def test_a_site_that_another_ca_vouches_for_is_refused(joined):
    root = create_root(project="heart", trust_domain="heart.example", days=30, now=NOW)
    sites, key = create_issuing(root, kind=Kind.SITE, days=20, now=NOW), create_key()
    forged = issue_identity(sites, SITE, days=10, now=NOW, public_pem=public_key_pem(key)).chain_pem
    sign_again(joined, key, {"signer.pem": forged, "identity/cert.pem": forged, "identity/key.pem": key})
    assert "manifest.json is refused" in str(refusal(joined))


def test_a_person_or_server_cannot_pass_for_the_site(joined, workspace):
    for name in ("alice", "server"):
        kit = workspace / "kits" / name
        certificate, key = (kit / "identity/cert.pem").read_bytes(), key_of(kit)
        files = {"signer.pem": certificate, "identity/cert.pem": certificate, "identity/key.pem": key}
        sign_again(joined, key, files)
        assert "is not a provisioner's certificate" in str(refusal(joined))


def test_a_kit_from_the_future_means_that_the_clock_is_slow(joined):
    assert "this machine's clock says" in str(refusal(joined, NOW.replace(year=2025)))


# ---- the answer ----------------------------------------------------------------------------------


def refused(invitation, key, answer, now=NOW) -> str:
    with pytest.raises(IdentityRefused) as caught:
        verify_answer(invitation, key, answer, now=now)
    return str(caught.value)


def test_an_answer_for_another_site_key_or_kind_is_refused(issuing):
    invitation, key = issuing.invitation(), create_key()
    for other in (replace(SITE, name="hospital-e"), replace(SITE, org="org-b")):
        assert "issued a certificate for" in refused(invitation, key, issuing.answer(key, other))
    assert "is not the key of the certificate" in refused(invitation, key, issuing.answer(create_key()))
    invite = invitation.identity
    assert "is an invite's, where a site is expected" in refused(invitation, key, issuing.answer(key, invite))


def test_an_answer_under_a_root_that_the_invite_does_not_pin_is_refused(issuing, foreign):
    key = create_key()
    assert "offers another root than the invite names" in refused(
        issuing.invitation(), key, foreign.answer(key)
    )


def test_an_invite_with_a_forged_root_finds_no_trust_bundle(issuing, foreign):
    forged = replace(issuing.invitation(), root=foreign.authorities.root_fingerprint)
    key = create_key()
    assert "offers another root than the invite names" in refused(forged, key, issuing.answer(key))


def test_a_bundle_that_lists_the_pinned_root_but_is_signed_under_another_is_refused(issuing, foreign):
    """The server may write what it likes into a bundle; only the pinned root's provisioner signs it."""
    key = create_key()
    document = parse_json(foreign.authorities.signed_trust.document)
    document["roots"].append(issuing.authorities.anchor(None).decode())
    trust = replace(foreign.authorities.signed_trust, document=canonical_json(document))
    answer = replace(foreign.answer(key), trust=trust)
    assert refused(issuing.invitation(), key, answer)


def test_an_answer_from_a_ca_that_the_bundle_does_not_name_is_refused(issuing, foreign):
    key = create_key()
    answer = replace(foreign.answer(key), trust=issuing.authorities.signed_trust)
    assert "is not the sites CA that is trusted here" in refused(
        issuing.invitation(), key, answer
    ) or "with the name of the sites CA but another key" in refused(issuing.invitation(), key, answer)


def test_a_bundle_of_another_project_is_refused(issuing):
    invitation = replace(issuing.invitation(), project_id="00000000-0000-4000-8000-000000000000")
    key = create_key()
    assert "is of project heart, not of this one" in refused(invitation, key, issuing.answer(key))


def test_a_bundle_that_is_none_is_refused(issuing):
    invitation, key = issuing.invitation(), create_key()
    for document in (b"", b"{}", b"[]", b"null", b'{"roots": 7}', b'{"roots": ["x"]}', b"\xff"):
        answer = replace(
            issuing.answer(key), trust=replace(issuing.authorities.signed_trust, document=document)
        )
        assert refused(invitation, key, answer)


def test_a_contact_that_would_drive_a_terminal_is_not_written(issuing):
    key = create_key()
    answer = replace(issuing.answer(key), contact="\x1b[2Jpay here")
    files = compose_joined(issuing.invitation(), key, answer, now=NOW)
    assert b"\x1b" not in files["README.md"][0]


@pytest.mark.parametrize("contact", ['x"\nlisten: "0.0.0.0:1', "{{ 7 * 7 }}", "a" * 5000, "</a> `x`"])
def test_a_contact_cannot_become_anything_else(issuing, tmp_path, contact):
    key = create_key()
    answer = replace(issuing.answer(key), contact=contact)
    write_tree(tmp_path / "kit", compose_joined(issuing.invitation(), key, answer, now=NOW))
    kit = load_kit(tmp_path / "kit", now=NOW)
    assert kit.listen == ""
    assert "49" not in kit.contact
    assert len(kit.contact) <= 200


# ---- as files ------------------------------------------------------------------------------------


def test_a_request_goes_there_and_back_and_holds_no_secret(issuing):
    invitation, key = issuing.invitation(), create_key()
    signed = sign_request(invitation, create_request(key))
    data = encode_request(signed, site=SITE.name)
    assert b"PRIVATE" not in data
    found = decode_request(data)
    assert found == signed
    assert verify_request(found.request) == public_key_pem(key)
    verify_signature(found.request, found.signature, found.chain)


def test_an_answer_goes_there_and_back(issuing):
    answer = issuing.answer(create_key())
    assert decode_answer(encode_answer(answer)) == answer


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b'{"what":"flprov join request","format":2}', b"\xff"]
)
def test_a_file_that_is_no_request_or_answer_is_said_to_be_none(data, issuing):
    for decode in (decode_request, decode_answer):
        with pytest.raises(Misuse, match="is no flprov join"):
            decode(data)
    with pytest.raises(Misuse, match="is no flprov join request"):
        decode_request(encode_answer(issuing.answer(create_key())))


def test_a_request_whose_signature_is_no_base64_was_changed(issuing):
    signed = sign_request(issuing.invitation(), create_request(create_key()))
    text = encode_request(signed, site="x").replace(base64.b64encode(signed.signature), b"!!")
    with pytest.raises(Misuse, match="its signature is not base64"):
        decode_request(text)


def test_a_file_with_text_that_cannot_be_written_was_changed(issuing):
    answer = issuing.answer(create_key())
    signed = sign_request(issuing.invitation(), create_request(create_key()))
    files = {decode_request: encode_request(signed, site="x"), decode_answer: encode_answer(answer)}
    for decode, data in files.items():
        with pytest.raises(Misuse, match="or it was changed on the way"):
            decode(data.replace(b'"-----BEGIN', b'"\\ud800-----BEGIN'))


def test_bytes_of_a_server_that_are_no_text_are_written_into_no_file(issuing):
    answer = issuing.answer(create_key())
    bundle = replace(answer.trust, signer=b"\xff")
    for odd in (replace(answer, chain_pem=b"\xff"), replace(answer, trust=bundle)):
        with pytest.raises(IdentityRefused, match="neither a certificate nor a trust bundle"):
            encode_answer(odd)


def test_settings_that_cannot_be_read_are_not_needed():
    assert read_settings(b'{"contact": "alice"}').contact == "alice"
    for data in (b"", b"[]", b'{"contact": 7}', b'{"contact": "\\ud800"}', b"\xff"):
        assert read_settings(data).contact == ""


def test_no_answer_shows_a_key_in_its_repr(issuing):
    assert "BEGIN" not in repr(issuing.answer(create_key()))
