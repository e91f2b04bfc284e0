"""The story of `predict.py`: list the photos, inspect each one, write tables and report."""

from __future__ import annotations

import glob
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hairline
from hairline import tracking
from hairline.config import arguments, commands
from hairline.data import clutter, folders, images, manifest
from hairline.data.folders import Folder
from hairline.inspection import adaptation, report, screen, tables, triage
from hairline.inspection.inspector import DISTANCE, Inspector
from hairline.inspection.records import RECORDS, RayRecorder, Recorder, read_records
from hairline.system import cluster, files, progress
from hairline.system.errors import HairlineError

if TYPE_CHECKING:
    from hairline.config import Predict

log = logging.getLogger(__name__)

PREDICTIONS, PHOTOS, PLACES, KML = "predictions.csv", "photos.csv", "photos.geojson", "photos.kml"
_MIN_TIMED = 5  # photos needed for a rate


class InputError(HairlineError):
    """The input holds no photo."""


def inspect_photos(config: Predict, directory: Path) -> tuple[int, Path]:
    """Inspect photos and write predictions.csv, photos.csv, photos.geojson, photos.kml, overlays and report.html.

    Args:
        config: Checked configuration of `predict.py`.
        directory: Folder of the results unless `config.output` names one.

    Returns:
        Number of photos that a person must check: not inspected, or with a fault; and the folder of the results.

    Raises:
        HairlineError: If there is no such model or no photo, or the settings do not fit the model.
        OSError: If the output cannot be written.
    """
    started = time.perf_counter()
    output = Path(config.output).expanduser().absolute() if config.output else directory
    model = tracking.find(config.run, config.tracking.uri).absolute()
    listing = list_photos(config.input, output)
    output.mkdir(parents=True, exist_ok=True)
    with files.locked(output):
        return _inspect(config, output, model, listing, started)


def _inspect(config: Predict, output: Path, model: Path, listing: Listing, started: float) -> tuple[int, Path]:
    inspector: dict[str, Any] = {
        **arguments(config.tiles),
        "engine": config.features.engine,
        "threads": config.runtime.threads,
        "positive_class": config.positive_class,
        "threshold": config.threshold,
    }
    adapted = "none: the model as it was trained"
    if config.adapt == "surface" and listing.photos:
        inspector["adaptation"], adapted = adaptation.adapt(model, inspector, listing.photos, output)
    settings: dict[str, Any] = {
        "output": output,
        "model": model,
        "inspector": inspector,
        "longest_px": config.overlay.longest_px,
        "max_megapixels": config.max_megapixels,
        "labels": config.labels,
        "strip_location": config.privacy.strip_location,
    }
    recorder = Recorder(**settings)
    if config.privacy.strip_location:
        recorder.delete_other_records()
    waiting = [path for path in listing.photos if not recorder.is_done(path)]
    if len(waiting) < len(listing.photos):
        done = len(listing.photos) - len(waiting)
        log.info("done before with these settings: %s of %s photos", f"{done:,}", f"{len(listing.photos):,}")
    ready = time.perf_counter()

    threads, ray = config.runtime.threads, config.runtime.cluster()
    results = _process(recorder, settings, waiting, threads=threads, ray=ray)
    problems, finished = dict(listing.problems), len(listing.photos) - len(waiting)
    try:
        for path, problem in progress.over(results, len(waiting), "photos", "photos"):
            finished += 1
            if problem is not None:
                problems[path] = problem
    except KeyboardInterrupt:
        resume = "the same command" + ("" if config.output else f" with {commands.override('output', str(output))}")
        log.info("%s of %s photos are done; %s resumes from here", finished, len(listing.photos), resume)
        raise
    recorded = time.perf_counter()

    inspected = [path for path in listing.photos if path not in problems]
    columns = [f"prob_{name}" for name in recorder.inspector.bundle.class_names]
    columns += [DISTANCE] if recorder.inspector.has_distance else []
    tables.write_predictions(read_records(output, inspected), columns, output / PREDICTIONS)
    rows, faults, remarks = [], 0, {}
    for record in read_records(output, inspected):
        rows.append(tables.photo_row(record, config.scale.mm_per_pixel))
        faults += bool(record.faults)
        remarks[record.path] = triage.remarks(record)
    tables.write_photos(rows, problems, output / PHOTOS)
    positions = tables.write_places(rows, output / PLACES, output / KML)
    tiles = sum(row["tiles"] for row in rows)
    report.write(
        output,
        rows,
        problems=problems,
        remarks=remarks,
        facts=_facts(config, recorder.inspector, listing, adapted=adapted, tiles=tiles),
        class_names=recorder.inspector.bundle.class_names,
        positive=recorder.inspector.positive,
        mm_per_pixel=config.scale.mm_per_pixel,
        root=listing.root,
        identity=recorder.identity,
        retrain=commands.command("train", commands.override("base", config.run), "data=labels", "data.path=labels.csv"),
        embed_megabytes=config.report.embed_megabytes,
        max_photos=config.report.photos,
    )
    reported = time.perf_counter()

    positive = recorder.inspector.positive
    text = screen.summary(rows, problems=problems, remarks=remarks, others=listing.others, positive=positive)
    log.info("\n" + text)
    folders.log_skipped(listing.skipped)
    fresh = sum(path not in problems for path in waiting)
    rate = f", {fresh / (recorded - ready):.2f} photos/s" if fresh >= _MIN_TIMED else ""
    log.info(
        f"\n{len(rows):,} photo{'s' * (len(rows) != 1)}, {tiles:,} tile{'s' * (tiles != 1)} of "
        f"{recorder.inspector.tile_px} pixels, {positions:,} with a position{rate}\n"
        f"seconds  start {ready - started:.1f}  photos {recorded - ready:.1f}  report {reported - recorded:.1f}\n\n"
        f"Report   {manifest.printable(files.relative(output / report.REPORT))}   open it in a browser"
    )
    return len(problems) + faults, output


