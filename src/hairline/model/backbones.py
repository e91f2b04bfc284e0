"""Backbones: a table of what each network's weights expect, and the function that builds one.

Adding a network of `keras.applications` takes a row here and a file `conf/model/<name>.yaml`. The table is read
while the configuration is checked, so TensorFlow is imported only where a network is built.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from zipfile import BadZipFile

from hairline.config import unknown
from hairline.data import download
from hairline.system.errors import HairlineError

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

NAMED_WEIGHTS = ("auto", "imagenet", "synthetic", "random")
POOLINGS = ("max", "average")  # of a tap, `<layer>:<pooling>`

_APPLICATIONS = "https://storage.googleapis.com/tensorflow/keras-applications"
# An image of ImageNet's mean colour becomes 0 in every channel (mean and deviation of 0..1 RGB values).
_IMAGENET_MEAN, _IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class WeightsError(HairlineError):
    """Weights that cannot be had, or that belong to another network."""


class TapError(HairlineError):
    """A tap that names no layer."""


@dataclass(frozen=True)
class Backbone:
    """What the ImageNet weights of one network expect.

    Attributes:
        builder: Name in `keras.applications`.
        scaling: What becomes of 0..255 RGB before the first layer: `symmetric` = -1..1, `imagenet` = mean and
            deviation of ImageNet, `built-in` = the network scales by itself.
        width: Features after global average pooling.
        native_size: Pixels a side the weights were trained at.
        minimum_size: Smallest side the network takes.
        weights_url: Where Keras publishes the weights without the top; `{size}` where there is a file for each
            native size.
        licence: Of the published weights.
        random_taps: Taps that stand in for the last layer where weights are random: deep random layers lose the
            image, shallow ones still see edges.
        synthetic_weights: File in this package with the project's own weights, made by `tools/make_weights.py` from
            drawn patches alone; empty where there is none.
    """

    builder: str
    scaling: Literal["symmetric", "imagenet", "built-in"]
    width: int
    weights_url: str
    native_size: int = 224
    minimum_size: int = 32
    licence: str = "Apache-2.0"
    random_taps: tuple[str, ...] = ()
    synthetic_weights: str = ""

    def url(self, image_size: int) -> str:
        """Give the address of the weights made for images of `image_size`, or of the native size."""
        size = image_size if image_size in (96, 128, 160, 192, 224) else 224
        return self.weights_url.format(size=size)


BACKBONES: dict[str, Backbone] = {
    "mobilenet": Backbone("MobileNet", "symmetric", 1024, f"{_APPLICATIONS}/mobilenet/mobilenet_1_0_224_tf_no_top.h5"),
    "mobilenetv2": Backbone(
        "MobileNetV2",
        "symmetric",
        1280,
        f"{_APPLICATIONS}/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{{size}}_no_top.h5",
        # Generated patches, test accuracy: 0.80 with these taps, 0.54 with the last layer.
        random_taps=tuple(f"block_{number}_expand_relu:max" for number in (1, 2, 3, 6)),
        synthetic_weights="mobilenetv2_synthetic.npz",
    ),
    "mobilenetv3large": Backbone(
        "MobileNetV3Large",
        "built-in",
        960,
        f"{_APPLICATIONS}/mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
    ),
    "mobilenetv3small": Backbone(
        "MobileNetV3Small",
        "built-in",
        576,
        f"{_APPLICATIONS}/mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
    ),
    "efficientnetv2b0": Backbone(
        "EfficientNetV2B0", "built-in", 1280, f"{_APPLICATIONS}/efficientnet_v2/efficientnetv2-b0_notop.h5"
    ),
    "resnet50v2": Backbone(
        "ResNet50V2",
        "symmetric",
        2048,
        f"{_APPLICATIONS}/resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    "densenet121": Backbone(
        "DenseNet121",
        "imagenet",
        1024,
        f"{_APPLICATIONS}/densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        licence="BSD-3-Clause",
    ),
    "convnexttiny": Backbone(
        "ConvNeXtTiny", "built-in", 768, f"{_APPLICATIONS}/convnext/convnext_tiny_notop.h5", licence="MIT"
    ),
    "xception": Backbone(
        "Xception",
        "symmetric",
        2048,
        f"{_APPLICATIONS}/xception/xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
        native_size=299,
        minimum_size=71,
        licence="MIT",
    ),
}


def find_weights(name: str, weights: str, image_size: int) -> Path | None:
    """Give the weights file of a backbone, downloading it where that is asked for and can be done.

    Args:
        name: Row of `BACKBONES`.
        weights: `imagenet` (Keras's cache, else a download), `synthetic` (the project's own), `auto` (the first of
            ImageNet's, the project's own and random ones that can be had), `random` (None), or a file.
        image_size: Pixels a side.

    Returns:
        A weights file, or None for random weights.

    Raises:
        WeightsError: If `imagenet` cannot be had, or there is no `synthetic`.
    """
    if weights == "random":
        return None
    own = own_weights(name)
    if weights == "synthetic":
        if own is None:
            raise WeightsError(
                f"model.weights=synthetic: there are none for {name}; expected one of {', '.join(with_own_weights())}. "
                "Choose one of these for model, or model.weights=imagenet"
            )
        return own
    if weights not in NAMED_WEIGHTS:
        return Path(weights).expanduser()
    url = BACKBONES[name].url(image_size)
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    file = home / "models" / url.rpartition("/")[2]
    if file.is_file():
        return file
    try:
        # Bounded, as Keras's own download is not: 10 seconds without a byte end it, and so do 10 minutes in all.
        return download.fetch(url, file, stall_seconds=10, total_seconds=600, label=f"{name} weights")
    except (ValueError, OSError) as error:
        if weights == "imagenet":
            raise WeightsError(
                f"model.weights=imagenet: the weights of {name} are not here and cannot be downloaded: {error}\n"
                f"Fetch {url} on a machine with a network and put it into {file.parent}, give its path as "
                "model.weights=<file>, or set KERAS_HOME to the folder that holds models/"
            ) from error
        log.warning(
            "WARNING: no ImageNet weights for %s: %s\nGoing on with %s. For ImageNet weights put\n%s into %s",
            name,
            str(error).removeprefix(f"{url}: ").splitlines()[0],
            "RANDOM frozen features: expect a much lower accuracy"
            if own is None
            else "weights made from drawn patches alone (weights: synthetic): expect a lower accuracy",
            url,
            file.parent,
        )
        return own


def own_weights(name: str) -> Path | None:
    """Give the file of the project's own weights of a backbone; None where there is none."""
    file = BACKBONES[name].synthetic_weights
    return Path(__file__).with_name("weights") / file if file else None


