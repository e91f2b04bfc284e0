"""The story of `label.py`: tiles and features of photos, a page that asks for labels, and the next commands."""

from __future__ import annotations

import getpass
import logging
import os
import socket
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from hairline import tracking
from hairline.config import Label, commands
from hairline.data import augmentation, labels, manifest
from hairline.inspection import predict
from hairline.labelling import pool as pools
from hairline.labelling import server
from hairline.labelling.heat import HeatMaps
from hairline.labelling.learner import Layer
from hairline.labelling.orientations import Orientations
from hairline.labelling.pictures import Pictures
from hairline.labelling.pool import Pool
from hairline.labelling.session import Session
from hairline.model import attribution, saved
from hairline.system import cache, files
from hairline.system.errors import HairlineError

log = logging.getLogger(__name__)

_KEYS = ("c", "s")  # of the positive class and the other one


class LabelInputError(HairlineError):
    """Photos that cannot be labelled with this model."""


def label_tiles(config: Label, directory: Path) -> Path:
    """Serve the page until the person finishes or stops the program.

    Args:
        config: Checked configuration.
        directory: Folder of the results unless `config.output` names one.

    Returns:
        The folder with `labels.csv`.

    Raises:
        HairlineError: If there is no such model or no photo, or another process labels in the same folder.
    """
    output = Path(config.output).expanduser().absolute() if config.output else directory.absolute()
    parts = saved.Parts(tracking.find(config.run, config.tracking.uri).absolute())
    photos = list_photos(config.input, output)
    output.mkdir(parents=True, exist_ok=True)
    with files.locked(output):
        cache.evict(config.cache.max_gigabytes)
        pool = compute_pool(config, parts, photos)
        views = Orientations(
            pool,
            parts.recipe(config.features.engine),
            lambda: parts.backbone,
            augmentation.orientations(len(parts.bundle.class_names), parts.bundle.positive),
            converted=parts.converted,
            threads=config.runtime.threads,
        )
        session = Session(
            output,
            pool,
            base_layer(parts),
            parts.bundle.class_names,
            by=config.by or user_name(),
            seed=config.seed,
            model=parts.bundle.model_sha256,
            views=views.features,
        )
        next_steps = next_commands(config, parts, output)
        try:
            pictures = Pictures(pool)
            heat = HeatMaps(
                pool,
                pictures,
                session.layer,
                lambda reduce: attribution.prepare(
                    parts.folder, parts.bundle, config.features.engine, reduce, threads=1
                )[1],
                image_size=parts.bundle.image_size,
                pooling=attribution.pooling(parts.bundle),
            )
            serve(
                session,
                pictures,
                heat.png,
                config.port,
                open_page=config.open,
                facts=page_facts(config, parts, output),
                next_steps=next_steps,
            )
        finally:
            session.close()
    answers = len(labels.read(output / labels.FILE))
    log.info("\n%d label%s in %s\n", answers, "s" * (answers != 1), files.relative(output / labels.FILE))
    log.info("\n".join(["Next", *(f"  {command}" for command in next_steps)]))
    return output


def list_photos(text: str, output: Path) -> list[Path]:
    """List the photos of an input, and name the images that cannot be read.

    Raises:
        InputError: If there is no photo.
    """
    listing = predict.list_photos(text, output)
    for path, problem in listing.problems.items():
        log.warning("WARNING: %s is skipped: %s", manifest.printable(str(path)), problem)
    return listing.photos


