"""Unpacking of archives that are whole, cut, altered, hostile or huge; RARs are built by hand, byte by byte."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import struct
import sys
import unicodedata
import warnings
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import filelock
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hairline.data import archives, members, rar
from hairline.data.archives import extract

FILES = {"set/Positive/1.jpg": b"crack" * 500, "set/Negative/1.jpg": b"", "set/Negative/ä 2.jpg": bytes(range(256))}


def make_zip(path, files, method=zipfile.ZIP_DEFLATED):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicate names are wanted here
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in files.items() if isinstance(files, dict) else files:
                archive.writestr(name, content)
    return path


def _number(value):
    """Encode a RAR5 variable-length integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def _block(kind, fields, *, data=None, extra=b""):
    flags = (0x01 if extra else 0) | (0x02 if data is not None else 0)
    body = _number(kind) + _number(flags)
    body += _number(len(extra)) if extra else b""
    body += _number(len(data)) if data is not None else b""
    body += fields + extra
    sized = _number(len(body)) + body
    return struct.pack("<I", zlib.crc32(sized)) + sized + (data or b"")


def make_rar(path, files, *, method=0, extra=b"", crc_change=0):
    """Write a RAR5 of stored files (RAR 5.0 archive format, rarlab.com/technote.htm).

    With another method only the label says that it is compressed: hairline must then ask a program for the bytes.
    """
    out = [b"Rar!\x1a\x07\x01\x00", _block(1, _number(0))]
    for name, content in files.items():
        raw = name.encode()
        fields = _number(0x04) + _number(len(content)) + _number(stat.S_IFREG | 0o644)
        fields += struct.pack("<I", zlib.crc32(content) ^ crc_change)
        fields += _number(method << 7) + _number(1) + _number(len(raw)) + raw
        out.append(_block(2, fields, data=content, extra=extra))
    out.append(_block(5, _number(0)))
    path.write_bytes(b"".join(out))
    return path


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def refused(archive, tmp_path, match, error=members.ArchiveError):
    """Check that it is refused, names the file, and leaves nothing anywhere."""
    before = tree(tmp_path)
    with pytest.raises(error, match=match) as caught:
        extract(archive, tmp_path / "home" / "out")
    assert archive.name in str(caught.value)
    assert type(caught.value).__module__.startswith("hairline")
    after = {name for name in tree(tmp_path) if not name.endswith(".lock")}
    assert after == {name for name in before if not name.endswith(".lock")}
    assert {path.name for path in (tmp_path / "home").glob("*")} <= {".out.lock"}


@pytest.mark.parametrize("make", [make_zip, make_rar])
def test_files_come_out_whole_whatever_the_archive_is_called(tmp_path, make):
    out = extract(make(tmp_path / "picture.jpg", FILES), tmp_path / "sets" / "out")
    assert out == tmp_path / "sets" / "out"
    assert tree(out) == FILES
    assert [path.name for path in out.parent.iterdir() if path.name != ".out.lock"] == ["out"]
    assert out.stat().st_mode == (out / "set").stat().st_mode


