"""Trainings killed at random moments and resumed, and concurrent trainings with one store and cache: one JSON line."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import pandas as pd

# Small, but with every stage: three shards of features, both training phases, the full report, a logged model.
SETTINGS = [
    "data.count=1100", "data.size=48", "image_size=32", "model=mobilenetv3small", "model.weights=random",
    "model.dropout=0.2", "features.engine=tensorflow", "epochs=12", "finetune=top", "finetune.epochs=4",
    "finetune.learning_rate=1e-3",
]  # fmt: skip
RUN = "outputs/run"
RUNNING_SECONDS = 180.0


def marks(directory: Path) -> dict[str, Callable[[], bool]]:
    """Return the stages in which a run is killed, each with a check whether it has begun."""
    log = directory / "train.log"

    def logged(text: str) -> bool:
        return log.is_file() and text in log.read_text(encoding="utf-8", errors="replace")

    return {
        "rendering": lambda: (directory / "config.yaml").is_file(),
        "features": lambda: (directory / "manifest.csv").is_file(),
        "head": lambda: logged("features: "),
        "fine-tuning": lambda: logged("fine-tuning from"),
        "evaluation": lambda: logged("threshold "),
        "logging": lambda: (directory / "metrics.json").is_file(),
    }


def start(place: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a training with its own working directory and cache."""
    place.mkdir(parents=True, exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    environment["HAIRLINE_CACHE"] = str(place / "cache")
    with (place / "output.txt").open("ab") as output:
        command = [sys.executable, str(measure.TRAIN), *arguments]
        return subprocess.Popen(command, cwd=place, env=environment, stdout=output, stderr=output)


def watch(process: subprocess.Popen[bytes], directory: Path) -> dict[str, float]:
    """Wait for a process; return when each stage began, and the end, in seconds of the monotonic clock."""
    seen: dict[str, float] = {}
    while process.poll() is None:
        for name, begun in marks(directory).items():
            if name not in seen and begun():
                seen[name] = time.monotonic()
        time.sleep(0.02)
    return seen | {"end": time.monotonic()}


def lengths(seen: dict[str, float]) -> dict[str, float]:
    """Return the seconds of each stage."""
    names = [*marks(Path()), "end"]
    return {name: seen[after] - seen[name] for name, after in zip(names, names[1:], strict=False)}


def kill(process: subprocess.Popen[bytes], directory: Path, stage: str, after: float) -> bool:
    """Kill a training some seconds after a stage began; return whether it was still running."""
    begun = marks(directory)[stage]
    deadline = time.monotonic() + RUNNING_SECONDS
    while process.poll() is None and not begun() and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        process.wait(timeout=after)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


def numbers(directory: Path) -> dict[str, Any]:
    """Return everything in which two runs with the same settings must agree to the bit."""
    metrics = {key: value for key, value in measure.results(directory).items() if not key.startswith("seconds")}
    history = pd.read_csv(directory / "history.csv").drop(columns="seconds")
    predictions = pd.read_csv(directory / "predictions.csv").drop(columns="path")
    return {"metrics": metrics, "history": history.to_json(double_precision=15), "predictions": predictions.to_json()}


def mirrored(place: Path, directory: Path) -> dict[str, int]:
    """Count in MLflow: runs, those not FINISHED, and missing or duplicate points."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("hairline").experiment_id])
    epochs = len(pd.read_csv(directory / "history.csv"))
    wrong = 0
    for run in runs:
        for key in run.data.metrics:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, key)]
            expected = list(range(1, epochs + 1)) if key.startswith("epoch_") else None
            wrong += len(steps) != len(set(steps)) if expected is None else steps != expected
        wrong += "epoch_loss" not in run.data.metrics or "test_accuracy" not in run.data.metrics
    statuses = Counter(run.info.status for run in runs)
    models = client.search_logged_models([runs[0].info.experiment_id])
    return {
        "runs": len(runs),
        "running": statuses["RUNNING"],
        "not_finished": len(runs) - statuses["FINISHED"],
        "wrong_points": wrong,
        "models": sum(str(model.status) == "READY" for model in models),
        "models_pending": sum(str(model.status) != "READY" for model in models),
    }


def corrupt(cache: Path) -> int:
    """Return the number of damaged cache entries."""
    bad = 0
    for index in cache.glob("features/*/[0-9a-f]*.json"):
        try:
            entry = json.loads(index.read_bytes())
            rows = np.load(index.with_suffix(".npy"), allow_pickle=False)
            intact = (
                len(rows) == len(entry["digests"]) and zlib.crc32(np.ascontiguousarray(rows).data) == entry["crc32"]
            )
        except (OSError, ValueError):
            intact = False
        bad += not intact
    for path in cache.glob("*.sqlite"):
        with sqlite3.connect(path) as connection:
            bad += connection.execute("PRAGMA integrity_check").fetchone()[0] != "ok"
    for path in cache.glob("synthetic/[!.]*/*/*.jpg"):
        bad += not path.read_bytes().endswith(b"\xff\xd9")
    return bad


def soak(place: Path, rounds: int, seed: int) -> dict[str, Any]:
    """Kill and resume trainings and return the counts; reuse an earlier reference run in the folder."""
    reference, stages_file = place / "whole", place / "stages.json"
    if not stages_file.is_file():
        durations = lengths(watch(start(reference, *SETTINGS, f"hydra.run.dir={RUN}"), reference / RUN))
        stages_file.write_text(json.dumps(durations))
    expected, durations = numbers(reference / RUN), json.loads(stages_file.read_text())
    measure.say("seconds per stage: " + ", ".join(f"{name} {value:.1f}" for name, value in durations.items()))
    stages = list(durations)
    counts: Counter[str] = Counter()
    for number in range(seed, seed + rounds):
        stage = stages[number % len(stages)]
        after = random.Random(number).random() * durations[stage]
        folder = place / str(number)
        killed = kill(start(folder, *SETTINGS, f"hydra.run.dir={RUN}"), folder / RUN, stage, after)
        code = start(folder, f"resume={RUN}").wait()
        same = code == 0 and numbers(folder / RUN) == expected
        tracked = mirrored(folder, folder / RUN) if code == 0 else {"runs": 0, "running": 1}
        bad = corrupt(folder / "cache")
        stray = len(list((folder / "outputs").iterdir())) - 1
        counts.update({f"killed in {stage}": killed, "killed": killed, "same": same, "corrupt": bad, "stray": stray})
        counts.update({f"mlflow {key}": value for key, value in tracked.items()})
        measure.say(f"round {number}: {stage} + {after:.1f} s, killed {killed}, same {same}, corrupt {bad}, {tracked}")
        if same:
            shutil.rmtree(folder)
        else:
            measure.say((folder / "output.txt").read_text(errors="replace")[-3000:])
    return {"rounds": rounds, "seed": seed, **{key: int(value) for key, value in counts.items()}}


def at_once(place: Path, processes: int) -> dict[str, Any]:
    """Run several trainings at once and return the counts."""
    common = ["data.count=300", "data.size=48", "image_size=32", "model=mobilenetv3small", "model.weights=random",
              "features.engine=tensorflow", "epochs=5", "report.level=light", "runtime.threads=1"]  # fmt: skip
    rates = [f"{0.001 * (1 + index):.3f}" for index in range(processes)]
    running = [start(place, *common, f"learning_rate={rate}", f"hydra.run.dir=outputs/{rate}") for rate in rates]
    codes = [process.wait() for process in running]
    if any(codes):
        measure.say((place / "output.txt").read_text(errors="replace")[-5000:])
    tracked = mirrored(place, place / "outputs" / rates[0])
    logs = [(place / "outputs" / rate / "train.log").read_text() for rate in rates]
    return {
        "processes": processes,
        "exit_status_0": codes.count(0),
        "finished": tracked["runs"] - tracked["not_finished"],
        "wrong_points": tracked["wrong_points"],
        "feature_passes": sum(text.count(" to compute, ") for text in logs),
        "corrupt": corrupt(place / "cache"),
    }


def main() -> None:
    """Run the soak test and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="number of trainings that are killed and resumed")
    parser.add_argument("--seed", type=int, default=0, help="number of the first round; it determines stage and moment")
    parser.add_argument(
        "--at-once", type=int, default=8, help="number of concurrent trainings with one store and cache"
    )
    parser.add_argument("--folder", type=Path, help="working folder that is kept, to run rounds in several calls")
    settings = parser.parse_args()
    began = time.monotonic()
    result: dict[str, Any] = {}
    with measure.workplace() as temporary:
        place = settings.folder.absolute() if settings.folder else temporary
        if settings.rounds:
            result["soak"] = soak(place, settings.rounds, settings.seed)
        if settings.at_once:
            result["at_once"] = at_once(temporary / "many", settings.at_once)
    measure.report(result | {"seconds": time.monotonic() - began} | measure.machine())


if __name__ == "__main__":
    main()
