"""Backbones equal the networks of keras.applications, with their scaling, taps and weights."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hairline.data import download
from hairline.data.synthetic import invent
from hairline.model import backbones
from hairline.training import start
from tests.running import composed, slow

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
QUICK = ("mobilenetv2", "mobilenetv3small")


EVERY = pytest.mark.parametrize("name", [name if name in QUICK else slow(name) for name in backbones.BACKBONES])


@EVERY
def test_a_backbone_equals_its_network_in_keras(name: str) -> None:
    row = backbones.BACKBONES[name]
    model = backbones.build(name, image_size=96, weights=None, seed=0)
    assert model.input_shape == (None, 96, 96, 3)
    assert model.input.dtype == "uint8"
    assert model.output_shape == (None, row.width)
    assert model.layers[-1].name == "features"
    # Flat, except for ConvNeXt's down-sampling steps, which are Sequential in Keras.
    assert not any(isinstance(layer, keras.Model) and not isinstance(layer, keras.Sequential) for layer in model.layers)
    assert not model.trainable_variables

    network = getattr(keras.applications, row.builder)(include_top=False, weights=None, input_shape=(96, 96, 3))
    network.set_weights(model.get_weights())
    module = getattr(keras.applications, MODULES[name])
    # Average here: with pooling="avg", Keras's ConvNeXt normalises after pooling, otherwise before.
    expected = np.asarray(network(module.preprocess_input(PIXELS.astype(np.float32)), training=False)).mean(axis=(1, 2))
    features = np.asarray(model(PIXELS, training=False))
    np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())


MODULES = {
    "mobilenet": "mobilenet", "mobilenetv2": "mobilenet_v2", "mobilenetv3large": "mobilenet_v3",
    "mobilenetv3small": "mobilenet_v3", "efficientnetv2b0": "efficientnet_v2", "resnet50v2": "resnet_v2",
    "densenet121": "densenet", "convnexttiny": "convnext", "xception": "xception",
}  # fmt: skip


@pytest.fixture
def few_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """MobileNetV2 with few of its layers: building all of them takes seconds."""

    def build(include_top: bool, weights: None, input_tensor: keras.KerasTensor) -> keras.Model:
        hidden = input_tensor
        for number in range(12):
            hidden = keras.layers.Conv2D(6, 3, name=f"block_{number}_expand")(hidden)
            hidden = keras.layers.ReLU(name=f"block_{number}_expand_relu")(hidden)
        return keras.Model(keras.utils.get_source_inputs(input_tensor), hidden)

    monkeypatch.setattr(keras.applications, "MobileNetV2", build)


@pytest.mark.usefixtures("few_layers")
def test_taps_are_pooled_and_concatenated() -> None:
    taps = ("block_1_expand_relu:max", "block_3_expand_relu:average")
    model = backbones.build("mobilenetv2", image_size=96, weights=None, seed=0, taps=taps)
    whole = backbones.build("mobilenetv2", image_size=96, weights=None, seed=0)
    assert len(model.layers) < len(whole.layers) / 2  # layers above the last tap are cut off
    inner = keras.Model(whole.input, [whole.get_layer(tap.partition(":")[0]).output for tap in taps])
    one, two = (np.asarray(output) for output in inner(PIXELS, training=False))
    expected = np.concatenate([one.max(axis=(1, 2)), two.mean(axis=(1, 2))], axis=1)
    np.testing.assert_allclose(np.asarray(model(PIXELS, training=False)), expected, rtol=1e-5, atol=1e-6)
    single = backbones.build("mobilenetv2", image_size=96, weights=None, taps=taps[:1])
    assert (single.layers[-1].name, single.output_shape[1]) == ("features", one.shape[-1])


@pytest.mark.usefixtures("few_layers")
@pytest.mark.parametrize("tap", ["block_1_expand_rule:max", "block_1_expand_relu:median", "block_1_expand_relu"])
def test_an_unknown_tap_is_an_error_with_the_closest_names(tap: str) -> None:
    with pytest.raises(backbones.TapError, match="for example block_1_expand_relu:max"):
        backbones.build("mobilenetv2", image_size=96, weights=None, taps=[tap])


@pytest.mark.parametrize("name", [name for name, row in backbones.BACKBONES.items() if row.random_taps])
def test_random_taps_exist(name: str) -> None:
    row = backbones.BACKBONES[name]
    assert backbones.build(name, image_size=64, weights=None, taps=row.random_taps).layers[-1].name == "features"


def digest(model: keras.Model) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in model.get_weights())).hexdigest()


@pytest.mark.usefixtures("few_layers")
def test_random_weights_depend_on_the_seed() -> None:
    built = (backbones.build("mobilenetv2", image_size=32, weights=None, seed=seed) for seed in (0, 0, 1))
    digests = [digest(model) for model in built]
    assert digests[0] == digests[1] != digests[2]
    assert backbones.identify(None, 0) != backbones.identify(None, 1)


@pytest.mark.usefixtures("few_layers")
def test_arrays_of_another_network_are_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", **{"Conv1/kernel": np.zeros((3, 3, 3, 32), np.float16)})
    with pytest.raises(backbones.WeightsError, match="cannot be loaded into mobilenetv2"):
        backbones.build("mobilenetv2", image_size=96, weights=tmp_path / "odd.npz")


@pytest.mark.slow
def test_a_weights_file_is_loaded_and_a_wrong_one_is_an_error(tmp_path: Path) -> None:
    model = backbones.build("mobilenetv3small", image_size=32, weights=None, seed=3)
    model.save_weights(tmp_path / "own.weights.h5")
    again = backbones.build("mobilenetv3small", image_size=32, weights=tmp_path / "own.weights.h5", seed=0)
    assert digest(again) == digest(model)
    with pytest.raises(backbones.WeightsError, match="cannot be loaded into mobilenetv2"):
        backbones.build("mobilenetv2", image_size=32, weights=tmp_path / "own.weights.h5")
    (tmp_path / "text.h5").write_text("not weights")
    with pytest.raises(backbones.WeightsError, match="without its top"):
        backbones.build("mobilenetv2", image_size=32, weights=tmp_path / "text.h5")


def test_weights_in_the_keras_cache_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    file = tmp_path / "models" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_160_no_top.h5"
    file.parent.mkdir()
    h5py.File(file, "w").close()
    assert backbones.find_weights("mobilenetv2", "auto", 160) == file
    assert backbones.find_weights("mobilenetv2", "imagenet", 160) == file
    assert backbones.find_weights("mobilenetv2", "random", 160) is None
    assert backbones.find_weights("mobilenetv2", str(file), 160) == file
    assert backbones.BACKBONES["mobilenetv2"].url(161).endswith("_1.0_224_no_top.h5")  # not a native size


PAGE = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"


@pytest.mark.parametrize("fault", ["page", "cut", "empty", "other"])
def test_a_damaged_file_in_the_keras_cache_is_deleted_and_downloaded_again(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with h5py.File(tmp_path / "good.h5", "w") as created:
        created["kernel"] = np.arange(1000.0)
    good = (tmp_path / "good.h5").read_bytes()
    row = dataclasses.replace(backbones.BACKBONES["resnet50v2"], digest=hashlib.md5(good).hexdigest())
    monkeypatch.setitem(backbones.BACKBONES, "resnet50v2", row)
    file = tmp_path / "models" / "resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5"
    file.parent.mkdir()
    other = good[:-4] + b"abcd"
    file.write_bytes({"page": PAGE, "cut": good[:-100], "empty": b"", "other": other}[fault])
    monkeypatch.setattr(download, "fetch", lambda url, target, **_: target.write_bytes(good))
    assert backbones.find_weights("resnet50v2", "auto", 160) == file
    assert file.read_bytes() == good
    said = {"page": "an HTML page", "other": "another file than Keras's"}.get(fault, "damaged or incomplete")
    assert f"{file} is {said}" in caplog.text
    assert "deleting it and downloading it again" in caplog.text
    # A download that is no better is deleted as well, and not used.
    file.write_bytes(PAGE)
    monkeypatch.setattr(download, "fetch", lambda url, target, **_: target.write_bytes(PAGE))
    with pytest.raises(backbones.WeightsError, match="what arrived is an HTML page"):
        backbones.find_weights("resnet50v2", "imagenet", 160)
    assert not file.exists()


@EVERY
def test_digests_are_those_that_keras_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row, asked = backbones.BACKBONES[name], {}

    def get_file(file: str, origin: str, **settings: object) -> str:
        asked.update(origin=origin, digest=settings.get("file_hash") or "")
        raise ConnectionError

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    with pytest.raises(ConnectionError):
        getattr(keras.applications, row.builder)(include_top=False, weights="imagenet", input_shape=(224, 224, 3))
    assert asked == {"origin": row.url(224), "digest": row.digest}


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty Keras cache, and downloads that fail."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def refused(*args: object, **kwargs: object) -> Path:
        raise download.DownloadError("cannot be reached: no route to host")

    monkeypatch.setattr(download, "fetch", refused)


@pytest.mark.usefixtures("no_network")
def test_without_network_auto_falls_back_to_random_weights_and_imagenet_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert backbones.find_weights("mobilenetv3small", "auto", 160) is None
    assert "RANDOM frozen features" in caplog.text
    with pytest.raises(backbones.WeightsError, match=r"put it into .*models.*KERAS_HOME"):
        backbones.find_weights("mobilenetv2", "imagenet", 160)


@pytest.mark.usefixtures("no_network")
def test_without_network_auto_falls_back_to_synthetic_weights(caplog: pytest.LogCaptureFixture) -> None:
    weights = backbones.find_weights("mobilenetv2", "auto", 160)
    assert (
        weights == backbones.find_weights("mobilenetv2", "synthetic", 160) == backbones.synthetic_weights("mobilenetv2")
    )
    assert "weights: synthetic" in caplog.text
    assert "RANDOM" not in caplog.text
    assert backbones.origin("auto", weights) == backbones.origin("synthetic", weights) == "synthetic"
    with pytest.raises(backbones.WeightsError, match="resnet50v2 has no built-in weights; use model=mobilenetv2"):
        backbones.find_weights("resnet50v2", "synthetic", 160)


@pytest.mark.parametrize("name", backbones.SYNTHETIC)
def test_synthetic_weights_are_small_and_finite(name: str) -> None:
    file = backbones.synthetic_weights(name)
    assert file is not None
    assert file.stat().st_size <= 5e6
    with np.load(file, allow_pickle=False) as arrays:
        assert all(arrays[key].dtype == np.float16 and np.isfinite(arrays[key]).all() for key in arrays.files)
        assert all((arrays[key] > 0).all() for key in arrays.files if key.endswith("moving_variance"))
    weights = backbones.build(name, image_size=96, weights=file).get_weights()
    with np.load(file, allow_pickle=False) as arrays:
        assert sum(array.size for array in weights) == sum(arrays[key].size for key in arrays.files)
        assert sum(np.float64(array).sum() for array in weights) == pytest.approx(
            sum(arrays[key].astype(np.float64).sum() for key in arrays.files)
        )


@pytest.mark.slow
def test_synthetic_weights_separate_cracks_from_look_alikes() -> None:
    """On synthetic patches with seeds that the training did not use; half are cracked, all have look-alikes."""
    pixels = np.stack([invent(seed=(99, index), size=96, cracked=index % 2 == 0).image for index in range(160)])
    labels = np.arange(160) % 2 == 0
    backbone = backbones.build("mobilenetv2", image_size=96, weights=backbones.synthetic_weights("mobilenetv2"))
    features = backbone.predict(pixels, verbose=0)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    assert probe.fit(features[:100], labels[:100]).score(features[100:], labels[100:]) >= 0.75


def test_a_run_keys_its_features_by_the_scaling_of_its_backbone() -> None:
    config = composed("config", "model=densenet121", "model.weights=random")
    found = start.Pretrained.find(
        config.model, image_size=32, seed=0, engine="litert", runtime=config.runtime, finetune=config.finetune
    )
    assert found.recipe.scaling == backbones.scaling("densenet121")
