"""Passwords and tokens: planted wherever they may stand, they are found in nothing that a run writes or says."""

from __future__ import annotations

import ast
import functools
import json
import logging
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hairline import config, tracking
from hairline.app import log, start
from hairline.app.sweep import state
from hairline.config.schema import SGD, Constant
from hairline.system import provenance, redaction
from tests.conftest import ROOT

SECRET = "Pl4nted-s3cret"  # with what address, query or variable it is planted stands behind it
SOURCES = [
    *sorted((ROOT / "src").rglob("*.py")),
    *sorted(ROOT.glob("*.py")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
]


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        capture_output=True, timeout=250, env=os.environ | environment, check=False,
    )  # fmt: skip


def found_in(place: Path, said: bytes) -> list[str]:
    """Look for planted secrets in all files below a folder, their names, and what was said."""
    files = [path for path in place.rglob("*") if path.is_file()]
    hits = [str(path) for path in files if SECRET.encode() in path.read_bytes() or SECRET in str(path)]
    return hits + [line.decode(errors="replace") for line in said.splitlines() if SECRET.encode() in line]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:pw@host:5000/x", "http://***@host:5000/x"),
        ("https://token@host/x", "https://***@host/x"),
        ("/runs/http:/me:pw@host/config.yaml", "/runs/http:/***@host/config.yaml"),
        ("postgresql+psycopg2://u:p/w?x#y@127.0.0.1:54/db", "postgresql+psycopg2://***@127.0.0.1:54/db"),
        ("a (https://u:a@b@host), b", "a (https://***@host), b"),
        ("https://h/a?token=x&n=1&X-Amz-Signature=y", "https://h/a?token=***&n=1&X-Amz-Signature=***"),
        ("http://127.0.0.1:5000/#/experiments/1?a=b@c", "http://127.0.0.1:5000/#/experiments/1?a=b@c"),
        ("models:/hairline@champion", "models:/hairline@champion"),
        ("sqlite:////data/a@b/mlflow.db", "sqlite:////data/a@b/mlflow.db"),
        ("see https://h/x, me@mail.org", "see https://h/x, me@mail.org"),
    ],
)
def test_addresses_lose_their_secrets_and_nothing_else(text: str, expected: str) -> None:
    assert redaction.setting(text) == expected


def test_a_password_that_is_repeated_alone_is_hidden_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())
    redaction.learn("postgresql://me:p%40ss-W0rd@host/db and mysql://mlflow:mlflow@host/db")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0k3n-t0k3n")
    found = redaction.redacted("login with p@ss-W0rd (p%40ss-W0rd) or t0k3n-t0k3n failed in mlflow.db")
    assert found == "login with *** (***) or *** failed in mlflow.db"


def test_what_is_logged_is_hidden_with_its_traceback() -> None:
    try:
        raise ValueError(f"http://me:{SECRET}@host")
    except ValueError:
        record = logging.LogRecord("x", 40, __file__, 1, "at %s", (f"http://h/?sig={SECRET}",), sys.exc_info())
    text = redaction.Formatter("%(message)s").format(record)
    assert "Traceback" in text
    assert SECRET not in text


def test_settings_keep_their_shape() -> None:
    found = {"a": ["http://u:p@h", 3, None], "b": {"c": "x"}}
    assert redaction.settings(found) == {"a": ["http://***@h", 3, None], "b": {"c": "x"}}


def test_an_address_without_its_password_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(tracking.TrackingError, match="redacted when it was saved: pass it again"):
        tracking.connect("http://***@127.0.0.1:1", "e")


