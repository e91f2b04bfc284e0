"""The server behind the page: only this machine, and only who knows the address, can use it.

It listens on the loopback interface. Every address starts with a random token. Requests for another host are refused,
so that no other web page reaches it by a name of its own (DNS rebinding). Tiles are numbers: no request names a file.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hairline.labelling.pictures import Pictures
from hairline.labelling.session import Session, SessionError
from hairline.system.errors import HairlineError

log = logging.getLogger(__name__)

_PAGE = Path(__file__).parent / "page"
_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
_MAX_BYTES = 4096  # of a request's body; an answer takes about 100
_MAX_BROWSER = 64  # letters of the identifier of a browser window
_KEPT = {"cache-control": "private, max-age=86400"}  # a tile's picture never changes, and the next one is loaded ahead
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class _Json(JSONResponse):
    """JSON in ASCII: names of files need not be valid UTF-8."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()


def new_token() -> str:
    """Return a random token for the address."""
    return secrets.token_urlsafe(24)


def application(
    session: Session,
    pictures: Pictures,
    heat: Callable[[int], bytes],
    *,
    token: str,
    facts: dict[str, Any],
    commands: list[str],
    finish: Callable[[], None],
) -> ASGIApp:
    """Return the application.

    Args:
        session: The labelling session.
        pictures: Pictures of its tiles.
        heat: Returns the heat map of a tile as PNG.
        token: First part of every address.
        facts: What the page shows besides: `title`, `classes` with `name` and `key`, `file`.
        commands: The commands that the page shows at the end.
        finish: Called when the person has finished.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("template.html")

    async def page(request: Request) -> Response:
        return HTMLResponse(template.render(**facts, classes_json=json.dumps(facts["classes"])))

    def file(name: str, media_type: str) -> Route:
        async def answer(request: Request) -> Response:
            return Response((_PAGE / name).read_bytes(), media_type=media_type)

        return Route(f"/{name}", answer)

    def picture(path: str, draw: Callable[[int], bytes], media_type: str, **headers: str) -> Route:
        async def answer(request: Request) -> Response:
            tile = int(request.path_params["tile"])
            if tile >= len(session.pool):
                return PlainTextResponse("there is no such picture", 404)
            try:
                return Response(await run_in_threadpool(draw, tile), media_type=media_type, headers=headers)
            except HairlineError as error:
                return PlainTextResponse(str(error), 404)

        return Route(path, answer)

    def reply(browser: str) -> dict[str, Any]:
        tiles = [session.describe(tile) | {"frame": pictures.frame(tile)} for tile in session.tiles(browser)]
        return {"tiles": tiles, "state": session.state(browser)}

    async def act(request: Request) -> Response:
        """Perform an action of the page, and return its tiles and the state."""
        try:
            values = json.loads(await request.body())
            browser, action = values["browser"], request.path_params["action"]
            if not isinstance(browser, str) or not 0 < len(browser) <= _MAX_BROWSER:
                raise ValueError("browser is not a short text")
            tile, name = values.get("tile", 0), values.get("label", "")
            if not isinstance(tile, int) or not isinstance(name, str) or not 0 <= tile < len(session.pool):
                raise ValueError("tile or label is of the wrong type")
        except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
            return _Json({"error": f"the request is not an action of this page: {error}"}, 400)
        actions: dict[str, Callable[[], Any]] = {
            "show": lambda: None,
            "answer": lambda: session.answer(browser, tile, name),
            "correct": lambda: session.correct(browser, tile, name),
            "undo": lambda: session.undo(browser),
        }
        if action not in actions:
            return _Json({"error": "there is no such action"}, 404)

        def perform() -> dict[str, Any]:
            actions[action]()
            return reply(browser)

        try:
            return _Json(await run_in_threadpool(perform))
        except SessionError as error:
            return _Json({"error": str(error)}, 400)
        except OSError as error:
            log.error("an answer cannot be saved: %s", error)
            return _Json({"error": f"the answer was NOT saved: {error.strerror or error}"}, 507)

    async def end(request: Request) -> Response:
        threading.Timer(0.5, finish).start()  # after the answer has been sent
        return _Json({"commands": commands})

    routes = [
        Route("/", page),
        file("page.js", "text/javascript"),
        file("page.css", "text/css"),
        file("icon.svg", "image/svg+xml"),
        picture("/tile/{tile:int}.jpg", pictures.tile, "image/jpeg", **_KEPT),
        picture("/around/{tile:int}.jpg", pictures.surroundings, "image/jpeg", **_KEPT),
        picture("/heat/{tile:int}.png", heat, "image/png"),
        Route("/act/{action}", act, methods=["POST"]),
        Route("/finish", end, methods=["POST"]),
    ]
    return _Guard(Starlette(routes=routes), token)


class _Guard:
    """An ASGI layer that refuses requests for another host, without the token, or with a large body."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        body = b""
        if refused := self._refusal(request):
            response: Response | None = PlainTextResponse(refused[1], refused[0])
        else:
            response, body = await _read(request)
        if response is not None:
            response.headers.update(_HEADERS)
            await response(scope, receive, send)
            return
        path = scope["path"][len(self._token) + 1 :]
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app({**scope, "path": path, "raw_path": path.encode()}, replay, guarded)

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        """Return status and reason for a request that is refused; None for one that may pass."""
        if _host(request.headers.get("host", "")) not in _HOSTS:
            return 421, "this server answers on 127.0.0.1 and localhost only"
        origin = request.headers.get("origin")
        if origin is not None and _host(origin.partition("://")[2]) not in _HOSTS:
            return 403, "requests from other pages are refused"
        given = request.url.path.split("/")
        if len(given) < 3 or not secrets.compare_digest(given[1].encode(), self._token.encode()):
            return 404, "open the address that label.py printed"
        if request.method == "POST" and request.headers.get("content-type", "") != "application/json":
            return 415, "expected application/json"
        return None


def _host(text: str) -> str:
    """Return the name in a Host header, without the port: an SSH tunnel may use another one."""
    return text.rpartition(":")[0] if ":" in text.rpartition("]")[2] else text


async def _read(request: Request) -> tuple[Response | None, bytes]:
    """Read a request's body up to `_MAX_BYTES`; returns a refusal, or None, and the body."""
    body = bytearray()
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > _MAX_BYTES:
        return PlainTextResponse("the request is too large", 413), b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > _MAX_BYTES:
                return PlainTextResponse("the request is too large", 413), b""
    except ClientDisconnect:
        return PlainTextResponse("", 400), b""
    return None, bytes(body)
