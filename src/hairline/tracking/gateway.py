"""Checks requests to the served model before they are parsed, and answers invalid ones with a sentence.

MLflow's scoring server (3.17) reads requests of any size into memory, copies a body that is not JSON into its answer,
and answers a request without a content type with status 500. `guard` adds an ASGI layer that rejects all three.
"""

from __future__ import annotations

import json
import re
import types
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_UNKNOWN_SERVER = (
    ", so this version of MLflow starts its server in another way: install the version that the model was logged with "
    "(requirements.txt beside it)"
)
MAX_BYTES = 64_000_000  # of a request's body; base64 makes an image a third larger
_JSON = "application/json"
_EXPECTED = 'expected {"dataframe_records": [{"image": "<base64 of an image file>"}, ...]}'
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=\s]")
_OTHER_FORMATS = {"dataframe_split": dict, "inputs": dict, "instances": list}


class Gateway:
    """An ASGI layer that rejects invalid requests."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BYTES) -> None:
        """Wrap `app`; bodies of more than `max_bytes` are rejected."""
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an invalid request, or pass a valid one on."""
        if scope["type"] != "http" or scope["path"] != "/invocations" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        body, size = bytearray(), 0
        try:
            # To its end even if it is too large: a client that is still sending when the connection closes sees a
            # broken pipe instead of the answer.
            async for part in request.stream():
                size += len(part)
                if size <= self._max_bytes:
                    body += part
        except ClientDisconnect:
            return
        fault: tuple[int, str] | None
        if size > self._max_bytes:
            fault = 413, f"the request is larger than {self._max_bytes / 1e6:g} MB: send fewer images"
        else:
            fault = _fault(request.headers.get("content-type", ""), body)
        if fault is not None:
            content = {"error_code": "BAD_REQUEST", "message": fault[1]}
            await JSONResponse(content, status_code=fault[0])(scope, receive, send)
            return
        unread: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        await self._app(scope, replay, send)


def _fault(content_type: str, body: bytes | bytearray) -> tuple[int, str] | None:
    """Return status and message for an invalid request; None for a valid one."""
    received = content_type.partition(";")[0].strip()
    if received.lower() != _JSON:
        return 415, f"the content type is {received[:80] or 'none'}: expected {_JSON}"
    try:
        request = json.loads(body)
    except RecursionError:
        return 400, "the request is nested too deeply"
    except ValueError as error:  # includes bytes that are not UTF-8
        return 400, f"the request is not JSON: {str(error)[:200]}"
    fault = _format_fault(request)
    return None if fault is None else (400, f"{fault}: {_EXPECTED}")


def _format_fault(request: Any) -> str | None:
    if not isinstance(request, dict):
        return f"the request is a JSON {type(request).__name__}"
    formats = {"dataframe_records", *_OTHER_FORMATS} & request.keys()
    if len(formats) != 1:
        return f"the request has the fields {', '.join(sorted(map(str, request)))[:200] or 'none'}"
    (name,) = formats
    records = request[name]
    if name in _OTHER_FORMATS:
        kind = _OTHER_FORMATS[name]
        return None if isinstance(records, kind) else f"{name} is not a {kind.__name__}"
    if not isinstance(records, list) or not records:
        return f"{name} is not a list, or is empty"
    for number, record in enumerate(records):
        if not isinstance(record, dict) or not isinstance(record.get("image"), str):
            return f"{name}[{number}] has no text 'image'"
        if (stray := _NOT_BASE64.search(record["image"])) is not None:  # MLflow leaves such characters out
            return f"{name}[{number}]: 'image' is not base64, as it holds {stray[0]!r}"
    return None


class GuardError(RuntimeError):
    """MLflow's server would answer requests that the gateway has not seen."""


def guard(module: types.ModuleType | None) -> None:
    """Add the gateway to MLflow's server while it loads its model.

    The server creates its FastAPI application after it has loaded the model, and has no hook for a layer: the next
    application created in this process gets one. Whoever starts the server reads the application from its module, and
    gets an error unless it has the gateway.

    Args:
        module: `scoring_server.app` of MLflow, which holds the application and is being imported; None if it is not.

    Raises:
        GuardError: If it is not.
    """
    if module is None:
        raise GuardError(f"MLflow's scoring server is not where it is expected{_UNKNOWN_SERVER}")
    import fastapi
    from fastapi.middleware import Middleware

    class Guarded(fastapi.FastAPI):
        """An application behind the gateway."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(middleware=[Middleware(Gateway)], **settings)

    fastapi.FastAPI = Guarded  # type: ignore[misc]
    module.__class__ = _ServerModule


class _ServerModule(types.ModuleType):
    """The module of MLflow's server, which hands out its application with a gateway only."""

    @property
    def app(self) -> Any:
        """The application.

        Raises:
            GuardError: If it has no gateway.
        """
        app = vars(self)["app"]
        if not any(layer.cls is Gateway for layer in getattr(app, "user_middleware", [])):
            raise GuardError(f"MLflow's scoring server was built without the gateway{_UNKNOWN_SERVER}")
        return app
