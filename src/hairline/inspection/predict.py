"""From a folder of photos to its report: list, examine, tell. What `predict.py` runs."""

from __future__ import annotations

import glob
import logging
import mimetypes
import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hairline import tracking
from hairline.config import arguments
from hairline.data import images, manifest, sources
from hairline.inspection import adaptation, records, report
from hairline.inspection.examiner import Examiner, Task, Worker, read_records
from hairline.inspection.inspector import DISTANCE
from hairline.system import files, progress
from hairline.system.errors import HairlineError

if TYPE_CHECKING:
    from hairline.config import Predict

log = logging.getLogger(__name__)

PREDICTIONS, PHOTOS, PLACES, REPORT = "predictions.csv", "photos.csv", "photos.geojson", "report.html"
_TIMED = 5  # photos from which on a rate says something
_MOST_NAMED = 20  # on the screen; photos.csv and the report name all


class InputError(HairlineError):
    """An input in which there is no photo."""


@dataclass
class Listing:
    """What an input holds.

    Attributes:
        photos: Files that look like photos, in natural order, each once.
        problems: Images of a kind that cannot be read, with the reason.
        others: Files that are no images by their name.
        root: The folder that the names in the report are relative to.
    """

    photos: list[Path] = field(default_factory=list)
    problems: dict[Path, str] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)
    root: Path = Path()


def inspect_photos(config: Predict, directory: Path) -> tuple[int, Path]:
    """Inspect photos and write predictions.csv, photos.csv, photos.geojson, overlays and report.html.

    Args:
        config: Checked configuration of `predict.py`.
        directory: Where results go if `config.output` names no folder.

    Returns:
        Number of photos that a person has to see to, because they were not examined or are named for another reason;
        and the folder of the results.

    Raises:
        ValueError: If there is no such model or no photo, or the settings do not fit the model.
        OSError: If the output cannot be written.
    """
    started = time.perf_counter()
    output = Path(config.output).expanduser().absolute() if config.output else directory
    model = tracking.find(config.run, config.tracking.uri).absolute()
    listing = listed(config.input, output)
    output.mkdir(parents=True, exist_ok=True)
    settings = {
        **arguments(config.tiles),
        "engine": config.features.engine,
        "threads": config.runtime.threads,
        "positive_class": config.positive_class,
        "threshold": config.threshold,
    }
    adapted = None
    if config.adapt == "surface" and listing.photos:
        file, adapted = adaptation.learn(model, settings, listing.photos, output)
        settings["adaptation"] = os.fspath(file)
    task = Task(
        model=model,
        output=output,
        inspector=settings,
        longest_px=config.overlay.longest_px,
        max_megapixels=config.max_megapixels,
        labels=config.labels,
        strip_location=config.privacy.strip_location,
    )
    examiner = Examiner(task)
    waiting = [path for path in listing.photos if not examiner.is_done(path)]
    if config.privacy.strip_location:
        examiner.forget_others()
    done = len(listing.photos) - len(waiting)
    if done:
        log.info("%s photos were done before with these settings, %s to do", f"{done:,}", f"{len(waiting):,}")
    ready = time.perf_counter()
    results = _examined(config, task, examiner, waiting)
    problems = dict(listing.problems)
    finished = 0
    try:
        for path, problem in progress.over(results, len(waiting), "photos", "photos"):
            finished += 1
            if problem is not None:
                problems[path] = problem
    except KeyboardInterrupt:
        again = "the same command" if config.output else f"the same command with output={shlex.quote(str(output))}"
        log.info("%s of %s photos are done; %s goes on from here", done + finished, len(listing.photos), again)
        raise
    seconds = {"start": ready - started, "photos": time.perf_counter() - ready}
    fresh = sum(path not in problems for path in waiting)
    return _conclude(config, examiner, listing, problems, output, seconds, fresh, adapted), output


def listed(text: str, output: Path) -> Listing:
    """List the photos of an input.

    Args:
        text: A file, a folder, which is searched with all folders in it, or a pattern such as `site/**/*.jpg`.
        output: Nothing in this folder is taken for a photo: it may lie within the input.

    Raises:
        InputError: If there is no photo.
    """
    place = Path(text).expanduser()
    if place.exists():
        found = [place]
    else:
        matched = [Path(name) for name in sorted(glob.glob(str(place), recursive=True), key=sources.natural_key)]
        # Folders count only where a pattern matches nothing else: `site/*.jpg` is files, `site*` may be folders.
        found = [path for path in matched if not path.is_dir()] or matched
    if not found:
        raise InputError(
            f"input={text}: nothing is there; expected a photo, a folder of photos, or a pattern such as "
            "'site/**/*.jpg' in quotes"
        )
    listing = Listing(root=place if place.is_dir() else _common(found))
    results, seen = Path(os.path.realpath(output)), set()
    if all(Path(os.path.realpath(path)).is_relative_to(results) for path in found):
        raise InputError(
            f"output={output}: holds all of input={text}; expected a folder of its own for the results, which may lie "
            "within the input"
        )
    for path in _files(found):
        real = Path(os.path.realpath(path))
        if real in seen or real.is_relative_to(results):
            continue
        seen.add(real)
        if path.suffix.lower() in images.SUFFIXES:
            listing.photos.append(path)
        elif (mimetypes.guess_type(path.name)[0] or "").startswith("image/") or path == place:
            kinds = ", ".join(sorted(images.SUFFIXES))
            listing.problems[path] = (
                f"{path.suffix or 'no suffix'}: not a kind of image that is read ({kinds}); convert it"
            )
        else:
            listing.others.append(path)
    if not listing.photos and not listing.problems:
        raise InputError(
            f"input={text}: no photos there ({len(listing.others)} other files); expected files named "
            f"{', '.join('*' + suffix for suffix in sorted(images.SUFFIXES))}"
        )
    return listing


