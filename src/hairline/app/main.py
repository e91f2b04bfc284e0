"""The `hairline` command: `hairline train ...` is `python train.py ...`, from any folder."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import hairline

_PACKAGE = Path(hairline.__file__).parent


def scripts() -> Path:
    """Return the folder of the scripts and of `conf/`: in the package where the wheel put them, else the clone."""
    inside = _PACKAGE / "scripts"
    return inside if inside.is_dir() else _PACKAGE.parents[1]


def verbs() -> list[str]:
    """Return the names of the scripts: those with a configuration of their own, and `train`."""
    folder = scripts()
    configured = {path.stem for path in (folder / "conf").glob("*.yaml")} | {"train"}
    return sorted(name for name in configured if (folder / f"{name}.py").is_file())


def main() -> None:
    """Run the script that the first argument names, with the other arguments."""
    known = verbs()
    if sys.argv[1:2] in (["--version"], ["-V"]):
        print(f"hairline {hairline.__version__}")
        return
    if len(sys.argv) < 2 or sys.argv[1] not in known:
        usage = f"Usage: hairline <verb> [key=value] ...\nVerbs: {', '.join(known)}; each has --help"
        if sys.argv[1:2] in ([], ["--help"], ["-h"]):
            print(usage)
            return
        raise SystemExit(f"hairline {sys.argv[1]}: no such verb\n{usage}")
    script = str(scripts() / f"{sys.argv[1]}.py")
    sys.argv = [script, *sys.argv[2:]]
    runpy.run_path(script, run_name="__main__")