def with_own_weights() -> list[str]:
    """Name the backbones with weights of the project's own."""
    return [name for name, row in BACKBONES.items() if row.synthetic_weights]


def build(name: str, *, image_size: int, weights: Path | None, seed: int = 0, taps: Sequence[str] = ()) -> keras.Model:
    """Build a frozen backbone from pixels to features, as one flat model.

    Args:
        name: Row of `BACKBONES`.
        image_size: Pixels a side.
        weights: A Keras weights file made for this network without its top; None for random weights.
        seed: Of the random weights.
        taps: Layers whose pooled outputs become the features, joined: `layer:max` or `layer:average`; none for the
            last layer's average, which is what transfer learning usually takes.

    Returns:
        A model from uint8 [batch, image_size, image_size, 3] RGB, scaling included, to float32 [batch, width]; its
        last layer is named `features`.

    Raises:
        WeightsError: If the file is damaged or belongs to another network.
        TapError: If a tap names no layer that can be pooled.
    """
    import keras

    row = BACKBONES[name]
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    settings = {"include_preprocessing": True} if row.scaling == "built-in" else {}
    network = getattr(keras.applications, row.builder)(
        include_top=False, weights=None, input_tensor=_scaled(pixels, row.scaling), **settings
    )
    try:
        if weights is not None:
            with warnings.catch_warnings():
                # Keras only warns when a file lacks a layer, and leaves that layer random.
                warnings.simplefilter("error", UserWarning)
                if weights.suffix == ".npz":
                    _load_arrays(network, weights)
                else:
                    network.load_weights(str(weights))
    except (ValueError, OSError, KeyError, UserWarning, BadZipFile) as error:
        raise WeightsError(
            f"{weights} cannot be loaded into {name}: {str(error).splitlines()[0]}\n"
            f"expected the weights of {row.builder} without its top, as published at {row.url(image_size)}"
        ) from error
    model = keras.Model(pixels, _pooled(network, taps), name=name)
    model.trainable = False
    return model


