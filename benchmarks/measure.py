"""Shared by the benchmarks: run a process and measure its time and peak memory, print one JSON line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
_PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "numpy", "pillow")


@dataclass(frozen=True)
class Process:
    """Resources used by a process.

    Attributes:
        seconds: Wall-clock time from start to end.
        peak_mb: Peak resident memory, in MB of 10^6 bytes.
    """

    seconds: float
    peak_mb: float


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return an argument parser with the argument that most benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with one sub-folder per class")
    return parser


@contextmanager
def workplace(kept: Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder that also holds the cache, so that every benchmark starts cold.

    Args:
        kept: Cache to use instead, where features and not their time matter.
    """
    say(f"load of the machine before the start: {os.getloadavg()[0]:.1f}; nothing else should be running")
    with tempfile.TemporaryDirectory(prefix="hairline-benchmark-") as name:
        os.environ["HAIRLINE_CACHE"] = str(kept or Path(name, "cache"))
        yield Path(name)


def run(command: list[str], directory: Path, cache: Path | None = None) -> Process:
    """Run a command in a new folder and wait for its end; its output goes to standard error.

    The peak is the operating system's. On Linux it is at least the memory of the parent process, so benchmarks do not
    import TensorFlow before they start a process.

    Args:
        command: Program and arguments.
        directory: Working directory.
        cache: hairline's cache for the process; default: that of this process.

    Raises:
        SystemExit: If the command fails.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # Keep benchmark runs off the user's tracking server.
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    environment["MLFLOW_DISABLE_TELEMETRY"] = "true"
    if cache is not None:
        environment["HAIRLINE_CACHE"] = str(cache)
    say(" ".join(command[1:]))
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=directory, env=environment, stdout=sys.stderr)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        raise
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed with exit status {process.returncode}: {' '.join(command)}")
    return Process(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6)


def train(
    images: Path, overrides: list[str], directory: Path, cache: Path | None = None, experiment: str = "recipe_plain"
) -> Process:
    """Run `train.py` on a folder of images; results are written to `directory`, those of a sweep to `0`, `1`..."""
    path = str(images.resolve()).replace("\\", "\\\\").replace("'", "\\'")
    settings = [
        f"experiment={experiment}",
        "data=folder",
        f"data.path='{path}'",
        "hydra.run.dir=.",
        "hydra.sweep.dir=.",
    ]
    return run([sys.executable, str(TRAIN), *settings, *overrides], directory, cache)


def results(directory: Path) -> dict[str, Any]:
    """Read the metrics of a run."""
    return json.loads((directory / "metrics.json").read_text(encoding="utf-8"))


def images_of(metrics: dict[str, Any]) -> int:
    """Return the number of images of a run."""
    return sum(metrics[f"{split}_images"] for split in ("train", "val", "test"))


def count_images(folder: Path) -> int:
    """Return the number of images that hairline finds in a folder."""
    from hairline.data import sources

    return len(sources.from_folder(path=str(folder)))


def free_port() -> int:
    """Return a free port of the loopback address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def machine() -> dict[str, Any]:
    """Return the machine and library versions, without importing TensorFlow."""
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES}
    return {"cores": os.cpu_count(), "processor": _processor(), "versions": versions}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def say(text: str) -> None:
    """Print progress."""
    print(f"[benchmark] {text}", file=sys.stderr, flush=True)


def report(values: dict[str, Any]) -> None:
    """Print the result as one JSON line, floats with four decimals."""
    print(json.dumps(_rounded(values)), flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return round(value, 4) if isinstance(value, float) else value
