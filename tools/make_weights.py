"""Train the built-in weights of MobileNetV2 on synthetic patches, without any photo.

    python tools/make_weights.py --work <folder>      # stop it at any time: the same command resumes
    python tools/make_weights.py --work <folder> --export src/hairline/model/weights/mobilenetv2_synthetic.npz

The network predicts which cells of 8, 16 and 32 pixels contain a crack and, for the whole patch, whether there is one,
its share, width and direction, the surface, the look-alikes, blur and brightness. Many targets keep the features rich.
The exported weights are an exponential moving average; the batch normalisation statistics are recomputed with them at
the size of use.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hairline.data.synthetic import invent
from hairline.data.synthetic.lookalikes import WALL_LOOK_ALIKES

SEED = 20
DRAWN_PX, SHELF, CHUNK = 144, 4096, 256  # size of a scene, buffered scenes, scenes per chunk
USES = 3  # how often a scene is used, each time another crop and rotation
BATCH = 48
STAGES = ((96, 30_000, 2e-3), (128, 2_000, 4e-4))  # side in pixels, images, highest learning rate
WARM_UP = 3_000  # images in the warm-up
AVERAGE = 0.998  # decay of the weights' moving average, per step
CELLS = {"block_6_expand_relu": 8, "block_13_expand_relu": 16, "out_relu": 32}
LOOK_ALIKES = (*(part.__name__ for part in WALL_LOOK_ALIKES), "spall")
KNOWN = 8 + len(LOOK_ALIKES)
NORMALISED_PX, NORMALISED_BATCHES = 160, 24


@dataclass
class Drawn:
    """Scenes: uint8 images [n, side, side, 3], bool masks [n, side, side] and other labels, float32 [n, 16]."""

    images: np.ndarray
    masks: np.ndarray
    known: np.ndarray


def draw_chunk(first: int, count: int = CHUNK, side: int = DRAWN_PX) -> Drawn:
    """Draw scenes from number `first`; every other one has a crack, and half of these have a twin without."""
    scenes = []
    for number in range(first, first + count):
        twin = number % 4 < 2  # twins differ only in the crack
        scenes.append(
            invent(seed=(SEED, number // 2 if twin else number, int(twin)), size=side, cracked=number % 2 == 0)
        )
    known = [
        [
            math.log(max(s.width_px, 0.5)),
            s.surface == "asphalt",
            s.blur_px,
            *(name in s.look_alikes for name in LOOK_ALIKES),
        ]
        for s in scenes
    ]
    return Drawn(
        np.stack([s.image for s in scenes]), np.stack([s.mask for s in scenes]), np.array(known, dtype=np.float32)
    )


class Shelf:
    """A buffer of recent scenes; another process draws the next chunk."""

    def __init__(self, state: dict[str, int]) -> None:
        """Start drawing at `state`, which is updated in place."""
        self._state = state
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        self._chunks: list[Drawn] = []
        self._next: Future[Drawn] = self._pool.submit(draw_chunk, state["scene"])

    def part(self, rng: np.random.Generator, side: int) -> Drawn:
        """Return a batch of rotated crops of scenes, and replace the oldest chunk from time to time."""
        if not self._chunks or self._state["shown"] >= CHUNK * USES:
            self._chunks = [*self._chunks[-(SHELF // CHUNK - 1) :], self._next.result()]
            self._state["scene"] += CHUNK
            self._state["shown"] = 0
            self._next = self._pool.submit(draw_chunk, self._state["scene"])
        self._state["shown"] += BATCH
        images = np.empty((BATCH, side, side, 3), np.uint8)
        masks = np.empty((BATCH, side, side), bool)
        known = np.empty((BATCH, self._chunks[0].known.shape[1]), np.float32)
        for place in range(BATCH):
            chunk = self._chunks[rng.integers(len(self._chunks))]
            part = round(DRAWN_PX * math.exp(rng.uniform(math.log(0.3), 0)))  # enlarged or reduced
            row, top, left, turns = rng.integers(CHUNK), *rng.integers(0, DRAWN_PX - part + 1, 2), rng.integers(8)
            cut = np.s_[row, top : top + part, left : left + part]
            image, mask = _resized(chunk.images[cut], side), _resized(chunk.masks[cut], side)
            image, mask = np.rot90(image, turns % 4), np.rot90(mask, turns % 4)
            images[place], masks[place] = (image, mask) if turns < 4 else (image[:, ::-1], mask[:, ::-1])
            known[place] = chunk.known[row]
            known[place, 0] += math.log(side / part)
        return Drawn(images, masks, known)


def _resized(array: np.ndarray, side: int) -> np.ndarray:
    """Resize an image or a mask to a square."""
    pixels = array if array.dtype == np.uint8 else array * np.uint8(255)
    resized = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
    return resized if array.dtype == np.uint8 else resized > 60  # keeps lines of one pixel


def targets(batch: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """Return the targets and their weights, float32 [n, KNOWN]; the weight 0 excludes a target from the loss."""
    side = batch.masks.shape[1]
    pixels = batch.masks.sum((1, 2)).astype(np.float32)
    cracked = pixels >= 8
    grey = batch.images.mean(3, dtype=np.float32).reshape(len(batch.images), -1) / 255
    doubled = np.zeros((len(pixels), 2), np.float32)  # twice the angle: a line has no sign
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).astype(np.float32)
    for row in np.flatnonzero(cracked):
        points = grid[batch.masks[row]]
        (across, slant), (_, down) = np.cov(points.T)
        doubled[row] = np.array([across - down, 2 * slant]) / max(1.0, across + down)
    truth = np.concatenate(
        [
            cracked[:, None],
            np.log1p(100 * pixels / side**2)[:, None],
            doubled,
            batch.known[:, :3],
            ((grey.mean(1) - 0.5) * 4)[:, None],
            batch.known[:, 3:],
        ],
        axis=1,
    ).astype(np.float32)
    weight = np.ones_like(truth)
    weight[:, 2:5] = cracked[:, None]
    weight[(pixels > 0) & ~cracked, 0] = 0
    return truth, weight


def build() -> Any:
    """Build the network and the model with its heads, for float32 pixels from -1 to 1 of any size."""
    import keras

    network = keras.applications.MobileNetV2(input_shape=(None, None, 3), include_top=False, weights=None)
    last = network.get_layer("out_relu").output
    pooled = keras.layers.GlobalAveragePooling2D()(last)
    cells = [
        keras.layers.Conv2D(1, 1, name=f"cells_{side}")(network.get_layer(name).output) for name, side in CELLS.items()
    ]
    truth = keras.layers.Dense(KNOWN, name="truth")(pooled)
    return network, keras.Model(network.input, [truth, *cells])


def losses(outputs: Any, truth: Any, weight: Any, mask: Any) -> Any:
    """Return the sum of the losses: cross entropy for binary targets, squared error for the others."""
    import tensorflow as tf

    answer, cells = outputs[0], outputs[1:]
    yes = [0, 5, *range(8, KNOWN)]
    amount = [column for column in range(KNOWN) if column not in yes]
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(tf.gather(truth, yes, axis=1), tf.gather(answer, yes, axis=1))
    strength = tf.constant([4.0] + [0.5] * (len(yes) - 1))
    total = tf.reduce_mean(tf.reduce_sum(entropy * strength * tf.gather(weight, yes, axis=1), 1))
    squares = tf.square(tf.gather(truth - answer, amount, axis=1)) * tf.gather(weight, amount, axis=1)
    total += 0.5 * tf.reduce_mean(tf.reduce_sum(squares, 1))
    for logits, side in zip(cells, CELLS.values(), strict=True):
        present = tf.nn.max_pool2d(mask[..., None], side, side, "SAME")
        total += 3 * tf.reduce_mean(tf.nn.weighted_cross_entropy_with_logits(present, logits, 2.0))
    return total


def rate(shown: int) -> float:
    """Return the learning rate after `shown` images: warm-up, then a cosine decay in each stage."""
    start = 0
    for _, images, highest in STAGES:
        if shown < start + images:
            fall = 0.5 * (1 + math.cos(math.pi * (shown - start) / images))
            return highest * min(1.0, (shown + BATCH) / WARM_UP) * (0.1 + 0.9 * fall)
        start += images
    return 0.0


def side_at(shown: int) -> int | None:
    """Return the input size after `shown` images; None after the last stage."""
    for side, images, _ in STAGES:
        if shown < images:
            return side
        shown -= images
    return None


def train(work: Path, pause: Path | None, minutes: float) -> None:
    """Train or resume, and save the state every few minutes."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(SEED)
    network, model = build()
    optimizer = keras.optimizers.Adam(STAGES[0][2], global_clipnorm=5.0)
    optimizer.build(model.trainable_variables)
    average = [np.array(value) for value in network.get_weights()]
    state = {"shown_in_all": 0, "scene": 0, "shown": 0}
    file = work / "state.npz"
    if file.exists():
        with np.load(file, allow_pickle=False) as kept:
            for variable, number in zip([*model.variables, *optimizer.variables], range(10**6), strict=False):
                variable.assign(kept[f"v{number}"])
            average = [kept[f"a{number}"] for number in range(len(average))]
            state = json.loads(str(kept["state"]))
        state["scene"] = max(0, state["scene"] - SHELF // 4)  # redraw part of the buffer

    @tf.function(reduce_retracing=True)
    def step(pixels: Any, mask: Any, truth: Any, weight: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = losses(model(tf.cast(pixels, tf.float32) / 127.5 - 1, training=True), truth, weight, mask)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )
        return loss

    shelf, saved, recent = Shelf(state), time.time(), []
    while (side := side_at(state["shown_in_all"])) is not None:
        while pause is not None and pause.exists():
            time.sleep(1)
        batch = shelf.part(np.random.default_rng([SEED, state["shown_in_all"]]), side)
        optimizer.learning_rate.assign(rate(state["shown_in_all"]))
        recent.append(float(step(batch.images, batch.masks.astype(np.float32), *targets(batch))))
        state["shown_in_all"] += BATCH
        keep = min(AVERAGE, 1 - 10 / (10 + state["shown_in_all"] / BATCH))
        if (state["shown_in_all"] // BATCH) % 5 == 0:
            for held, value in zip(average, network.get_weights(), strict=True):
                held += (1 - keep**5) * (value - held)
        if time.time() - saved > 60 * minutes or side_at(state["shown_in_all"]) is None:
            arrays = {f"v{n}": v.numpy() for n, v in enumerate([*model.variables, *optimizer.variables])}
            arrays |= {f"a{n}": value for n, value in enumerate(average)}
            with (work / "state.part").open("wb") as target:
                np.savez(target, state=json.dumps(state), **arrays)
            (work / "state.part").replace(file)
            print(
                json.dumps({**state, "loss": float(np.mean(recent)), "minutes": (time.time() - saved) / 60}), flush=True
            )
            saved, recent = time.time(), []


def export(work: Path, target: Path) -> None:
    """Write the averaged weights in float16, with recomputed batch normalisation statistics.

    Arrays are named layer/variable.
    """
    import keras
    import tensorflow as tf

    network, _ = build()
    with np.load(work / "state.npz", allow_pickle=False) as kept:
        network.set_weights([kept[f"a{number}"] for number in range(len(network.get_weights()))])
    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for number, batch in enumerate(_calibration()):
        for layer in layers:
            layer.momentum = 1 - 1 / (number + 1)  # mean over all batches
        network(tf.cast(batch, tf.float32) / 127.5 - 1, training=True)
    arrays = {
        f"{layer.name}/{variable.name}": variable.numpy().astype(np.float16)
        for layer in network.layers
        for variable in layer.weights
    }
    if not all(np.isfinite(value).all() for value in arrays.values()):
        raise ValueError("a weight is out of range for float16")
    np.savez_compressed(target, **arrays)
    print(json.dumps({"weights": str(target), "megabytes": target.stat().st_size / 1e6}))


def _calibration() -> Iterator[np.ndarray]:
    for number in range(NORMALISED_BATCHES):
        yield draw_chunk(10**9 + number * 64, 64, NORMALISED_PX).images


def main() -> None:
    """Train or export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the training state")
    parser.add_argument("--export", type=Path, help="write the weights to this file instead of training")
    parser.add_argument("--pause", type=Path, help="training waits while this file exists")
    parser.add_argument("--minutes", type=float, default=3, help="minutes between two saves of the state")
    settings = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # end the drawing process as well
    settings.work.mkdir(parents=True, exist_ok=True)
    if settings.export:
        export(settings.work, settings.export)
    else:
        train(settings.work, settings.pause, settings.minutes)


if __name__ == "__main__":
    main()
