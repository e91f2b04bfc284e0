"""What a run was made with: library versions, machine, and the state of the code."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import hairline
from hairline.system import redaction

_PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "pillow", "mlflow", "hydra-core", "omegaconf", "matplotlib")
# What the saved model needs to run again.
_MODEL_PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "pillow", "platformdirs", "tqdm")
_DIFF_CHARACTERS = 200_000


def versions(packages: tuple[str, ...] = _MODEL_PACKAGES) -> dict[str, str]:
    """Give the versions of Python, of this package and of libraries."""
    found = {"python": platform.python_version(), "hairline": hairline.__version__}
    return found | {name: metadata.version(name) for name in packages}


def describe() -> dict[str, Any]:
    """Describe versions, machine and, when the code lies in a git repository, its commit and uncommitted changes."""
    return {
        "versions": versions(_PACKAGES),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "command": command(),
        "git": _git(),
    }


def command() -> list[str]:
    """Give the command line, less the script's folder and secrets."""
    return ["python", Path(sys.argv[0]).name, *map(redaction.text, sys.argv[1:])]


def _git() -> dict[str, Any] | None:
    place = Path(hairline.__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(place), *arguments], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        # A wheel inside somebody else's repository must not report that repository's commit.
        if git("ls-files", "--error-unmatch", hairline.__file__):
            diff = git("diff", "HEAD")
            return {
                "commit": git("rev-parse", "HEAD"),
                "dirty": bool(diff),
                "diff": redaction.redacted(diff)[:_DIFF_CHARACTERS],
            }
    except (OSError, subprocess.SubprocessError):
        pass
    return None
