# SPDX-License-Identifier: Apache-2.0
"""Archives that somebody else made: every class of hostile archive is refused, and nothing is left."""

from __future__ import annotations

import io
import random
import stat
import struct
import zipfile
import zlib

import pytest

from flprov.errors import ConfigError, ProtocolError
from flprov.jobs import BundleLimits, list_bundle, read_bundle_spec, unpack_bundle
from flprov.jobs.archive import encode_archive

JOB = b"name: a\ntasks: train.py\n"
SOUND = {"job.yml": JOB, "train.py": b"x = 1\n"}


@pytest.fixture
def refuse(tmp_path):
    """refuse(data, words): unpacking says so, and leaves no file anywhere."""

    def check(
        data: bytes, words: str = "", *, error=ProtocolError, limits: BundleLimits | None = None
    ) -> str:
        path = tmp_path / "bundle"
        path.write_bytes(data)
        (tmp_path / "jobs").mkdir(exist_ok=True)
        with pytest.raises(error) as caught:
            unpack_bundle(path, tmp_path / "jobs" / "app", limits=limits or BundleLimits())
        assert words in str(caught.value)
        assert sorted(p.name for p in tmp_path.rglob("*")) == ["bundle", "jobs"]
        return str(caught.value)

    return check


def foreign(*entries: tuple[zipfile.ZipInfo | str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive as Python's zipfile makes them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return out.getvalue()


def ours(name: str, *, mode: int = 0o100644) -> zipfile.ZipInfo:
    """An entry that is like ours but for its name and mode."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr, info.flag_bits = 3, mode << 16, 0x800
    return info


def test_sound_archive_is_taken(tmp_path):
    (tmp_path / "bundle").write_bytes(encode_archive(SOUND))
    assert unpack_bundle(tmp_path / "bundle", tmp_path / "app").name == "a"


@pytest.mark.parametrize(
    "name",
    [
        "../evil.py",
        "../../../../etc/cron.d/evil",
        "/etc/evil",
        "C:/evil",
        "C:evil",
        "..\\evil",
        "\\\\host\\share",
        "a/../evil",
        "./evil",
        "a//evil",
        "evil/",
        "evil\0.py",
        "evil\n.py",
        "\u202eevil",
        "CON",
        "aux.py",
        ".hidden",
        ".git/hooks/post-checkout",
        "a.pyc",
        "__pycache__/train.cpython-311.pyc",
        "evil.pth",
        "sitecustomize.py",
        "usercustomize.py",
        "flprov.py",
        "flprov/__init__.py",
        "JOB.yml",
        "Train.py",
        "train.py/x",
        "x" * 201,
        "-rf",
    ],
)
def test_unsafe_name_is_refused(refuse, name):
    refuse(encode_archive(SOUND | {name: b"x"}), "the bundle cannot be used: file name ")


def test_over_long_name_is_refused(refuse):
    refuse(encode_archive(SOUND | {"x" * 60000: b""}), "a file name in the bundle")


def test_archive_without_a_job_is_refused(refuse):
    refuse(encode_archive({"train.py": b""}), "has no job.yml")


def test_bad_job_inside_is_reported_by_line(refuse):
    refuse(
        encode_archive(SOUND | {"job.yml": b"name: a\ntasks: gone.py\n"}), "job.yml:2: ", error=ConfigError
    )
    refuse(encode_archive(SOUND | {"job.yml": b"#" * (2 << 20)}), "larger than", error=ConfigError)
    refuse(encode_archive(SOUND | {"job.yml": b"a: &x [*x]\n"}), "job.yml:1: ", error=ConfigError)


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (stat.S_IFLNK | 0o777, "0o120777"),
        (stat.S_IFCHR | 0o666, "0o20666"),
        (stat.S_IFBLK | 0o666, "0o60666"),
        (stat.S_IFIFO | 0o666, "0o10666"),
        (stat.S_IFSOCK | 0o666, "0o140666"),
        (stat.S_IFDIR | 0o755, "0o40755"),
        (stat.S_IFREG | 0o4755, "0o104755"),
        (stat.S_IFREG | 0o755, "0o100755"),
        (0, "0o0"),
    ],
)
def test_anything_but_a_plain_file_is_refused(refuse, kind, shown):
    sound = encode_archive(SOUND)
    mode = struct.pack("<L", 0o100644 << 16)
    assert sound.count(mode) == 2
    refuse(sound.replace(mode, struct.pack("<L", kind << 16), 1), f"file mode is {shown}, not 0o100644")


def test_foreign_zip_is_refused_by_field(refuse):
    words = refuse(foreign(("job.yml", JOB), ("train.py", b"")))
    assert words.startswith("'job.yml' in the bundle: ")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_entry_is_refused(refuse, compression):
    info = ours("job.yml")
    info.compress_type = compression
    refuse(foreign((info, JOB * 100)), "'job.yml' in the bundle: ")


def test_bomb_is_refused_without_being_read(refuse):
    bomb = foreign(("job.yml", JOB), ("zeros", b"\0" * (64 << 20)), compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    refuse(bomb)


def test_data_descriptor_is_refused(refuse):
    class Pipe(io.RawIOBase):
        data = b""

        def writable(self):
            return True

        def write(self, piece):
            Pipe.data += bytes(piece)
            return len(piece)

    with zipfile.ZipFile(Pipe(), "w") as archive:
        archive.writestr(ours("job.yml"), JOB)
    refuse(Pipe.data, "flags is 8, not 2048")


def test_encrypted_flag_is_refused(refuse):
    sound = bytearray(encode_archive(SOUND))
    sound[6] |= 1
    refuse(bytes(sound), "flags is 2049, not 2048")


def test_extra_fields_and_comments_are_refused(refuse):
    name = 30 + len("job.yml")
    extra = struct.pack("<HHL", 0x7075, 4, 0)
    sound = bytearray(encode_archive(SOUND))
    struct.pack_into("<H", sound, 28, len(extra))
    refuse(bytes(sound[:name] + extra + sound[name:]), "extra field length is 8, not 0")
    sound = encode_archive(SOUND)
    refuse(sound[:-2] + struct.pack("<H", 5) + b"hello", "comment length is 5, not 0")


def test_zip64_is_refused(refuse):
    info = ours("job.yml")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open(info, "w", force_zip64=True) as file:
        file.write(JOB)
    refuse(out.getvalue(), "version is 45, not 20")


def test_twice_the_same_name_is_refused(refuse):
    one, two = encode_archive({"job.yml": JOB}), encode_archive({"job.yml": b"name: b\ntasks: x.py\n"})
    local_one, local_two = one[: one.index(b"PK\x01\x02")], two[: two.index(b"PK\x01\x02")]
    refuse(local_one + local_two, "'job.yml' stands twice")


def test_unsorted_names_are_refused(refuse):
    one, two = encode_archive({"b": b""}), encode_archive({"a": b""})
    refuse(one[: one.index(b"PK\x01\x02")] + two, "'a' comes after 'b'")


def test_overlapping_entries_are_refused(refuse):
    """Fifield 2019, "A better zip bomb": many directory entries over one local file."""
    sound = encode_archive(SOUND)
    start = sound.index(b"PK\x01\x02")
    entry = sound[start : sound.index(b"PK\x01\x02", start + 4)]
    assert len(entry) == 46 + len("job.yml")
    refuse(sound[:start] + entry + sound[start:], "'train.py' in the bundle: ")


def test_directory_that_tells_another_story_is_refused(refuse):
    """A reader of local headers and a reader of the directory must not see two archives."""
    sound = encode_archive(SOUND)
    start = sound.index(b"PK\x01\x02")
    refuse(sound[:start] + sound[start:].replace(b"train.py", b"trainn.p"), "another name in the directory")
    for offset, field in [(16, "checksum"), (20, "compressed size"), (24, "size"), (42, "offset")]:
        lie = bytearray(sound)
        lie[start + offset] ^= 1
        refuse(bytes(lie), f"'job.yml' in the bundle: {field} is ")


def test_hidden_entry_between_files_and_directory_is_refused(refuse):
    sound = encode_archive(SOUND)
    start = sound.index(b"PK\x01\x02")
    refuse(sound[:start] + b"hidden" + sound[start:])


@pytest.mark.parametrize("size", [0, 1, 5, 23, 25, 2**31, 2**32 - 1])
def test_lying_size_is_refused(refuse, size):
    sound = bytearray(encode_archive(SOUND))
    assert struct.unpack_from("<LL", sound, 18) == (len(JOB), len(JOB))
    struct.pack_into("<LL", sound, 18, size, size)
    refuse(bytes(sound))


def test_lying_checksum_is_refused(refuse):
    right, wrong = struct.pack("<L", zlib.crc32(b"x = 1\n")), struct.pack("<L", 7)
    sound = encode_archive(SOUND)
    assert sound.count(right) == 2
    refuse(sound.replace(right, wrong), "'train.py' in the bundle does not match its checksum")


def test_changed_content_is_refused(refuse):
    refuse(encode_archive(SOUND).replace(b"x = 1\n", b"x = 2\n"), "does not match its checksum")


@pytest.mark.parametrize("junk", [b"\0", b"PK", encode_archive(SOUND), b"x" * 70_000])
def test_bytes_before_or_after_are_refused(refuse, junk):
    refuse(encode_archive(SOUND) + junk, "bytes after its end")
    if not junk.startswith(b"PK\x03\x04"):
        refuse(junk + encode_archive(SOUND))


@pytest.mark.parametrize(
    "data", [b"", b"P", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x1f\x8b\x08", b"name: a\n"]
)
def test_what_is_no_archive_is_refused(refuse, data):
    refuse(data)


def test_every_truncation_is_refused(refuse):
    sound = encode_archive(SOUND)
    for length in range(len(sound)):
        refuse(sound[:length])


def test_every_single_changed_byte_is_refused(refuse):
    """The form leaves no slack: there is no byte whose value does not matter."""
    sound = encode_archive(SOUND)
    for position in range(len(sound)):
        changed = bytearray(sound)
        changed[position] ^= 0x20
        refuse(bytes(changed))


def test_random_damage_is_refused_with_our_errors(refuse):
    chance = random.Random(7)
    sound = encode_archive(SOUND | {f"f{n}": bytes([n]) * n for n in range(20)})
    for _ in range(300):
        damaged = bytearray(sound)
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        if bytes(damaged) != sound:
            refuse(bytes(damaged), error=(ProtocolError, ConfigError))


def test_limits_hold_when_reading(refuse):
    data = encode_archive(SOUND | {f"f{n}": b"x" * 100 for n in range(10)})
    refuse(data, "more than 5 files", limits=BundleLimits(files=5))
    refuse(data, "'f0' in the bundle is larger than 50 bytes", limits=BundleLimits(file_bytes=50))
    refuse(data, "larger than 500 bytes together", limits=BundleLimits(total_bytes=500))


def test_listing_and_reading_the_spec_are_as_strict(tmp_path):
    path = tmp_path / "bundle"
    for data in (encode_archive(SOUND | {"../x": b""}), encode_archive(SOUND) + b"x"):
        path.write_bytes(data)
        for read in (list_bundle, read_bundle_spec):
            with pytest.raises(ProtocolError):
                read(path)


def test_message_for_a_stranger_is_one_printable_line(refuse):
    words = refuse(encode_archive(SOUND | {"\x1b[2Jevil\n": b""}))
    assert words.isprintable()
