"""MLflow's pages in a browser, as the printed command serves them."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hairline.tracking import store
from tests.running import wait_until

pytestmark = pytest.mark.slow


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def address(empty_store: None, tmp_path: Path) -> Iterator[str]:
    """MLflow's server, started by the command that a run prints; its address."""
    command, page = store.ui_hints(f"sqlite:///{tmp_path / 'mlflow.db'}", store.runs_page("1"))
    words = [str(Path(sys.executable).with_name("mlflow")), *shlex.split(command)[1:]]
    with subprocess.Popen(words, cwd=os.path.sep, start_new_session=True) as server:
        try:
            port = int(page.split(":")[2].split("/")[0])
            wait_until(lambda: answers(port), server, seconds=120)
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)


def test_pages_open_for_model_training_until_something_else_is_chosen(browser: Any, address: str) -> None:
    page = browser.new_context(viewport={"width": 1600, "height": 1000}).new_page()
    page.set_default_timeout(60_000)
    for place in ("/", "/#/experiments"):
        page.goto(f"{address}{place}")
        page.wait_for_selector("a:has-text('Model registry')")  # only those for language models have prompts
        # The home page itself links to a chapter of that name in MLflow's documentation.
        assert not page.is_visible("a:has-text('Prompts'):not(main *)"), place
    page.goto(f"{address}/")
    page.click("text=GenAI")
    page.reload()
    page.wait_for_selector("a:has-text('Prompts'):not(main *)")