# --- the photos -------------------------------------------------------------------------------------------------------


@dataclass
class Listing:
    """The files of an input.

    Attributes:
        photos: Files with the name of a photo, in natural order, each once.
        problems: Images of a format that is not supported, with the reason.
        others: Files that are not images, by their names.
        skipped: Number of thumbnails, hidden files and what systems leave behind, by name.
        root: Folder that the names in the report are relative to.
    """

    photos: list[Path] = field(default_factory=list)
    problems: dict[Path, str] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    root: Path = Path()


def list_photos(text: str, output: Path) -> Listing:
    """List the photos of an input.

    Args:
        text: A file, a folder (searched recursively), a pattern, for example `site/**/*.jpg`, or the folder of an
            inspection, which stands for its photos.
        output: Folder of the results, which may be inside the input; its files are skipped.

    Raises:
        InputError: If there is no photo.
    """
    place = folders.existing(Path(text).expanduser())
    if (place / PHOTOS).is_file() and (place / RECORDS).is_dir():  # an inspection: its photos, not its pictures
        rows = manifest.read(place / PHOTOS, required=("path", "problem"))
        found = [Path(path) for path, problem in zip(rows["path"], rows["problem"], strict=True) if not problem]
        if found:
            return Listing(photos=found, root=_common_folder(found))
    skipped: Counter[str] = Counter()
    matches = [place] if place.exists() else _matches(place, skipped)
    # Folders count only if a pattern matches nothing else: `site/*.jpg` means files, `site*` may mean folders.
    matches = [path for path in matches if not path.is_dir()] or matches
    if not matches and skipped:
        raise InputError(
            f"input={text}: matches {skipped.total():,} files, all of them thumbnails or what systems leave behind "
            f"({', '.join(skipped)}); expected photos"
        )
    if not matches:
        raise InputError(
            f"input={text}: nothing is there; expected a photo, a folder of photos, or a pattern such as "
            "'site/**/*.jpg' in quotes"
        )
    listing = Listing(root=place if place.is_dir() else _common_folder(matches), skipped=skipped)
    results, seen = output.resolve(), set()
    if all(path.resolve().is_relative_to(results) for path in matches):
        raise InputError(
            f"output={output}: holds all of input={text}; expected a folder of its own for the results, which may lie "
            "within the input"
        )
    suffixes = ", ".join(sorted(images.SUFFIXES))
    for match in matches:
        tree = folders.read(match) if match.is_dir() else Folder(match, [match])
        listing.skipped += tree.skipped
        for path in tree.all_files():
            real = path.resolve()
            if real in seen or real.is_relative_to(results):
                continue
            seen.add(real)
            if folders.is_image(path):
                listing.photos.append(path)
            elif folders.is_image_like(path) or path == place:
                suffix = path.suffix or "no suffix"
                listing.problems[path] = f"{suffix}: not a kind of image that is read ({suffixes}); convert it"
            else:
                listing.others.append(path)
    if not listing.photos and not listing.problems:
        raise InputError(
            f"input={text}: no photos there ({len(listing.others)} other files); expected files named {suffixes}"
        )
    return listing


