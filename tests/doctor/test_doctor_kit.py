# SPDX-License-Identifier: Apache-2.0
"""Kits that are whole, damaged, expired, renewed: what is wrong is one row, and the others are still seen."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from doctor_parties import free_port, furnish, make_kits, serving

from flprov._base import to_document
from flprov.doctor import examine
from flprov.errors import NotFound
from flprov.pki import create_key, issue_identity, load_authority, parse_identity
from flprov.testing.clock import FakeClock


def rows_of(found):
    return {row.name: row for row in found.rows}


def verdicts(found):
    return {name: row.verdict for name, row in rows_of(found).items()}


def append(path, text="\n# edited\n"):
    path.write_text(path.read_text() + text)


@pytest.mark.usefixtures("server")
def test_a_kit_that_is_whole(kit):
    found = examine(kit)
    assert (found.kind, found.name, found.kit) == ("site", "hospital-a", str(kit))
    assert list(dict.fromkeys(row.name for row in found.rows)) == [
        "kit",
        "certificate",
        "clock",
        "proxy",
        "name",
        "tcp",
        "tls",
        "server",
        "agent",
        "state",
        "python",
        "disk",
        "confinement",
        "gpu",
        "policy.yml",
        "site.yml",
        "dataset",
        "packages",
    ]
    bad = [row for row in found.rows if row.verdict == "problem" and row.name not in ("disk", "confinement")]
    assert bad == []
    assert "every file is as it was signed" in rows_of(found)["kit"].found
    assert "90 days left" in rows_of(found)["certificate"].found
    assert "PRIVATE KEY" not in json.dumps(to_document(found))


DAMAGES = {
    "a changed text": (lambda kit: append(kit / "README.md"), "README.md was changed"),
    "a changed kit.yml": (lambda kit: append(kit / "kit.yml"), "kit.yml was changed"),
    "a broken kit.yml": (lambda kit: append(kit / "kit.yml", "{{{\n"), "kit.yml was changed"),
    "a dropped file": (lambda kit: (kit / "start.sh").unlink(), "start.sh is missing"),
    "an added file": (lambda kit: (kit / "more").write_text(""), "more is not part of this kit"),
    "a link": (
        lambda kit: ((kit / "README.md").unlink(), (kit / "README.md").symlink_to("/etc/passwd")),
        "README.md was replaced by a symbolic link",
    ),
    "a key for all to read": (
        lambda kit: (kit / "identity/key.pem").chmod(0o644),
        "can be read by other users",
    ),
    "no manifest": (lambda kit: (kit / "manifest.json").unlink(), "is no kit: it has no manifest.json"),
    "no signature": (lambda kit: (kit / "manifest.sig").unlink(), "manifest.sig is missing"),
    "no key": (lambda kit: (kit / "identity/key.pem").unlink(), "identity/key.pem is missing"),
    "no certificate": (lambda kit: (kit / "identity/cert.pem").unlink(), "identity/cert.pem is missing"),
    "another's key": (
        lambda kit: (kit / "identity/key.pem").write_bytes(create_key()),
        "identity/key.pem was changed",
    ),
    "no anchor": (lambda kit: (kit / "anchors/servers.pem").unlink(), "anchors/servers.pem is missing"),
    "a broken anchor": (
        lambda kit: append(kit / "anchors/servers.pem", "x"),
        "anchors/servers.pem was changed",
    ),
}
# What cannot be looked at then; everything else of the way to the server still is.
LOST = {
    "a broken kit.yml": {"tcp", "tls", "server"},
    "no key": {"server"},
    "no certificate": {"server"},
    "another's key": {"server"},
    "no anchor": {"tls", "server"},
    "a broken anchor": {"tls", "server"},
}


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_does_not_hide_the_rest(kit, damage):
    spoil, words = DAMAGES[damage]
    spoil(kit)
    found = examine(kit)
    rows = rows_of(found)
    assert found.verdict == "problem"
    assert found.kind == "site"
    assert rows["kit"].verdict == "problem"
    assert words in rows["kit"].found
    assert rows["kit"].next
    seen = {name for name in ("tcp", "tls", "server") if name in rows and rows[name].verdict == "ok"}
    assert seen == {"tcp", "tls", "server"} - LOST.get(damage, set())
    assert {"python", "disk", "policy.yml", "dataset"} <= rows.keys()


def test_a_folder_that_is_none_of_ours(tmp_path):
    found = examine(tmp_path)
    assert (found.kind, found.verdict) == ("", "problem")
    assert {"kit", "certificate", "name", "python"} <= rows_of(found).keys()


def test_no_folder_at_all(tmp_path):
    with pytest.raises(NotFound, match="there is no kit at"):
        examine(tmp_path / "gone")


def test_an_expired_site_is_told_the_way_back_and_the_rest_is_seen(tmp_path):
    port = free_port()
    kits = make_kits(tmp_path, f"localhost:{port}", now=datetime.now(UTC) - timedelta(days=2), site_days=1)
    furnish(kits / "hospital-a")
    with serving(kits / "server", port):
        found = examine(kits / "hospital-a")
    rows = rows_of(found)
    assert rows["certificate"].verdict == "problem"
    assert "spiffe://heart.example/site/org-a/hospital-a expired on " in rows["certificate"].found
    assert "flprov invite create hospital-a" in rows["certificate"].next
    assert "flprov join INVITE" in rows["certificate"].next
    assert rows["kit"].verdict == "ok"
    assert (rows["tcp"].verdict, rows["tls"].verdict, rows["server"].verdict) == ("ok", "ok", "skipped")
    assert "our certificate is valid from" in rows["server"].found


def test_an_expired_person_needs_a_new_kit_and_the_old_one_is_still_looked_at(provisioned, tmp_path):
    folder = tmp_path / "alice"
    shutil.copytree(provisioned / "alice", folder)
    later = FakeClock(start=datetime.now(UTC) + timedelta(days=400))
    rows = rows_of(examine(folder, clock=later, limit=3.0))
    assert (rows["kit"].verdict, rows["certificate"].verdict) == ("ok", "problem")
    assert "only its certificate has expired" in rows["kit"].found
    assert rows["certificate"].next == "ask alice of org-a for a new kit"
    append(folder / "README.md")
    rows = rows_of(examine(folder, clock=later, limit=3.0))
    assert "README.md was changed" in rows["kit"].found


def test_a_clock_that_is_behind(kit):
    found = examine(kit, clock=FakeClock(start=datetime(2020, 1, 1, tzinfo=UTC)))
    rows = rows_of(found)
    assert rows["clock"].verdict == "problem"
    assert "this machine's clock says 2020-01-01" in rows["clock"].found
    assert "this kit was made on" in rows["kit"].found


@pytest.mark.parametrize(
    ("kind", "days", "verdict"),
    [
        ("alice", 335.5, "warning"),
        ("alice", 330, "ok"),
        ("hospital-a", 61, "warning"),
        ("hospital-a", 59, "ok"),
    ],
)
def test_what_expires_soon_is_a_warning_while_it_can_still_be_helped(
    provisioned, tmp_path, kind, days, verdict
):
    folder = tmp_path / kind
    shutil.copytree(provisioned / kind, folder)
    found = examine(folder, clock=FakeClock(start=datetime.now(UTC) + timedelta(days=days)), limit=3.0)
    assert rows_of(found)["certificate"].verdict == verdict


def test_a_renewed_certificate_is_the_one_that_counts(provisioned, kit, tmp_path):
    again = make_renewed(provisioned, tmp_path)
    state = kit.with_name("hospital-a.local") / "state"
    state.mkdir(mode=0o700)
    (state / "identity.pem").write_bytes(again)
    (state / "identity.pem").chmod(0o600)
    row = rows_of(examine(kit, clock=FakeClock(start=datetime.now(UTC) + timedelta(days=100)), limit=3.0))
    assert row["certificate"].verdict == "ok"
    assert "renewed" in row["certificate"].found


def make_renewed(provisioned, tmp_path) -> bytes:
    """Key and chain of the same site, issued ninety days later by the same CA."""
    ca = provisioned.parent / "ca"
    authority = load_authority((ca / "sites.pem").read_bytes(), (ca / "sites.key.pem").read_bytes())
    identity = parse_identity("spiffe://heart.example/site/org-a/hospital-a")
    made = issue_identity(authority, identity, days=90, now=datetime.now(UTC) + timedelta(days=80))
    return made.private_pem + made.chain_pem


def test_an_encrypted_key_without_its_passphrase(tmp_path):
    port = free_port()
    kits = make_kits(tmp_path, f"localhost:{port}", passphrase=b"correct horse")
    with serving(kits / "server", port):
        without = rows_of(examine(kits / "alice"))
        wrong = rows_of(examine(kits / "alice", passphrase=b"battery"))
        right = rows_of(examine(kits / "alice", passphrase=b"correct horse"))
    assert without["kit"].verdict == without["tls"].verdict == "ok"
    assert (without["certificate"].verdict, without["server"].verdict) == ("warning", "skipped")
    assert "the key is encrypted, and no passphrase was given" in without["server"].found
    assert "the passphrase does not open the key" in wrong["server"].found
    assert right["server"].verdict == right["certificate"].verdict == "ok"


def test_a_tampered_kit_with_thousands_of_endpoints_is_bounded(kit):
    lines = "".join(f'  - "127.0.0.1:{1 + n}"\n' for n in range(3000))
    text = (kit / "kit.yml").read_text()
    (kit / "kit.yml").write_text(text[: text.index("endpoints:")] + f"endpoints:\n{lines}  - nonsense\n")
    found = examine(kit)
    assert sum(row.name == "tcp" for row in found.rows) == 16


def test_an_endpoint_that_is_none(kit):
    text = (kit / "kit.yml").read_text()
    (kit / "kit.yml").write_text(text[: text.index("endpoints:")] + "endpoints: [nonsense]\n")
    row = rows_of(examine(kit))["name"]
    assert (row.verdict, row.found) == ("problem", "'nonsense' is not an address")
