"""Downloads from a real server on the loopback that breaks off, stalls and serves wrong content."""

from __future__ import annotations

import errno
import hashlib
import io
import multiprocessing
import re
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import filelock
import pytest

from hairline.data import download
from tests.test_archives import make_zip

BODY = bytes(range(256)) * 800
SHA256 = hashlib.sha256(BODY).hexdigest()


class Site:
    """What the server answers, and the requests it received."""

    def __init__(self):
        self.body = BODY
        self.closed = 0  # number of first requests whose connection is closed without an answer
        self.statuses = []  # status codes of the first answers
        self.cuts = []  # bytes of the body after which the first answers break off
        self.stall_after = None  # bytes after which the server sends nothing more
        self.drip_seconds = 0.0  # pause between two bytes
        self.requests = []
        self.release = threading.Event()


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server.site
        site.requests.append(self.path)
        if site.closed:
            site.closed -= 1
            return
        body = b"" if site.statuses else site.body
        self.send_response(site.statuses.pop(0) if site.statuses else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        end = site.cuts.pop(0) if site.cuts and body else site.stall_after
        try:
            if not site.drip_seconds:
                self.wfile.write(body[:end])
            for start in range(0, len(body) if site.drip_seconds else 0, download._CHUNK_BYTES):
                self.wfile.write(body[start : start + download._CHUNK_BYTES])
                site.release.wait(site.drip_seconds)
            if site.stall_after is not None:
                site.release.wait(10)
        except ConnectionError:
            pass  # the client closed the connection

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(download, "_PAUSES_SECONDS", (0.0, 0.01, 0.01))
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    server.site = Site()
    server.site.url = f"http://127.0.0.1:{server.server_port}/set.zip"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server.site
    server.site.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_file_is_downloaded_once_and_replaced_when_it_is_another(site, tmp_path):
    target = tmp_path / "deep" / "set.zip"
    for _ in range(2):
        assert download.fetch(site.url, target, sha256=SHA256) == target
    assert target.read_bytes() == BODY
    assert len(site.requests) == 1
    target.write_bytes(b"old")
    assert download.fetch(site.url, target, sha256=SHA256).read_bytes() == BODY
    assert leftovers(target.parent) == ["set.zip"]
    assert target.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_busy_servers_and_broken_transfers_are_retried(site, tmp_path, sha256):
    site.statuses, site.cuts = [503, 429], [1000]
    assert download.fetch(site.url, tmp_path / "f", sha256=sha256).read_bytes() == BODY
    assert len(site.requests) == 4


def test_a_closed_connection_is_retried(site, tmp_path):
    site.closed = 2
    assert download.fetch(site.url, tmp_path / "f", sha256=SHA256).read_bytes() == BODY
    assert len(site.requests) == 3


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (500, 4)])
def test_an_error_of_the_server_is_one_sentence_with_the_address(site, tmp_path, status, attempts):
    site.statuses = [status] * 9
    with pytest.raises(download.DownloadError, match=f"{re.escape(site.url)}: the server answered {status}") as caught:
        download.fetch(site.url, tmp_path / "f")
    assert "\n" not in str(caught.value)
    assert len(site.requests) == attempts


def test_a_transfer_that_always_breaks_leaves_nothing(site, tmp_path):
    site.cuts = [1000] * 9
    with pytest.raises(download.DownloadError, match="1000 bytes read"):
        download.fetch(site.url, tmp_path / "f")
    assert leftovers(tmp_path) == []


def test_wrong_content_is_deleted_and_both_digests_named(site, tmp_path):
    site.body = BODY[:-1] + b"!"
    with pytest.raises(download.DownloadError, match=SHA256) as caught:
        download.fetch(site.url, tmp_path / "f", sha256=SHA256)
    assert hashlib.sha256(site.body).hexdigest() in str(caught.value)
    assert leftovers(tmp_path) == []


