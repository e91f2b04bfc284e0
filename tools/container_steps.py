"""Run the steps of a container file without an engine: python tools/container_steps.py FILE FOLDER [COMMAND ...].

The base image is this machine with an empty Python environment. An overlay keeps all changes in FOLDER/changes, so
COPY, RUN, USER, ENV and WORKDIR do what they do in an engine. COMMAND, or the file's own, runs last. Linux, as root.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_USUAL = "bin boot dev etc home media mnt opt proc root run sbin srv sys tmp usr var".split()  # of a root folder
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def main() -> None:
    """Run the steps; the exit status is that of the first one that fails, or of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    folder: Path = asked.folder.resolve()
    for name in ("changes", "work", "root"):
        (folder / name).mkdir(parents=True)
    for path in Path("/").iterdir():
        if path.name not in _USUAL and not path.name.startswith("lib"):
            os.mknod(folder / "changes" / path.name, stat.S_IFCHR, os.makedev(0, 0))  # how an overlay hides a name
    with tarfile.open(folder / "context.tar", "w") as context:
        for name in context_files():
            context.add(ROOT / name, name)
    script = folder / "steps.sh"
    script.write_text(steps(asked.file.read_text(encoding="utf-8"), folder, asked.command), encoding="utf-8")
    # A mount namespace of its own: nothing is mounted for other processes, and all mounts end with the script.
    sys.exit(subprocess.call(["unshare", "--mount", "bash", "-euo", "pipefail", str(script)]))


def context_files() -> list[str]:
    """Return the files of the repository that .dockerignore leaves to COPY."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], check=True, capture_output=True, text=True)
    ignored = tuple(f"{name.strip()}/" for name in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines())
    return [name for name in listed.stdout.splitlines() if not name.startswith(ignored)]


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a container file with their arguments."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0].upper(), line.split(maxsplit=1)[1].strip()) for line in lines]


def steps(text: str, folder: Path, command: list[str]) -> str:
    """Return a shell script that runs a container file.

    Args:
        text: The container file.
        folder: Holds `changes`, `work`, `root` and `context.tar`.
        command: Replaces CMD, and as in an engine not ENTRYPOINT.
    """
    root = shlex.quote(str(folder / "root"))
    options = f"lowerdir=/,upperdir={folder / 'changes'},workdir={folder / 'work'}"
    lines = [
        f"mount -t overlay overlay -o {shlex.quote(options)} {root}",
        *(f"mount --rbind /{name} {root}/{name}" for name in ("dev", "proc", "sys")),
        # As in a new image: no users, and a Python that users may run.
        f"sed -i -E '/^[^:]*:[^:]*:[0-9]{{4}}:/d' {root}/etc/passwd {root}/etc/group",
        f"chmod 755 {root}/root",
        f"chroot {root} {shlex.quote(sys.executable)} -m venv /opt/python",
    ]
    user, place, variables = "0", "/", {"PATH": f"/opt/python/bin:{_PATH}", "HOME": "/root"}
    entry: list[str] = []

    def run(words: list[str]) -> None:
        settings = [f"{name}={value}" for name, value in variables.items()]
        change = ["chroot", f"--userspec={user}:{user}", str(folder / "root"), "env", *settings]
        lines.append(shlex.join([*change, "sh", "-c", f'cd {shlex.quote(place)} && exec "$@"', "sh", *words]))

    for name, rest in instructions(text):
        lines.append(f"echo {shlex.quote(f'[{name}] {rest}')}")
        if name == "COPY":
            source, target = rest.split()
            if source != ".":
                raise SystemExit(f"COPY {rest}: expected COPY . <folder>")
            lines += [
                f"mkdir -p {root}{target}",
                f"tar -xf {shlex.quote(str(folder / 'context.tar'))} -C {root}{target}",
            ]
        elif name == "RUN":
            run(["sh", "-c", rest])
        elif name == "USER":
            user = rest
            variables["HOME"] = "/home/hairline"
        elif name == "WORKDIR":
            place = rest
            lines.append(f"mkdir -p {root}{place}")
        elif name == "ENV":
            key, _, value = rest.partition("=")
            variables[key] = value
        elif name == "ENTRYPOINT":
            entry = json.loads(rest)
        elif name == "CMD":
            command = command or json.loads(rest)
        elif name not in ("FROM", "EXPOSE"):
            raise SystemExit(f"{name}: an instruction that this script does not know")
    run([*entry, *command])
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
