"""Downloads against a real server on the loopback that breaks off, lies, stalls and changes its mind."""

from __future__ import annotations

import gc
import hashlib
import io
import multiprocessing
import re
import socket
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hairline.data import download, published, transfer

BODY = bytes(range(256)) * 800
SHA256 = hashlib.sha256(BODY).hexdigest()


class Site:
    """What the server does next, and what it was asked."""

    def __init__(self):
        self.body, self.etag, self.ranges = BODY, '"one"', True
        self.break_after = []  # bytes of the body after which each answer ends; empty is whole
        self.statuses = []  # to answer with before anything else
        self.extra_length = 0  # how much too much Content-Length says
        self.stall_after = None
        self.drip_seconds = 0.0
        self.ignore_if_range = False
        self.redirect = None
        self.chunked = False
        self.requests = []
        self.release = threading.Event()


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server.site
        site.requests.append(dict(self.headers))
        if self.path.startswith("/moved"):
            return self.head(302, {"Location": site.redirect, "Content-Length": "0"})
        if site.statuses:
            return self.head(site.statuses.pop(0), {"Content-Length": "0"})
        body, first, headers = site.body, 0, {}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        fits = site.ignore_if_range or self.headers.get("If-Range") == site.etag
        if asked and site.ranges and fits:
            first = int(asked[1])
            if first >= len(body):
                return self.head(416, {"Content-Length": "0"})
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        if site.etag:
            headers["ETag"] = site.etag
        part = body[first:]
        if site.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(part) + site.extra_length)
        self.head(206 if headers.get("Content-Range") else 200, headers)
        if site.break_after:
            part = part[: site.break_after.pop(0)]
        if site.stall_after is not None:
            self.wfile.write(part[: site.stall_after])
            site.release.wait(10)
            return None
        step = 1 if site.drip_seconds else 8192
        try:
            for start in range(0, len(part), step):
                data = part[start : start + step]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if site.chunked else data)
                if site.release.wait(site.drip_seconds):
                    return None
            # A broken-off chunked body lacks its last chunk.
            if site.chunked and first + len(part) == len(body):
                self.wfile.write(b"0\r\n\r\n")
        except ConnectionError:
            pass  # the client had enough
        return None

    def head(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(download, "_PAUSES_SECONDS", (0.0, 0.01, 0.01))
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(autouse=True, scope="module")
def nothing_left_open():
    yield
    gc.collect()  # a socket left open warns here, and warnings are errors


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


def test_whole_file_arrives_checked_and_is_not_asked_for_again(site, tmp_path):
    target = tmp_path / "deep" / "set.zip"
    for _ in range(2):
        assert download.fetch(site.url, target, size_bytes=len(BODY), sha256=SHA256.upper()) == target
    assert target.read_bytes() == BODY
    assert len(site.requests) == 1
    assert leftovers(target.parent) == ["set.zip"]


def test_a_file_that_is_there_needs_no_network(tmp_path):
    target = tmp_path / "set.zip"
    target.write_bytes(BODY)
    assert download.fetch("http://127.0.0.1:1/x", target, size_bytes=len(BODY), sha256=SHA256) == target


def test_a_wrong_file_that_is_there_is_replaced(site, tmp_path):
    target = tmp_path / "set.zip"
    target.write_bytes(b"old")
    assert download.fetch(site.url, target, sha256=SHA256).read_bytes() == BODY


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_breaks_off_is_gone_on_with(site, tmp_path, chunked):
    site.chunked = chunked
    site.break_after = [1000, 50_000, 7]
    download.fetch(site.url, tmp_path / "f", sha256=SHA256)
    assert [asked.get("Range") for asked in site.requests] == [None, "bytes=1000-", "bytes=51000-", "bytes=51007-"]
    assert {asked.get("If-Range") for asked in site.requests[1:]} == {'"one"'}


def test_tries_are_bounded_and_the_next_call_goes_on(site, tmp_path):
    site.break_after = [10] * 4
    with pytest.raises(download.DownloadError, match=rf"broke off after 40 of {len(BODY)} bytes"):
        download.fetch(site.url, tmp_path / "f")
    assert len(site.requests) == 4
    assert leftovers(tmp_path) == ["f.part", "f.part.json"]
    assert download.fetch(site.url, tmp_path / "f").read_bytes() == BODY
    assert site.requests[-1]["Range"] == "bytes=40-"


def test_tries_that_bring_much_do_not_count(site, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_PROGRESS_BYTES", 1000)
    site.break_after = [1000] * 9
    assert download.fetch(site.url, tmp_path / "f").read_bytes() == BODY


def test_a_server_without_ranges_starts_over(site, tmp_path):
    site.ranges, site.break_after = False, [1000, 2000]
    assert download.fetch(site.url, tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_nothing_is_joined_without_a_strong_validator(site, tmp_path, etag):
    site.etag, site.break_after = etag, [1000]
    assert download.fetch(site.url, tmp_path / "f").read_bytes() == BODY
    assert "Range" not in site.requests[1]


@pytest.mark.parametrize("ignore_if_range", [False, True])
def test_two_versions_are_never_joined(site, tmp_path, ignore_if_range):
    site.break_after = [1000] * 4
    with pytest.raises(download.DownloadError):
        download.fetch(site.url, tmp_path / "f")
    site.body, site.etag, site.ignore_if_range = BODY[::-1], '"two"', ignore_if_range
    assert download.fetch(site.url, tmp_path / "f").read_bytes() == BODY[::-1]


def test_a_server_whose_parts_never_fit_is_given_up(site, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_PROGRESS_BYTES", 1000)
    monkeypatch.setattr(transfer, "_validator", lambda response: f'"{time.monotonic_ns()}"')
    site.ignore_if_range, site.break_after = True, [1000] * 100
    with pytest.raises(download.DownloadError):
        download.fetch(site.url, tmp_path / "f")
    assert len(site.requests) < 20


def test_the_part_of_another_address_is_not_used(site, tmp_path):
    site.break_after = [10] * 4
    with pytest.raises(download.DownloadError):
        download.fetch(site.url, tmp_path / "f")
    assert download.fetch(site.url + "?other", tmp_path / "f").read_bytes() == BODY
    assert "Range" not in site.requests[-1]


@pytest.mark.parametrize("record", ["", "{", "[]", '{"url": 1}', '{"url": null, "validator": 3}'])
def test_a_damaged_record_starts_over(site, tmp_path, record):
    (tmp_path / "f.part").write_bytes(b"abc")
    (tmp_path / "f.part.json").write_text(record)
    assert download.fetch(site.url, tmp_path / "f").read_bytes() == BODY


def test_a_part_longer_than_the_file_starts_over(site, tmp_path):
    site.break_after = [10] * 4
    with pytest.raises(download.DownloadError):
        download.fetch(site.url, tmp_path / "f")
    (tmp_path / "f.part").write_bytes(BODY + b"more")
    assert download.fetch(site.url, tmp_path / "f").read_bytes() == BODY


def test_wrong_bytes_are_deleted_and_named(site, tmp_path):
    site.body = BODY[:-1] + b"!"
    with pytest.raises(download.DownloadError) as caught:
        download.fetch(site.url, tmp_path / "f", size_bytes=len(BODY), sha256=SHA256)
    assert hashlib.sha256(site.body).hexdigest() in str(caught.value)
    assert SHA256 in str(caught.value)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("change", [-5, 5])
def test_another_size_is_refused(site, tmp_path, chunked, change):
    site.chunked = chunked
    with pytest.raises(download.DownloadError, match=str(len(BODY) + change)):
        download.fetch(site.url, tmp_path / "f", size_bytes=len(BODY) + change)
    assert not (tmp_path / "f").exists()


def test_a_length_that_lies_is_bounded(site, tmp_path):
    site.extra_length = 9
    with pytest.raises(download.DownloadError):
        download.fetch(site.url, tmp_path / "f")
    assert len(site.requests) <= 4


@pytest.mark.parametrize(("statuses", "count"), [([503], 2), ([500, 502, 429], 4)])
def test_passing_faults_of_the_server_are_waited_out(site, tmp_path, statuses, count):
    site.statuses = statuses
    assert download.fetch(site.url, tmp_path / "f").read_bytes() == BODY
    assert len(site.requests) == count


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (204, 1), (500, 4)])
def test_an_error_of_the_server_is_one_sentence_with_the_address(site, tmp_path, status, tries):
    site.statuses = [status] * 9
    with pytest.raises(download.DownloadError, match=f"{re.escape(site.url)}.*{status}.*expected") as caught:
        download.fetch(site.url, tmp_path / "f")
    assert "\n" not in str(caught.value)
    assert len(site.requests) == tries


def test_a_stall_ends(site, tmp_path):
    site.stall_after = 100
    began = time.monotonic()
    with pytest.raises(download.DownloadError, match="no byte for 0.2 seconds. 100 bytes are kept"):
        download.fetch(site.url, tmp_path / "f", stall_seconds=0.2)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("stall_after", [None, 100])
def test_the_whole_is_bounded_however_it_drips(site, tmp_path, stall_after):
    site.drip_seconds, site.stall_after = 0.01, stall_after
    began = time.monotonic()
    with pytest.raises(download.DownloadError, match="not finished within the time"):
        download.fetch(site.url, tmp_path / "f", stall_seconds=9, total_seconds=0.4)
    assert time.monotonic() - began < 2


def test_a_server_that_never_answers_is_given_up(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(download.DownloadError, match="no answer within 0.2 seconds"):
            download.fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/x", tmp_path / "f", stall_seconds=0.2)
    time.sleep(0.05)  # the asking thread closes its socket


def test_a_name_server_that_hangs_is_bounded(tmp_path, monkeypatch):
    free = threading.Event()

    def hang(*_, **__):
        free.wait(5)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises(download.DownloadError, match="no answer within"):
        download.fetch("http://example.invalid/x", tmp_path / "f", total_seconds=0.2)
    free.set()


def test_an_unknown_name_and_a_refused_connection_say_what_to_do(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(download.DownloadError, match=r"127.0.0.1:\d+ refused the connection.*browser"):
        download.fetch(f"http://127.0.0.1:{port}/x", tmp_path / "f")

    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(download.DownloadError, match=r"example.invalid could not be looked up"):
        download.fetch("http://example.invalid/x", tmp_path / "f")


def test_a_password_is_sent_but_never_shown_or_passed_on(site, tmp_path):
    site.statuses = [401]
    url = site.url.replace("http://", "http://me:se%20cret@").replace("/set.zip", "/moved?token=hush")
    site.redirect = site.url
    with pytest.raises(download.DownloadError) as caught:
        download.fetch(url, tmp_path / "f")
    assert not re.search("me:|cret|hush", str(caught.value))
    assert site.requests[0]["Authorization"] == "Basic bWU6c2UgY3JldA=="
    assert "Authorization" not in site.requests[1]
    site.break_after = [10]
    download.fetch(url, tmp_path / "f")
    assert not any(b"cret" in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize("url", ["ftp://x/y", "file:///etc/passwd", "x", "", "http://", "data:,x"])
def test_only_http_addresses(tmp_path, url):
    with pytest.raises(download.DownloadError, match="http:// or https://"):
        download.fetch(url, tmp_path / "f")


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_a_redirection_cannot_leave_http(site, tmp_path, place):
    site.redirect = place
    with pytest.raises(download.DownloadError):
        download.fetch(site.url.replace("/set.zip", "/moved"), tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_a_folder_that_cannot_be_made_is_named(site, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(download.DownloadError, match="could not be written"):
        download.fetch(site.url, tmp_path / "file" / "f")


def _fetch(url, target):
    download.fetch(url, target, sha256=SHA256)


def test_two_processes_download_once(site, tmp_path):
    site.body = BODY
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_fetch, args=(site.url, tmp_path / "f")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
        process.close()
    assert len(site.requests) == 1


def test_waiting_for_another_process_is_bounded(site, tmp_path):
    with download.filelock.FileLock(tmp_path / "f.lock"):
        with pytest.raises(download.DownloadError, match="another process"):
            download.fetch(site.url, tmp_path / "f", total_seconds=0.1)


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


IMAGES = {f"METU/set/{name}/{index}.jpg": f"{name}{index}" for name in ("Negative", "Positive") for index in range(3)}


@pytest.fixture
def archive(site):
    site.body = zipped(IMAGES)
    return published.Archive(
        "tiny",
        (site.url,),
        len(site.body),
        hashlib.sha256(site.body).hexdigest(),
        "CC0",
        "nobody",
        "https://example.org/tiny",
        images_per_class=3,
    )


def test_a_data_set_is_installed_once(site, archive, tmp_path):
    root = download.install(archive, tmp_path)
    assert sorted(path.name for path in root.iterdir()) == ["Negative", "Positive"]
    assert root.is_relative_to(tmp_path / "tiny")
    assert download.install(archive, tmp_path) == root
    assert len(site.requests) == 1
    assert not list((tmp_path / "tiny").glob("*.archive"))


def test_the_zip_around_the_archive_is_the_second_choice(site, archive, tmp_path):
    site.body = zipped({"Images for Classification.rar": site.body})
    gone = replace(archive, urls=(site.url.replace("127.0.0.1", "127.0.0.1:1@127.0.0.1"),), wrapped_urls=(site.url,))
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
        download.install(replace(archive, size_bytes=None, sha256=None), tmp_path)
    assert leftovers(tmp_path / "tiny") == []


def test_all_addresses_are_tried_and_named(site, archive, tmp_path):
    site.statuses = [404, 410]
    lost = replace(archive, wrapped_urls=(site.url + "2",))
    with pytest.raises(download.DownloadError, match=r"(?s)set.zip: .*404.*set.zip2: .*410"):
        download.install(lost, tmp_path)


def test_an_own_archive_or_folder_needs_no_network(site, archive, tmp_path, caplog):
    own = tmp_path / "own.dat"
    own.write_bytes(site.body)
    root = download.install(archive, tmp_path / "sets", source=own)
    assert (root / "Negative" / "0.jpg").read_text() == "Negative0"
    assert download.install(archive, tmp_path / "sets", source=own) == root
    assert download.install(archive, tmp_path / "sets", source=root.parent) == root
    assert site.requests == []
    assert not caplog.records
    # Another archive at the same place is another set, and a smaller one is allowed but said.
    own.write_bytes(zipped({"Positive/1.jpg": "x", "Negative/1.jpg": "y"}))
    assert (download.install(archive, tmp_path / "sets", source=own) / "Positive" / "1.jpg").read_text() == "x"
    assert "1 images of Negative" in caplog.text


@pytest.mark.parametrize("content", [b"", b"<html>", zipped({"a/b.jpg": "x"})], ids=["empty", "page", "other"])
def test_an_own_archive_that_is_none_is_named(archive, tmp_path, content):
    own = tmp_path / "own.zip"
    own.write_bytes(content)
    with pytest.raises(ValueError, match=r"own\.zip.*expected"):
        download.install(archive, tmp_path / "sets", source=own)
    with pytest.raises(ValueError, match="expected"):
        download.install(archive, tmp_path / "sets", source=tmp_path / "missing.zip")


def test_classes_are_found_at_any_depth_but_not_guessed(tmp_path):
    for name in ("a/b/Positive", "a/b/Negative", "__MACOSX/Positive", "__MACOSX/Negative"):
        (tmp_path / name).mkdir(parents=True)
    names = ("Negative", "Positive")
    assert download.find_classes(tmp_path, names) == tmp_path / "a" / "b"
    assert download.find_classes(tmp_path / "a" / "b", names) == tmp_path / "a" / "b"
    with pytest.raises(ValueError, match="holds a; expected the folders Negative, Crack"):
        download.find_classes(tmp_path, ("Negative", "Crack"))
    for name in ("a/c/Positive", "a/c/Negative"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="more than once"):
        download.find_classes(tmp_path, names)
    with pytest.raises(ValueError, match="cannot be listed"):
        download.find_classes(tmp_path / "missing", names)


def test_the_published_set_is_described_in_full():
    archive = download.CONCRETE_CRACKS
    assert all(url.startswith("https://") and "5y9wdsg2zt" in url for url in (*archive.urls, *archive.wrapped_urls))
    assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
    assert archive.images_per_class * len(archive.class_names) == 40_000
    assert "Özgenel" in archive.citation
    assert "10.1109/ICIP.2016.7533052" in archive.citation
    assert archive.licence == "CC BY 4.0"
