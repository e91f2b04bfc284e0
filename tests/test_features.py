"""Features: engines agree, the cache is correct, and survives damage, kills and full disks."""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import itertools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from hairline.data import images
from hairline.data.decoded import Decoded
from hairline.model import backbones, engine, features, store
from hairline.model.features import Features, Recipe
from hairline.system import cache, cluster
from tests.conftest import ROOT, paint

NAME, SIZE = "mobilenetv3small", 32
AUGMENT = {
    "seed": 0, "flip_horizontal": True, "flip_vertical": True, "rotation_degrees": 20.0, "zoom": 0.0,
    "brightness": 0.0, "contrast": 0.0, "saturation": 0.0,
}  # fmt: skip
RECIPE = Recipe(NAME, "random-0", SIZE, "litert")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, except for the converted backbone, which takes long to convert."""
    file = engine.convert(model, RECIPE.model_key())
    shutil.copytree(file.parent, tmp_path / "cache" / "litert")
    monkeypatch.setenv("HAIRLINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(path) for path in sorted(paint(tmp_path_factory.mktemp("files"), {"a": 35, "b": 36}).rglob("*.jpg"))]


def digests(paths: list[str]) -> list[str]:
    return [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths]


@functools.cache
def model() -> keras.Model:
    return backbones.build(NAME, image_size=SIZE, weights=None, seed=0)


def never() -> keras.Model:
    raise AssertionError("the backbone was built although nothing needed it")


class Counted:
    images = 0


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Counts the images that an engine computes."""
    counted = Counted()

    def prepare(*arguments: object, **settings: object) -> engine.Run:
        run = engine.prepare_engine(*arguments, **settings)  # type: ignore[arg-type]

        def count(decode: engine.Decode, total: int) -> Iterator[tuple[int, np.ndarray]]:
            for start, block in run(decode, total):
                counted.images += len(block)
                yield start, block

        return count

    monkeypatch.setattr(features, "prepare_engine", prepare)
    return counted


def compute(
    paths: list[str], recipe: Recipe = RECIPE, backbone: Callable[[], keras.Model] = model, **settings: object
) -> np.ndarray:
    return features.compute(paths, digests(paths), recipe, backbone, **settings).read()  # type: ignore[arg-type]


def test_engines_agree_with_keras(files: list[str], own_cache: Path) -> None:
    pixels = np.stack([images.decode(path, SIZE) for path in files])
    expected = np.asarray(model()(pixels, training=False))
    for name in ("litert", "tensorflow"):
        array = compute(files, dataclasses.replace(RECIPE, engine=name))
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected, atol=1e-4 * np.abs(expected).max())


