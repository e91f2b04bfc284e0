"""Time, memory and regions of inspecting 12-megapixel photos composed of real patches: one JSON line.

A photo is a grid of uncracked patches with random walks of cracked ones, at the patches' original size.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
import numpy as np
import psutil
from PIL import Image

PREDICT = measure.TRAIN.with_name("predict.py")
WIDTH, HEIGHT, PATCH_PX = 4032, 3024, 227
_DISTINCT = 12  # photos whose regions are compared


def main() -> None:
    """Measure and print."""
    parser = measure.parser(__doc__)
    parser.add_argument("--run", required=True, help="run directory of a model trained on such patches")
    parser.add_argument("--photos", type=int, default=200, help="photos for throughput and memory")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of the single photo; the median is reported")
    settings = parser.parse_args()
    run = str(Path(settings.run).resolve())
    with measure.workplace() as folder:
        photos = list(make_photos(settings.images, folder / "photos", settings.photos))
        values = single(run, photos[0][0], folder, settings.repeats) | places(run, photos[:_DISTINCT])
        values |= throughput(run, [path for path, _ in photos], folder / "many")
        measure.report({"width": WIDTH, "height": HEIGHT, **values, **measure.machine()})


def make_photos(images: Path, folder: Path, count: int) -> Iterator[tuple[Path, np.ndarray]]:
    """Compose photos; yield each path and its cells with cracked patches, bool [rows, columns]."""
    from hairline.data import classes

    cracked_folder = classes.positive_class(sorted(path.name for path in images.iterdir() if path.is_dir()), None)
    files: dict[bool, list[Path]] = {True: [], False: []}
    for path in sorted(images.rglob("*.jpg")):
        files[path.parent.name == cracked_folder].append(path)
    folder.mkdir(parents=True)
    for number in range(count):
        generator = np.random.default_rng(number)
        chosen = walks(generator, HEIGHT // PATCH_PX, WIDTH // PATCH_PX)
        wall = compose(generator, files, chosen)
        path = folder / f"{number:04}.jpg"
        Image.fromarray(wall).save(path, quality=92)
        yield path, chosen


def walks(generator: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Draw three walks of neighbouring cells, bool [rows, columns]."""
    chosen = np.zeros((rows, columns), bool)
    for _ in range(3):
        row, column = generator.integers(0, rows), generator.integers(0, columns)
        for _ in range(generator.integers(4, 9)):
            chosen[row, column] = True
            row = int(np.clip(row + generator.integers(-1, 2), 0, rows - 1))
            column = int(np.clip(column + generator.integers(0, 2), 0, columns - 1))
    return chosen


def compose(generator: np.random.Generator, files: dict[bool, list[Path]], chosen: np.ndarray) -> np.ndarray:
    """Compose a photo of patches, uint8 [HEIGHT, WIDTH, 3]."""
    wall = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for row in range(-(-HEIGHT // PATCH_PX)):
        for column in range(-(-WIDTH // PATCH_PX)):
            inside = row < chosen.shape[0] and column < chosen.shape[1]
            kind = files[bool(inside and chosen[row, column])]
            with Image.open(kind[generator.integers(len(kind))]) as image:
                patch = np.asarray(image.convert("RGB"))
            y, x = row * PATCH_PX, column * PATCH_PX
            wall[y : y + PATCH_PX, x : x + PATCH_PX] = patch[: HEIGHT - y, : WIDTH - x]
    return wall


def single(run: str, photo: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """Measure one photo: in a warm process, and as a whole command with its peak memory."""
    from hairline.inspection.records import Recorder

    # The first call converts the model.
    whole = [measure.run(command(run, photo, folder / f"one-{call}"), folder) for call in range(2)]
    recorder = Recorder(folder / "ready", model=Path(run, "model"), inspector={"size_px": PATCH_PX})
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        if problem := recorder.process(photo):
            sys.exit(problem)
        seconds.append(time.perf_counter() - started)
    return {
        "first_command_seconds": whole[0].seconds,
        "first_command_peak_mb": whole[0].peak_mb,
        "command_seconds": whole[1].seconds,
        "command_peak_mb": whole[1].peak_mb,
        "photo_seconds_first": seconds[0],
        "photo_seconds": float(np.median(seconds)),
    }


def command(run: str, photo: Path, output: Path) -> list[str]:
    """Return the command that inspects one photo."""
    return [
        sys.executable,
        str(PREDICT),
        f"run={run}",
        f"input={photo}",
        f"output={output}",
        f"tiles.size_px={PATCH_PX}",
    ]


def places(run: str, photos: list[tuple[Path, np.ndarray]]) -> dict[str, Any]:
    """Return the intersection over union of predicted and true cracked pixels, and the numbers of regions."""
    from scipy import ndimage

    from hairline.inspection.inspector import Inspector

    inspector = Inspector(run, size_px=PATCH_PX)
    common = union = known_regions = found_regions = 0
    for path, chosen in photos:
        known = np.zeros((HEIGHT, WIDTH), bool)
        spread = np.repeat(np.repeat(chosen, PATCH_PX, axis=0), PATCH_PX, axis=1)
        known[: spread.shape[0], : spread.shape[1]] = spread
        found = inspector.inspect(path)
        mask = found.heat.pixels(found.decided == found.positive).astype(bool)
        common += int((known & mask).sum())
        union += int((known | mask).sum())
        known_regions += ndimage.label(chosen, np.ones((3, 3)))[1]
        found_regions += len(found.regions)
    return {
        "photos_compared": len(photos),
        "intersection_over_union": common / union,
        "known_regions": known_regions,
        "found_regions": found_regions,
    }


def throughput(run: str, photos: list[Path], output: Path) -> dict[str, Any]:
    """Return the throughput of whole photos, and that of the engine on tiles in memory."""
    from hairline.inspection import tiles
    from hairline.inspection.records import Recorder

    recorder = Recorder(output, model=Path(run, "model"), inspector={"size_px": PATCH_PX})
    count = len(tiles.grid(WIDTH, HEIGHT, tile_px=PATCH_PX, stride_px=PATCH_PX))
    size = recorder.inspector.bundle.image_size
    ready = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    rates = []

    def engine_rate() -> None:
        for _ in range(4):
            started = time.perf_counter()
            for _ in recorder.inspector.run_engine(lambda row: ready[row], count):
                pass
            rates.append(count / (time.perf_counter() - started))

    engine_rate()
    process, resident = psutil.Process(), []
    started = time.perf_counter()
    for problem in recorder.inspector.pool.map_ordered(recorder.process, photos):
        if problem:
            sys.exit(problem)
        resident.append(process.memory_info().rss / 1e6)
    seconds = time.perf_counter() - started
    engine_rate()
    limit = float(np.median(rates)) / count
    return {
        "photos": len(photos),
        "tiles_per_photo": count,
        "engine_tiles_per_second": float(np.median(rates)),
        "photos_per_second": len(photos) / seconds,
        "fraction_of_engine": len(photos) / seconds / limit,
        # Medians, because the other workers are at different stages of their photos.
        "resident_mb_10th": float(np.median(resident[5:15])),
        "resident_mb_last": float(np.median(resident[-10:])),
        "resident_mb_highest": max(resident),
    }


if __name__ == "__main__":
    main()
