"""Planted passwords and tokens appear in nothing that a run writes or prints."""

from __future__ import annotations

import ast
import functools
import json
import logging
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hairline import config, tracking
from hairline.app import log, start
from hairline.app.sweep import state
from hairline.config.schema import SGD, Constant
from hairline.system import provenance, redaction
from tests.conftest import CONF, ROOT
from tests.running import refused, run, slow

SECRET = "Pl4nted-s3cret"
SOURCES = [
    *sorted((ROOT / "src").rglob("*.py")),
    *sorted(ROOT.glob("*.py")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
]


def secrets_in(place: Path, output: str = "") -> list[str]:
    """Return the files below a folder, and the lines of an output, that contain the planted secret."""
    files = [path for path in place.rglob("*") if path.is_file()]
    found = [str(path) for path in files if SECRET.encode() in path.read_bytes() or SECRET in str(path)]
    return found + [line for line in output.splitlines() if SECRET in line]


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
        (r"(?P<key>\d+)(?=\.png)", r"(?P<key>\d+)(?=\.png)"),
        (r"^(?P<session>.+?)_x=\d+", r"^(?P<session>.+?)_x=\d+"),
        ("https://h/my set.zip?token=x", "https://h/my set.zip?token=***"),
    ],
)
def test_addresses_lose_their_secrets_and_nothing_else(text: str, expected: str) -> None:
    assert redaction.setting(text) == expected


