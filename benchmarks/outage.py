"""What a tracking server that is away for a while costs a training: time, and points lost or doubled: one JSON line.

The same training twice, on the same kept features, against an MLflow server on this machine: once with the server there
all the time, once with it stopped in the middle. Starting a server takes seconds of the machine's time, so one that
nobody asks is started in the middle of the first training, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure


def main() -> None:
    """Train without and with an outage, and compare."""
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    line.add_argument("--epochs", type=int, default=400, help="of the head: the training must outlast the outage")
    line.add_argument("--seconds", type=float, default=30.0, help="length of the outage")
    chosen = line.parse_args()
    with measure.workplace() as place:
        settings = [f"epochs={chosen.epochs}"]
        trained("warm-up", ["epochs=1", "tracking=none"], place)
        port = measure.free_port()
        plain = beside("plain", settings, place, port, chosen, away=False)
        interrupted = beside("interrupted", settings, place, port, chosen, away=True)
        with server(place, port):
            waiting = unsent(place / "interrupted" / "tracking.jsonl")
            measure.run([sys.executable, str(measure.TRAIN.with_name("sync.py")), "run=."], place / "interrupted")
            counts = points(place / "interrupted", port, chosen.epochs)
        measure.report(
            {
                "plain_seconds": plain,
                "interrupted_seconds": interrupted,
                "outage_seconds": chosen.seconds,
                "longer": interrupted / plain - 1,
                "entries_left_for_sync": waiting,
                **counts,
                **measure.machine(),
            }
        )


def trained(name: str, settings: list[str], place: Path) -> float:
    """Train into a folder; gives seconds."""
    command = [sys.executable, str(measure.TRAIN), "hydra.run.dir=.", *settings]
    return measure.run(command, place / name).seconds


@contextlib.contextmanager
def server(place: Path, port: int) -> Iterator[None]:
    """Run MLflow's server, on loopback alone, for the block."""
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *(
            "--backend-store-uri",
            f"sqlite:///{place / 'server.db'}",
            "--artifacts-destination",
            str(place / "artifacts"),
        ),
    ]
    with (place / "server.log").open("ab") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True, cwd=place)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the group: workers are processes of their own
        process.wait(20)


def beside(name: str, settings: list[str], place: Path, port: int, chosen: argparse.Namespace, *, away: bool) -> float:
    """Train beside a server that goes away for a while, or stays while another one is started; gives seconds."""
    ready, ended = threading.Event(), threading.Event()
    told = place / name / "tracking.jsonl"

    def serve() -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(server(place, port))
            ready.set()
            while not ended.wait(0.2):
                if told.exists() and told.read_text().count('"kind": "metrics"') >= chosen.epochs // 4:
                    break
            measure.say(f"after {chosen.epochs // 4} epochs, for {chosen.seconds:g} s: {'away' if away else 'nothing'}")
            if away:
                stack.close()
            ended.wait(chosen.seconds)
            stack.enter_context(server(place, port) if away else server(place / "idle", measure.free_port()))
            measure.say("training had ended before" if ended.is_set() else "server started")
            ended.wait()

    (place / "idle").mkdir(exist_ok=True)
    serving = threading.Thread(target=serve)
    serving.start()
    ready.wait()
    try:
        return trained(name, [*settings, f"tracking.uri=http://127.0.0.1:{port}"], place)
    finally:
        ended.set()
        serving.join()


def unsent(journal: Path) -> int:
    """Count the entries of a run's journal that MLflow has not."""
    entries = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    sent = [entry["sent"] for entry in entries if "sent" in entry]
    return len(entries) - len(sent) - (sent[-1] if sent else 0)


def points(run: Path, port: int, epochs: int) -> dict[str, Any]:
    """Count the points of the curves that the server has too few or twice."""
    from mlflow import MlflowClient

    client = MlflowClient(f"http://127.0.0.1:{port}")
    run_id = (run / "mlflow_run_id.txt").read_text().strip()
    missing = doubled = 0
    for name in ("loss", "val_loss", "val_accuracy"):
        steps = [point.step for point in client.get_metric_history(run_id, name)]
        missing += epochs - len(set(steps))
        doubled += len(steps) - len(set(steps))
    names = json.loads((run / "metrics.json").read_text())
    return {"points": 3 * epochs, "missing": missing, "doubled": doubled, "final_metrics": len(names)}


if __name__ == "__main__":
    main()
