"""Cut a backbone for fine-tuning: the layers above the cut are trained, those below stay frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import keras

from hairline.model import structure
from hairline.system.errors import HairlineError

TOP_SHARE = 1 / 3  # least share of the weights above the default cut


class FinetuneError(HairlineError):
    """The backbone cannot be cut at the given layer."""


@dataclass(frozen=True)
class Cut:
    """A backbone in two parts that share its layers.

    Attributes:
        layer: First trained layer.
        lower: Model from uint8 RGB to flat activations, float32 [batch, height x width x channels].
        upper: Model from the flat activations to features.
    """

    layer: str
    lower: keras.Model
    upper: keras.Model


def unfreeze(backbone: keras.Model, layers: Literal["top", "all"], from_layer: str | None) -> Cut | None:
    """Make layers trainable, and cut the backbone below them.

    Batch normalisation stays frozen: small batches of few images would spoil its statistics.

    Args:
        backbone: Frozen model from uint8 RGB to features.
        layers: `all`, or `top` for those above a cut.
        from_layer: Name of the first trained layer, or its prefix; None for the upper third of the weights.

    Returns:
        The cut; None for `all`.

    Raises:
        FinetuneError: If no layer has that prefix, or the backbone cannot be cut there.
    """
    if layers == "all":
        start, cut = 0, None
    else:
        start = first_layer(backbone, from_layer)
        cut = _cut(backbone, start)
    for layer in backbone.operations[start:]:
        if isinstance(layer, keras.Layer):  # some networks contain bare operations, which have no weights
            layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    return cut


def first_layer(backbone: keras.Model, from_layer: str | None) -> int:
    """Return the index of the first layer above the cut; arguments and errors are those of `unfreeze`."""
    candidates = cuts(backbone)
    name = from_layer or _upper_third(backbone, candidates)
    start = next((row for row, layer in enumerate(backbone.operations) if layer.name.startswith(name)), -1)
    if start not in candidates:
        examples = ", ".join(backbone.operations[row].name for row in candidates[-1:0:-5])
        raise FinetuneError(
            f"finetune.from_layer={name}: "
            + ("no layer has this prefix" if start < 0 else "parallel branches of the network bypass this layer")
            + f"; {backbone.name} can be cut at {examples} and others"
        )
    return start


def cuts(backbone: keras.Model) -> list[int]:
    """Return the indices of layers where the network can be cut: their one input is the only tensor that crosses."""
    number = {layer.name: row for row, layer in enumerate(backbone.operations)}
    producers = [[number[other.name] for other in structure.producers(layer)] for layer in backbone.operations]
    indices = []
    crossing: set[int] = set()
    for row in range(len(backbone.operations) - 1, 0, -1):
        crossing = (crossing - {row}) | set(producers[row])
        if len(crossing) == 1 and len(set(producers[row])) == 1:
            indices.append(row)
    return sorted(indices)


def _upper_third(backbone: keras.Model, candidates: list[int]) -> str:
    """Return the name of the highest layer with at least `TOP_SHARE` of the weights in it and above it."""
    sizes = list(map(structure.parameters, backbone.operations))
    enough = [row for row in candidates if sum(sizes[row:]) >= TOP_SHARE * sum(sizes)]
    return str(backbone.operations[max(enough)].name)


def _cut(backbone: keras.Model, start: int) -> Cut:
    (tensor,) = structure.inputs(backbone.operations[start])
    shape = tuple(tensor.shape[1:])
    lower = keras.Model(backbone.input, keras.layers.Flatten(name="activations", dtype="float32")(tensor))
    lower.trainable = False
    flat = keras.Input((lower.output_shape[1],), name="activations")
    upper = keras.Model(tensor, backbone.output)
    outputs = upper(keras.layers.Reshape(shape)(flat))
    return Cut(backbone.operations[start].name, lower, keras.Model(flat, outputs, name="upper"))
