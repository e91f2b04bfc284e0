"""The structure of a model, as a table of layers and as the blocks of a figure: shapes, parameters, training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

_HEAD = ("features", "logits", "probabilities")


@dataclass(frozen=True)
class Block:
    """Consecutive layers of one resolution.

    Attributes:
        first: Name of the first layer.
        last: Name of the last layer.
        layers: Number of layers.
        shape: Shape of the last layer's output without the batch: height, width and channels, or one length.
        parameters: Number of parameters.
        trained: Number of those that the run trained; the rest is frozen.
        inputs: Number of each block whose output is an input; empty for the first block.
    """

    first: str
    last: str
    layers: int
    shape: tuple[int, ...]
    parameters: int
    trained: int
    inputs: tuple[int, ...]


def trained_layers(backbone: keras.Model) -> set[str]:
    """Return the names of the layers that a run trained: those that fine-tuning unfroze, and `logits`."""
    return {layer.name for layer in backbone.layers if layer.trainable and layer.weights} | {"logits"}


def blocks(model: keras.Model, trained: Collection[str]) -> list[Block]:
    """Return the blocks of a saved model in order, from pixels to probabilities.

    A block ends where the resolution falls, where training begins, and at a layer that `features` pools. Pooling and
    `features` are one block, `logits` and `probabilities` one each.

    Args:
        model: With the layers `features`, `logits` and `probabilities`.
        trained: Names of the layers that the run trained.
    """
    import keras

    layers = list(model.operations)
    features = model.get_layer("features")
    pooling = [layer for layer in producers(features) if isinstance(features, keras.layers.Concatenate)]
    head = {layer.name for layer in pooling} | set(_HEAD)
    body = [layer for layer in layers if layer.name not in head]
    first = next((row for row, layer in enumerate(body) if layer.name in trained), len(body))
    tapped = {layer.name for pool in pooling for layer in producers(pool)}
    passed = np.cumsum([0, *(layer.name in tapped for layer in body[:-1])])
    keys = {
        layer.name: (side, row >= first, passed[row])
        for row, (layer, side) in enumerate(zip(body, _sides(body), strict=True))
    }
    parts = [list(part) for _, part in groupby(body, key=lambda layer: keys[layer.name])]
    parts += [[*pooling, features], *([model.get_layer(name)] for name in _HEAD[1:])]
    number = {layer.name: index for index, part in enumerate(parts) for layer in part}
    return [
        Block(
            first=part[0].name,
            last=part[-1].name,
            layers=len(part),
            shape=tuple(part[-1].output.shape[1:]),
            parameters=sum(map(parameters, part)),
            trained=sum(parameters(layer) for layer in part if layer.name in trained),
            inputs=tuple(sorted({number[entry.name] for layer in part for entry in producers(layer)} - {index})),
        )
        for index, part in enumerate(parts)
    ]


def describe(model: keras.Model, trained: Collection[str]) -> str:
    """Return the structure as text: one line per layer with its type, output shape, parameters, and if it was trained.

    Args:
        model: A saved model.
        trained: Names of the layers that the run trained.
    """
    rows = [("layer", "type", "output", "parameters", "")]
    rows += [
        (
            layer.name,
            type(layer).__name__,
            " x ".join(map(str, layer.output.shape[1:])),
            f"{parameters(layer):,}",
            "trained" if layer.name in trained else "frozen" if parameters(layer) else "",
        )
        for layer in model.operations
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    total = sum(map(parameters, model.operations))
    changed = sum(parameters(layer) for layer in model.operations if layer.name in trained)
    table = "\n".join(lines)
    return f"{table}\n\n{total:,} parameters: {changed:,} trained, {total - changed:,} frozen\n"


def parameters(layer: keras.Operation) -> int:
    """Return the number of a layer's parameters."""
    return layer.count_params() if hasattr(layer, "count_params") else 0  # bare operations have none


def inputs(layer: keras.Operation) -> list[keras.KerasTensor]:
    """Return the tensors that a layer takes."""
    import keras

    if isinstance(layer, keras.layers.InputLayer):
        return []
    return layer.input if isinstance(layer.input, list) else [layer.input]


def producers(layer: keras.Operation) -> list[keras.Operation]:
    """Return the layers whose outputs a layer takes."""
    return [tensor._keras_history.operation for tensor in inputs(layer)]


def _sides(layers: Sequence[keras.Operation]) -> list[int]:
    """Return the resolution of each layer's block: the largest side from there on, without padding.

    So squeeze-and-excitation, which pools to one pixel, and padding before a stride start no block.
    """
    import keras

    own = [
        layer.output.shape[1]
        if len(layer.output.shape) == 4 and not isinstance(layer, keras.layers.ZeroPadding2D)
        else 0
        for layer in layers
    ]
    return np.maximum.accumulate(own[::-1])[::-1].tolist()  # type: ignore[no-any-return]
