"""The table of backbones, their weights, and the function that builds one.

To add a network of `keras.applications`, add a row here and a file `conf/model/<name>.yaml`. The configuration checks
read this table, so TensorFlow is imported only when a network is built.
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
from typing import TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile

from hairline.config import unknown
from hairline.data import download
from hairline.system import files
from hairline.system.errors import HairlineError

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

NAMED_WEIGHTS = ("auto", "imagenet", "synthetic", "random")
POOLINGS = ("max", "average")  # in a tap, `<layer>:<pooling>`

_WEIGHTS = Path(__file__).with_name("weights")
_APPLICATIONS = "https://storage.googleapis.com/tensorflow/keras-applications"
# Mean and standard deviation of ImageNet's RGB values, scaled to 0..1.
_IMAGENET_MEAN, _IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class WeightsError(HairlineError):
    """The weights are unavailable, damaged, or belong to another network."""


class TapError(HairlineError):
    """A tap does not name a layer that can be pooled."""


@dataclass(frozen=True)
class Backbone:
    """A network and what its ImageNet weights expect.

    Attributes:
        builder: Name in `keras.applications`.
        scaling: How 0..255 RGB is scaled before the first layer: `symmetric` to -1..1, `imagenet` by ImageNet's mean
            and deviation, `built-in` inside the network.
        width: Number of features after global average pooling.
        weights_url: Where Keras publishes the weights without the top; `{size}` if each input size has its own file.
        digest: SHA-256 or MD5 of the weights file as `keras.applications` (3.15) names it; empty where it names none.
        native_size: Input side in pixels at which the weights were trained.
        minimum_size: Smallest input side in pixels.
        licence: Licence of the published weights.
        random_taps: Default taps for random weights: deep random layers lose the image, shallow ones still respond to
            edges.
        synthetic_weights: File in this package with weights trained on synthetic patches by `tools/make_weights.py`;
            empty if there are none.
    """

    builder: str
    scaling: Literal["symmetric", "imagenet", "built-in"]
    width: int
    weights_url: str
    digest: str = ""
    native_size: int = 224
    minimum_size: int = 32
    licence: str = "Apache-2.0"
    random_taps: tuple[str, ...] = ()
    synthetic_weights: str = ""

    def url(self, image_size: int) -> str:
        """Return the address of the weights for `image_size`, or for 224 pixels if that size has none."""
        return self.weights_url.format(size=image_size if image_size in (96, 128, 160, 192, 224) else 224)


BACKBONES: dict[str, Backbone] = {
    "mobilenet": Backbone("MobileNet", "symmetric", 1024, f"{_APPLICATIONS}/mobilenet/mobilenet_1_0_224_tf_no_top.h5"),
    "mobilenetv2": Backbone(
        "MobileNetV2",
        "symmetric",
        1280,
        f"{_APPLICATIONS}/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{{size}}_no_top.h5",
        # Test accuracy on synthetic patches: 0.80 with these taps, 0.54 with the last layer.
        random_taps=tuple(f"block_{number}_expand_relu:max" for number in (1, 2, 3, 6)),
        synthetic_weights="mobilenetv2_synthetic.npz",
    ),
    "mobilenetv3large": Backbone(
        "MobileNetV3Large",
        "built-in",
        960,
        f"{_APPLICATIONS}/mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        digest="07fb09a5933dd0c8eaafa16978110389",
    ),
    "mobilenetv3small": Backbone(
        "MobileNetV3Small",
        "built-in",
        576,
        f"{_APPLICATIONS}/mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
        digest="d3e8ec802a04aa4fc771ee12a9a9b836",
    ),
    "efficientnetv2b0": Backbone(
        "EfficientNetV2B0",
        "built-in",
        1280,
        f"{_APPLICATIONS}/efficientnet_v2/efficientnetv2-b0_notop.h5",
        digest="893217f2bb855e2983157299931e43ff",
    ),
    "resnet50v2": Backbone(
        "ResNet50V2",
        "symmetric",
        2048,
        f"{_APPLICATIONS}/resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        digest="fac2f116257151a9d068a22e544a4917",
    ),
    "densenet121": Backbone(
        "DenseNet121",
        "imagenet",
        1024,
        f"{_APPLICATIONS}/densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        digest="30ee3e1110167f948a6b9946edeeb738",
        licence="BSD-3-Clause",
    ),
    "convnexttiny": Backbone(
        "ConvNeXtTiny",
        "built-in",
        768,
        f"{_APPLICATIONS}/convnext/convnext_tiny_notop.h5",
        digest="d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
        licence="MIT",
    ),
    "xception": Backbone(
        "Xception",
        "symmetric",
        2048,
        f"{_APPLICATIONS}/xception/xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
        digest="b0042744bf5b25fce3cb969f33bebb97",
        native_size=299,
        minimum_size=71,
        licence="MIT",
    ),
}


SYNTHETIC = [name for name, row in BACKBONES.items() if row.synthetic_weights]  # backbones with built-in weights


def needs_download(name: str, weights: str, image_size: int) -> bool:
    """Return whether `find_weights` with the same arguments would download a file."""
    if weights not in ("auto", "imagenet"):
        return False
    file = _cached_weights(name, image_size)
    return not file.is_file() or file_fault(file, BACKBONES[name].digest) is not None


def _cached_weights(name: str, image_size: int) -> Path:
    """Return the place of ImageNet weights in Keras's cache."""
    home = Path(os.environ.get("KERAS_HOME") or Path(os.path.expanduser("~"), ".keras"))  # as Keras finds it
    return home / "models" / BACKBONES[name].url(image_size).rpartition("/")[2]


