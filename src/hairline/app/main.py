"""The `hairline` command: `hairline train ...` is `python train.py ...`, from any folder."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import hairline
from hairline.system.provenance import SCRIPTS

_PACKAGE = Path(hairline.__file__).parent


def scripts() -> Path:
    """Return the folder of the scripts and of `conf/`: in the package where the wheel put them, else the clone."""
    inside = _PACKAGE / "scripts"
    return inside if inside.is_dir() else _PACKAGE.parents[1]


def main() -> None:
    """Run the script that the first argument names, with the other arguments."""
    if sys.argv[1:2] in (["--version"], ["-V"]):
        print(f"hairline {hairline.__version__}")
        return
    if len(sys.argv) < 2 or sys.argv[1] not in SCRIPTS:
        usage = f"Usage: hairline <verb> [key=value] ...\nVerbs: {', '.join(SCRIPTS)}; each has --help"
        if sys.argv[1:2] in ([], ["--help"], ["-h"]):
            print(usage)
            return
        raise SystemExit(f"hairline {sys.argv[1]}: no such verb\n{usage}")
    script = str(scripts() / f"{sys.argv[1]}.py")
    sys.argv = [script, *sys.argv[2:]]
    runpy.run_path(script, run_name="__main__")
