"""The maps that a network pools into its features: what a prediction inside an image is explained from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def tap_maps(model: keras.Model) -> list[tuple[Any, str]]:
    """Return the tensors that a network pools into its features, in the order of the features.

    Args:
        model: A network with the layer `features`.

    Returns:
        Tensors float [batch, rows, columns, channels], each with `max` or `average`; none if the features are not
        pooled maps.
    """
    import keras

    kinds = {keras.layers.GlobalMaxPooling2D: "max", keras.layers.GlobalAveragePooling2D: "average"}
    layer = model.get_layer("features")
    pooled = layer.input if isinstance(layer, keras.layers.Concatenate) else [layer.output]
    layers = [tensor._keras_history.operation for tensor in pooled]
    if not all(type(entry) in kinds for entry in layers):
        return []
    return [(entry.input, kinds[type(entry)]) for entry in layers]


def with_maps(model: keras.Model) -> keras.Model:
    """Return a network that ends at its features, with the maps it pools as further outputs.

    Args:
        model: A network with the layer `features`, or the lower part of one that is fine-tuned, which pools nothing.

    Returns:
        A model to a list: the features float32 [batch, width], then each map float32 [batch, rows, columns, channels].
    """
    import keras

    if all(layer.name != "features" for layer in model.layers):
        return keras.Model(model.input, [model.output], name=model.name)
    # A copy in float32: a map may also be an input of later layers, in place or in half precision. Its name is its own:
    # the model may have a layer with the name that Keras would choose.
    maps = [
        keras.layers.Activation("linear", dtype="float32", name=f"pooled_map_{number}")(values)
        for number, (values, _) in enumerate(tap_maps(model))
    ]
    return keras.Model(model.input, [model.get_layer("features").output, *maps], name=model.name)
