"""What the benchmarks share: running a process with its time and peak memory, a port, and printing one JSON line."""

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
    """What a process took.

    Attributes:
        seconds: From its start to its end.
        peak_mb: Largest resident memory, in MB of 10^6 bytes.
    """

    seconds: float
    peak_mb: float


def parser(description: str | None) -> argparse.ArgumentParser:
    """Give a command line with the argument that all benchmarks have."""
    line = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    line.add_argument("--images", type=Path, required=True, help="folder with one sub-folder a class")
    return line


@contextmanager
def workplace() -> Iterator[Path]:
    """Give a temporary folder, and make the cache of this process one of its folders: every benchmark starts cold."""
    say(f"load of the machine before the start: {os.getloadavg()[0]:.1f}; nothing else should run beside")
    with tempfile.TemporaryDirectory(prefix="hairline-benchmark-") as name:
        os.environ["HAIRLINE_CACHE"] = str(Path(name, "cache"))
        yield Path(name)


def run(command: list[str], directory: Path, cache: Path | None = None) -> Process:
    """Run a command in a new folder, and wait for its end; what it prints goes to standard error.

    The peak is that of the process, as the operating system counted it. Linux counts the memory of the process that
    started it as well, which is why the benchmarks themselves don't import TensorFlow before they start another.

    Args:
        command: Program and arguments.
        directory: Working directory.
        cache: hairline's cache for the process; None for this process's own.

    Raises:
        SystemExit: If the command fails.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # Runs of a benchmark must not reach the user's tracking server.
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
    images: Path, overrides: list[str], directory: Path, cache: Path | None = None, experiment: str = "recipe"
) -> Process:
    """Run an experiment by `train.py` on a folder of images; results land in `directory`, a sweep's in `0`, `1`..."""
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
    """Read the figures that a run wrote down."""
    return json.loads((directory / "metrics.json").read_text(encoding="utf-8"))


def images_of(found: dict[str, Any]) -> int:
    """Count the images of a run."""
    return sum(found[f"{split}_images"] for split in ("train", "val", "test"))


def listed(folder: Path) -> int:
    """Count the images of a folder as hairline does."""
    from hairline.data import sources

    return len(sources.from_folder(path=str(folder)))


def free_port() -> int:
    """Find a port of the loopback address that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def machine() -> dict[str, Any]:
    """Describe the machine and the versions, without importing TensorFlow."""
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
    """Print the result as one JSON line, floats to four decimals."""
    print(json.dumps(_rounded(values)), flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return round(value, 4) if isinstance(value, float) else value