def user_name() -> str:
    """Return the user's name on this machine; in a container, which may not know it, the number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def compute_pool(config: Label, parts: saved.Parts, photos: list[Path]) -> Pool:
    """Return the tiles of the photos with their features; photos that cannot be read are named.

    Raises:
        LabelInputError: If no photo can be read.
    """
    tile_px = config.tiles.size_px or parts.bundle.patch_px
    pool, problems = pools.compute(
        photos,
        parts.recipe(config.features.engine),
        lambda: parts.backbone,
        converted=parts.converted,
        tile_px=tile_px,
        threads=config.runtime.threads,
    )
    for path, reason in problems.items():
        log.warning("WARNING: %s is skipped: %s", manifest.printable(path), reason)
    if not len(pool):
        raise LabelInputError(f"input={config.input}: none of the {len(photos)} photos can be read")
    log.info("%s tiles of %d pixels on %s photos", f"{len(pool):,}", tile_px, f"{len(pool.photos):,}")
    return pool


def base_layer(parts: saved.Parts) -> Layer:
    """Return the run's own last layer."""
    kernel, bias = parts.dense
    return Layer(
        kernel,
        bias,
        parts.statistics["mean"],
        parts.statistics["deviation"],
        parts.bundle.positive,
        parts.bundle.threshold,
    )


def next_commands(config: Label, parts: saved.Parts, output: Path) -> list[str]:
    """Return the commands that train on the labels and inspect the photos with the new run."""
    folder = files.relative(output)
    store = {} if config.tracking.uri is None else {"tracking.uri": config.tracking.uri}
    train = {"base": config.run, "data": "labels", "data.path": folder, **store}
    inspect = {"run": "latest", "input": config.input, "output": f"{folder}-inspection"}
    if parts.bundle.positive is None:
        inspect["positive_class"] = "<class to find>"
    if config.tiles.size_px:
        inspect["tiles.size_px"] = str(config.tiles.size_px)
    return [
        commands.command(script, *(commands.override(key, value) for key, value in settings.items()))
        for script, settings in (("train", train), ("predict", inspect))
    ]


def page_facts(config: Label, parts: saved.Parts, output: Path) -> dict[str, Any]:
    """Return what the page shows besides the tiles: title, classes with their keys, the file of answers."""
    names, positive = parts.bundle.class_names, parts.bundle.positive_class
    ordered = sorted(names, key=lambda name: name != positive)
    keys = _KEYS if positive is not None and len(names) == 2 else [*"123456789", *[""] * len(names)]
    return {
        "title": manifest.printable(Path(config.input).name or config.input),
        "classes": [{"name": name, "key": key} for name, key in zip(ordered, keys, strict=False)],
        "file": manifest.printable(files.relative(output / labels.FILE)),
    }


def serve(
    session: Session,
    pictures: Pictures,
    heat: Callable[[int], bytes],
    port: int,
    *,
    open_page: bool,
    facts: dict[str, Any],
    next_steps: list[str],
) -> None:
    """Serve the page on the loopback interface until the person finishes.

    Args:
        session: The labelling session.
        pictures: Pictures of its tiles.
        heat: Returns the heat map of a tile as PNG.
        port: Port on 127.0.0.1; 0 for a free one.
        open_page: Whether to open the page in a browser.
        facts: From `page_facts`.
        next_steps: The commands that the page shows at the end.

    Raises:
        LabelInputError: If the port is taken.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(128)  # whoever opens the address at once waits until the server has started
    except OSError as error:
        listener.close()
        raise LabelInputError(f"port={port}: {error.strerror}; leave port out to use a free one") from error
    token = server.new_token()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/{token}/"

    def finish() -> None:
        running.should_exit = True

    app = server.application(session, pictures, heat, token=token, facts=facts, commands=next_steps, finish=finish)
    settings = uvicorn.Config(
        app, log_level="critical", access_log=False, server_header=False, limit_concurrency=200, lifespan="off",
        timeout_graceful_shutdown=2, h11_max_incomplete_event_size=16_384,
    )  # fmt: skip
    running = uvicorn.Server(settings)
    log.info(
        "\nLabel here      %s\nStop            with Finish on the page, or Ctrl-C; all answers are saved\n", address
    )
    if open_page:
        webbrowser.open(address)
    try:
        running.run(sockets=[listener])
    except KeyboardInterrupt:  # after a clean shutdown: a normal way to stop
        log.info("stopped")
    finally:
        listener.close()
