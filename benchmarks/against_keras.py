"""The recipe as a plain Keras script against `train.py`: one JSON line, described in README.md.

The rivals run one after the other, each in a fresh process, on the same images, split and machine. They are timed from
the start of the process to a trained and evaluated model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import measure

KERAS = ("keras", "keras_plain", "keras_features")
HAIRLINE = {
    "hairline": ["augment=none"],
    "hairline_fresh": ["augment=light", "augment.mode=fresh"],
    "hairline_warm": ["augment=none"],
}
SIZE = 160
PREDICT_BATCH = 64  # Keras's forward pass is faster with 64 than with 512


def main() -> None:
    """Run the rivals and print their figures."""
    parser = measure.parser(__doc__)
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the recipe")
    parser.add_argument("--keras-epochs", type=int, default=1, help="epochs keras and keras_plain are timed for")
    parser.add_argument("--batch-size", type=int, default=512, help="images per step")
    parser.add_argument("--seed", type=int, default=0, help="seed of split and training")
    parser.add_argument("--only", nargs="+", choices=[*KERAS, *HAIRLINE], metavar="NAME", help="run only these rivals")
    parser.add_argument("--child", choices=KERAS, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.child:
        # Results go to a file because Keras prints its progress.
        measured = train_keras(settings.child, settings.images, settings.epochs, settings.batch_size, settings.seed)
        Path("metrics.json").write_text(json.dumps(measured), encoding="utf-8")
        return
    with measure.workplace() as place:
        measure.report(race(settings, place))


def race(settings: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Run the rivals one after the other and return their figures."""
    from scipy.stats import binomtest

    from hairline.model import backbones

    try:
        backbones.find_weights("mobilenetv2", "imagenet", SIZE)
    except backbones.WeightsError as error:
        sys.exit(f"both sides need the ImageNet weights: {error}")
    chosen = settings.only or [*KERAS, *HAIRLINE]
    if "hairline_warm" in chosen:
        chosen = [*chosen, "hairline"]  # it fills the cache
    folder = place / "images"
    counts = divide(settings.images, folder, settings.seed)
    epochs, timed = settings.epochs, min(settings.keras_epochs, settings.epochs)
    values: dict[str, Any] = {"images": sum(counts.values()), "split": counts, "seed": settings.seed}
    values |= {"epochs": epochs, "keras_epochs_timed": timed}
    for name in [name for name in (*KERAS, *HAIRLINE) if name in chosen]:
        directory = place / name
        if name in KERAS:
            command = [sys.executable, str(Path(__file__).resolve()), "--child", name, "--images", str(folder)]
            command += ["--epochs", str(epochs if name == "keras_features" else timed)]
            command += ["--batch-size", str(settings.batch_size), "--seed", str(settings.seed)]
            process = measure.run(command, directory)
            metrics = measure.results(directory)
            values[f"{name}_seconds"] = extrapolated(process.seconds, metrics["epoch_seconds"], epochs)
            values[f"{name}_epoch_seconds"] = metrics["epoch_seconds"][-1]
        else:
            overrides = [f"epochs={epochs}", f"batch_size={settings.batch_size}", f"seed={settings.seed}"]
            overrides += [*HAIRLINE[name], "tracking=none"]
            cache = place / ("cache_fresh" if name == "hairline_fresh" else "cache_views")
            process = measure.train(folder, overrides, directory, cache)
            metrics = measure.results(directory)
            values[f"{name}_seconds"] = process.seconds
            values[f"{name}_share_not_features"] = 1 - metrics["seconds_features"] / process.seconds
            if any(metrics[f"{split}_images"] != count for split, count in counts.items()):
                sys.exit(f"{name} split the images differently from {counts}: the rivals cannot be compared")
        right = round(metrics["test_accuracy"] * counts["test"])
        values[f"{name}_test_accuracy"] = metrics["test_accuracy"]
        values[f"{name}_test_accuracy_interval"] = list(binomtest(right, counts["test"]).proportion_ci(method="wilson"))
        values[f"{name}_peak_mb"] = process.peak_mb
    return values | speedups(values) | measure.machine()


def speedups(values: dict[str, Any]) -> dict[str, float]:
    """Return the ratios between rivals that ran."""
    pairs = {"cold": "hairline", "fresh": "hairline_fresh", "warm": "hairline_warm"}
    ratios = [(f"speedup_{key}", "keras", rival) for key, rival in pairs.items()]
    ratios += [(f"speedup_over_{name}", name, "hairline") for name in KERAS[1:]]
    known = [(key, values.get(f"{one}_seconds"), values.get(f"{two}_seconds")) for key, one, two in ratios]
    return {key: one / two for key, one, two in known if one and two}