def test_stalls_and_the_whole_download_are_bounded(site, tmp_path):
    site.stall_after = 100
    with pytest.raises(download.DownloadError, match="timed out"):
        download.fetch(site.url, tmp_path / "f", stall_seconds=0.2)
    site.stall_after, site.drip_seconds = None, 0.3
    with pytest.raises(download.DownloadError, match="not finished within 0.5 seconds"):
        download.fetch(site.url, tmp_path / "f", stall_seconds=9, total_seconds=0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(download.DownloadError, match="timed out"):
            download.fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/x", tmp_path / "f", stall_seconds=0.2)


def test_an_unknown_name_and_a_refused_connection_are_named(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(download.DownloadError, match=rf"127.0.0.1:{port}/x: .*[Rr]efused"):
        download.fetch(f"http://127.0.0.1:{port}/x", tmp_path / "f")

    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(download.DownloadError, match="Failed to resolve 'example.invalid'"):
        download.fetch("http://example.invalid/x", tmp_path / "f")


def test_a_folder_that_cannot_be_created_and_a_full_disk_are_named(site, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(download.DownloadError, match="could not be saved as .*choose a folder"):
        download.fetch(site.url, tmp_path / "file" / "f")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.progress, "bar", full)
    with pytest.raises(download.DownloadError, match="could not be saved as .*the disk is full"):
        download.fetch(site.url, tmp_path / "f")


@pytest.mark.slow
def test_two_processes_download_once(site, tmp_path):
    context = multiprocessing.get_context("spawn")
    fetched, digest = (site.url, tmp_path / "f"), {"sha256": SHA256}
    processes = [context.Process(target=download.fetch, args=fetched, kwargs=digest) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
        process.close()
    assert len(site.requests) == 1


def test_waiting_for_another_process_is_bounded(site, tmp_path):
    with filelock.FileLock(tmp_path / "f.lock"):
        with pytest.raises(download.DownloadError, match="another process"):
            download.fetch(site.url, tmp_path / "f", total_seconds=0.1)


def zipped(files):
    return make_zip(io.BytesIO(), files).getvalue()


IMAGES = {f"METU/set/{name}/{index}.jpg": f"{name}{index}" for name in ("Negative", "Positive") for index in range(3)}


@pytest.fixture
def archive(site):
    site.body = zipped(IMAGES)
    digest = hashlib.sha256(site.body).hexdigest()
    return download.Archive("tiny", (site.url,), digest, "https://example.org/tiny", images_per_class=3)


def test_a_dataset_is_installed_once(site, archive, tmp_path):
    root = download.install(archive, tmp_path)
    assert sorted(path.name for path in root.iterdir()) == ["Negative", "Positive"]
    assert root.is_relative_to(tmp_path / "tiny")
    assert download.install(archive, tmp_path) == root
    assert len(site.requests) == 1
    assert not list((tmp_path / "tiny").glob("*.archive"))


def test_the_zip_around_the_archive_is_the_second_choice(site, archive, tmp_path):
    site.body = zipped({"Images for Classification.rar": site.body})
    gone = replace(archive, urls=(f"{site.url}2",), wrapped_urls=(site.url,))
    site.statuses = [404]
    root = download.install(gone, tmp_path)
    assert (root / "Positive" / "2.jpg").read_text() == "Positive2"
    with pytest.raises(download.DownloadError, match="(?s)sha256.*data.path="):
        download.install(replace(gone, urls=(), sha256="0" * 64), tmp_path / "other")


@pytest.mark.parametrize(
    "files", [{}, {"Positive/1.jpg": "1"}, {name: text for name, text in IMAGES.items() if "2" not in name}]
)
def test_downloaded_content_is_counted(site, archive, tmp_path, files):
    site.body = zipped(files)
    with pytest.raises(download.DownloadError, match=r"(?s)tried:.*https://example.org/tiny.*data.path=<folder, zip"):
        download.install(replace(archive, sha256=None), tmp_path)
    assert leftovers(tmp_path / "tiny") == []


def test_all_addresses_are_tried_and_named(site, archive, tmp_path):
    site.statuses = [404, 410]
    lost = replace(archive, wrapped_urls=(site.url + "2",))
    with pytest.raises(download.DownloadError, match=r"(?s)set.zip: .*404.*set.zip2: .*410"):
        download.install(lost, tmp_path)


def test_the_users_archive_needs_no_network(site, archive, tmp_path, caplog):
    own = tmp_path / "own.dat"
    own.write_bytes(site.body)
    root = download.install(archive, tmp_path / "sets", source=own)
    assert (root / "Negative" / "0.jpg").read_text() == "Negative0"
    assert download.install(archive, tmp_path / "sets", source=own) == root
    assert site.requests == []
    assert not caplog.records
    # Another archive of the same name is another dataset; a smaller one is allowed with a warning.
    own.write_bytes(zipped({"Positive/1.jpg": "x", "Negative/1.jpg": "y"}))
    assert (download.install(archive, tmp_path / "sets", source=own) / "Positive" / "1.jpg").read_text() == "x"
    assert "1 images of Negative" in caplog.text


@pytest.mark.parametrize("content", [b"", b"<html>", zipped({"a/b.jpg": "x"})], ids=["empty", "page", "other"])
def test_a_users_file_that_is_no_archive_is_named(archive, tmp_path, content):
    own = tmp_path / "own.zip"
    own.write_bytes(content)
    with pytest.raises(download.ArchiveError, match=r"own\.zip.*expected"):
        download.install(archive, tmp_path / "sets", source=own)
    with pytest.raises(download.ArchiveError, match="expected"):
        download.install(archive, tmp_path / "sets", source=tmp_path / "missing.zip")


def test_class_folders_are_found_at_any_depth_but_not_guessed(tmp_path):
    for name in ("a/b/Positive", "a/b/Negative", "__MACOSX/Positive", "__MACOSX/Negative"):
        (tmp_path / name).mkdir(parents=True)
    names = ("Negative", "Positive")
    assert download.find_classes(tmp_path, names) == tmp_path / "a" / "b"
    assert download.find_classes(tmp_path / "a" / "b", names) == tmp_path / "a" / "b"
    with pytest.raises(download.ArchiveError, match="holds a: expected the folders Negative, Crack"):
        download.find_classes(tmp_path, ("Negative", "Crack"))
    for name in ("a/c/Positive", "a/c/Negative"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(download.ArchiveError, match="more than once"):
        download.find_classes(tmp_path, names)
    with pytest.raises(download.ArchiveError, match="cannot be listed"):
        download.find_classes(tmp_path / "missing", names)
