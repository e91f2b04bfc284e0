"""Time from key to next tile on the label page, with many tiles of random features: one JSON line.

A scripted browser answers and loads pictures as the page does, over HTTP; the model is refitted in the background.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
from PIL import Image

_SERVER = "import sys, label_page; label_page.serve(*sys.argv[1:])"
_TILE_PX, _COLUMNS, _ROWS = 200, 20, 15  # of a photo of 12 megapixels
_WIDTH = 960  # features of experiment=unseen_surfaces


def main() -> None:
    """Start a server, answer, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--tiles", type=int, default=50_000, help="number of tiles")
    parser.add_argument("--answers", type=int, default=200, help="number of answers")
    parser.add_argument("--pause", type=float, default=0.7, help="seconds that a person looks at a tile")
    settings = parser.parse_args()
    with measure.workplace() as place:
        draw_photos(place, settings.tiles)
        command = [sys.executable, "-u", "-c", _SERVER, str(place), str(settings.tiles)]
        with subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            address = next(found[1] for line in process.stdout if (found := re.search(r"http://(\S+)", line)))
            host, path = address.split("/", 1)
            measure.report(answer(host, path, settings.answers, settings.pause) | measure.machine())
            process.terminate()


def draw_photos(place: Path, tiles: int) -> None:
    """Write one photo of 12 megapixels, and links to it."""
    generator = np.random.default_rng(0)
    small = generator.integers(90, 170, (_ROWS * 50, _COLUMNS * 50, 3), dtype=np.uint8)
    photo = Image.fromarray(small).resize((_COLUMNS * _TILE_PX, _ROWS * _TILE_PX), Image.Resampling.BICUBIC)
    photo.save(place / "0.jpg", quality=88)
    for number in range(1, -(-tiles // (_COLUMNS * _ROWS))):
        (place / f"{number}.jpg").hardlink_to(place / "0.jpg")


def serve(folder: str, tiles: str) -> None:
    """Serve a session on random features; runs in a process of its own."""
    import logging

    from hairline.labelling import label
    from hairline.labelling.learner import Layer
    from hairline.labelling.pictures import Pictures
    from hairline.labelling.pool import Pool
    from hairline.labelling.session import Session

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    generator = np.random.default_rng(0)
    features = generator.standard_normal((int(tiles), _WIDTH), dtype=np.float32)
    kernel = generator.normal(size=(_WIDTH, 2)).astype(np.float32) / 20
    number = np.arange(int(tiles))
    inside = number % (_COLUMNS * _ROWS)
    size = np.full(len(number), _TILE_PX)
    boxes = np.column_stack([inside % _COLUMNS * _TILE_PX, inside // _COLUMNS * _TILE_PX, size, size])
    photo = number // (_COLUMNS * _ROWS)
    photos = [str(Path(folder, f"{index}.jpg")) for index in range(photo[-1] + 1)]
    sizes = np.tile([_COLUMNS * _TILE_PX, _ROWS * _TILE_PX], (len(photos), 1))
    pool = Pool(photos, sizes, photo, boxes, features)
    base = Layer(kernel, np.zeros(2, np.float32), np.zeros(_WIDTH, np.float32), np.ones(_WIDTH, np.float32), 0, 0.5)
    session = Session(
        Path(folder),
        pool,
        base,
        ["cracked", "sound"],
        by="benchmark",
        seed=0,
        model="",
        views=lambda tiles: np.stack([np.roll(features[tiles], view, axis=1) for view in range(1, 8)]),
    )
    facts = {"title": "benchmark", "classes": [], "file": ""}
    label.serve(session, Pictures(pool), bytes, 0, open_page=False, facts=facts, next_steps=[])


def answer(host: str, path: str, count: int, pause: float) -> dict[str, Any]:
    """Answer tiles; return the median and the longest time from key to next tile, in milliseconds."""
    connection = http.client.HTTPConnection(host, timeout=60)
    generator = np.random.default_rng(1)

    def request(method: str, place: str, body: dict[str, Any] | None = None) -> bytes:
        content = None if body is None else json.dumps(body)
        connection.request(method, f"/{path}{place}", content, {"content-type": "application/json"} if body else {})
        return connection.getresponse().read()

    def load(tile: int) -> None:
        for kind in ("tile", "around"):
            request("GET", f"{kind}/{tile}.jpg")

    tiles = json.loads(request("POST", "act/show", {"browser": "b"}))["tiles"]
    for entry in tiles:
        load(entry["tile"])
    times = []
    for _ in range(count):
        time.sleep(pause)
        label = "cracked" if generator.random() < 0.4 else "sound"
        started = time.perf_counter()
        body = {"browser": "b", "tile": tiles[0]["tile"], "label": label}
        tiles = json.loads(request("POST", "act/answer", body))["tiles"]
        times.append(1000 * (time.perf_counter() - started))  # the next tile's pictures are loaded already
        load(tiles[-1]["tile"])
    return {"answers": count, "median_ms": float(np.median(times)), "longest_ms": float(max(times))}


if __name__ == "__main__":
    main()