def test_a_target_that_holds_something_is_returned_and_an_empty_one_filled(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    assert extract(tmp_path / "missing.zip", tmp_path / "full") == tmp_path / "full"
    (tmp_path / "empty").mkdir()
    assert tree(extract(make_zip(tmp_path / "a", FILES), tmp_path / "empty")) == FILES


def test_a_zip_around_one_rar_is_unpacked_through_and_checked(tmp_path):
    inner = make_rar(tmp_path / "x", FILES).read_bytes()
    archive = make_zip(tmp_path / "5y9-2.zip", {"Images.rar": inner, "__MACOSX/._Images.rar": b"x"})
    assert tree(extract(archive, tmp_path / "out")) == FILES
    with pytest.raises(members.DamagedError, match="Images.rar in it has sha256"):
        extract(archive, tmp_path / "other", wrapped_sha256="0" * 64)
    assert not (tmp_path / "other").exists()
    # One level only: an archive in an archive in an archive stays as it is.
    twice = make_zip(tmp_path / "twice.zip", {"once.zip": archive.read_bytes()})
    assert list(tree(extract(twice, tmp_path / "twice"))) == ["Images.rar", "__MACOSX/._Images.rar"]


def test_what_the_check_raises_stops_all_and_keeps_its_type(tmp_path):
    def check(folder):
        assert tree(folder) == FILES
        raise KeyError("no")

    with pytest.raises(KeyError):
        extract(make_zip(tmp_path / "a.zip", FILES), tmp_path / "home" / "out", check=check)
    assert [path.name for path in (tmp_path / "home").iterdir() if path.suffix != ".lock"] == []


BAD_NAMES = [
    *("../evil", "a/../../evil", "/evil", "//server/share", "C:/evil", "C:evil", "a/b:stream", "..\\evil"),
    *("\\\\server\\x", "\\evil", "a/nul.jpg", "COM1", "a./b", ".. /evil", "evil ", "a\nb", "a\x7fb", "...", "a/con/b"),
]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("make", [make_zip, make_rar])
def test_names_that_lead_elsewhere_are_refused(tmp_path, make, name):
    refused(make(tmp_path / "bad.zip", {"fine.jpg": b"x", name: b"evil"}), tmp_path, "no safe relative path")


def test_a_name_with_a_nul_is_refused(tmp_path):
    archive = make_zip(tmp_path / "bad.zip", {"a@b.jpg": b"x"})
    archive.write_bytes(archive.read_bytes().replace(b"a@b", b"a\0b"))
    refused(archive, tmp_path, r"no safe relative path|damaged")


@given(st.text(st.characters(codec="utf-8"), max_size=12) | st.text("./\\:a ", max_size=8))
def test_a_safe_path_stays_inside_on_every_system(name):
    path = members.safe_path(name)
    if path is not None:
        assert not path.is_absolute()
        assert not set(path.parts) & {"..", "."}
        assert not set(str(path)) & set("\\:\0")
        root = os.path.realpath("/somewhere")
        assert os.path.normpath(os.path.join(root, path)).startswith(root + os.sep)
        assert members.safe_path(str(path)) == path


@pytest.mark.parametrize(
    "pair",
    [
        ("a/1.jpg", "a/1.jpg"),
        ("a/1.jpg", "a/1.JPG"),
        ("a/1.jpg", "A/2.jpg"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("a/b/c", "A/B"),
        ("a/./1", "a//1"),
        ("é/1", unicodedata.normalize("NFD", "é/2")),
    ],
)
def test_names_that_are_one_somewhere_are_refused(tmp_path, pair):
    refused(make_zip(tmp_path / "twins.zip", [(name, b"x") for name in pair]), tmp_path, "one name on some systems")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, kind):
    entry = zipfile.ZipInfo("link")
    entry.create_system, entry.external_attr = 3, (kind | 0o777) << 16
    refused(make_zip(tmp_path / "links.zip", [(entry, "/etc/passwd")]), tmp_path, "link or special file")


def test_a_link_in_a_rar_is_refused(tmp_path):
    record = _number(5) + _number(1) + _number(0) + _number(4) + b"/etc"  # redirection, Unix symlink
    archive = make_rar(tmp_path / "links.rar", {"link": b""}, extra=_number(len(record)) + record)
    refused(archive, tmp_path, "link or special file")


def test_encrypted_members_are_refused(tmp_path):
    archive = make_zip(tmp_path / "secret.zip", {"a.jpg": b"x"})
    raw = bytearray(archive.read_bytes())
    raw[raw.index(b"PK\x03\x04") + 6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(raw)
    refused(archive, tmp_path, "encrypted")
    record = _number(1) + _number(0) + _number(0) + bytes([10]) + bytes(32)  # encryption record
    rar_file = make_rar(tmp_path / "secret.rar", {"a": b"x"}, extra=_number(len(record)) + record)
    refused(rar_file, tmp_path, "encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_without_a_bound_on_memory_are_refused(tmp_path, method):
    refused(make_zip(tmp_path / "odd.zip", FILES, method), tmp_path, "unusual method")


def test_bombs_are_bounded_by_what_comes_out(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "bomb.zip", {"a": bytes(2_000_000)})
    assert archive.stat().st_size < 5_000
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 1_000_000)
    refused(archive, tmp_path, "more than 1000000 bytes")
    # A header that claims little does not get more out.
    raw = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", raw, raw.index(signature) + offset, 10)
    archive.write_bytes(raw)
    refused(archive, tmp_path, "damaged")
    # One that claims much is judged by what there is.
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 3_000_000)
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", raw, raw.index(signature) + offset, 2**31)
    archive.write_bytes(raw)
    refused(archive, tmp_path, "damaged")


@pytest.mark.parametrize("count", [0, 4])
def test_the_number_of_members_is_bounded(tmp_path, monkeypatch, count):
    monkeypatch.setattr(members, "MAX_MEMBERS", 3)
    archive = make_zip(tmp_path / "many.zip", {str(index): b"" for index in range(count)})
    refused(archive, tmp_path, f"lists {count} files; expected 1 to 3")


@pytest.mark.parametrize("make", [make_zip, make_rar])
def test_an_archive_cut_anywhere_is_refused(tmp_path, make):
    whole = make(tmp_path / "cut", FILES).read_bytes()
    cuts = sorted({*range(0, len(whole), max(1, len(whole) // 50)), len(whole) - 1})
    assert len(cuts) >= 50
    for cut in cuts:
        (tmp_path / "cut").write_bytes(whole[:cut])
        refused(tmp_path / "cut", tmp_path, "expected")


@pytest.mark.parametrize("make", [make_zip, make_rar])
def test_altered_bytes_give_the_right_files_or_one_clear_error(tmp_path, make):
    whole = make(tmp_path / "a", FILES).read_bytes()
    generator = random.Random(0)
    outcomes = set()
    for number in range(250):
        raw = bytearray(whole)
        for _ in range(generator.choice([1, 1, 4])):
            raw[generator.randrange(len(raw))] = generator.randrange(256)
        (tmp_path / "a").write_bytes(raw)
        target = tmp_path / str(number)
        try:
            # A name may change unseen in a zip; content may not.
            assert set(tree(extract(tmp_path / "a", target)).values()) <= set(FILES.values())
            outcomes.add("unpacked")
        except members.ArchiveError:  # nothing else may come through
            assert not target.exists()
            outcomes.add("refused")
    # Every byte of this RAR is under a checksum; a zip has bytes (dates, say) that change nothing.
    assert outcomes == ({"refused"} if make is make_rar else {"unpacked", "refused"})
    assert not list(tmp_path.glob("*.partial"))


def test_a_full_disk_and_a_folder_that_is_a_file_are_said(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", FILES)
    (tmp_path / "file").write_text("")
    with pytest.raises(members.DiskError, match="could not be unpacked"):
        extract(archive, tmp_path / "file" / "out")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives._Writer, "write", full)
    refused(archive, tmp_path, "the disk is full.*Free some space", members.DiskError)


def test_leftovers_of_dead_processes_go_and_a_living_one_is_waited_for(tmp_path):
    dead = tmp_path / ".out.abc.partial"
    (dead / "content").mkdir(parents=True)
    archive = make_zip(tmp_path / "a.zip", FILES)

    class Busy(filelock.FileLock):
        """The lock as it is when another process unpacked the same while this one waited."""

        def acquire(self, *args, **kwargs):
            (tmp_path / "late").mkdir()
            (tmp_path / "late" / "theirs").write_text("")
            return super().acquire(*args, **kwargs)

    extract(archive, tmp_path / "out")
    assert not dead.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "FileLock", Busy)
        assert tree(extract(archive, tmp_path / "late")) == {"theirs": b""}


def program(tmp_path, monkeypatch, *, content, name="unrar", before=""):
    """Put a program in the place of unrar that prints `content`, and take all others away."""
    printed = tmp_path / f"{name}.bin"
    printed.write_bytes(content)
    script = f"import sys, time; {before}\nsys.stdout.buffer.write(open({str(printed)!r}, 'rb').read())"
    monkeypatch.setattr(rar, "installed", lambda archive: [(sys.executable, "-c", script)])


ALL = b"".join(FILES.values())


def test_a_compressed_rar_is_split_from_what_a_program_prints(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, content=ALL)
    assert tree(extract(make_rar(tmp_path / "a.rar", FILES, method=3), tmp_path / "out")) == FILES


@pytest.mark.parametrize("content", [b"", ALL[:-1], ALL + b"x", ALL[::-1]])
def test_a_program_that_prints_something_else_is_not_believed(tmp_path, monkeypatch, content):
    program(tmp_path, monkeypatch, content=content, before="sys.stderr.write('sorry\\n');")
    archive = make_rar(tmp_path / "a.rar", FILES, method=3)
    refused(archive, tmp_path, "sorry" if len(content) < len(ALL) else "cannot read it", rar.ToolError)


def test_the_next_program_is_tried_and_a_stuck_one_killed(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, content=ALL)
    good = rar.installed(None)
    stuck = (sys.executable, "-c", "import time; time.sleep(30)")
    monkeypatch.setattr(rar, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(rar, "installed", lambda archive: [("/no/such/program",), stuck, *good])
    assert tree(extract(make_rar(tmp_path / "a.rar", FILES, method=3), tmp_path / "out")) == FILES


def test_without_any_program_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(rar.shutil, "which", lambda name: None)
    archive = make_rar(tmp_path / "a.rar", FILES, method=3)
    refused(archive, tmp_path, "(?s)apt install.*brew install.*7-Zip.*give the folder", rar.MissingToolError)


def test_windows_programs_outside_the_path_are_found(monkeypatch):
    monkeypatch.setenv("ProgramFiles", "C:/Programs")
    monkeypatch.setattr(rar.shutil, "which", lambda name: name if name.endswith("7z.exe") else None)
    assert rar.installed(Path("a.rar")) == [(os.path.join("C:/Programs", "7-Zip/7z.exe"), "e", "-so", "-bb0", "-p")]


@pytest.mark.parametrize("name", [command[0] for command in rar.COMMANDS])
def test_an_installed_program_prints_all_members_joined(tmp_path, name):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    # Without the empty file: it sends bsdtar 3.6.2 round and round, printing for ever.
    archive = make_rar(tmp_path / "a.rar", {name: content for name, content in FILES.items() if content})
    commands = [command for command in rar.installed(archive) if Path(command[0]).stem == name]
    with rar.contents(commands[0], archive, lambda: 0) as stream:
        printed = stream.read(len(ALL) + 1)
    if not printed:
        pytest.skip(f"{name} was built without RAR, as Debian's is")
    assert printed == ALL


def test_formats_are_told_by_content(tmp_path):
    for content, expected in [(b"", None), (b"PK", None), (b"Rar!\x1a\x07\x00x", "rar"), (b"PK\x05\x06", "zip")]:
        (tmp_path / "f").write_bytes(content)
        assert archives.archive_format(tmp_path / "f") == expected
    assert PurePosixPath("a/b") == members.safe_path("./a//b")