@pytest.fixture
def closed() -> str:
    """An address of this machine at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(
    ("script", "arguments", "environment"),
    [
        pytest.param("train.py", ["tracking.uri=http://me:{s}@{h}"], {}, marks=pytest.mark.slow),
        pytest.param("train.py", ["tracking.uri=https://{s}@{h}/x"], {}, marks=pytest.mark.slow),
        pytest.param("train.py", [], {"MLFLOW_TRACKING_URI": "postgresql://me:{s}@{h}/db"}, marks=pytest.mark.slow),
        ("train.py", ["-m", "seed=1,2", "tracking.uri=http://me:{s}@{h}"], {}),
        ("train.py", ["data=folder", "data.path=https://me:{s}@host/set.zip"], {}),
        pytest.param(
            "train.py",
            ["data=concrete_cracks", "data.path='https://host/set.zip?X-Amz-Signature={s}'"],
            {},
            marks=pytest.mark.slow,
        ),
        pytest.param("train.py", ["model.weights='https://host/w.h5?token={s}'"], {}, marks=pytest.mark.slow),
        ("train.py", ["tracking.uri='http://me:{s}@{h}"], {}),  # the quote is never closed
        ("train.py", ["resume=http://me:{s}@{h}"], {}),
        pytest.param("predict.py", ["run=http://me:{s}@{h}", "input=x"], {}, marks=pytest.mark.slow),
        pytest.param(
            "evaluate.py", ["run=http://me:{s}@{h}", "data=folder", "data.path=."], {}, marks=pytest.mark.slow
        ),
        pytest.param("compare.py", ["runs=['http://me:{s}@{h}']"], {}, marks=pytest.mark.slow),
        pytest.param(
            "compare.py", ["mlflow_experiment=x", "tracking.uri=http://me:{s}@{h}"], {}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_fault_is_told_without_secrets(
    script: str, arguments: list[str], environment: dict[str, str], closed: str, tmp_path: Path
) -> None:
    filled = [text.replace("{s}", SECRET).replace("{h}", closed) for text in arguments]
    variables = {key: text.replace("{s}", SECRET).replace("{h}", closed) for key, text in environment.items()}
    found = run(script, *filled, **variables)
    said = found.stdout + found.stderr
    assert found.returncode != 0
    assert b"***" in said, said.decode()
    assert b"Traceback" not in said
    assert not found_in(tmp_path, said)


def test_a_misspelt_key_does_not_repeat_its_value(closed: str, tmp_path: Path) -> None:
    found = run("train.py", f"trackng.uri=http://me:{SECRET}@{closed}")
    said = found.stdout + found.stderr
    assert found.returncode != 0
    assert b"Did you mean: 'tracking'" in said
    assert not found_in(tmp_path, said)


def test_nothing_that_is_recorded_holds_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that fails: its command, configuration, parameters, tags, name, note, files, log and traceback."""
    address = f"http://me:{SECRET}@host/?token={SECRET}"
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setattr(sys, "argv", ["train.py", f"tracking.uri={address}", f"tags.a={address}"])
    settings = {"enabled": True, "uri": None, "experiment": "e", "system_metrics": False, "directory": tmp_path}

    def fail(run: tracking.Run) -> None:
        run.parameters({"data.path": address})
        run.tags({"a": address})
        run.note(f"`{' '.join(provenance.command())}`")
        (tmp_path / "environment.json").write_text(json.dumps(provenance.describe()))
        chosen = {"optimizer": SGD(name="sgd"), "schedule": Constant(name="constant"), "tags": {"a": address}}
        config.save(config.Config(data=config.SyntheticData(source=address), **chosen), tmp_path / "config.yaml")
        for path in (tmp_path / "environment.json", tmp_path / "config.yaml"):
            run.artifacts(path)
        raise ValueError(f"login with {SECRET} at {address} failed")

    def told() -> None:
        with tracking.start(**settings, name=f"to {address}", tags={"b": address}) as run:
            try:
                fail(run)
            except ValueError as error:
                log.report(error)
                raise

    with log.also_to(tmp_path / "train.log"), pytest.raises(ValueError, match="failed"):
        told()
    state.Sweep(tmp_path / "sweep", name="s", command=[f"tracking.uri={address}"], store=address).write()
    (tmp_path / "multirun.yaml").write_text(f"tracking:\n  uri: {address}\n")
    redaction.clean(tmp_path / "multirun.yaml")
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {"mlflow.db", "traceback.txt", "config.yaml", "environment.json", "train.log", "sweep.json"} <= written
    assert not found_in(tmp_path, b"")
    assert "***@host" in (tmp_path / "config.yaml").read_text()
    assert "***@host" in (tmp_path / "train.log").read_text()


@functools.cache
def calls() -> list[tuple[Path, ast.Call, str]]:
    """Give every call in the sources, with the name of what is called."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.append((path, node, ast.unparse(node.func)))
    return found


def test_nothing_that_is_loaded_can_run_code() -> None:
    """Arrays without pickle, models in safe mode, no `eval`: read off the syntax trees."""
    loaded = {"np.load": ("allow_pickle", False), "keras.models.load_model": ("safe_mode", True)}
    counts = dict.fromkeys(loaded, 0)
    for path, node, name in calls():
        keywords = {word.arg: word.value for word in node.keywords}
        if name in loaded:
            key, expected = loaded[name]
            counts[name] += 1
            value = keywords.get(key)
            assert isinstance(value, ast.Constant), (path, node.lineno)
            assert value.value is expected, (path, node.lineno)
        assert name not in {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load"}, path
        assert "instantiate" not in name, path
        if name.startswith("subprocess."):
            assert "shell" not in keywords, (path, node.lineno)
    assert counts["np.load"] >= 3
    assert counts["keras.models.load_model"] >= 2


def test_whatever_listens_does_so_on_this_machine_alone() -> None:
    everywhere = re.compile(r"0\.0\.0\.0|\[::\]|INADDR_ANY|host=[\"\'][\"\']")
    documents = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "Makefile"]
    assert len(documents) >= 5
    for path in [*SOURCES, *documents]:
        assert not everywhere.search(path.read_text(encoding="utf-8")), path
    for path, node, name in calls():
        if name.endswith((".bind", "HTTPServer", "TCPServer", "create_server")):
            assert "127.0.0.1" in ast.unparse(node), (path, node.lineno)


def test_configurations_name_nothing_to_call() -> None:
    """Saved and chosen settings are data: the one thing Hydra may call is named in `cli.TARGETS`."""
    targets = set()
    files = list((ROOT / "conf").rglob("*.yaml"))
    assert len(files) >= 30
    for path in files:
        targets |= set(re.findall(r"_target_: *(\S+)", path.read_text(encoding="utf-8")))
    assert {name for name in targets if name.startswith("hairline")} <= set(start.TARGETS)
