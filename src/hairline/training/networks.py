"""The Keras networks of a run, here or in a second process: what of training a head needs TensorFlow.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hairline.config import Runtime, arguments
from hairline.data import images
from hairline.model import engine, saved
from hairline.model.head import Linear
from hairline.model.saved import Bundle
from hairline.system import files, tensorflow
from hairline.system.worker import Local, Worker

if TYPE_CHECKING:
    import keras

    from hairline.model.structure import Block
    from hairline.training.start import Start

PARITY_LIMIT = 1e-4  # largest allowed difference of probabilities between the joined model and the feature path
PARITY_IMAGES = 16
_PARITY_BATCH = 4


class Networks:
    """Builds, converts, joins and saves; an object can be sent to another process before it is first used.

    Attributes:
        model: The joined model, after `join` has checked it.
    """

    model: keras.Model

    def __init__(
        self, build: Callable[[], keras.Model], devices: Literal["one", "all"], settings: dict[str, Any]
    ) -> None:
        """Import nothing yet.

        Args:
            build: Builds the backbone, from uint8 RGB to the layer `features`.
            devices: Whether one device or all GPUs hold it.
            settings: Keyword arguments of `tensorflow.prepare`.
        """
        self._build, self._devices, self._settings = build, devices, settings

    @functools.cached_property
    def backbone(self) -> keras.Model:
        """The backbone; `join` freezes its layers."""
        tensorflow.prepare(**self._settings)
        with tensorflow.quiet():  # without a GPU, TensorFlow prints an error when it looks for one
            strategy = tensorflow.strategy(self._devices)
        with strategy.scope():
            return self._build()

    def load(self) -> None:
        """Import TensorFlow and build the backbone."""
        _ = self.backbone

    def convert(self, key: str) -> Path:
        """Return the backbone's LiteRT file from the cache; it is converted where it is missing.

        Raises:
            ConversionError: If it does not convert.
        """
        return engine.convert(lambda: self.backbone, key)

    def join(
        self,
        head: Linear,
        *,
        temperature: float,
        paths: list[str],
        probabilities: np.ndarray,
        image_size: int,
        exact: bool,
    ) -> float:
        """Join backbone and head, and compare the result with the feature path on images.

        Args:
            head: The trained head.
            temperature: Folded into the last layer.
            paths: Image files, at most `PARITY_IMAGES`.
            probabilities: What the feature path returned for them, float32 [n, classes].
            image_size: Input side in pixels.
            exact: Raise where they differ; False for half precision.

        Returns:
            The largest difference of a probability.

        Raises:
            RuntimeError: If a probability differs by more than `PARITY_LIMIT`.
        """
        from hairline.model import structure
        from hairline.model.head import join_model

        self._trained = structure.trained_layers(self.backbone)  # before joining, which freezes all layers
        model = join_model(self.backbone, head, temperature)
        pixels = np.stack([images.decode_file(path, None, image_size) for path in paths])
        # Eager calls, as tracing the model takes longer, in small batches, as one on all takes more memory.
        batches = np.array_split(pixels, -(-len(pixels) // _PARITY_BATCH))
        computed = np.concatenate([np.asarray(model(batch, training=False)) for batch in batches])
        difference = float(np.abs(computed - probabilities).max())
        if exact and not difference <= PARITY_LIMIT:
            raise RuntimeError(
                f"the joined model's probabilities differ from the trained head's by {difference:.2g} on test images; "
                f"expected at most {PARITY_LIMIT:g}: the model was not saved"
            )
        self.model = model  # not before the check: `save` may already be waiting
        return difference

    def save(
        self,
        folder: Path,
        bundle: Bundle,
        statistics: dict[str, np.ndarray],
        engine: Literal["litert", "tensorflow"],
    ) -> list[Block]:
        """Save the joined model with its description; returns its structure. Arguments as for `saved.save_model`.

        Raises:
            AttributeError: If no model was joined, or the joined one did not pass the check.
        """
        from hairline.model import structure

        saved.save_model(folder, self.model, bundle, statistics, engine)
        files.write_text(folder / saved.SUMMARY, structure.describe(self.model, self._trained))
        return structure.blocks(self.model, self._trained)


@dataclass(frozen=True)
class Placed:
    """The networks of a run and where they live.

    Attributes:
        place: Calls their methods.
        local: The networks of this process; built on first use.
        converted: The converted backbone to come, where this process need not convert it.
    """

    place: Worker | Local
    local: Networks
    converted: Future[Path] | None


def begin(place: Worker | Local, start: Start, runtime: Runtime, seed: int) -> Placed:
    """Send the networks of a run to where they live.

    A second process builds them at once, and converts the backbone where neither a saved model nor the cache holds it.
    """
    settings = arguments(runtime, "devices", "compute", "ray")
    networks = Networks(start.builder, runtime.devices, settings | {"seed": seed})
    place.hold(networks)
    if start.converted is not None:
        known: Future[Path] = Future()
        known.set_result(start.converted)
        return Placed(place, networks, known)
    if isinstance(place, Local):
        return Placed(place, networks, None)
    key = start.recipe.model_key()
    if engine.converted_file(key).is_file():
        place.call("load")
        return Placed(place, networks, None)
    return Placed(place, networks, place.call("convert", key))