def find_weights(name: str, weights: str, image_size: int) -> Path | None:
    """Return the weights file of a backbone, downloading it if necessary.

    Args:
        name: Key of `BACKBONES`.
        weights: `imagenet` (Keras's cache, else a download), `synthetic` (built in), `auto` (the first available of
            ImageNet, synthetic and random weights), `random`, or a file.
        image_size: Input side in pixels.

    Returns:
        A weights file, or None for random weights.

    Raises:
        WeightsError: If `imagenet` weights cannot be downloaded, or `synthetic` ones do not exist. A damaged file in
            Keras's cache is deleted and downloaded again.
    """
    if weights == "random":
        return None
    synthetic = synthetic_weights(name)
    if weights == "synthetic":
        if synthetic is None:
            raise WeightsError(_no_synthetic_weights(name))
        return synthetic
    if weights not in NAMED_WEIGHTS:
        return Path(weights).expanduser()
    url, file = BACKBONES[name].url(image_size), _cached_weights(name, image_size)
    digest = BACKBONES[name].digest
    try:
        if file.is_file():
            fault = file_fault(file, digest)
            if fault is None:
                return file
            log.warning("WARNING: %s is %s: deleting it and downloading it again", file, fault)
            file.unlink()
        # Keras's own download has no timeout. This one ends after 10 seconds without data, or after 10 minutes
        # (checked at each 64 KB). The name lookup is not bounded.
        download.fetch(url, file, stall_seconds=10, total_seconds=600, label=f"{name} weights")
        if fault := file_fault(file, digest):
            file.unlink()
            raise WeightsError(f"{url}: what arrived is {fault}; is a proxy or a login page in between?")
        return file
    except (ValueError, OSError) as error:
        if weights == "imagenet":
            raise WeightsError(
                f"model.weights=imagenet: the weights of {name} are not cached and cannot be downloaded: {error}\n"
                f"Download {url} on a machine with a network and put it into {file.parent}, give its path as "
                "model.weights=<file>, or set KERAS_HOME to the folder that holds models/"
            ) from error
        log.warning(
            "WARNING: no ImageNet weights for %s: %s\nFalling back to %s. For ImageNet weights put\n%s into %s",
            name,
            str(error).removeprefix(f"{url}: ").splitlines()[0],
            "RANDOM frozen features: expect a much lower accuracy"
            if synthetic is None
            else "the built-in weights (weights: synthetic, trained on synthetic patches): expect a lower accuracy",
            url,
            file.parent,
        )
        return synthetic


def file_fault(file: Path, digest: str = "") -> str | None:
    """Return what a weights file is instead of complete weights; None if it is complete.

    Args:
        file: HDF5 file, which holds its own size.
        digest: Expected SHA-256 or MD5 in hexadecimal; empty accepts any content.
    """
    import h5py

    with file.open("rb") as opened:
        start = opened.read(512)
        opened.seek(0)
        if b"<html" in start.lower() or start.lstrip().lower().startswith(b"<!doctype"):
            return "an HTML page"
        if digest:
            found = hashlib.file_digest(opened, "sha256" if len(digest) == 64 else "md5")
    try:
        h5py.File(file, "r").close()  # compares the size too
    except OSError as error:
        return f"damaged or incomplete ({str(error).splitlines()[0]})"
    if digest and found.hexdigest() != digest:
        return f"another file than Keras's ({found.name} {found.hexdigest()[:16]}..., expected {digest[:16]}...)"
    return None


def synthetic_weights(name: str) -> Path | None:
    """Return the file of a backbone's built-in weights; None if there are none."""
    file = BACKBONES[name].synthetic_weights
    return _WEIGHTS / file if file else None


def _no_synthetic_weights(name: str) -> str:
    return (
        f"model.weights=synthetic: {name} has no built-in weights; use model={' or '.join(SYNTHETIC)}, or "
        "model.weights=imagenet"
    )


