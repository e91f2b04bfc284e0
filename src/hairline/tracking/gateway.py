"""What a request to the served model must keep to before it is read, answered with a sentence where it does not.

MLflow's scoring server (3.17) reads a request of any size into memory, copies one that is no JSON into its answer, and
answers one without a content type by status 500. `guard` puts an ASGI layer in front that refuses all three.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

MOST_BYTES = 64_000_000  # of a request's body; base64 makes an image a third longer
_JSON = "application/json"
_SERVED = "__pyfunc_model_path__"  # the environment variable that MLflow hands its server the model's place in

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Gateway:
    """An ASGI layer that refuses what no model should see."""

    def __init__(self, app: Callable[..., Awaitable[None]], most_bytes: int = MOST_BYTES) -> None:
        """Stand in front of `app`; bodies of more than `most_bytes` are refused."""
        self._app, self._most_bytes = app, most_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] != "http" or scope["path"] != "/invocations" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = await self._read(receive)
        if body is None:
            await _refuse(send, 413, f"the request is larger than {self._most_bytes / 1e6:g} MB: send fewer images")
            return
        kind = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
        fault = _fault(kind, body)
        if fault is not None:
            await _refuse(send, *fault)
            return
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, again, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """Read the body; None if it is too large.

        It is read to its end all the same, and thrown away: a client that is still sending when the connection
        closes sees a broken pipe in place of the answer.
        """
        parts: list[bytes] | None = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":  # the client has gone
                return b""
            size += len(message.get("body", b""))
            if size > self._most_bytes:
                parts = None
            if parts is not None:
                parts.append(message.get("body", b""))
            if not message.get("more_body"):
                return None if parts is None else b"".join(parts)


def _fault(kind: str, body: bytes) -> tuple[int, str] | None:
    if kind.partition(";")[0].strip().lower() != _JSON:
        received = kind.partition(";")[0].strip()[:80] or "none"
        return 415, f"the content type is {received}: expected {_JSON}"
    try:
        value = json.loads(body)
    except RecursionError:
        return 400, "the request is nested too deeply"
    except ValueError as error:  # what is no UTF-8 as well
        return 400, f"the request is no JSON: {str(error)[:200]}"
    fault = _shape_fault(value)
    return None if fault is None else (400, fault)


_EXPECTED = 'expected {"dataframe_records": [{"image": "<base64 of an image file>"}, ...]}'


def _shape_fault(value: Any) -> str | None:
    if not isinstance(value, dict):
        return f"the request is a JSON {type(value).__name__}: {_EXPECTED}"
    known = {"dataframe_records", "dataframe_split", "inputs", "instances"} & value.keys()
    if len(known) != 1:
        return f"the request has the fields {', '.join(sorted(map(str, value)))[:200] or 'none'}: {_EXPECTED}"
    records = value.get("dataframe_records")
    if "dataframe_records" not in known:
        form = dict if known & {"dataframe_split", "inputs"} else list
        field = next(iter(known))
        return None if isinstance(value[field], form) else f"{field} is no {form.__name__}: {_EXPECTED}"
    if not isinstance(records, list) or not records:
        return f"dataframe_records is no list, or an empty one: {_EXPECTED}"
    for number, record in enumerate(records):
        if not isinstance(record, dict) or not isinstance(record.get("image"), str):
            return f"dataframe_records[{number}] has no text 'image': {_EXPECTED}"
    return None


async def _refuse(send: Send, status: int, sentence: str) -> None:
    content = json.dumps({"error_code": "BAD_REQUEST", "message": sentence}).encode()
    headers = [(b"content-type", _JSON.encode()), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def guard() -> None:
    """Put the gateway in front of MLflow's server, if this process is one about to start; call it while a model loads.

    The server makes its FastAPI application after it has loaded the model, and offers no place for a layer: so the
    next application that is made in this process is given one.
    """
    if "mlflow.pyfunc.scoring_server.app" not in sys.modules or _SERVED not in os.environ:
        return
    import fastapi
    from fastapi.middleware import Middleware

    class Guarded(fastapi.FastAPI):
        """An application behind the gateway."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(middleware=[Middleware(Gateway)], **settings)

    fastapi.FastAPI = Guarded  # type: ignore[misc]
