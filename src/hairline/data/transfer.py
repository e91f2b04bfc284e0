"""One attempt to get a file over HTTP: it goes on from what is there, and never waits for ever."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import ssl
import time
from concurrent.futures import Future
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from threading import Thread
from typing import Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit

from hairline.system import progress
from hairline.system.errors import HairlineError

_CHUNK_BYTES = 2**16
_BY_HAND = "Try again later, or get the file in a browser and give its path."
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP states that a second try may not meet
# Some file hosts turn Python-urllib away.
_HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; hairline)", "Accept-Encoding": "identity"}


class DownloadError(HairlineError):
    """A file that could not be had, or whose bytes are not the expected ones."""


class BrokenOffError(DownloadError):
    """An attempt that failed in a way that the next one may not; what arrived is kept where it is of use."""


@dataclass(frozen=True)
class Job:
    """What to get, where to, and how long it may take."""

    url: str
    part: Path
    size_bytes: int | None
    stall_seconds: float
    deadline: float
    label: str

    @property
    def record(self) -> Path:
        """The file that tells which version of the file the bytes in `part` belong to."""
        return self.part.with_name(self.part.name + ".json")

    def discard(self) -> None:
        """Remove what arrived so far."""
        self.part.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)


def shown(url: str) -> str:
    """Give an address for a message: without user, password and query, which may be secrets.

    Examples:
        >>> shown("https://me:secret@example.org:8080/a/b.zip?token=1")
        'https://example.org:8080/a/b.zip'
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def receive(job: Job) -> None:
    """Get the file into `job.part`, from where an earlier attempt at the same version ended.

    Raises:
        BrokenOffError: If the transfer broke off, or the server had a passing fault.
        DownloadError: If another attempt would be of no use.
    """
    offset, validator = _resume_point(job)
    asked = _request(job.url)
    if offset:
        asked.add_header("Range", f"bytes={offset}-")
        asked.add_header("If-Range", validator)
    with _answer(asked, job, offset) as response:
        total_bytes = _whole_size(response, offset)
        if response.status == 206 and (total_bytes is None or _validator(response) != validator):
            # The server has another version by now, or sends another part: never join the two.
            job.discard()
            raise BrokenOffError(f"{shown(job.url)}: the server sent a part that does not fit; begin again.")
        if None not in (job.size_bytes, total_bytes) and total_bytes != job.size_bytes:
            job.discard()
            counts = f"{total_bytes} bytes; expected {job.size_bytes}"
            raise DownloadError(f"{shown(job.url)} has {counts}: it is another file by now. {_BY_HAND}")
        if response.status == 200:
            offset = 0
            job.part.write_bytes(b"")  # before the record: the old bytes must not meet the new version
            job.record.write_text(json.dumps({"url": _fingerprint(job.url), "validator": _validator(response)}))
        _read_body(response, job, offset, total_bytes)


