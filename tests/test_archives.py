"""Archives that are complete, truncated, altered, hostile or huge. RARs are written byte by byte."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import filelock
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hairline.data import archives
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


def make_rar(path, files, *, method=0, extra=b""):
    """Write a RAR5 of stored files (RAR 5.0 archive format, rarlab.com/technote.htm).

    With another method only the label says that it is compressed: hairline must then run a program to read the bytes.
    """
    out = [b"Rar!\x1a\x07\x01\x00", _block(1, _number(0))]
    for name, content in files.items():
        raw = name.encode()
        fields = _number(0x04) + _number(len(content)) + _number(stat.S_IFREG | 0o644)
        fields += struct.pack("<I", zlib.crc32(content))
        fields += _number(method << 7) + _number(1) + _number(len(raw)) + raw
        out.append(_block(2, fields, data=content, extra=extra))
    out.append(_block(5, _number(0)))
    path.write_bytes(b"".join(out))
    return path


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def refused(archive, tmp_path, match, error=archives.ArchiveError):
    """Check that the archive is refused by a message that names it, and that no file is left."""
    before = tree(tmp_path)
    with pytest.raises(error, match=match) as caught:
        extract(archive, tmp_path / "home" / "out")
    assert archive.name in str(caught.value)
    assert tree(tmp_path) | {"home/.out.lock": b""} == before | {"home/.out.lock": b""}


@pytest.mark.parametrize("make", [make_zip, make_rar])
def test_files_are_unpacked_whatever_the_archive_is_called(tmp_path, make):
    out = extract(make(tmp_path / "picture.jpg", FILES), tmp_path / "sets" / "out")
    assert tree(out) == FILES
    assert [path.name for path in out.parent.iterdir() if path.name != ".out.lock"] == ["out"]
    assert out.stat().st_mode == (out / "set").stat().st_mode


def test_a_target_with_files_is_returned_and_an_empty_one_filled(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    assert extract(tmp_path / "missing.zip", tmp_path / "full") == tmp_path / "full"
    (tmp_path / "empty").mkdir()
    (tmp_path / ".empty.abc.partial" / "content").mkdir(parents=True)  # of a killed process
    assert tree(extract(make_zip(tmp_path / "a", FILES), tmp_path / "empty")) == FILES
    assert not (tmp_path / ".empty.abc.partial").exists()


def test_a_zip_around_one_rar_is_unpacked_with_the_rar(tmp_path):
    inner = make_rar(tmp_path / "x", FILES).read_bytes()
    archive = make_zip(tmp_path / "5y9-2.zip", {"Images.rar": inner, "__MACOSX/._Images.rar": b"x"})
    assert tree(extract(archive, tmp_path / "out")) == FILES
    with pytest.raises(archives.ArchiveError, match="Images.rar in it has sha256"):
        extract(archive, tmp_path / "other", inner_sha256="0" * 64)
    assert not (tmp_path / "other").exists()
    # One level only: an archive inside an archive inside an archive stays packed.
    twice = make_zip(tmp_path / "twice.zip", {"once.zip": archive.read_bytes()})
    assert list(tree(extract(twice, tmp_path / "twice"))) == ["Images.rar", "__MACOSX/._Images.rar"]


def test_an_exception_of_the_check_cancels_the_extraction(tmp_path):
    def check(folder):
        assert tree(folder) == FILES
        raise KeyError("no")

    with pytest.raises(KeyError):
        extract(make_zip(tmp_path / "a.zip", FILES), tmp_path / "home" / "out", check=check)
    assert [path.name for path in (tmp_path / "home").iterdir() if path.suffix != ".lock"] == []


UNSAFE_NAMES = [
    *("../evil", "a/../../evil", "/evil", "//server/share", "C:/evil", "C:evil", "a/b:stream", "..\\evil"),
    *("\\\\server\\x", "\\evil", "a/nul.jpg", "COM1", "a./b", ".. /evil", "evil ", "a\nb", "a\x7fb", "...", "a/con/b"),
]


@pytest.mark.parametrize("make", [make_zip, make_rar])
def test_paths_outside_the_target_are_refused(tmp_path, make):
    for name in UNSAFE_NAMES:
        archive = make(tmp_path / "bad.zip", {"fine.jpg": b"x", name: b"evil"})
        refused(archive, tmp_path, f"{re.escape(repr(name))}.*not a safe relative path")


def test_a_name_with_a_nul_is_refused(tmp_path):
    archive = make_zip(tmp_path / "bad.zip", {"a@b.jpg": b"x"})
    archive.write_bytes(archive.read_bytes().replace(b"a@b", b"a\0b"))
    refused(archive, tmp_path, r"not a safe relative path|damaged")


@given(st.text(st.characters(codec="utf-8"), max_size=12) | st.text("./\\:a ", max_size=8))
def test_a_safe_path_stays_inside_on_every_system(name):
    path = archives.safe_path(name)
    if path is not None:
        assert not set(path.parts) & {"..", "."}
        assert not set(str(path)) & set("\\:\0")
        root = os.path.realpath("/somewhere")
        assert os.path.normpath(os.path.join(root, path)).startswith(root + os.sep)
        assert archives.safe_path(str(path)) == path


@pytest.mark.parametrize(
    "pair",
    [
        *(("a/1.jpg", "a/1.jpg"), ("a", "a/b"), ("a/b", "a"), ("a", "a/b/c"), ("a/./1", "a//1")),
        *(("Positive/1", "positive/2"), ("a/1.JPG", "a/1.jpg"), ("A", "a/b"), ("\u00e9/1", "e\u0301/2")),
    ],
)
def test_paths_that_are_the_same_on_some_system_are_refused(tmp_path, pair):
    refused(make_zip(tmp_path / "twins.zip", [(name, b"x") for name in pair]), tmp_path, "the same path on some")


def test_a_bug_is_not_called_damage(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(archives, "_write_members", fail)
    with pytest.raises(MemoryError):
        extract(make_zip(tmp_path / "a.zip", FILES), tmp_path / "out")


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


def test_bombs_are_refused(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "bomb.zip", {"a": bytes(2_000_000)})
    assert archive.stat().st_size < 5_000
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 1_000_000)
    refused(archive, tmp_path, "at most 1000000 bytes")
    # A header that announces less does not get more out.
    raw = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", raw, raw.index(signature) + offset, 10)
    archive.write_bytes(raw)
    refused(archive, tmp_path, "damaged")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    for count in (0, 4):
        many = make_zip(tmp_path / "many.zip", {str(index): b"" for index in range(count)})
        refused(many, tmp_path, f"lists {count} files .* expected 1 to 3")
    refused(make_zip(tmp_path / "odd.zip", {"a": b"x"}, zipfile.ZIP_LZMA), tmp_path, "unusual method")


@pytest.mark.parametrize("make", [make_zip, make_rar])
def test_a_truncated_archive_is_refused(tmp_path, make):
    whole = make(tmp_path / "cut", FILES).read_bytes()
    for cut in [*range(0, len(whole), max(1, len(whole) // 20)), len(whole) - 1]:
        (tmp_path / "cut").write_bytes(whole[:cut])
        refused(tmp_path / "cut", tmp_path, "by hand")


def test_a_full_disk_and_a_folder_that_is_a_file_are_named(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", FILES)
    (tmp_path / "file").write_text("")
    with pytest.raises(archives.UnpackError, match="could not be unpacked"):
        extract(archive, tmp_path / "file" / "out")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives, "_write_members", full)
    refused(archive, tmp_path, "the disk is full", archives.UnpackError)


@pytest.mark.slow
def test_two_processes_unpack_once(tmp_path):
    archive = make_zip(tmp_path / "a.zip", FILES)
    context = multiprocessing.get_context("spawn")
    with filelock.FileLock(tmp_path / ".out.lock"):
        other = context.Process(target=extract, args=(archive, tmp_path / "out"))
        other.start()
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("")
    other.join(60)
    assert other.exitcode == 0
    other.close()
    assert tree(tmp_path / "out") == {"theirs": b""}


def program(content, before=""):
    """Return a command that prints `content`, as a RAR program does."""
    return (sys.executable, "-c", f"import sys, time; {before}sys.stdout.buffer.write({content!r})")


ALL = b"".join(FILES.values())


def test_a_compressed_rar_is_read_by_the_first_program_that_can(tmp_path, monkeypatch):
    (tmp_path / "not-a-program").write_bytes(b"\0")
    (tmp_path / "not-a-program").chmod(0o755)
    broken = [program(content) for content in (b"", ALL[:-1], ALL + b"x", ALL[::-1])]
    noisy = program(b"", before="sys.stderr.write('Reading\\nUnknown method 9\\n'); ")
    commands = [("no-such-program",), (str(tmp_path / "not-a-program"),), noisy, *broken, program(ALL)]
    monkeypatch.setattr(archives, "RAR_COMMANDS", commands)
    archive = make_rar(tmp_path / "a.rar", FILES, method=3)
    assert tree(extract(archive, tmp_path / "out")) == FILES
    monkeypatch.setattr(archives, "RAR_COMMANDS", commands[:-1])
    message = "damaged, or the installed programs cannot read it .*could not be started.* said: Unknown method 9;"
    refused(archive, tmp_path, message, archives.UnpackError)


def test_a_program_is_killed_when_it_hangs_but_not_while_it_prints(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_STALL_SECONDS", 3.0)
    stuck = program(b"", before=f"sys.stdout.buffer.write({ALL[:-1]!r}); sys.stdout.flush(); time.sleep(60); ")
    piece = "sys.stdout.buffer.write({!r}); sys.stdout.flush(); time.sleep(0.6); "
    slow = program(b"", before="".join(piece.format(ALL[start : start + 500]) for start in range(0, len(ALL), 500)))
    monkeypatch.setattr(archives, "RAR_COMMANDS", [stuck, slow])
    assert tree(extract(make_rar(tmp_path / "a.rar", FILES, method=3), tmp_path / "out")) == FILES


def test_without_a_program_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.shutil, "which", lambda name: None)
    archive = make_rar(tmp_path / "a.rar", FILES, method=3)
    refused(archive, tmp_path, "apt install.*brew install.*7-Zip.*pass the folder", archives.UnpackError)


@pytest.mark.parametrize("command", archives.RAR_COMMANDS, ids=lambda command: command[0])
def test_an_installed_program_prints_all_members_in_sequence(tmp_path, command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    # Without the empty file, on which bsdtar 3.6.2 loops forever.
    archive = make_rar(tmp_path / "a.rar", {name: content for name, content in FILES.items() if content})
    printed = subprocess.run([*command, archive], stdout=subprocess.PIPE, timeout=60, check=False).stdout
    if not printed:
        pytest.skip(f"{command[0]} was built without RAR, as on Debian")
    assert printed == ALL
