"""What a run was made with: command, library versions, machine, and the commit of the code."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import hairline
from hairline.system import redaction

SCRIPTS = ("compare", "evaluate", "export", "label", "predict", "register", "sync", "train")
_PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "pillow", "mlflow", "hydra-core", "omegaconf", "matplotlib")
# Packages that the saved model needs.
_MODEL_PACKAGES = (
    "tensorflow", "keras", "numpy", "pandas", "pillow", "filelock", "omegaconf", "platformdirs", "tqdm",
)  # fmt: skip
_DIFF_CHARACTERS = 200_000


def versions(packages: tuple[str, ...] = _MODEL_PACKAGES) -> dict[str, str]:
    """Return the versions of Python, hairline and other packages."""
    own = {"python": platform.python_version(), "hairline": hairline.__version__}
    return own | {name: metadata.version(name) for name in packages}


def describe() -> dict[str, Any]:
    """Return versions, machine, command and, if the code lies in a git repository, its commit."""
    return {
        "versions": versions(_PACKAGES),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "command": command(),
        "git": _git(),
    }


def program(script: str) -> list[str]:
    """Return the words that start a script the way the user started this one.

    Args:
        script: Name of the script, such as `predict`.

    Returns:
        `hairline predict` after `hairline train`; else `python predict.py`, in the folder that the user typed.
    """
    if any(Path(word).stem.lower() == "hairline" for word in sys.orig_argv[:2]):
        return ["hairline", script]
    started = Path(sys.argv[0])
    return ["python", str(started.with_name(f"{script}.py")) if started.stem in SCRIPTS else f"{script}.py"]


def command() -> list[str]:
    """Return the command line without secrets and without the script's folder."""
    started, name = program(Path(sys.argv[0]).stem)
    return [started, Path(name).name, *map(redaction.text, sys.argv[1:])]


def uncommitted() -> str:
    """Return the uncommitted changes to the code, without secrets; empty if there are none, or no git repository."""
    state = _state()
    return "" if state is None else redaction.redacted(state[1])[:_DIFF_CHARACTERS]


def _git() -> dict[str, Any] | None:
    state = _state()
    return None if state is None else {"commit": state[0], "dirty": bool(state[1])}


@functools.cache  # of the code that this process runs
def _state() -> tuple[str, str] | None:
    """Return the commit of the code and its uncommitted changes; None if it does not lie in a git repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(hairline.__file__).parent), *arguments]
        # A change may be of a file in another encoding.
        ended = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True)
        return ended.stdout.strip()

    try:
        # Fails for a wheel that is installed inside another project's repository.
        git("ls-files", "--error-unmatch", hairline.__file__)
        return git("rev-parse", "HEAD"), git("diff", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None
