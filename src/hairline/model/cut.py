"""Fine-tuning: which layers of a backbone are trained on, and what lies below them, which is still data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import keras

from hairline.system.errors import HairlineError

# A cut is placed as high as leaves at least this share of the weights above it.
TOP_SHARE = 1 / 3


class FinetuneError(HairlineError):
    """A layer that a backbone cannot be cut at."""


@dataclass(frozen=True)
class Cut:
    """A backbone in two parts, sharing its layers.

    Attributes:
        layer: First layer that is trained.
        lower: Model from uint8 RGB to flat activations float32 [batch, height x width x channels].
        upper: Model from the flat activations to features.
    """

    layer: str
    lower: keras.Model
    upper: keras.Model


def unfreeze(backbone: keras.Model, layers: Literal["top", "all"], from_layer: str | None) -> Cut | None:
    """Make layers trainable, and cut the backbone below them.

    Batch normalisation stays as it is: its statistics belong to the images the backbone was made for, and small
    batches of few images would spoil them.

    Args:
        backbone: Frozen model from uint8 RGB to features.
        layers: `all`, or those above a cut.
        from_layer: First layer that is trained, or how its name begins; None for the upper third of the weights.

    Returns:
        The cut; None for `all`.

    Raises:
        FinetuneError: If no layer's name begins so, or several branches of the network pass by it.
    """
    if layers == "all":
        start, found = 0, None
    else:
        start = first_layer(backbone, from_layer)
        found = _halves(backbone, start)
    for layer in backbone.operations[start:]:
        if isinstance(layer, keras.Layer):  # some networks hold bare operations, which have no weights
            layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    return found


def first_layer(backbone: keras.Model, from_layer: str | None) -> int:
    """Give the number of the first layer above a cut; arguments and errors as those of `unfreeze`."""
    places = cuts(backbone)
    name = from_layer or _upper_third(backbone, places)
    start = next((row for row, layer in enumerate(backbone.operations) if layer.name.startswith(name)), -1)
    if start not in places:
        some = ", ".join(backbone.operations[row].name for row in places[-1:0:-5])
        raise FinetuneError(
            f"finetune.from_layer={name}: "
            + ("no layer's name begins so" if start < 0 else "other branches of the network pass by that layer")
            + f"; layers of {backbone.name} it can be cut at include {some}"
        )
    return start


def cuts(backbone: keras.Model) -> list[int]:
    """List the numbers of the layers whose one input is all that the layers from there on get from those before."""
    number = {layer.name: row for row, layer in enumerate(backbone.operations)}
    producers = [
        [number[tensor._keras_history.operation.name] for tensor in _inputs(layer)] for layer in backbone.operations
    ]
    found = []
    crossing: set[int] = set()
    for row in range(len(backbone.operations) - 1, 0, -1):
        crossing = (crossing - {row}) | set(producers[row])
        if len(crossing) == 1 and len(set(producers[row])) == 1:
            found.append(row)
    return sorted(found)


def _inputs(layer: keras.Operation) -> list[keras.KerasTensor]:
    if isinstance(layer, keras.layers.InputLayer):
        return []
    return layer.input if isinstance(layer.input, list) else [layer.input]


def _upper_third(backbone: keras.Model, places: list[int]) -> str:
    sizes = [layer.count_params() if isinstance(layer, keras.Layer) else 0 for layer in backbone.operations]
    enough = [row for row in places if sum(sizes[row:]) >= TOP_SHARE * sum(sizes)]
    return str(backbone.operations[max(enough)].name)


def _halves(backbone: keras.Model, start: int) -> Cut:
    (tensor,) = _inputs(backbone.operations[start])
    shape = tuple(tensor.shape[1:])
    lower = keras.Model(backbone.input, keras.layers.Flatten(name="activations", dtype="float32")(tensor))
    lower.trainable = False
    flat = keras.Input((lower.output_shape[1],), name="activations")
    upper = keras.Model(tensor, backbone.output)
    outputs = upper(keras.layers.Reshape(shape)(flat))
    return Cut(backbone.operations[start].name, lower, keras.Model(flat, outputs, name="upper"))
