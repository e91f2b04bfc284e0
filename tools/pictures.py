"""Make the pictures of README and docs anew: python tools/pictures.py FOLDER; what is made on the way stays there.

Photos are drawn by the project's generator, so that they may be committed. The commands are those of the README: a
sweep on tiles of drawn photos, an inspection and a labelling session on others, MLflow's pages.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hairline.data.synthetic import lookalikes, patches
from hairline.data.synthetic.cracks import crack

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
_WIDTH_PX, _HEIGHT_PX, _TILE_PX = 1120, 840, 224
_EXTRAS = ((lookalikes.stain,), (lookalikes.joint,), (lookalikes.streaks,), ())
_CRACKED, _CLEAR = 60, 5  # pixels of a crack from which a tile is cracked, and up to which it is not


def main() -> None:
    """Draw, train, inspect, label, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    draw_training_tiles(Path("tiles"), photos=60)
    masks = draw_photos(Path("photos"), photos=12)
    grid = ("optimizer=adam,sgd", "learning_rate=1e-2,1e-3", "sweep.name=first")
    said = script("train", "-m", "data=folder", "data.path=tiles", *grid)
    script("predict", "run=outputs/sweeps/first", "input=photos", "output=inspection", f"tiles.size_px={_TILE_PX}")
    with chromium() as browser:
        picture_report(browser)
        picture_label_page(browser, masks)
        picture_mlflow(browser, re.findall(r"#(/experiments/\S+)", said)[-1])


def draw_photo(number: int, *, cracked: bool) -> tuple[Image.Image, np.ndarray]:
    """Return a drawn photo of a wall, and the mask of its crack, bool [height, width]."""
    rng = np.random.default_rng([5, number])
    pixels = patches.surface(rng, (_HEIGHT_PX, _WIDTH_PX))
    mask = np.zeros((_HEIGHT_PX, _WIDTH_PX), bool)
    for extra in _EXTRAS[number % len(_EXTRAS)]:
        pixels = extra(rng, pixels)
    if cracked:
        pixels, mask = crack(rng, pixels, width_px=float(rng.uniform(4, 7)), depth=0.8)
    for effect in (patches.lighting, patches.blurred, patches.exposed, patches.noisy):
        pixels = effect(rng, pixels)
    return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)), mask


def draw_photos(folder: Path, *, photos: int) -> dict[str, np.ndarray]:
    """Write photos, a third of them cracked; return their masks by file name."""
    folder.mkdir(exist_ok=True)
    masks = {}
    for number in range(photos):
        photo, mask = draw_photo(number, cracked=number % 3 == 0)
        photo.save(folder / f"wall-{number + 1:02}.jpg", quality=92)
        masks[f"wall-{number + 1:02}.jpg"] = mask
    return masks


def draw_training_tiles(folder: Path, *, photos: int) -> None:
    """Write tiles of further photos into a folder for each class."""
    for name in ("cracked", "uncracked"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(100, 100 + photos):
        photo, mask = draw_photo(number, cracked=number % 3 != 0)
        for x in range(0, _WIDTH_PX, _TILE_PX):
            for y in range(0, _HEIGHT_PX - _TILE_PX + 1, _TILE_PX):
                name = label(mask, x, y)
                if name is not None:
                    tile = photo.crop((x, y, x + _TILE_PX, y + _TILE_PX))
                    tile.save(folder / name / f"{number}-{x}-{y}.jpg", quality=92)


def label(mask: np.ndarray, x: int, y: int) -> str | None:
    """Return the class of a tile; None if it holds too little of a crack."""
    pixels = np.count_nonzero(mask[y : y + _TILE_PX, x : x + _TILE_PX])
    return "cracked" if pixels >= _CRACKED else "uncracked" if pixels <= _CLEAR else None


def script(name: str, *arguments: str) -> str:
    """Run a script of the project; return what it printed."""
    done = subprocess.run([sys.executable, str(ROOT / f"{name}.py"), *arguments], check=True, stdout=subprocess.PIPE)
    return done.stdout.decode()


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser without a window."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def shot(page: Any) -> Image.Image:
    """Return what a page shows."""
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def picture_report(browser: Any) -> None:
    """Take the picture of the report: its groups of photos, and beside them a photo with its heat map."""
    page = browser.new_page(viewport={"width": 900, "height": 760})
    page.goto(Path("inspection/report.html").resolve().as_uri())
    page.wait_for_timeout(1000)
    overview = shot(page)
    page.click(".photo.positive img >> nth=2")
    page.keyboard.press("3")
    page.wait_for_timeout(1000)
    both = Image.new("RGB", (2 * overview.width, overview.height))
    both.paste(overview, (0, 0))
    both.paste(shot(page), (overview.width, 0))
    both.save(IMAGES / "report.jpg", quality=82, optimize=True)


def picture_label_page(browser: Any, masks: dict[str, np.ndarray]) -> None:
    """Take the pictures of the label page after 40 right answers, with a heat map."""
    command = [
        sys.executable, "-u", str(ROOT / "label.py"), "run=outputs/sweeps/first", "input=photos", "output=labels",
        "open=false", f"tiles.size_px={_TILE_PX}",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = next(found[0] for line in process.stdout if (found := re.search(r"http://127\S+/", line)))
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        page.goto(address)
        page.wait_for_selector("body[data-tile]")
        answers = 0
        while True:
            photo, x, y = page.inner_text("#place").replace(", x ", " ").replace(", y ", " ").split(" ")
            cracked = label(masks[photo], int(x), int(y)) == "cracked"
            if answers >= 40 and cracked and "says cracked" in page.inner_text("#says"):
                break
            before = page.get_attribute("body", "data-tile")
            page.keyboard.press("c" if cracked else "s")
            page.wait_for_function("tile => document.body.dataset.tile !== tile", arg=before)
            answers += 1
        page.wait_for_function(
            "end => document.querySelector('#estimate').textContent.endsWith(end)", arg=f"with {answers} labels"
        )
        page.keyboard.press("h")
        page.wait_for_selector("#heat:visible", timeout=120_000)
        shot(page).save(IMAGES / "label.jpg", quality=82, optimize=True)
        page.set_viewport_size({"width": 390, "height": 844})
        shot(page).save(IMAGES / "label-narrow.jpg", quality=82, optimize=True)
        page.goto("about:blank")
        process.send_signal(signal.SIGINT)


def picture_mlflow(browser: Any, comparison: str) -> None:
    """Take the pictures of MLflow's pages.

    Args:
        browser: The browser.
        comparison: Address of the sweep's comparison below that of the server, as the sweep printed it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--app-name", "hairline", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{Path('mlflow.db').resolve()}"]
    server = subprocess.Popen([*command, *store], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(180_000)
        for _ in range(120):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(1)
        page.goto(f"http://127.0.0.1:{port}/#{comparison}")
        page.wait_for_selector("text=Model metrics")
        if page.is_visible("text=MLflow Assistant"):
            page.click("[aria-label='Close'] >> nth=-1")
        page.wait_for_timeout(8000)
        save_drawing(page, "mlflow-compare.png")
        page.click("a:has-text('adam 0.001')")
        page.click("text=Model metrics")
        page.wait_for_timeout(8000)
        save_drawing(page, "mlflow-run.png")
    finally:
        server.terminate()


def save_drawing(page: Any, name: str) -> None:
    """Save what a page shows as PNG with 256 colours."""
    shot(page).quantize(256, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    main()
