"""The server behind the label page: what it answers, and what it refuses."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image

from hairline.data import labels
from hairline.labelling import server
from hairline.labelling.pictures import Pictures
from hairline.labelling.session import Session
from tests.labelled import TILE_PX, Wall, wall
from tests.running import wait_until

TOKEN = "the-token"
JSON = {"content-type": "application/json"}


@dataclass
class Page:
    """A running server."""

    port: int
    made: Wall
    session: Session
    place: Path
    finished: threading.Event

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, token: str = TOKEN
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        given = (JSON if method == "POST" else {}) | (headers or {})
        try:
            connection.request(method, f"/{token}/{path}" if token else path, content, given)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def act(self, action: str, **values: Any) -> dict[str, Any]:
        status, _, content = self.request("POST", f"act/{action}", {"browser": "a", **values})
        assert status == 200, content
        return dict(json.loads(content))


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    made = wall(tmp_path, drawn=True)
    place = tmp_path / "labels"
    place.mkdir()
    session = made.open(place)
    finished = threading.Event()
    classes = [{"name": "cracked", "key": "c"}, {"name": "sound", "key": "s"}]
    facts = {"title": "<b>wall</b>", "classes": classes, "file": "labels.csv"}
    app = server.application(
        session,
        Pictures(made.pool),
        lambda tile: f"heat {tile}".encode(),
        token=TOKEN,
        facts=facts,
        commands=["python train.py"],
        finish=finished.set,
    )
    running = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_until(lambda: running.started)
    yield Page(listener.getsockname()[1], made, session, place, finished)
    running.should_exit = True
    thread.join(timeout=10)
    session.close()


def test_an_answer_is_saved_and_the_next_tile_comes_back(page: Page) -> None:
    shown = page.act("show")
    first, second = (entry["tile"] for entry in shown["tiles"])
    assert (shown["state"]["answers"], shown["state"]["can_undo"]) == (0, False)
    reply = page.act("answer", tile=first, label="cracked")
    assert reply["tiles"][0]["tile"] == second
    assert labels.read(page.place / labels.FILE)["label"].tolist() == ["cracked"]
    assert reply["state"]["strip"][0] | {"probability": 0} == page.session.describe(first) | {"probability": 0}
    assert page.act("correct", tile=first, label="sound")["state"]["counts"] == {"cracked": 0, "sound": 1}
    assert page.act("undo")["state"]["counts"] == {"cracked": 1, "sound": 0}  # reverts the correction
    assert page.act("undo")["tiles"][0]["tile"] == first
    status, _, content = page.request("POST", "finish", {})
    assert (status, json.loads(content)) == (200, {"commands": ["python train.py"]})
    assert page.finished.wait(5)


def test_a_name_that_is_no_text_stops_nothing(page: Page) -> None:
    page.session.pool.photos[:] = [f"/photos/latin-\udce9 {number}.png" for number in range(8)]
    assert "\udce9" in page.act("show")["tiles"][0]["photo"]


def test_the_page_needs_nothing_from_elsewhere_and_shows_names_as_text(page: Page) -> None:
    status, headers, content = page.request("GET", "")
    assert status == 200
    assert b"&lt;b&gt;wall&lt;/b&gt;" in content
    assert b"<b>wall" not in content
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert headers["referrer-policy"] == "no-referrer"  # the address holds the token
    for name, kind in (("page.js", "text/javascript"), ("page.css", "text/css")):
        status, headers, content = page.request("GET", name)
        assert (status, headers["content-type"].split(";")[0]) == (200, kind)
        assert b"http://" not in content.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"https://" not in content


def test_a_heat_map_is_that_of_the_tile_and_is_not_stored(page: Page) -> None:
    status, headers, content = page.request("GET", "heat/7.png")
    assert (status, headers["content-type"], content) == (200, "image/png", b"heat 7")
    assert headers["cache-control"] == "no-store"  # the model changes with each label
    assert page.request("GET", f"heat/{len(page.made.pool)}.png")[0] == 404


def test_pictures_show_the_tile_and_where_it_lies(page: Page) -> None:
    pool, pictures = page.made.pool, Pictures(page.made.pool)
    for tile in (0, 5, 11):
        status, headers, content = page.request("GET", f"tile/{tile}.jpg")
        assert (status, headers["content-type"]) == (200, "image/jpeg")
        with Image.open(io.BytesIO(content)) as shown, Image.open(pool.photos[0]) as photo:
            x, y, width, height = pool.boxes[tile].tolist()
            part = photo.crop((x, y, x + width, y + height))
            middle = [sum(image.resize((1, 1)).getpixel((0, 0))) / 3 for image in (shown, part)]  # type: ignore[arg-type]
            assert middle[0] == pytest.approx(middle[1], abs=4)
        status, _, content = page.request("GET", f"around/{tile}.jpg")
        with Image.open(io.BytesIO(content)) as shown:
            assert shown.size == (
                40 * TILE_PX,
                30 * TILE_PX,
            )  # the whole photo, ten times as large: it is four tiles wide
        left, top, width, height = pictures.frame(tile)
        assert (left * 4 * TILE_PX, top * 3 * TILE_PX) == tuple(pool.boxes[tile, :2])
        assert (width, height) == (1 / 4, 1 / 3)


HOSTILE: list[tuple[str, str, str, dict[str, str], int]] = [
    ("GET", "", TOKEN, {"host": "evil.example"}, 421),
    ("GET", "", TOKEN, {"host": "127.0.0.1.evil.example:80"}, 421),
    ("GET", "", TOKEN, {"host": ""}, 421),
    ("GET", "", TOKEN, {"host": "localhost:9999"}, 200),  # through an SSH tunnel
    ("GET", "", "wrong", {}, 404),
    ("GET", "/", "", {}, 404),
    ("GET", f"/{TOKEN}", "", {}, 404),
    ("GET", "/%00", "", {}, 404),
    ("GET", "../../../etc/passwd", TOKEN, {}, 404),
    ("GET", "..%2f..%2fetc%2fpasswd", TOKEN, {}, 404),
    ("GET", "tile/..%2f..%2fpage.js", TOKEN, {}, 404),
    ("GET", "tile//etc/passwd", TOKEN, {}, 404),
    ("GET", "tile/-1.jpg", TOKEN, {}, 404),
    ("GET", "tile/99999999999999999999.jpg", TOKEN, {}, 404),
    ("GET", "secret/0.jpg", TOKEN, {}, 404),
    ("GET", "act/answer", TOKEN, {}, 405),
    ("POST", "act/delete", TOKEN, {}, 404),
    ("POST", "act/show", TOKEN, {"origin": "https://evil.example"}, 403),
    ("POST", "act/show", TOKEN, {"origin": "null"}, 403),
    ("POST", "act/show", TOKEN, {"content-type": "text/plain"}, 415),  # what a form of another page can send
    ("POST", "act/show", "wrong", {}, 404),
]


def test_hostile_requests_are_refused(page: Page) -> None:
    for method, path, token, headers, status in HOSTILE:
        body = {"browser": "a", "tile": 0, "label": "cracked"} if method == "POST" else None
        found = page.request(method, path, body, headers, token)
        assert found[0] == status, (method, path, headers, found)
        assert "content-security-policy" in found[1]
        assert page.session.state("a")["answers"] == 0


NO_ANSWERS = [
    b"", b"{", b"[]", b"null", b"[" * 4000, b'{"tile": 1}', b'{"browser": ""}', b'{"browser": 1}',
    json.dumps({"browser": "x" * 65}).encode(), b'{"browser": "a", "tile": "1"}',
    b'{"browser": "a", "tile": -1}', b'{"browser": "a", "tile": 1e99}', b'{"browser": "a", "tile": 10000}',
    b'{"browser": "a", "tile": 0, "label": ["cracked"]}', b"\xff\xfe", b'{"browser": "\\ud800", "tile": NaN}',
]  # fmt: skip


def test_requests_that_are_no_answers_are_refused(page: Page) -> None:
    for body in NO_ANSWERS:
        status, _, content = page.request("POST", "act/answer", body)
        assert status == 400, body
        assert "error" in json.loads(content)
        assert page.act("show")["state"]["answers"] == 0


def test_large_bodies_are_refused_and_the_server_stays_up(page: Page) -> None:
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(lambda _: _send(page, b" " * 1_000_000), range(50)))
    assert set(found) <= {413, 0}  # 0: the connection was closed while the client was still sending
    assert 413 in found
    chunked = b"POST /%s/act/show HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % TOKEN.encode()
    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as connection:
        connection.sendall(chunked + b"Transfer-Encoding: chunked\r\n\r\n" + (b"1000\r\n" + b" " * 4096 + b"\r\n") * 3)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert page.act("show")["state"]["answers"] == 0


def _send(page: Page, body: bytes) -> int:
    try:
        return page.request("POST", "act/answer", body)[0]
    except OSError:
        return 0


def test_fifty_at_once_are_answered(page: Page) -> None:
    def one(number: int) -> int:
        reply = page.request("POST", "act/show", {"browser": f"browser {number}"})
        return reply[0]

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(one, range(50))) == [200] * 50
    assert page.act("show")["tiles"]
