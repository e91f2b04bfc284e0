"""The second process: it runs what it is given in order, says what it warned of, and ends with the first one."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hairline.system.worker import Worker


def test_functions_run_in_order_in_another_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Worker() as worker:
        worker.submit(Path.write_text, tmp_path / "a", "x" * 1_000_000)  # more than a pipe holds
        worker.submit(os.rename, tmp_path / "a", tmp_path / "b")
        worker.submit(logging.warning, "mind the %s", "gap")
        worker.finish()
    assert (tmp_path / "b").stat().st_size == 1_000_000
    assert "mind the gap" in caplog.text


def test_a_failure_is_raised_with_its_traceback(tmp_path: Path) -> None:
    with Worker() as worker:
        worker.submit(os.mkdir, tmp_path)
        for _ in range(20):
            worker.submit(bytes, b"x" * 1_000_000)  # nobody reads these
        with pytest.raises(RuntimeError, match="FileExistsError"):
            worker.finish()


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from hairline.system.worker import Worker; worker = Worker(); "
        "print(worker._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    for _ in range(200):
        if not Path("/proc", done.stdout.strip(), "cmdline").is_file():
            return
        time.sleep(0.05)
    raise AssertionError("the process is still there")