def test_decoded_images_are_cached_across_views(
    files: list[str], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = [dataclasses.replace(RECIPE, view=view, augment=AUGMENT) for view in (1, 2)]
    paths = [*files, files[0]]  # one image twice
    expected = [compute(paths, view, keep=False) for view in views]
    decoded = Decoded(len(paths), SIZE, max_gigabytes=1)
    first = compute(paths, views[0], keep=False, decoded=decoded)
    assert not list(own_cache.glob("*tmp*")), "the file has a name, so a killed process would leave it"
    monkeypatch.setattr(images, "decode", lambda *_: pytest.fail("decoded once more"))
    second = compute(paths, views[1], keep=False, decoded=decoded)
    np.testing.assert_array_equal(first, expected[0])
    np.testing.assert_array_equal(second, expected[1])


@pytest.mark.parametrize("fault", ["too large", "no file", "raises", "short"])
def test_without_room_images_are_decoded_every_epoch(
    fault: str, files: list[str], own_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = compute(files, keep=False)
    limit = SIZE * SIZE * 3

    def refused(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        if fault == "no file":
            patched.setattr("tempfile.TemporaryFile", refused)
        decoded = Decoded(len(files), SIZE, max_gigabytes=(len(files) * limit - (fault == "too large")) / 1e9)
    if fault in ("raises", "short"):
        whole, written = decoded._file, []

        class Full:
            def __getattr__(self, name: str) -> object:
                return getattr(whole, name)

            def write(self, content: memoryview) -> int:
                written.append(len(content))
                if len(written) < 20:
                    return whole.write(content)
                if fault == "raises":
                    raise OSError(errno.ENOSPC, "No space left on device")
                return 7

        monkeypatch.setattr(decoded, "_file", Full())
    for _ in range(2):
        np.testing.assert_array_equal(compute(files, keep=False, decoded=decoded), expected)
    assert [record.message for record in caplog.records if "every epoch" in record.message] == (
        []
        if fault == "too large"
        else ["WARNING: no space for decoded images (No space left on device): they are decoded again every epoch"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(backbones.BACKBONES) - {NAME}))
def test_every_backbone_converts_and_agrees(name: str, own_cache: Path) -> None:
    network = backbones.build(name, image_size=96, weights=None, seed=0)
    pixels = np.random.default_rng(1).integers(0, 256, (11, 96, 96, 3), dtype=np.uint8)
    run = engine.prepare_engine("litert", lambda: network, f"test-{name}", image_size=96)(lambda row: pixels[row], 11)
    expected = np.asarray(network(pixels, training=False))
    array = np.concatenate([block for _, block in run])
    np.testing.assert_allclose(array, expected, atol=1e-4 * np.abs(expected).max())


def test_rows_are_in_order_for_any_number_of_images(files: list[str], own_cache: Path) -> None:
    expected = compute(files, keep=False)
    for count, threads in itertools.product((1, 7, 8, 9, 64), (1, 3)):
        np.testing.assert_array_equal(compute(files[:count], keep=False, threads=threads), expected[:count])


def test_each_image_is_computed_once(files: list[str], own_cache: Path, computed: Counted, tmp_path: Path) -> None:
    compute(files[:50])
    first = compute(files)
    assert computed.images == len(files)
    copy = shutil.copy(files[0], tmp_path / "copy.jpg")  # the same bytes
    np.testing.assert_array_equal(compute([*files, str(copy)], backbone=never), first[[*range(len(files)), 0]])
    np.testing.assert_array_equal(compute(files[::-1], backbone=never), first[::-1])
    assert computed.images == len(files)
    compute([files[0], str(copy)], keep=False)
    assert computed.images == len(files) + 1


def test_the_key_depends_on_everything_that_changes_the_features() -> None:
    view = dataclasses.replace(RECIPE, view=1, augment=AUGMENT)
    changed = [
        dataclasses.replace(RECIPE, backbone="mobilenetv2"), dataclasses.replace(RECIPE, weights="random-1"),
        dataclasses.replace(RECIPE, image_size=33), dataclasses.replace(RECIPE, engine="tensorflow"),
        dataclasses.replace(RECIPE, decode="other"), dataclasses.replace(RECIPE, taps=("x:max",)),
        dataclasses.replace(RECIPE, precision="mixed_bfloat16"), dataclasses.replace(RECIPE, scaling="symmetric"),
        view, dataclasses.replace(view, view=2),
        dataclasses.replace(view, augment={**AUGMENT, "seed": 1}),
        dataclasses.replace(view, augment={**AUGMENT, "zoom": 0.1}),
    ]  # fmt: skip
    assert len({recipe.key() for recipe in [RECIPE, *changed]}) == 1 + len(changed)
    assert len(dataclasses.fields(Recipe)) == 10  # add new fields above


@pytest.mark.parametrize("package", ["ai-edge-litert", "tensorflow", "keras"])
def test_another_version_of_an_engine_computes_and_converts_again(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAIRLINE_CACHE", str(tmp_path))
    before = RECIPE.key()
    place = engine.converted_file("model")
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "9.9" if name == package else installed(name))
    assert RECIPE.key() != before
    assert engine.converted_file("model") != place
    tensorflow = dataclasses.replace(RECIPE, engine="tensorflow")
    assert (package in tensorflow.description()["versions"]) == (package != "ai-edge-litert")


def test_a_backbone_that_is_scaled_otherwise_is_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe() -> Recipe:
        return dataclasses.replace(RECIPE, backbone="densenet121", scaling=backbones.scaling("densenet121"))

    before = recipe()
    monkeypatch.setattr(backbones, "_IMAGENET_MEAN", (0.5, 0.5, 0.5))
    assert recipe().key() != before.key()
    assert recipe().model_key() != before.model_key()
    row = dataclasses.replace(backbones.BACKBONES["densenet121"], scaling="symmetric")
    monkeypatch.setitem(backbones.BACKBONES, "densenet121", row)
    assert len({before.key(), recipe().key(), RECIPE.key()}) == 3


def test_views_differ_and_are_reproducible(files: list[str], own_cache: Path) -> None:
    one = dataclasses.replace(RECIPE, view=1, augment=AUGMENT)
    plain, first = compute(files), compute(files, one)
    assert np.abs(first - plain).max() > 0.1 * np.abs(plain).max()
    np.testing.assert_array_equal(compute(files, one, keep=False), first)
    assert not np.array_equal(compute(files, dataclasses.replace(one, view=2)), first)


def test_a_shard_that_cannot_be_opened_for_now_is_kept(
    files: list[str], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, folder = compute(files), own_cache / "features" / RECIPE.key()
    shards = sorted(folder.glob("*.npy"))

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(store.np, "load", refused)
        with pytest.raises(OSError, match="Too many open files"):
            compute(files, backbone=never)
    assert sorted(folder.glob("*.npy")) == shards
    np.testing.assert_array_equal(compute(files, backbone=never), first)


@pytest.mark.parametrize("damage", ["flip a bit", "cut", "empty", "index", "no array"])
def test_a_damaged_shard_is_computed_again(
    damage: str, files: list[str], own_cache: Path, computed: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SHARD_IMAGES", 32)
    first = compute(files)
    folder = own_cache / "features" / RECIPE.key()
    arrays = sorted(folder.glob("*.npy"), key=lambda path: path.stat().st_size)
    assert len(arrays) == 3
    content = arrays[1].read_bytes()
    if damage == "flip a bit":
        arrays[1].write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    elif damage == "index":
        arrays[1].with_suffix(".json").write_text('{"digests": 3')
    elif damage == "no array":
        arrays[1].unlink()
    else:
        arrays[1].write_bytes(content[: 3000 if damage == "cut" else 0])
    np.testing.assert_array_equal(compute(files), first)
    assert computed.images == len(files) + 32
    np.testing.assert_array_equal(compute(files, backbone=never), first)


@pytest.mark.slow
def test_a_killed_pass_resumes(files: list[str], own_cache: Path, computed: Counted) -> None:
    code = f"""
import os, signal
from tests.test_features import *
store.SHARD_IMAGES = 16
original = store.Store.add
def add(self, digests, rows):
    original(self, digests, rows)
    if len(self.shards) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
store.Store.add = add
features.compute({files!r}, digests({files!r}), RECIPE, model)
"""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ.copy(), timeout=200, check=False)
    assert process.returncode == -signal.SIGKILL
    resumed = compute(files)
    assert computed.images == len(files) - 32
    np.testing.assert_array_equal(resumed, compute(files, keep=False))


def test_incomplete_files_are_deleted_and_foreign_ones_kept(files: list[str], own_cache: Path) -> None:
    folder = own_cache / "features" / RECIPE.key()
    folder.mkdir(parents=True)
    for name in ("notes.json", "other.npy", "x.txt"):
        (folder / name).write_text("foreign")
    first = compute(files)
    assert json.loads((folder / "recipe.json").read_text())["backbone"] == NAME
    names, stem = {path.name for path in folder.iterdir()}, "0123456789abcdef01234567"
    for name in (f".{stem}.npy.7", f".{stem}.json.7", f"{stem}.npy"):
        (folder / name).write_bytes(b"half")
    np.testing.assert_array_equal(compute(files, backbone=never), first)
    assert {path.name for path in folder.iterdir()} == names


class StandIn:
    """In place of Ray: settings and shards are pickled, and the last shard is done first."""

    def __init__(self, most: int) -> None:
        self.most, self.sent = most, 0

    def __call__(self, worker: type, settings: dict[str, Any], shards: list[Any], **_: object) -> Iterator[int]:
        self.sent = sum(len(paths) for paths, _ in shards)
        process = worker(**pickle.loads(pickle.dumps(settings)))
        for shard in shards[::-1][: self.most]:
            yield process(pickle.loads(pickle.dumps(shard)))
        if self.most < len(shards):
            raise KeyboardInterrupt


@pytest.mark.parametrize("view", [0, 1])
def test_a_cluster_writes_the_same_files_and_only_those_that_are_missing(
    view: int, files: list[str], own_cache: Path, computed: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SHARD_IMAGES", 16)
    recipe = dataclasses.replace(RECIPE, view=view, augment=AUGMENT if view else {})
    folder = own_cache / "features" / recipe.key()
    expected = compute(files, recipe)
    local = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(local) == 2 * 5 + 1  # 71 images in shards of 16, and recipe.json
    shutil.rmtree(folder)
    relative = [os.path.relpath(path) for path in files]
    stopped, resumed = StandIn(2), StandIn(9)
    monkeypatch.setattr(cluster, "map_items", stopped)
    with pytest.raises(KeyboardInterrupt):
        compute(relative, recipe, ray={})
    assert stopped.sent == len(files)
    monkeypatch.setattr(cluster, "map_items", resumed)
    np.testing.assert_array_equal(compute(relative, recipe, ray={}), expected)
    assert resumed.sent == len(files) - 16 - 7
    assert computed.images == 2 * len(files)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == local


def test_a_shard_that_a_lost_process_finished_is_not_computed_again(
    files: list[str], own_cache: Path, computed: Counted, tmp_path: Path
) -> None:
    writer = features.ShardWriter(tmp_path, RECIPE, engine.convert(never, RECIPE.model_key()), threads=1)
    shard = (files, digests(files))
    assert writer(shard) == writer(shard) == len(files)
    assert computed.images == len(files)


def test_a_cluster_runs_litert_only(files: list[str], own_cache: Path) -> None:
    with pytest.raises(engine.EngineError, match="runtime.compute=ray.*set features.engine=litert"):
        compute(files, dataclasses.replace(RECIPE, engine="tensorflow"), never, ray={})


def test_concurrent_jobs_compute_each_image_once(files: list[str], own_cache: Path, computed: Counted) -> None:
    results: list[np.ndarray] = []
    jobs = [threading.Thread(target=lambda: results.append(compute(files))) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert computed.images == len(files)
    assert len(results) == 4
    assert all(np.array_equal(result, results[0]) for result in results)


def test_a_full_disk_is_an_error_and_leaves_no_files(
    files: list[str], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = np.save

    def full(file: object, rows: np.ndarray, **settings: object) -> None:
        file.write(b"x" * 100)  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(store.CacheError, match=r"No space left.*HAIRLINE_CACHE.*features.keep=false"):
        compute(files)
    folder = own_cache / "features" / RECIPE.key()
    assert not [path for path in folder.iterdir() if path.suffix in (".npy", ".json") or path.name.startswith(".")]
    monkeypatch.setattr(np, "save", original)
    assert len(compute(files)) == len(files)


def test_features_and_their_network_are_spared_while_they_are_used(files: list[str], own_cache: Path) -> None:
    used = features.compute(files, digests(files), RECIPE, model).rows(np.arange(3))
    compute(files, dataclasses.replace(RECIPE, view=1, augment=AUGMENT))  # read, and not used any more
    run = engine.prepare_engine("litert", model, RECIPE.model_key(), image_size=SIZE)
    cache.evict(1e-9)
    assert engine.converted_file(RECIPE.model_key()).is_file()
    left = {path.name for path in (own_cache / "features").iterdir() if path.is_dir()}
    assert left == {RECIPE.key()}
    assert len(used.read()) == 3
    del used, run
    cache.evict(1e-9)
    assert not engine.converted_file(RECIPE.model_key()).exists()
    assert not [path for path in (own_cache / "features").iterdir() if path.is_dir()]


def test_a_changed_or_missing_file_is_named(files: list[str], own_cache: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(files[0], tmp_path / "copy.jpg"))
    known = digests([str(copy)])
    copy.write_bytes(Path(files[1]).read_bytes())
    with pytest.raises(images.ImageError, match=r"copy\.jpg: changed since it was checked"):
        features.compute([str(copy)], known, RECIPE, model)
    copy.unlink()
    with pytest.raises(images.ImageError, match=r"copy\.jpg"):
        features.compute([str(copy)], known, RECIPE, model)


def test_a_backbone_that_does_not_convert_runs_on_tensorflow(
    files: list[str], own_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = compute(files)
    shutil.rmtree(own_cache)

    def convert(*_: object) -> bytes:
        raise RuntimeError("no kernel for op X")

    monkeypatch.setattr(tf.lite.TFLiteConverter, "convert", convert)
    array = compute(files)
    assert not list((own_cache / "features" / RECIPE.key()).glob("*.npy"))
    assert "does not convert to LiteRT (no kernel for op X)" in caplog.text
    assert "falling back to TensorFlow" in caplog.text
    np.testing.assert_allclose(array, expected, atol=1e-4 * np.abs(expected).max())


def test_auto_selects_litert_if_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.choose_engine("auto") == "litert"
    assert engine.choose_engine("tensorflow") == "tensorflow"
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None)
    assert engine.choose_engine("auto") == "tensorflow"
    with pytest.raises(engine.EngineError, match="pip install ai-edge-litert"):
        engine.choose_engine("litert")


def test_features_behave_like_one_array() -> None:
    one, two = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    whole = Features.joined([Features.of(one), Features.of(two).rows(np.array([3, 0])), Features.of(one)])
    expected = np.concatenate([one, two[[3, 0]], one])
    assert (len(whole), whole.width) == (12, 3)
    np.testing.assert_array_equal(whole.read(), expected)
    numbers = np.array([11, 0, 5, 6, 0])
    np.testing.assert_array_equal(whole.read(numbers), expected[numbers])
    np.testing.assert_array_equal(whole.rows(numbers).read(slice(1, 3)), expected[numbers][1:3])
