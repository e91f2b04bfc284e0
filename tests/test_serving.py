"""The served model: what it answers, what it refuses, and that a refusal is a sentence."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import fastapi
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import ExifTags, Image
from starlette.applications import Starlette

import hairline
from hairline.data import images
from hairline.model import saved
from hairline.tracking import gateway, models, serving
from tests.conftest import ROOT
from tests.saved_runs import saved_run
from tests.tracked import tracked


@pytest.fixture(scope="module")
def model(untrained: Path) -> serving.CrackClassifier:
    classifier = serving.CrackClassifier()
    classifier.load_context(SimpleNamespace(artifacts={"model": str(untrained / "model")}))
    return classifier


def encoded(width: int = 40, height: int = 30, mode: str = "RGB") -> bytes:
    return images.encoded(Image.new(mode, (width, height)), "PNG")


def test_it_predicts_what_the_classifier_predicts(
    model: serving.CrackClassifier, untrained: Path, two_classes: Path
) -> None:
    paths = sorted(two_classes.glob("*/*.jpg"))[::9]
    found = model.predict(None, pd.DataFrame({"image": [path.read_bytes() for path in paths]}))
    expected = hairline.load(untrained).predict(paths)
    names = ["prob_cracked", "prob_plain"]
    assert np.abs(found[names].to_numpy() - expected[names].to_numpy()).max() <= 1e-6
    assert found["label"].tolist() == expected["predicted"].tolist()
    assert found["threshold"].tolist() == [0.4] * len(paths)
    assert all(row[f"prob_{row['label']}"] == row["probability"] for _, row in found.iterrows())


def test_an_answer_that_is_no_class_has_the_highest_probability(
    model: serving.CrackClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved.Bundle, "decide", lambda self, probabilities: ["cannot tell"] * len(probabilities))
    found = model.predict(None, pd.DataFrame({"image": [encoded()]}))
    assert found["label"].tolist() == ["cannot tell"]
    assert found["probability"][0] == max(found["prob_cracked"][0], found["prob_plain"][0])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([b"nonsense"], "image 0: not an image"),
        ([b""], "image 0: empty file"),
        ([encoded(), encoded()[:60]], "image 1|damaged"),
        ([encoded(8000, 8000, "1")], "image 0 has 8000 x 8000 pixels: expected at most 50 megapixels"),
        ([encoded(14000, 14000, "1")], "megapixels, more than"),
        ([None], "image 0 is not base64 text"),
        (["!"], "image 0 is not base64 text"),
        ([3.5], "image 0 is not base64 text"),
        ([], "received 0 images: expected 1 to 64"),
        ([encoded()] * 65, "received 65 images"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_unreadable_image_is_the_clients_fault(model: serving.CrackClassifier, values: list, says: str) -> None:
    with pytest.raises(MlflowException, match=says) as caught:
        model.predict(None, pd.DataFrame({"image": pd.Series(values, dtype=object)}))
    assert caught.value.get_http_status_code() == 400


def test_text_is_taken_for_base64(model: serving.CrackClassifier) -> None:
    text = base64.b64encode(encoded()).decode()
    found = model.predict(None, pd.DataFrame({"image": [encoded(), text, text.encode(), np.bytes_(text.encode())]}))
    assert found["prob_cracked"].nunique() == 1


# --- the gateway ------------------------------------------------------------------------------------------------------


def ask(
    parts: list[bytes], kind: str | None = "application/json", served: Any = None, **scope: str
) -> tuple[int, str, bytes | None]:
    """Send a body in parts; return status, text of the answer, and the body that reached the application.

    `served` is an application with its gateway; None is a gateway before one that accepts everything.
    """
    reached: list[bytes] = []
    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        reached.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    headers = [] if kind is None else [(b"content-type", kind.encode())]
    asked = {"type": "http", "query_string": b"", "path": "/invocations", "method": "POST", "headers": headers, **scope}
    asyncio.run((served or gateway.Gateway(app, max_bytes=200_000))(asked, receive, send))
    return sent[0]["status"], sent[1]["body"].decode(), reached[0] if reached else None


GOOD = b'{"dataframe_records": [{"image": "AAAA"}]}'


def test_a_valid_request_passes_unchanged() -> None:
    assert ask([GOOD[:7], GOOD[7:]]) == (200, "ok", GOOD)
    assert ask([GOOD], "application/json; charset=utf-8")[0] == 200
    assert ask([b'{"inputs": {"image": ["AAAA"]}}'])[0] == 200
    assert ask([b'{"instances": [{"image": "AAAA"}]}'])[0] == 200
    assert ask([b""], None, path="/ping", method="GET")[0] == 200


@pytest.mark.parametrize(
    ("parts", "kind", "status", "says"),
    [
        ([b"x" * 150_000, b"y" * 150_000], "application/json", 413, "larger than 0.2 MB"),
        ([b"[" * 150_000], "application/json", 400, "nested too deeply"),
        ([GOOD], None, 415, "the content type is none: expected application/json"),
        ([GOOD], "text/csv", 415, "the content type is text/csv"),
        ([b""], "application/json", 400, "not JSON"),
        ([b"\xff\xfe"], "application/json", 400, "not JSON"),
        ([b"[]"], "application/json", 400, "the request is a JSON list: expected"),
        ([b"{}"], "application/json", 400, "the fields none"),
        ([b'{"messages": 1}'], "application/json", 400, "the fields messages"),
        ([b'{"inputs": 1, "instances": 2}'], "application/json", 400, "the fields inputs, instances"),
        ([b'{"inputs": "AAAA"}'], "application/json", 400, "inputs is not a dict"),
        ([b'{"dataframe_records": {}}'], "application/json", 400, "is not a list"),
        ([b'{"dataframe_records": []}'], "application/json", 400, "or is empty"),
        ([b'{"dataframe_records": [5]}'], "application/json", 400, "dataframe_records[0] has no text 'image'"),
        ([b'{"dataframe_records": [{"image": 5}]}'], "application/json", 400, "has no text 'image'"),
        ([b'{"dataframe_records": [{"image": "data:image/png;base64,AA=="}]}'], "application/json", 400, "holds ':'"),
        ([b'{"dataframe_records": [{"image": "!!!"}]}'], "application/json", 400, "[0]: 'image' is not base64"),
    ],
)
def test_an_invalid_request_is_rejected_before_the_model(parts: list[bytes], kind: str, status: int, says: str) -> None:
    found, text, reached = ask(parts, kind)
    assert found == status
    assert says in json.loads(text)["message"]
    assert reached is None


@pytest.fixture
def server(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """A function that imports MLflow's server module as uvicorn does, with its application created by the argument."""

    def load(create: Callable[[], Any]) -> Any:
        module = ModuleType("mlflow.pyfunc.scoring_server.app")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setenv("__pyfunc_model_path__", "model")
        serving.CrackClassifier().load_context(SimpleNamespace(artifacts={"model": str(untrained / "model")}))
        vars(module)["app"] = create()  # as the module itself does
        return module.app  # type: ignore[attr-defined]

    monkeypatch.setattr(fastapi, "FastAPI", fastapi.FastAPI)  # put back at the end
    return load


