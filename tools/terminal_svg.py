"""Run a command and draw its output as an animated terminal: python tools/terminal_svg.py OUT.svg -- COMMAND ...

Lines appear as they were printed, with waits cut to a second and the user's home folder as /home/you.
"""

from __future__ import annotations

import argparse
import html
import shlex
import subprocess
import time
from pathlib import Path

_CHARACTER_PX, _LINE_PX, _MARGIN_PX = 8.0, 19, 16
_LONGEST_WAIT_SECONDS = 1.0


def record(command: list[str]) -> list[tuple[float, str]]:
    """Run a command; return its lines with the seconds at which each appears in the animation."""
    lines = [(0.0, f"$ {shlex.join(command)}")]
    clock, last = 0.5, time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            now = time.monotonic()
            clock += min(now - last, _LONGEST_WAIT_SECONDS)
            last = now
            lines.append((clock, line.rstrip("\n").replace(str(Path.home()), "/home/you")))
    if process.returncode:
        raise SystemExit("\n".join(text for _, text in lines) + f"\nended with status {process.returncode}")
    return lines


def draw(lines: list[tuple[float, str]], *, columns: int, rows: int) -> str:
    """Return the SVG: the lines scroll once the terminal is full.

    Args:
        lines: Seconds and text.
        columns: Width in characters; longer lines are cut.
        rows: Height in lines.
    """
    width, height = columns * _CHARACTER_PX + 2 * _MARGIN_PX, rows * _LINE_PX + 2 * _MARGIN_PX
    texts, steps = [], []
    for number, (seconds, text) in enumerate(lines):
        y = _MARGIN_PX + (number + 0.75) * _LINE_PX
        shown = text if len(text) <= columns else text[: columns - 1] + "…"
        colour = ' fill="#8fd694"' if text.startswith("$ ") else ""
        style = f'style="animation-delay:{seconds:.2f}s"'
        texts.append(f'<text x="{_MARGIN_PX}" y="{y:.0f}"{colour} {style}>{html.escape(shown)}</text>')
        if number >= rows:
            steps.append((seconds, (number - rows + 1) * _LINE_PX))
    end = max(lines[-1][0], 0.1)
    frames = "".join(f"{100 * seconds / end:.2f}%{{transform:translateY(-{shift}px)}}" for seconds, shift in steps)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">'
        "<title>A terminal session</title><style>"
        "text{font:13.3px ui-monospace,Menlo,Consolas,monospace;fill:#d7dde4;white-space:pre;opacity:0;"
        "animation:show .01s linear forwards}@keyframes show{to{opacity:1}}"
        f"#lines{{animation:scroll {end:.2f}s step-end forwards}}@keyframes scroll{{{frames}}}"
        "</style>"
        f'<clipPath id="screen"><rect width="{width:.0f}" height="{height - _MARGIN_PX / 2:.0f}"/></clipPath>'
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#1c2128"/>'
        f'<g clip-path="url(#screen)"><g id="lines">{"".join(texts)}</g></g></svg>\n'
    )


def main() -> None:
    """Record the command and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--columns", type=int, default=128)
    parser.add_argument("--rows", type=int, default=28)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    options.out.write_text(draw(record(options.command), columns=options.columns, rows=options.rows), encoding="utf-8")


if __name__ == "__main__":
    main()