def _matches(pattern: Path, skipped: Counter[str]) -> list[Path]:
    """Return what a pattern matches, in natural order, without clutter, which is counted in `skipped`."""
    typed = next((number for number, part in enumerate(pattern.parts) if glob.has_magic(part)), len(pattern.parts))
    pattern = folders.existing(Path(*pattern.parts[:typed])).joinpath(*pattern.parts[typed:])
    matches = [Path(name) for name in glob.glob(str(pattern), recursive=True)]
    names: dict[Path, set[str]] = {}
    for path in matches:
        names.setdefault(path.parent, set()).add(path.name)
    kept = []
    for path in matches:
        hidden = next(filter(clutter.is_clutter_folder, path.parts[typed:-1]), None)
        if hidden is None and path.is_dir():
            hidden = path.name if clutter.is_clutter_folder(path.name) else None
        elif hidden is None and clutter.is_clutter_file(path.name, names[path.parent]):
            hidden = path.name
        if hidden is None:
            kept.append(path)
        elif not path.is_dir():
            skipped[hidden] += 1
    return sorted(kept, key=lambda path: folders.natural_key(str(path)))


def _common_folder(paths: list[Path]) -> Path:
    common = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    return common if paths[0].is_absolute() else Path(os.path.relpath(common))


# --- the loop over photos ---------------------------------------------------------------------------------------------


def _process(
    recorder: Recorder,
    settings: dict[str, Any],
    paths: list[Path],
    *,
    threads: int | None,
    ray: dict[str, Any] | None,
) -> Iterator[tuple[Path, str | None]]:
    """Process photos in threads or on Ray; yield each with the reason why it cannot be inspected, or None."""
    if ray is None or not paths:
        # One photo per thread: while one is decoded or drawn, tiles of another go through the engine.
        return recorder.inspector.pool.map_ordered(lambda path: (path, recorder.process(path)), paths)
    threads = threads or 1
    settings = settings | {"inspector": settings["inspector"] | {"threads": threads}}
    named = {path.absolute(): path for path in paths}  # the processes have other working directories
    results = cluster.map_items(RayRecorder, settings, list(named), **ray, threads=threads)
    return ((named[path], problem) for path, problem in results)


# --- what the user reads ----------------------------------------------------------------------------------------------


def _facts(config: Predict, inspector: Inspector, listing: Listing, *, adapted: str, tiles: int) -> dict[str, str]:
    """Return the model and the settings as the report lists them."""
    bundle, tile_px = inspector.bundle, inspector.tile_px
    facts = {
        "Model": config.run,
        "Decision": bundle.describe_decision(),
        "Classes": ", ".join(bundle.class_names),
        "Network": f"{bundle.backbone.get('name', '')}, sha256 {bundle.model_sha256[:16]}, {inspector.engine}",
        "Adaptation": adapted,
        "Tiles": f"{tiles:,} of {tile_px} × {tile_px} pixels, one every {inspector.stride_px} pixels",
    }
    if config.scale.mm_per_pixel is not None:
        facts["Scale"] = f"{config.scale.mm_per_pixel:g} mm per pixel, as given"
    if config.privacy.strip_location:
        facts["Positions"] = "left out"
    if listing.others:
        facts["Files skipped"] = f"{len(listing.others):,} (not images)"
    return facts | {"Made with": f"hairline {hairline.__version__}"}