def test_the_server_gets_the_gateway(server: Callable[[Callable[[], Any]], Any]) -> None:
    assert ask([b"[]"], "text/csv", server(lambda: fastapi.FastAPI()))[0] == 415
    assert ask([GOOD], "application/json", fastapi.FastAPI())[0] == 404  # it has no routes here


@pytest.mark.parametrize("early", [fastapi.FastAPI, Starlette])
def test_a_server_without_the_gateway_does_not_start(early: type, server: Callable[[Callable[[], Any]], Any]) -> None:
    with pytest.raises(gateway.GuardError, match="built without the gateway.*install the version"):
        server(early)  # MLflow has looked up the class before the model was loaded


def test_a_server_of_another_layout_does_not_start(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("__pyfunc_model_path__", "model")
    with pytest.raises(gateway.GuardError, match="not where it is expected"):
        serving.CrackClassifier().load_context(SimpleNamespace(artifacts={"model": str(untrained / "model")}))


def test_the_input_example_is_what_the_model_sees_without_exif(untrained: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Jane Doe"
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    photo.save(tmp_path / "a.jpg", exif=exif, comment=b"Jane Doe")
    content = models._pixels(tmp_path / "a.jpg", 32)
    assert b"Jane" in (tmp_path / "a.jpg").read_bytes()
    assert b"Jane" not in content
    with Image.open(io.BytesIO(content)) as image:
        assert not image.getexif()
    np.testing.assert_array_equal(images.decode(content, 32), images.decode(tmp_path / "a.jpg", 32))


@pytest.mark.slow
def test_mlflow_serves_it(two_classes: Path, tmp_path: Path) -> None:
    """Over HTTP, with the load script: valid and malformed requests to the real server."""
    place = saved_run(tmp_path / "one", two_classes)
    with tracked(place) as run:
        run.model(place / "model", next(two_classes.glob("*/*.jpg")))
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "serving.py"), "--images", str(two_classes),
         "--model", f"runs:/{run.id}/model", "--seconds", "3", "--malformed", "90", "--clients", "3"],
        capture_output=True, text=True, timeout=250, check=False,
        env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["requests"] > 10
    expected = {"wrong": 0, "malformed": 90, "malformed_not_4xx": 0, "malformed_without_sentence": 0, "restarts": 0}
    assert {key: found[key] for key in expected} == expected, found
