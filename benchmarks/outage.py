"""Cost of an outage of the tracking server: training time, and points lost or duplicated: one JSON line.

The same training runs twice, with cached features and an MLflow server on this machine: once without interruption, once
with the server stopped in the middle. Starting a server costs processor time, so an idle one is started in the middle
of the first training as well.
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--epochs", type=int, default=400, help="epochs of the head; the training must outlast the outage"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the outage in seconds")
    settings = parser.parse_args()
    with measure.workplace() as place:
        overrides = [f"epochs={settings.epochs}"]
        train("warm-up", ["epochs=1", "tracking=none"], place)
        port = measure.free_port()
        plain = train_beside_server("plain", overrides, place, port, settings, outage=False)
        interrupted = train_beside_server("interrupted", overrides, place, port, settings, outage=True)
        with server(place, port):
            waiting = unsent(place / "interrupted" / "tracking.jsonl")
            measure.run([sys.executable, str(measure.TRAIN.with_name("sync.py")), "run=."], place / "interrupted")
            counts = points(place / "interrupted", port, settings.epochs)
        measure.report(
            {
                "plain_seconds": plain,
                "interrupted_seconds": interrupted,
                "outage_seconds": settings.seconds,
                "longer": interrupted / plain - 1,
                "entries_left_for_sync": waiting,
                **counts,
                **measure.machine(),
            }
        )


def train(name: str, overrides: list[str], place: Path) -> float:
    """Train into a folder and return the seconds."""
    command = [sys.executable, str(measure.TRAIN), "hydra.run.dir=.", *overrides]
    return measure.run(command, place / name).seconds


@contextlib.contextmanager
def server(place: Path, port: int) -> Iterator[None]:
    """Run an MLflow server on the loopback address."""
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *(
            "--backend-store-uri",
            f"sqlite:///{place / 'server.db'}",
            "--artifacts-destination",
            str(place / "artifacts"),
        ),
    ]
    with (place / "server.log").open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, cwd=place)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the process group includes the workers
        process.wait(20)


def train_beside_server(
    name: str, overrides: list[str], place: Path, port: int, settings: argparse.Namespace, *, outage: bool
) -> float:
    """Train with a server that is stopped for a while, or stays while an idle one is started; return the seconds."""
    ready, ended = threading.Event(), threading.Event()
    journal = place / name / "tracking.jsonl"

    def serve() -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(server(place, port))
            ready.set()
            while not ended.wait(0.2):
                if journal.exists() and journal.read_text().count('"kind": "metrics"') >= settings.epochs // 4:
                    break
            change = "outage" if outage else "no outage"
            measure.say(f"{change} after {settings.epochs // 4} epochs, for {settings.seconds:g} s")
            if outage:
                stack.close()
            ended.wait(settings.seconds)
            stack.enter_context(server(place, port) if outage else server(place / "idle", measure.free_port()))
            measure.say("the training ended first" if ended.is_set() else "server started")
            ended.wait()

    (place / "idle").mkdir(exist_ok=True)
    serving = threading.Thread(target=serve)
    serving.start()
    ready.wait()
    try:
        return train(name, [*overrides, f"tracking.uri=http://127.0.0.1:{port}"], place)
    finally:
        ended.set()
        serving.join()


def unsent(journal: Path) -> int:
    """Return the number of journal entries that MLflow has not received."""
    entries = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    sent = [entry["sent"] for entry in entries if "sent" in entry]
    return len(entries) - len(sent) - (sent[-1] if sent else 0)


def points(run: Path, port: int, epochs: int) -> dict[str, Any]:
    """Return the number of missing and duplicate points of the curves on the server."""
    from mlflow import MlflowClient

    client = MlflowClient(f"http://127.0.0.1:{port}")
    run_id = (run / "mlflow_run_id.txt").read_text().strip()
    missing = doubled = 0
    for name in ("epoch_loss", "epoch_val_loss", "epoch_val_accuracy"):
        steps = [point.step for point in client.get_metric_history(run_id, name)]
        missing += epochs - len(set(steps))
        doubled += len(steps) - len(set(steps))
    names = json.loads((run / "metrics.json").read_text())
    return {"points": 3 * epochs, "missing": missing, "doubled": doubled, "final_metrics": len(names)}


if __name__ == "__main__":
    main()
