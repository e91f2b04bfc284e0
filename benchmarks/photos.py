"""What an inspection finds, and what it costs: one JSON line.

Heat maps, lengths and answers on photos with masks and on uncracked photos of installed packages; the photo rule on
mosaics of patches; time and memory on 12-megapixel photos composed of patches at their original size, sound ones with
random walks of cracked ones.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
import numpy as np
import psutil
import tiles
from PIL import Image

PREDICT = measure.TRAIN.with_name("predict.py")
WIDTH, HEIGHT, PATCH_PX = 4032, 3024, 227
# Drawings and diagrams that packages bring: no photos.
_DIAGRAMS = ("logo", "Minduka_Present_Blue_Pack", "logo2")


def main() -> None:
    """Measure and print."""
    parser = measure.parser(__doc__)
    parser.add_argument("--run", required=True, help="run directory of a model trained on such patches")
    parser.add_argument("--masked", type=Path, nargs="*", default=[], help="folders with images/ and masks/")
    parser.add_argument("--left-out", type=Path, help="patches that the run has not seen, one folder per class")
    parser.add_argument("--mosaics", type=int, default=2000, help="mosaics of each kind")
    parser.add_argument(
        "--photos", type=int, default=200, help="photos for throughput and memory; 0: no time is measured"
    )
    parser.add_argument("--repeats", type=int, default=5, help="repeats of the single photo; the median is reported")
    settings = parser.parse_args()
    run = str(Path(settings.run).resolve())
    values: dict[str, Any] = {}
    with measure.workplace() as folder:
        pairs = {place.name: tiles.pairs(place / "images", place / "masks") for place in settings.masked}
        if pairs:
            first = next(iter(pairs.values()))
            values |= cells(run, first) | lengths(run, first)
        sets = {name: [photo for photo, _ in both] for name, both in pairs.items()}
        values |= answers(run, sets | {"uncracked": uncracked()}, folder)
        if settings.left_out is not None:
            values |= mosaics(run, settings.left_out, settings.mosaics)
        if settings.photos:
            photos = [path for path, _ in make_photos(settings.images, folder / "photos", settings.photos)]
            values |= {"width": WIDTH, "height": HEIGHT} | cost(run)
            values |= single(run, photos[0], folder, settings.repeats) | throughput(run, photos, folder / "many")
        measure.report({**values, **measure.machine()})


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


def random_tiles(inspector: Any, count: int) -> np.ndarray:
    """Return tiles in memory, uint8 [count, size, size, 3]."""
    size = inspector.bundle.image_size
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def engine_seconds(run_engine: Any, ready: np.ndarray) -> float:
    """Return how long an engine takes for tiles in memory."""
    started = time.perf_counter()
    for _ in run_engine(lambda row: ready[row], len(ready)):
        pass
    return time.perf_counter() - started


def single(run: str, photo: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """Measure one photo: in a warm process, and as a whole command with its peak memory."""
    from hairline.inspection.records import Recorder
    from hairline.inspection.tiles import grid

    # The first call converts the model.
    whole = [measure.run(command(run, photo, folder / f"one-{call}"), folder) for call in range(2)]
    recorder = Recorder(folder / "ready", model=Path(run, "model"), inspector={"size_px": PATCH_PX})
    ready = random_tiles(recorder.inspector, len(grid(WIDTH, HEIGHT, tile_px=PATCH_PX, stride_px=PATCH_PX)))
    seconds, bare = [], []
    for _ in range(repeats):
        bare.append(engine_seconds(recorder.inspector.run_engine, ready))
        started = time.perf_counter()
        if problem := recorder.process(photo):
            sys.exit(problem)
        seconds.append(time.perf_counter() - started)
    return {
        "first_command_seconds": whole[0].seconds,
        "first_command_peak_mb": whole[0].peak_mb,
        "command_seconds": whole[1].seconds,
        "command_peak_mb": whole[1].peak_mb,
        "photo_seconds": float(np.median(seconds)),
        "photo_over_engine": float(np.median(np.divide(seconds, bare))),
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


def cells(run: str, pairs: list[tuple[Path, Path]]) -> dict[str, Any]:
    """Return how well the heat map ranks cells of 12.8 pixels; a cell with 2 crack pixels or more is cracked."""
    from sklearn.metrics import precision_recall_curve, roc_auc_score

    from hairline.inspection.inspector import Inspector

    inspector = Inspector(run, size_px=128)
    truth, scores = [], []
    for photo, mask in pairs:
        crack, heat = tiles.cracks(mask), inspector.inspect(photo).heat_map
        edges = [np.append(np.arange(0, side - 6, 12.8), side).round().astype(int) for side in crack.shape]
        sums = [
            np.add.reduceat(np.add.reduceat(values.astype(float), edges[0][:-1], 0), edges[1][:-1], 1)
            for values in (crack, heat)
        ]
        truth.append((sums[0] >= 2).ravel())
        scores.append((sums[1] / np.outer(np.diff(edges[0]), np.diff(edges[1]))).ravel())
    known, found = np.concatenate(truth), np.concatenate(scores)
    precision, recall, _ = precision_recall_curve(known, found)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return {"cells": len(known), "cells_auroc": roc_auc_score(known, found), "cells_best_f1": float(f1.max())}


def lengths(run: str, pairs: list[tuple[Path, Path]]) -> dict[str, Any]:
    """Return the median relative error of the traced length against the skeleton of the mask, by the size of tiles.

    The odd photos were used to choose the level and the smoothing of the heat map, the even ones were not.
    """
    from skimage.morphology import skeletonize

    from hairline.inspection.inspector import Inspector

    result: dict[str, Any] = {}
    for size in (128, 227):
        inspector, errors = Inspector(run, size_px=size), []
        for photo, mask in pairs:
            known = skeleton_length(skeletonize(tiles.cracks(mask)))
            found = inspector.inspect(photo).length_px
            errors.append(abs(found - known) / known if found else 1.0)
        result[f"length_error_{size}_chosen_on"] = float(np.median(errors[::2]))
        result[f"length_error_{size}_others"] = float(np.median(errors[1::2]))
    return result


def skeleton_length(skeleton: np.ndarray) -> float:
    """Return the length of a skeleton: 1 for a straight step, sqrt(2) for a diagonal one, bool [height, width]."""
    straight = (skeleton[1:] & skeleton[:-1]).sum() + (skeleton[:, 1:] & skeleton[:, :-1]).sum()
    falling = skeleton[1:, 1:] & skeleton[:-1, :-1] & ~skeleton[1:, :-1] & ~skeleton[:-1, 1:]
    rising = skeleton[1:, :-1] & skeleton[:-1, 1:] & ~skeleton[1:, 1:] & ~skeleton[:-1, :-1]
    return float(straight + np.sqrt(2) * (falling.sum() + rising.sum()))


def uncracked() -> list[Path]:
    """Return the photos without a crack that installed packages bring, of at least 200 pixels."""
    places = {"skimage": "data", "sklearn": "datasets/images", "matplotlib": "mpl-data/sample_data"}
    found = []
    for package, folder in places.items():
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        for path in sorted(Path(spec.origin).parent.joinpath(folder).iterdir()):
            if path.suffix in (".png", ".jpg") and path.stem not in _DIAGRAMS:
                with Image.open(path) as image:
                    if min(image.size) >= 200:
                        found.append(path)
    return found


def answers(run: str, sets: dict[str, list[Path]], folder: Path) -> dict[str, Any]:
    """Return the verdicts on sets of photos, with and without adaptation, and how `evidence` orders them."""
    from sklearn.metrics import roc_auc_score

    from hairline.inspection import adaptation
    from hairline.inspection.inspector import Inspector

    result: dict[str, Any] = {}
    evidence: dict[str, list[float]] = {}
    for name, photos in sets.items():
        for adapted in (False, True):
            settings: dict[str, Any] = {}
            if adapted:
                place = folder / f"adapted-{name}"
                place.mkdir()
                settings["adaptation"] = adaptation.adapt(Path(run, "model"), {}, photos, place)[0]
            inspector = Inspector(run, **settings)
            inspections = [inspector.inspect(photo) for photo in photos]
            verdicts = Counter(inspection.verdict for inspection in inspections)
            result[f"answers_{name}{'_adapted' * adapted}"] = dict(sorted(verdicts.items()))
            if not adapted:
                evidence[name] = [inspection.evidence for inspection in inspections]
                wrong = [photo.name for photo, found in zip(photos, inspections, strict=True)
                         if found.verdict == inspector.positive]  # fmt: skip
                if name == "uncracked":
                    result["uncracked_called_positive"] = wrong
    cracked = [value for name, values in evidence.items() if name != "uncracked" for value in values]
    plain = evidence["uncracked"]
    if cracked:
        result["evidence_auroc"] = roc_auc_score([1] * len(cracked) + [0] * len(plain), cracked + plain)
    return result


def mosaics(run: str, images: Path, count: int) -> dict[str, Any]:
    """Return the share of photos of 252 patches called positive: sound ones, and with three cracked neighbours.

    Each patch is scored once. `images` holds patches that the run has not seen, one folder per class.
    """
    from scipy.special import logit

    from hairline.inspection.inspector import Inspector

    inspector = Inspector(run, size_px=PATCH_PX)
    rule, scores = inspector.bundle.decision.photo, {}
    if rule is None:
        sys.exit(f"{run} has no photo rule: it was trained on too few images")
    for folder in sorted(path for path in images.iterdir() if path.is_dir()):
        highest = [inspector.inspect(path).highest for path in sorted(folder.iterdir())]
        scores[folder.name == inspector.positive] = logit(np.clip(np.array(highest, np.float64), 1e-30, 1 - 1e-12))
    generator = np.random.default_rng(0)
    rows, columns = HEIGHT // PATCH_PX + 1, WIDTH // PATCH_PX + 1
    sound = scores[False][generator.integers(0, len(scores[False]), (count, rows, columns))]
    cracked = sound.copy()
    for photo in cracked:
        row, column = generator.integers(0, rows), generator.integers(0, columns - 2)
        photo[row, column : column + 3] = scores[True][generator.integers(0, len(scores[True]), 3)]
    return {
        "mosaics": count,
        "patches_left_out": sum(map(len, scores.values())),
        "mosaics_sound_flagged": float(np.mean([rule.is_positive(photo) for photo in sound])),
        "mosaics_three_cracked_found": float(np.mean([rule.is_positive(photo) for photo in cracked])),
        "sound_tiles_at_threshold": float((scores[False] >= logit(inspector.bundle.threshold)).mean()),
    }


def cost(run: str) -> dict[str, Any]:
    """Return the time of the engine with the cells' scores over that of the pooled pass, on tiles in memory."""
    from hairline.inspection.inspector import Inspector
    from hairline.model import engine, saved

    inspector = Inspector(run)
    parts, size = saved.Parts(Path(run, "model")), inspector.bundle.image_size
    key = f"pooled-{parts.bundle.model_sha256[:32]}"
    pooled = engine.prepare_engine(inspector.engine, lambda: parts.backbone, key, image_size=size, pool=inspector.pool)
    ready = random_tiles(inspector, 252)
    seconds: dict[str, list[float]] = {"pooled": [], "cells": []}
    for _ in range(12):  # alternating, so that the machine's load meets both
        for name, run_engine in (("pooled", pooled), ("cells", inspector.run_engine)):
            seconds[name].append(engine_seconds(run_engine, ready))
    return {"cells_over_pooled": float(np.median(np.divide(seconds["cells"], seconds["pooled"])))}


def throughput(run: str, photos: list[Path], output: Path) -> dict[str, Any]:
    """Return the throughput of whole photos, and that of the engine on tiles in memory."""
    from hairline.inspection.records import Recorder
    from hairline.inspection.tiles import grid

    recorder = Recorder(output, model=Path(run, "model"), inspector={"size_px": PATCH_PX})
    ready = random_tiles(recorder.inspector, len(grid(WIDTH, HEIGHT, tile_px=PATCH_PX, stride_px=PATCH_PX)))
    rates = []

    def engine_rate() -> None:
        for _ in range(4):
            rates.append(len(ready) / engine_seconds(recorder.inspector.run_engine, ready))

    engine_rate()
    process, resident = psutil.Process(), []
    started = time.perf_counter()
    for problem in recorder.inspector.pool.map_ordered(recorder.process, photos):
        if problem:
            sys.exit(problem)
        resident.append(process.memory_info().rss / 1e6)
    seconds = time.perf_counter() - started
    engine_rate()
    limit = float(np.median(rates)) / len(ready)
    return {
        "photos": len(photos),
        "tiles_per_photo": len(ready),
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