def build(name: str, *, image_size: int, weights: Path | None, seed: int = 0, taps: Sequence[str] = ()) -> keras.Model:
    """Build a frozen backbone from pixels to features, as one flat model.

    Args:
        name: Key of `BACKBONES`.
        image_size: Input side in pixels.
        weights: A Keras weights file for this network without its top; None for random weights.
        seed: Seed of the random weights.
        taps: Layers whose pooled outputs are concatenated: `layer:max` or `layer:average`. Default: global average
            pooling of the last layer.

    Returns:
        A model from uint8 [batch, image_size, image_size, 3] RGB, scaling included, to float32 [batch, width]; its
        last layer is named `features`.

    Raises:
        WeightsError: If the file is damaged or belongs to another network.
        TapError: If a tap does not name a layer that can be pooled.
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
                # Keras only warns if a layer is missing in the file, and leaves it random.
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
    """Set a network's weights from arrays named layer/variable, of any float type.

    Raises:
        ValueError: If the names are not exactly those of the network.
    """
    import numpy as np

    with np.load(file, allow_pickle=False) as arrays:
        variables = {
            f"{layer.name}/{variable.name}": variable for layer in network.layers for variable in layer.weights
        }
        if unmatched := sorted(variables.keys() ^ set(arrays.files)):
            raise ValueError(f"{unmatched[0]} is missing in the file or in the network")
        for name, variable in variables.items():
            variable.assign(arrays[name].astype(np.float32))


def _pooled(network: keras.Model, taps: Sequence[str]) -> keras.KerasTensor:
    import keras

    if not taps:
        return keras.layers.GlobalAveragePooling2D(name="features", dtype="float32")(network.output)
    layers = (keras.layers.GlobalMaxPooling2D, keras.layers.GlobalAveragePooling2D)
    pooling_layers = dict(zip(POOLINGS, layers, strict=True))
    names = [entry.name for entry in network.layers if len(entry.output.shape) == 4]
    pooled = []
    for tap in taps:
        layer, _, pooling = tap.partition(":")
        if layer not in names or pooling not in pooling_layers:
            raise TapError(_bad_tap(tap, difflib.get_close_matches(layer, names, n=3) or names[-3:]))
        last = {"name": "features"} if len(taps) == 1 else {}
        pooled.append(pooling_layers[pooling](dtype="float32", **last)(network.get_layer(layer).output))
    return pooled[0] if len(pooled) == 1 else keras.layers.Concatenate(name="features", dtype="float32")(pooled)


def origin(setting: str, weights: Path | None) -> str:
    """Return where weights come from: `imagenet`, `synthetic`, `random`, or the user's file.

    Args:
        setting: Value of `model.weights`.
        weights: What `find_weights` returned for it.
    """
    if weights is None:
        return "random"
    if weights.parent == _WEIGHTS:
        return "synthetic"
    return "imagenet" if setting in NAMED_WEIGHTS else str(weights)


def identify(weights: Path | None, seed: int) -> str:
    """Return an identifier of weights: 16 digits of the file's sha256, or the seed of random weights."""
    if weights is None:
        # Another version of Keras may draw other numbers from the same seed.
        return f"random-{seed}-keras-{metadata.version('keras')}"
    return files.sha256(weights)[:16]


def scaling(name: str) -> str:
    """Return how a backbone's pixels are scaled before its first layer, with the numbers, as a text for cache keys."""
    kind = BACKBONES[name].scaling
    return f"{kind} {_rescaling(kind)}"


def _rescaling(kind: str) -> dict[str, Any]:
    """Return the arguments of the layer that scales 0..255 RGB."""
    if kind == "symmetric":
        return {"scale": 1 / 127.5, "offset": -1.0}
    if kind == "imagenet":
        return {
            "scale": [1 / (255 * deviation) for deviation in _IMAGENET_DEVIATION],
            "offset": [-mean / deviation for mean, deviation in zip(_IMAGENET_MEAN, _IMAGENET_DEVIATION, strict=True)],
        }
    return {"scale": 1.0}  # only turns uint8 into floats


def _scaled(pixels: keras.KerasTensor, kind: str) -> keras.KerasTensor:
    import keras

    return keras.layers.Rescaling(**_rescaling(kind), name="scaling")(pixels)


def faults(backbone: str, *, weights: str, taps: Sequence[str], image_size: int) -> Iterator[str]:
    """Yield a message for each invalid backbone setting.

    Args:
        backbone: Value of `model.backbone`.
        weights: Value of `model.weights`.
        taps: Value of `model.taps`.
        image_size: Input side in pixels.
    """
    row = BACKBONES.get(backbone)
    if row is None:
        yield unknown("model.backbone", backbone, BACKBONES)
    elif image_size < row.minimum_size:
        yield (
            f"image_size={image_size}: {backbone} needs images of at least {row.minimum_size} pixels; its weights were "
            f"trained at {row.native_size}"
        )
    for tap in taps:
        layer, _, pooling = tap.partition(":")
        if not layer or pooling not in POOLINGS:
            yield _bad_tap(tap, [layer or "block_6_expand_relu"])
    if len(set(taps)) < len(taps):
        yield f"model.taps=[{','.join(taps)}]: a tap occurs twice; remove one of them"
    if row is not None and weights == "synthetic" and not row.synthetic_weights:
        yield _no_synthetic_weights(backbone)
    if weights not in NAMED_WEIGHTS and not Path(weights).expanduser().is_file():
        yield (
            f"model.weights={weights!r}: expected {', '.join(NAMED_WEIGHTS)}, or the path of a Keras weights file "
            "(.h5 or .weights.h5) that exists"
        )


def _bad_tap(tap: str, layers: Sequence[str]) -> str:
    examples = ", ".join(f"{layer}:max" for layer in layers)
    return f"model.taps: {tap!r} is not a tap; expected <layer>:max or <layer>:average, for example {examples}"