def _resume_point(job: Job) -> tuple[int, str]:
    try:
        record = json.loads(job.record.read_text())
        if record["url"] == _fingerprint(job.url) and isinstance(record["validator"], str) and record["validator"]:
            return job.part.stat().st_size, record["validator"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no record, or half of one
    return 0, ""


def _fingerprint(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()  # the address itself may hold a password


def _validator(response: HTTPResponse) -> str | None:
    etag = response.headers.get("ETag")
    # A weak ETag promises the same meaning, not the same bytes (RFC 9110, 8.8.1).
    if etag and not etag.startswith("W/"):
        return str(etag)
    return response.headers.get("Last-Modified")


def _whole_size(response: HTTPResponse, offset: int) -> int | None:
    """Tell the size of the whole file in bytes; None if unknown, or if a part does not begin at `offset`."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", "").strip())
        return int(match[2]) if match and int(match[1]) == offset else None
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None


def _request(url: str) -> request.Request:
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    asked = request.Request(urlunsplit((parts.scheme, place, parts.path, parts.query, "")), headers=_HEADERS)
    if user:
        token = base64.b64encode(unquote(user if ":" in user else user + ":").encode()).decode()
        # Unredirected: a redirection to another host must not be given the password.
        asked.add_unredirected_header("Authorization", f"Basic {token}")
    return asked


def _opener() -> request.OpenerDirector:
    """Build an opener for http and https alone: a redirection cannot reach file:, ftp: or data:."""
    opener = request.OpenerDirector()
    kinds = "ProxyHandler UnknownHandler HTTPHandler HTTPSHandler HTTPDefaultErrorHandler HTTPRedirectHandler"
    for kind in (*kinds.split(), "HTTPErrorProcessor"):
        opener.add_handler(getattr(request, kind)())
    return opener


def _answer(asked: request.Request, job: Job, offset: int) -> HTTPResponse:
    """Wait for the head of the answer, in a thread: no timeout of the socket bounds looking up a name."""
    seconds = max(min(job.stall_seconds, job.deadline - time.monotonic()), 0.001)
    future: Future[Any] = Future()

    def ask() -> None:
        try:
            future.set_result(_opener().open(asked, timeout=seconds))
        except Exception as error:  # handed over to the waiting thread whatever it is
            future.set_exception(error)

    Thread(target=ask, daemon=True).start()
    try:
        response: HTTPResponse = future.result(timeout=seconds)
    except HTTPError as error:
        error.close()
        if error.code == 416 and offset:
            job.discard()
            raise BrokenOffError(f"{shown(job.url)}: the server has no byte {offset}; begin again.") from error
        kind = BrokenOffError if error.code in _PASSING else DownloadError
        raise kind(
            f"{shown(job.url)}: the server answered {error.code} ({error.reason}); expected the file. {_BY_HAND}"
        ) from error
    except (OSError, HTTPException, ValueError) as error:
        if not future.done():
            future.add_done_callback(_close_late)
        raise _no_answer(error, job.url, seconds) from error
    if response.status not in (200, 206) or (response.status == 206 and not offset):
        response.close()
        raise DownloadError(f"{shown(job.url)}: the server answered {response.status}; expected the file. {_BY_HAND}")
    return response


def _close_late(future: Future[Any]) -> None:
    error = future.exception()
    answer = future.result() if error is None else error
    if isinstance(answer, HTTPResponse | HTTPError):
        answer.close()


def _no_answer(error: Exception, url: str, seconds: float) -> DownloadError:
    reason = error.reason if isinstance(error, URLError) else error
    host = urlsplit(shown(url)).netloc
    if isinstance(reason, TimeoutError):
        fault = f"no answer within {seconds:g} seconds"
    elif isinstance(reason, socket.gaierror):
        fault = f"the name {host} could not be looked up ({reason.strerror})"
    elif isinstance(reason, ConnectionRefusedError):
        fault = f"{host} refused the connection"
    elif isinstance(reason, ssl.SSLCertVerificationError):
        fault = f"the certificate of {host} could not be verified ({reason.verify_message})"
    elif isinstance(reason, OSError | HTTPException) and not isinstance(error, ValueError):
        return BrokenOffError(f"{shown(url)}: the connection failed ({reason}). Check the network. {_BY_HAND}")
    else:
        fault = f"the request could not be made ({reason})"
    return DownloadError(f"{shown(url)}: {fault}. Check the network. {_BY_HAND}")


def _read_body(response: HTTPResponse, job: Job, offset: int, total_bytes: int | None) -> None:
    # A chunked body says itself where it ends; one without a length ends as it breaks off.
    expected_bytes = job.size_bytes if total_bytes is None and not response.chunked else total_bytes
    received_bytes = offset
    with (
        open(job.part, "ab") as file,
        progress.bar(expected_bytes, job.label, "B", done=offset) as bar,
    ):
        while chunk := _next_chunk(response, job, received_bytes):
            file.write(chunk)
            received_bytes += len(chunk)
            bar.update(len(chunk))
            if job.size_bytes is not None and received_bytes > job.size_bytes:
                break  # the check of the size has the word for it
        file.flush()
        os.fsync(file.fileno())
    if expected_bytes is not None and received_bytes < expected_bytes:
        counts = f"{received_bytes} of {expected_bytes} bytes"
        raise BrokenOffError(f"{shown(job.url)}: the server broke off after {counts}. {_BY_HAND}")


def _next_chunk(response: HTTPResponse, job: Job, received_bytes: int) -> bytes:
    left_seconds = job.deadline - time.monotonic()
    # The private way to the socket only makes the end sharper; without it the wait is stall_seconds at most.
    raw = getattr(getattr(getattr(response, "fp", None), "raw", None), "_sock", None)
    if raw is not None and 0 < left_seconds < job.stall_seconds:
        raw.settimeout(left_seconds)
    kept = f"{received_bytes} bytes are kept: run again to go on."
    try:
        if left_seconds <= 0:
            raise TimeoutError
        return response.read1(_CHUNK_BYTES)
    except TimeoutError as error:
        if time.monotonic() >= job.deadline:
            raise DownloadError(f"{shown(job.url)}: not finished within the time allowed. {kept}") from error
        raise DownloadError(f"{shown(job.url)}: no byte for {job.stall_seconds:g} seconds. {kept}") from error
    except (OSError, HTTPException) as error:
        raise BrokenOffError(f"{shown(job.url)}: the connection broke ({error}). {kept}") from error