def test_a_known_password_is_hidden_outside_addresses_too(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords: set[str] = set()
    monkeypatch.setattr(redaction, "_passwords", lambda: passwords)
    redaction.learn("postgresql://me:p%40ss-W0rd@host/db and mysql://mlflow:mlflow@host/db")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0k3n-t0k3n")
    text = redaction.redacted("login with p@ss-W0rd (p%40ss-W0rd) or t0k3n-t0k3n failed in mlflow.db")
    assert text == "login with *** (***) or *** failed in mlflow.db"
    assert (
        redaction.redacted("Cookie: a=1;session=x and /set.zip?token=y")
        == "Cookie: a=1;session=*** and /set.zip?token=***"
    )


def test_log_lines_and_tracebacks_are_redacted() -> None:
    try:
        raise ValueError(f"http://me:{SECRET}@host")
    except ValueError:
        record = logging.LogRecord("x", 40, __file__, 1, "at %s", (f"http://h/?sig={SECRET}",), sys.exc_info())
    text = redaction.Formatter("%(message)s").format(record)
    assert "Traceback" in text
    assert SECRET not in text


def test_settings_keep_their_shape() -> None:
    settings = {"a": ["http://u:p@h", 3, None], "b": {"c": "x"}}
    assert redaction.settings(settings) == {"a": ["http://***@h", 3, None], "b": {"c": "x"}}


@pytest.mark.parametrize("address", ["http://***@127.0.0.1:1", "http://127.0.0.1:1?token=***"])
def test_an_address_whose_password_was_redacted_is_that_of_the_environment_or_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(tracking.TrackingError, match="redacted when it was saved: pass it again"):
        tracking.connect(address, "e")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///whole.db")
    assert tracking.tracking_uri(address) == f"sqlite:///{Path.cwd()}/whole.db"


@pytest.fixture
def closed() -> Iterator[str]:
    """An address of this machine where no server listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(
    ("script", "arguments", "environment"),
    [
        slow("train.py", ["tracking.uri=http://me:{s}@{h}"], {}),
        slow("train.py", ["tracking.uri=https://{s}@{h}/x"], {}),
        slow("train.py", [], {"MLFLOW_TRACKING_URI": "postgresql://me:{s}@{h}/db"}),
        slow("train.py", ["-m", "seed=1,2", "tracking.uri=http://me:{s}@{h}"], {}),
        ("train.py", ["data=folder", "data.path=https://me:{s}@host/set.zip"], {}),
        slow("train.py", ["data=concrete_cracks", "data.path='https://host/set.zip?X-Amz-Signature={s}'"], {}),
        slow("train.py", ["model.weights='https://host/w.h5?token={s}'"], {}),
        ("train.py", ["tracking.uri='http://me:{s}@{h}"], {}),  # the quote is never closed
        slow("train.py", ["resume=http://me:{s}@{h}"], {}),
        slow("predict.py", ["run=http://me:{s}@{h}", "input=x"], {}),
        slow("evaluate.py", ["run=http://me:{s}@{h}", "data=folder", "data.path=."], {}),
        slow("compare.py", ["runs=['http://me:{s}@{h}']"], {}),
        slow("compare.py", ["mlflow_experiment=x", "tracking.uri=http://me:{s}@{h}"], {}),
    ],
)
def test_errors_are_reported_without_secrets(
    script: str, arguments: list[str], environment: dict[str, str], closed: str, tmp_path: Path
) -> None:
    def filled(text: str) -> str:
        return text.replace("{s}", SECRET).replace("{h}", closed)

    variables = {key: filled(text) for key, text in environment.items()}
    ended = run(*map(filled, arguments), script=script, environment=variables)
    output = ended.stdout + ended.stderr
    assert ended.returncode != 0
    assert "***" in output, output
    assert "Traceback" not in output
    assert "epoch 1/" not in output
    assert not secrets_in(tmp_path, output)


def test_a_misspelt_key_does_not_repeat_its_value(closed: str, tmp_path: Path) -> None:
    output = refused(run(f"trackng.uri=http://me:{SECRET}@{closed}"), "Did you mean 'tracking.uri'?")
    assert not secrets_in(tmp_path, output)


@pytest.mark.usefixtures("empty_store")
def test_a_failed_run_stores_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed run: command, configuration, parameters, tags, name, note, files, log and traceback."""
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

    def run_and_report() -> None:
        with tracking.start(**settings, name=f"to {address}", tags={"b": address}) as run:
            try:
                fail(run)
            except ValueError as error:
                log.report(error)
                raise

    with log.also_to(tmp_path / "train.log"), pytest.raises(ValueError, match="failed"):
        run_and_report()
    state.Sweep(tmp_path / "sweep", name="s", command=[f"tracking.uri={address}"], store=address).write()
    (tmp_path / "multirun.yaml").write_text(f"tracking:\n  uri: {address}\n")
    redaction.clean(tmp_path / "multirun.yaml")
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {"mlflow.db", "traceback.txt", "config.yaml", "environment.json", "train.log", "sweep.json"} <= written
    assert not secrets_in(tmp_path)
    assert "***@host" in (tmp_path / "config.yaml").read_text()
    assert "***@host" in (tmp_path / "train.log").read_text()


@functools.cache
def calls() -> list[tuple[Path, ast.Call, str]]:
    """Return every call in the sources, with the name of the called function."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.append((path, node, ast.unparse(node.func)))
    return found


def test_loading_files_cannot_run_code() -> None:
    """The syntax trees show arrays without pickle, models in safe mode, no `eval`, and servers on loopback only."""
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
        assert name not in {"eval", "exec", "yaml.load", "yaml.unsafe_load"}, path
        # Between the processes of a Ray cluster, which pickles what it carries itself; and what was just pickled.
        if name == "pickle.loads":
            allowed = {("cluster.py", f"row['{key}']") for key in ("item", "result")} | {("worker.py", "pickled")}
            assert (path.name, ast.unparse(node.args[0])) in allowed
        if name == "pickle.load":  # from the pipes between a process and its second one, never from a file
            assert path.name == "worker.py"
            assert ast.unparse(node.args[0]) in {"sys.stdin.buffer", "self._process.stdout"}
        assert "instantiate" not in name, path
        if name.startswith("subprocess."):
            assert "shell" not in keywords, (path, node.lineno)
        if name.endswith((".bind", "HTTPServer", "TCPServer", "create_server")):
            assert "127.0.0.1" in ast.unparse(node), (path, node.lineno)
    assert counts["np.load"] >= 3
    assert counts["keras.models.load_model"] >= 2


def test_configurations_call_nothing_else() -> None:
    """Settings are data: Hydra may call only what `start.TARGETS` lists."""
    targets = set()
    files = list(CONF.rglob("*.yaml"))
    assert len(files) >= 30
    for path in files:
        targets |= set(re.findall(r"_target_: *(\S+)", path.read_text(encoding="utf-8")))
    assert {name for name in targets if name.startswith("hairline")} <= set(start.TARGETS)