def _files(found: list[Path]) -> Iterator[Path]:
    for path in found:
        if path.is_dir():
            yield from sources.list_files(path)
        else:
            yield path


def _common(paths: list[Path]) -> Path:
    common = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    return common if paths[0].is_absolute() else Path(os.path.relpath(common))


def _examined(config: Predict, task: Task, examiner: Examiner, paths: list[Path]) -> Iterator[tuple[Path, str | None]]:
    if not paths:
        return iter(())
    if config.runtime.compute == "ray":
        from hairline.system import cluster

        threads = config.runtime.threads or 1
        task = replace(task, inspector={**task.inspector, "threads": threads})
        return cluster.map_files(Worker, (task,), paths, **arguments(config.runtime.ray), threads=threads)
    from hairline.model import engine

    workers = config.runtime.threads or os.cpu_count() or 1
    # A photo a worker: while one is decoded or drawn, tiles of another go through the engine.
    return engine.map_ordered(lambda path: (path, examiner.examine(path)), paths, workers)


def _conclude(
    config: Predict,
    examiner: Examiner,
    listing: Listing,
    problems: dict[Path, str],
    output: Path,
    seconds: dict[str, float],
    fresh: int,
    adapted: str | None,
) -> int:
    """Write tables and report from the records, and say what was found."""
    started = time.perf_counter()
    examined = [path for path in listing.photos if path not in problems]
    inspector = examiner.inspector
    columns = [f"prob_{name}" for name in inspector.bundle.class_names]
    columns += [DISTANCE] if inspector.tells_distance else []
    tiles = records.write_predictions(read_records(output, examined), columns, output / PREDICTIONS)
    scale = config.scale.mm_per_pixel
    rows, faults = [], {}
    for path, record in read_records(output, examined):
        rows.append(records.photo_row(path, record, scale))
        if record["faults"]:
            faults[path] = "; ".join(record["faults"])
    records.write_photos(rows, problems, output / PHOTOS)
    places = records.write_geojson(rows, output / PLACES)
    about = report.About(
        model=describe(config.run, inspector),
        adaptation=adapted or "none: the model as it was trained",
        positive=inspector.positive,
        root=listing.root,
        tile_px=inspector.tile_px,
        stride_px=inspector.stride_px,
        tiles=tiles,
        mm_per_pixel=scale,
        strip_location=config.privacy.strip_location,
        problems={**problems, **faults},
        failed=len(problems),
        others=len(listing.others),
        embed_megabytes=config.report.embed_megabytes,
        most_photos=config.report.photos,
        has_times=any(row["time"] for row in rows),
        has_positions=places > 0,
    )
    report.write(rows, about, output)
    seconds["report"] = time.perf_counter() - started
    _say(about, rows, listing, output, seconds, fresh, places)
    return len(about.problems)


def describe(run: str, inspector: Any) -> dict[str, str]:
    """Say which model looked at the photos, and how it decides."""
    bundle = inspector.bundle
    told = {
        "model": manifest.printable(run),
        "backbone": str(bundle.backbone.get("name", "")),
        "engine": inspector.engine,
    }
    told |= {"digest": bundle.model_sha256[:16], "classes": ", ".join(bundle.class_names)}
    return told | {"decision": bundle.describe_decision()}


def _say(
    about: report.About,
    rows: list[dict[str, Any]],
    listing: Listing,
    output: Path,
    seconds: dict[str, float],
    fresh: int,
    places: int,
) -> None:
    """Print what was found, what was not examined, and where the report lies."""
    counts = report.verdicts(rows, about.positive)
    lines = ["", *(f"{count:>7,}  {name}" for name, count in counts.items())]
    if about.failed:
        lines.append(f"{about.failed:>7,}  not examined")
    if unfamiliar := sum(row["unfamiliar"] for row in rows):
        lines.append(f"{unfamiliar:>7,}  unlike the images the model was trained on: check these by eye")
    if listing.others:
        lines.append(f"{len(listing.others):>7,}  other files passed over: {_names(listing.others)}")
    if about.problems:
        lines += ["", "See to these:"]
        named = list(about.problems.items())[:_MOST_NAMED]
        lines += [f"  {manifest.printable(str(path))}: {manifest.printable(reason)}" for path, reason in named]
        if len(about.problems) > len(named):
            lines.append(f"  and {len(about.problems) - len(named):,} more: columns problem and notes of {PHOTOS}")
    told = "  ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    rate = f", {fresh / seconds['photos']:.2f} photos a second" if fresh >= _TIMED and seconds["photos"] > 0 else ""
    place = files.relative(output)
    lines += [
        "",
        f"{len(rows):,} photo{'s' * (len(rows) != 1)}, {about.tiles:,} tile{'s' * (about.tiles != 1)} of "
        f"{about.tile_px} pixels, {places:,} with a position{rate}",
        f"seconds  {told}",
        "",
        f"Report   {manifest.printable(place)}{os.sep}{REPORT}   open it in a browser",
    ]
    log.info("\n".join(lines))


def _names(paths: list[Path], most: int = 3) -> str:
    told = ", ".join(manifest.printable(path.name) for path in paths[:most])
    return told + (", ..." if len(paths) > most else "")