def _load_arrays(network: keras.Model, file: Path) -> None:
    """Fill a network from arrays named layer/variable, of any float type.

    Raises:
        ValueError: If the arrays are not exactly the network's.
    """
    import numpy as np

    with np.load(file, allow_pickle=False) as arrays:
        variables = {f"{layer.name}/{one.name}": one for layer in network.layers for one in layer.weights}
        if odd := sorted(variables.keys() ^ set(arrays.files)):
            raise ValueError(f"{odd[0]} is not in both")
        for name, variable in variables.items():
            variable.assign(arrays[name].astype(np.float32))


def _pooled(network: keras.Model, taps: Sequence[str]) -> keras.KerasTensor:
    import keras

    if not taps:
        return keras.layers.GlobalAveragePooling2D(name="features", dtype="float32")(network.output)
    layers = (keras.layers.GlobalMaxPooling2D, keras.layers.GlobalAveragePooling2D)
    pooling = dict(zip(POOLINGS, layers, strict=True))
    pooled = []
    for tap in taps:
        layer, _, kind = tap.partition(":")
        names = [entry.name for entry in network.layers if len(entry.output.shape) == 4]
        if layer not in names or kind not in pooling:
            near = difflib.get_close_matches(layer, names, n=3)
            raise TapError(
                f"model.taps: {tap!r} is no tap of {network.name}: expected <layer>:max or <layer>:average, with a "
                f"layer such as {', '.join(near or names[-3:])}"
            )
        last = {"name": "features"} if len(taps) == 1 else {}
        pooled.append(pooling[kind](dtype="float32", **last)(network.get_layer(layer).output))
    return pooled[0] if len(pooled) == 1 else keras.layers.Concatenate(name="features", dtype="float32")(pooled)


def origin(asked: str, weights: Path | None) -> str:
    """Say where weights come from: `imagenet`, `synthetic`, `random`, or the file the user named."""
    if weights is None:
        return "random"
    if weights.parent == Path(__file__).with_name("weights"):
        return "synthetic"
    return "imagenet" if asked in NAMED_WEIGHTS else str(weights)


def identify(weights: Path | None, seed: int) -> str:
    """Name weights by what they are: sixteen digits of a file's sha256, or the seed that random ones follow from."""
    if weights is None:
        # Another version of Keras may draw other numbers from the same seed.
        return f"random-{seed}-keras-{metadata.version('keras')}"
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _scaled(pixels: keras.KerasTensor, scaling: str) -> keras.KerasTensor:
    import keras

    if scaling == "symmetric":
        return keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="scaling")(pixels)
    if scaling == "imagenet":
        scale = [1 / (255 * deviation) for deviation in _IMAGENET_DEVIATION]
        offset = [-mean / deviation for mean, deviation in zip(_IMAGENET_MEAN, _IMAGENET_DEVIATION, strict=True)]
        return keras.layers.Rescaling(scale, offset=offset, name="scaling")(pixels)
    return keras.layers.Rescaling(1.0, name="scaling")(pixels)  # only turns uint8 into floats


def faults(backbone: str, *, weights: str, taps: Sequence[str], image_size: int) -> Iterator[str]:
    """Yield every fault of the settings of a backbone.

    Args:
        backbone: Name of the backbone.
        weights: `auto`, `imagenet`, `synthetic`, `random`, or a weights file.
        taps: `<layer>:<pooling>` each.
        image_size: Side of the input, pixels.
    """
    row = BACKBONES.get(backbone)
    if row is None:
        yield unknown("model.backbone", backbone, BACKBONES)
    elif image_size < row.minimum_size:
        yield (
            f"image_size={image_size}: {backbone} takes images of at least "
            f"{row.minimum_size} pixels; its weights were made at {row.native_size}"
        )
    for tap in taps:
        layer, _, pooling = tap.partition(":")
        if not layer or pooling not in POOLINGS:
            yield (
                f"model.taps: {tap!r} is no tap: expected <layer>:max or <layer>:average, such as "
                f"{layer or 'block_6_expand_relu'}:max"
            )
    if len(set(taps)) < len(taps):
        yield f"model.taps=[{','.join(taps)}]: a tap is named twice; leave one of them out"
    if row is not None and weights == "synthetic" and not row.synthetic_weights:
        own = ", ".join(with_own_weights())
        yield f"model.weights=synthetic: there are none for {backbone}; model={own} has them"
    if weights not in NAMED_WEIGHTS and not Path(weights).expanduser().is_file():
        yield (
            f"model.weights={weights!r}: neither {', '.join(NAMED_WEIGHTS)} nor a file that exists; "
            "give the path of a Keras weights file (.h5 or .weights.h5)"
        )
