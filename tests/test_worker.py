"""The second process: its object answers in order, what it logs and raises arrives, and it ends with the first one."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hairline.system import worker as worker_module
from hairline.system.errors import HairlineError
from hairline.system.worker import Local, Worker, WorkerError
from tests.conftest import ROOT
from tests.running import wait_until


@pytest.fixture(autouse=True)
def _import_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process finds this module."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src")]))


class Held:
    """What the processes hold."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> int:
        self.lines.append(line)
        return os.getpid()

    def joined(self) -> str:
        return "".join(self.lines)

    def say(self, number: int) -> None:
        print("this is no answer")
        logging.getLogger("hairline.test").warning("mind the %s", number, extra={"anything": print})

    def refuse(self) -> None:
        raise HairlineError("not today")

    def fail(self) -> None:
        raise Unpicklable(open(os.devnull))  # noqa: SIM115

    def ask_twice(self) -> None:
        raise TwoArguments("one", "two")

    def babble(self) -> None:
        (answers,) = (handler._answers for handler in logging.root.handlers if hasattr(handler, "_answers"))
        os.write(answers.fileno(), b"this is no pickle")

    def die_answering(self) -> None:
        (answers,) = (handler._answers for handler in logging.root.handlers if hasattr(handler, "_answers"))
        os.write(answers.fileno(), pickle.dumps(("value", "x" * 1000))[:500])
        os.kill(os.getpid(), signal.SIGKILL)

    def end(self) -> None:
        print("the last words", file=sys.stderr, flush=True)
        os._exit(3)


class TwoArguments(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class Unpicklable(Exception):
    pass


@pytest.mark.parametrize("kind", [Worker, Local])
def test_an_object_keeps_its_state_between_calls(kind: type[Worker] | type[Local]) -> None:
    with kind() as place:
        place.hold(Held())
        process = place.call("add", "x" * 1_000_000).result()  # more than a pipe holds
        place.call("add", line="y")
        assert place.call("joined").result() == "x" * 1_000_000 + "y"
    assert (process == os.getpid()) is (kind is Local)


def test_what_it_logs_and_raises_arrives(caplog: pytest.LogCaptureFixture) -> None:
    with Worker() as worker:
        worker.hold(Held())
        worker.call("say", 7).result()
        refused, failed = worker.call("refuse"), worker.call("fail")
        with pytest.raises(HairlineError, match="not today") as caught:
            refused.result()
        assert "in refuse" in str(caught.value.__cause__)
        with pytest.raises(RuntimeError, match="Unpicklable: <"):
            failed.result()
        with pytest.raises(RuntimeError, match="TwoArguments: one and two"):
            worker.call("ask_twice").result()
        worker.call("add", "goes on").result()
    assert caplog.messages == ["mind the 7"]


def test_a_process_that_ends_is_reported_with_its_last_words() -> None:
    with Worker() as worker:
        worker.hold(Held())
        ended, later = worker.call("end"), worker.call("joined")
        for future in (ended, later):
            with pytest.raises(RuntimeError, match="ended with status 3:\nthe last words"):
                future.result()


def test_a_process_that_is_killed_is_reported() -> None:
    with Worker() as worker:
        worker.hold(Held())
        with pytest.raises(WorkerError, match="killed by signal 9"):
            worker.call("die_answering").result()
    with Worker() as worker:
        worker.hold(Held())
        os.kill(worker.call("add", "").result(), signal.SIGKILL)
        with pytest.raises(WorkerError, match="killed by signal 9; perhaps memory ran out"):
            worker.call("joined").result()


def test_a_process_that_babbles_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_END_SECONDS", 0.5)
    with Worker() as worker:
        worker.hold(Held())
        with pytest.raises(RuntimeError, match="an answer that cannot be read"):
            worker.call("babble").result()


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from hairline.system.worker import Worker; worker = Worker(); "
        "print(worker._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    wait_until(lambda: not Path("/proc", done.stdout.strip(), "cmdline").is_file(), seconds=60)


@pytest.mark.parametrize("kind", [Worker, Local])
def test_functions_run_after_the_methods_called_before(kind: type[Worker] | type[Local], tmp_path: Path) -> None:
    with kind() as place:
        place.hold(Held())
        place.call("add", "a")
        assert place.run(os.path.join, "one", "two").result() == os.path.join("one", "two")
        with pytest.raises(FileNotFoundError):
            place.run(os.listdir, tmp_path / "nowhere").result()


def test_packages_that_keras_can_do_without_are_missing_only_meanwhile() -> None:
    code = """
from hairline.system import tensorflow
with tensorflow.without_plots():
    try:
        import pandas
    except ModuleNotFoundError:
        print("missing")
import pandas
print(pandas.DataFrame({"a": [1]}).size)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.split() == ["missing", "1"]


def leave_a_file() -> str:
    descriptor, name = tempfile.mkstemp()
    os.close(descriptor)
    return name


def test_the_process_leaves_no_temporary_files() -> None:
    with Worker() as worker:
        worker.hold(None)
        left = Path(worker.run(leave_a_file).result())
        assert left.is_file()
    assert not left.parent.exists()