def extrapolated(seconds: float, epoch_seconds: list[float], epochs: int) -> float:
    """Return the seconds for all epochs; each missing epoch takes as long as the last one."""
    return seconds + (epochs - len(epoch_seconds)) * epoch_seconds[-1]


def divide(images: Path, folder: Path, seed: int) -> dict[str, int]:
    """Split with hairline into folders train, val and test of links; return the number of images of each."""
    from hairline import config
    from hairline.data import manifest, sources, splits

    table, _ = manifest.scan(sources.from_folder(path=str(images)))
    chosen = config.Split()
    shares = config.arguments(chosen, *chosen.grouping(), "given")
    table = splits.split(splits.group(table, **chosen.grouping()), **shares, seed=seed)
    for number, row in enumerate(table.itertuples()):
        source = Path(row.path)
        if source.suffix.lower() not in (".jpg", ".jpeg", ".png", ".bmp"):
            sys.exit(f"{source}: Keras cannot read {source.suffix} files; expected a folder of JPEG, PNG or BMP images")
        target = folder / row.split / row.label / f"{number:06d}{source.suffix.lower()}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
    return {name: int((table["split"] == name).sum()) for name in manifest.SPLITS}


def train_keras(name: str, folder: Path, epochs: int, batch_size: int, seed: int) -> dict[str, Any]:
    """Train with plain Keras: the model and input pipeline of the transfer learning tutorials.

    Args:
        name: `keras` with augmentation layers, `keras_plain` without; `keras_features` computes the frozen features of
            all images once, then trains the head on the arrays.
        folder: Parent of the folders train, val and test.
        epochs: Number of epochs.
        batch_size: Images a step.
        seed: Seed of shuffling, augmentation and initial weights.

    Returns:
        Test accuracy, and the seconds of each epoch with its validation.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import numpy as np
    import tensorflow as tf
    from keras import layers

    def read(split: str) -> tuple[tf.data.Dataset] | tuple[np.ndarray, np.ndarray]:
        dataset = keras.utils.image_dataset_from_directory(
            folder / split,
            image_size=(SIZE, SIZE),
            batch_size=PREDICT_BATCH if name == "keras_features" else batch_size,
            shuffle=split == "train" and name != "keras_features",
            seed=seed,
        )
        if name != "keras_features":
            return (dataset.prefetch(tf.data.AUTOTUNE),)
        labels = [dataset.class_names.index(Path(path).parent.name) for path in dataset.file_paths]
        return extractor.predict(dataset.prefetch(tf.data.AUTOTUNE), verbose=2), np.array(labels)

    starts: list[float] = []
    seconds: list[float] = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: starts.append(time.perf_counter()),
        on_epoch_end=lambda epoch, logs: seconds.append(time.perf_counter() - starts[-1]),
    )
    keras.utils.set_random_seed(seed)
    base = keras.applications.MobileNetV2(input_shape=(SIZE, SIZE, 3), include_top=False, weights="imagenet")
    base.trainable = False
    images = keras.Input((SIZE, SIZE, 3))
    hidden = images
    if name == "keras":
        hidden = layers.RandomRotation(0.2)(layers.RandomFlip("horizontal")(hidden))
    hidden = base(keras.applications.mobilenet_v2.preprocess_input(hidden), training=False)
    hidden = layers.GlobalAveragePooling2D()(hidden)
    extractor = keras.Model(images, hidden)
    train, val, test = read("train"), read("val"), read("test")
    inputs = images
    if name == "keras_features":
        inputs = hidden = keras.Input(hidden.shape[1:])
    classes = sum(entry.is_dir() for entry in (folder / "train").iterdir())
    model = keras.Model(inputs, layers.Dense(classes, activation="softmax")(layers.Dropout(0.2)(hidden)))
    model.compile(keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    arrays = {"batch_size": batch_size} if name == "keras_features" else {}
    model.fit(*train, **arrays, validation_data=val, epochs=epochs, callbacks=[clock], verbose=2)
    accuracy = model.evaluate(*test, verbose=2, return_dict=True)["accuracy"]
    return {"test_accuracy": accuracy, "epoch_seconds": seconds}


if __name__ == "__main__":
    main()
