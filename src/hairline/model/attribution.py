"""Where inside a tile a prediction comes from: exact, and from the same pass as the prediction itself.

The last layer is linear in pooled features, so a logit is a sum over the cells of the maps that were pooled: an average
tap adds `weight * map / cells` to each cell, a max tap adds `weight * maximum` to the cell of its maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hairline.model import saved
from hairline.model.engine import EngineName, Pool, Reduce, Run, prepare_engine
from hairline.model.features import Recipe, falling_back

MOST_CELLS = 20  # along a side of a tile: finer maps are summed up


def prepare(
    folder: Path,
    bundle: saved.Bundle,
    engine: EngineName,
    reduce: Reduce,
    *,
    threads: int | None = None,
    pool: Pool | None = None,
    model: Callable[[], Any] | None = None,
) -> tuple[EngineName, Run]:
    """Load the network of a saved model with the maps it pools.

    Args:
        folder: The saved model.
        bundle: Its description.
        engine: LiteRT, TensorFlow, or the faster one on this machine.
        reduce: Computes a batch's results from the features [n, width] and the maps of each tap; no maps if the
            features are not pooled maps.
        threads: CPU threads; None for all cores.
        pool: Threads to use; None for threads of each call's own.
        model: Returns the Keras model, if it is loaded already.

    Returns:
        The engine in use, TensorFlow if the model does not convert, and its function, as `prepare_engine` returns it.
    """

    def start(recipe: Recipe) -> tuple[EngineName, Run]:
        return recipe.engine, prepare_engine(
            recipe.engine,
            model or (lambda: saved.load_model(folder, bundle)),
            recipe.model_key(),
            image_size=bundle.image_size,
            converted=saved.converted_network(folder, bundle),
            maps=True,
            threads=threads,
            pool=pool,
            reduce=reduce,
        )

    return falling_back(start, saved.recipe(bundle, engine))


def pooling(bundle: saved.Bundle) -> list[str]:
    """Return how each map of a saved model is pooled: `max` or `average`."""
    return [tap.rpartition(":")[2] for tap in str(bundle.backbone["taps"]).split()] or ["average"]


def class_maps(
    folder: Path,
    pixels: NDArray[np.uint8],
    classes: NDArray[np.int64],
    *,
    engine: EngineName = "auto",
    model: Callable[[], Any] | None = None,
) -> NDArray[np.float32] | None:
    """Return where an image suggests a class (class activation maps, Zhou et al. 2016).

    With a linear head on pooled maps this is Grad-CAM (Selvaraju et al. 2017).

    Each cell holds the score that the class would gain if the whole image looked like it, relative to the mean of the
    other classes.

    Args:
        folder: The saved model.
        pixels: uint8 [n, height, width, 3], RGB.
        classes: The class of each image, int64 [n].
        engine: LiteRT, TensorFlow, or the faster one on this machine.
        model: Returns the Keras model, if it is loaded already.

    Returns:
        float32 [n, rows, columns], 0 to 1; all 0 if nothing speaks for the class. None if the features are not pooled
        maps.
    """
    bundle = saved.read_bundle(folder)
    kernel, bias = saved.last_layer(saved.read_statistics(folder))
    others = (kernel.sum(axis=1, keepdims=True) - kernel) / (len(bias) - 1)
    shape: list[tuple[int, ...]] = []

    def scores(outputs: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        features, *maps = outputs
        if not maps:
            return np.empty((len(features), 0), np.float32)
        found = responses(maps, kernel - others, np.zeros_like(bias))
        shape.append(found.shape[1:])
        return found.reshape(len(found), -1)

    _, run = prepare(folder, bundle, engine, scores, model=model)
    table = np.concatenate([block for _, block in run(lambda row: pixels[row], len(pixels))])
    if not table.size:
        return None
    found = np.maximum(table.reshape(len(table), *shape[0])[np.arange(len(table)), ..., classes], 0.0)
    return np.asarray(found / np.maximum(found.max(axis=(1, 2), keepdims=True), 1e-12), np.float32)


def contributions(
    maps: Sequence[NDArray[np.floating]], kernel: NDArray[np.float32], pooling: Sequence[str]
) -> NDArray[np.float32]:
    """Return what each cell of a tile adds to its logits; the sum over the cells plus the bias is the logit.

    Args:
        maps: The maps of each tap, float [n, rows, columns, channels].
        kernel: Last layer, from the pooled features of all taps to logits, float32 [width, classes] or [width].
        pooling: `max` or `average` for each tap. Equal maxima share their contribution.

    Returns:
        float32 [n, rows, columns, classes], or [n, rows, columns] for a kernel [width]. Rows and columns are those of
        the finest map, at most `MOST_CELLS`; a cell of a coarser map is spread over the finer ones.
    """
    parts = []
    for values, weights, kind in zip(maps, _split(kernel, maps), pooling, strict=True):
        values = np.asarray(values, np.float32)
        if kind == "max":
            highest = values.max(axis=(1, 2), keepdims=True)
            where = (values == highest).astype(np.float32)
            parts.append((where * (highest / where.sum(axis=(1, 2), keepdims=True))) @ weights)
        else:
            parts.append(values @ weights / (values.shape[1] * values.shape[2]))
    return _summed(parts, mean=False)


def responses(
    maps: Sequence[NDArray[np.floating]], kernel: NDArray[np.float32], bias: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the logits that a tile would have if all of it looked like one of its cells, for each cell.

    Unlike `contributions` this says something about every cell, also where another one holds the maximum: maps of
    DeepCrack's cracks rank their cells much better by it (docs/notes/heat-maps.md).

    Args:
        maps: As in `contributions`.
        kernel: float32 [width, classes].
        bias: float32 [classes].

    Returns:
        float32 [n, rows, columns, classes].
    """
    parts = [
        np.asarray(values, np.float32) @ weights for values, weights in zip(maps, _split(kernel, maps), strict=True)
    ]
    return _summed(parts, mean=True) + bias


def _split(kernel: NDArray[np.float32], maps: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
    return np.split(kernel, np.cumsum([values.shape[3] for values in maps])[:-1])


def _summed(parts: list[NDArray[np.float32]], *, mean: bool) -> NDArray[np.float32]:
    """Return the sum over taps on a common grid; cells keep their sum, or with `mean` their mean."""
    rows, columns = (min(max(part.shape[axis] for part in parts), MOST_CELLS) for axis in (1, 2))
    total = np.zeros((), np.float32)
    for part in parts:
        if part.shape[1:3] != (rows, columns):
            down, across = _overlaps(rows, part.shape[1], mean), _overlaps(columns, part.shape[2], mean)
            part = np.einsum("ir,jk,nrk...->nij...", down, across, part, optimize=True).astype(np.float32)
        total = total + part
    return total


def _overlaps(fine: int, coarse: int, mean: bool) -> NDArray[np.float32]:
    """Return the share of each coarse cell that lies in each fine one, or the reverse with `mean` [fine, coarse]."""
    starts, others = np.arange(fine)[:, None] / fine, np.arange(coarse)[None] / coarse
    lengths = np.minimum(starts + 1 / fine, others + 1 / coarse) - np.maximum(starts, others)
    return np.asarray(np.maximum(lengths, 0) * (fine if mean else coarse), np.float32)
