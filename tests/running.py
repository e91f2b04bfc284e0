"""The scripts, as processes of their own, and what they do in this process: small runs trained on composed settings."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from hairline.app import settings, start
from hairline.system.process import Process
from hairline.training import place
from hairline.training import train as experiment
from tests.conftest import CONF, ROOT

T = TypeVar("T")

TINY = ("model=mobilenetv3small", "model.weights=random", "image_size=32", "batch_size=16", "epochs=2")
SMALL = (
    "features.engine=tensorflow",  # converting takes longer than all the rest; test_features.py covers LiteRT
    "model=mobilenetv3small",
    "model.weights=random",
    "image_size=32",
    "batch_size=16",
    "epochs=4",
    "learning_rate=0.01",
)

slow = functools.partial(pytest.param, marks=pytest.mark.slow)  # a row of a table that `make test` leaves out


def composed(script: str, *overrides: str) -> Any:
    """Give a script's checked settings, as the command line would compose them."""
    with composing():
        return settings.load(compose(script, list(overrides)), overrides)


@contextlib.contextmanager
def composing() -> Iterator[None]:
    """Set Hydra up for the block, as a script does."""
    start.register(ConfigStore.instance())
    with initialize_config_dir(str(CONF)):
        yield


def train(directory: Path, data: Path, *overrides: str, settings: Sequence[str] = SMALL) -> dict[str, float]:
    """Train a run, a small one by default, on a folder of images, into a new run directory."""
    chosen = [*settings, "data=folder", f"data.path={data}", *overrides]
    config = composed("config", *chosen)
    directory.mkdir(parents=True)
    return train_with(config, directory, chosen)


def train_with(config: Any, directory: Path, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Train a run with composed settings, as train.py does."""
    with place.place(config.features, config.runtime, config.report, config.finetune) as networks:
        return experiment.train(config, directory, list(overrides), Process(), networks)


def run(
    *arguments: str, environment: dict[str, str] | None = None, timeout: float = 600, script: str = "train.py"
) -> subprocess.CompletedProcess[str]:
    """Run a script with settings, as users do."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        capture_output=True, text=True, timeout=timeout, env=os.environ | (environment or {}), check=False,
    )  # fmt: skip


@contextlib.contextmanager
def started(command: Sequence[str | Path], **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a process with its output as text; a test that fails leaves none behind.

    Args:
        command: Program and arguments.
        settings: Arguments of `subprocess.Popen`.
    """
    with subprocess.Popen(command, **{"stdout": subprocess.PIPE, "text": True} | settings) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(ready: Callable[[], T], process: subprocess.Popen[str] | None = None, seconds: float = 300) -> T:
    """Return the first true answer of a function; fail when time is up or a process has ended without one."""
    deadline = time.monotonic() + seconds
    while not (answer := ready()):
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.02)
    return answer


def load(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a script as a module, with its folder first on the path as when Python runs it."""
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def refused(found: subprocess.CompletedProcess[str], *texts: str, code: int = 2) -> str:
    """Check that a script ended with an exit status and in words, these among them; gives all it said."""
    said = found.stdout + found.stderr
    assert found.returncode == code, said
    assert "Traceback" not in said
    for text in texts:
        assert text in said
    return said
