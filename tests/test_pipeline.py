"""Batches hold the right pixels in the right order; views are fixed by seed and image."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hairline.data import augmentation, images, pipeline

STRONG = {
    "flip_horizontal": True, "flip_vertical": True, "rotation_degrees": 30.0, "zoom": 0.2,
    "brightness": 0.2, "contrast": 0.2, "saturation": 0.2,
}  # fmt: skip
NONE = {key: False if value is True else 0.0 for key, value in STRONG.items()}


@pytest.fixture
def paths(two_classes: Path) -> list[str]:
    return [str(path) for path in sorted(two_classes.rglob("*.jpg"))[:23]]


def digests(paths: list[str]) -> list[str]:
    return [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths]


def batches(paths: list[str], seed: int = 0, **settings: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """The batches of a pass, whose labels are the places of the images."""
    labels, augment = np.eye(len(paths), dtype=np.float32), {"seed": seed, **STRONG}
    dataset = pipeline.batches(paths, digests(paths), labels, augment=augment, image_size=32, batch_size=8, **settings)
    return [(image.numpy(), label.numpy().argmax(axis=1)) for image, label in dataset]


def gathered(paths: list[str], **settings: Any) -> np.ndarray:
    return np.concatenate([image for image, _ in batches(paths, **settings)])


def test_batches_are_the_decoded_files_in_order(paths: list[str]) -> None:
    found = batches(paths)
    assert [image.shape for image, _ in found] == [(8, 32, 32, 3), (8, 32, 32, 3), (7, 32, 32, 3)]
    np.testing.assert_array_equal(gathered(paths), [images.decode(path, 32) for path in paths])
    np.testing.assert_array_equal(np.concatenate([label for _, label in found]), np.arange(len(paths)))


def test_labels_follow_their_images_through_the_shuffle(paths: list[str]) -> None:
    plain = np.stack([images.decode(path, 32) for path in paths])
    labels, augment = np.eye(len(paths), dtype=np.float32), {"seed": 0, **STRONG}
    dataset = pipeline.batches(
        paths, digests(paths), labels, augment=augment, image_size=32, batch_size=5, shuffle=True, seed=0
    )
    orders = []
    for _ in range(2):
        pairs = list(dataset)
        order = np.concatenate([label.numpy() for _, label in pairs]).argmax(axis=1)
        np.testing.assert_array_equal(np.concatenate([image.numpy() for image, _ in pairs]), plain[order])
        orders.append(tuple(order))
        assert sorted(order) == list(range(len(paths)))
    assert len({*orders, tuple(range(len(paths)))}) == 3


def test_view_zero_is_the_image_and_other_views_are_fixed_by_seed_and_image(paths: list[str]) -> None:
    plain, one = gathered(paths), gathered(paths, view=1)
    np.testing.assert_array_equal(gathered(paths, view=1), one)
    assert not np.array_equal(one, plain)
    assert not np.array_equal(gathered(paths, view=2), one)
    assert not np.array_equal(gathered(paths, view=1, seed=1), one)
    np.testing.assert_array_equal(gathered(paths[::-1], view=1), one[::-1])


def test_feature_batches_cover_every_row_once() -> None:
    features = np.arange(22, dtype=np.float32).reshape(11, 2)
    labels = np.eye(11, dtype=np.float32)
    order = np.random.default_rng(0).permutation(11)
    rows = pipeline.Pass(lambda numbers: features[numbers], order)
    dataset = pipeline.feature_batches(rows, 2, labels, batch_size=4)
    for _ in range(2):
        batches = list(dataset)
        assert [len(batch) for batch, _ in batches] == [4, 4, 3]
        np.testing.assert_array_equal(np.concatenate([batch.numpy() for batch, _ in batches]), features[rows.order])
        np.testing.assert_array_equal(np.concatenate([label.numpy() for _, label in batches]).argmax(1), rows.order)
        rows.order = order[::-1]  # the next pass goes through them otherwise


def test_no_setting_means_no_change() -> None:
    image = np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8)
    np.testing.assert_array_equal(augmentation.view(image, seed=(0, 1, 2), **NONE), image)


def test_each_setting_does_what_it_says() -> None:
    image = np.random.default_rng(0).integers(60, 200, (16, 16, 3), dtype=np.uint8)

    def views(**changed: object) -> list[np.ndarray]:
        return [augmentation.view(image, seed=(0, number), **{**NONE, **changed}) for number in range(24)]

    mirrored = views(flip_horizontal=True)
    assert all(np.array_equal(view, image) or np.array_equal(view, image[:, ::-1]) for view in mirrored)
    assert 4 < sum(np.array_equal(view, image) for view in mirrored) < 20
    assert all(np.array_equal(v, image) or np.array_equal(v, image[::-1]) for v in views(flip_vertical=True))
    shifts = [view.astype(int) - image for view in views(brightness=0.1)]
    assert all(shift.std() < 0.6 for shift in shifts)
    assert max(abs(shift.mean()) for shift in shifts) <= 26
    assert np.std([shift.mean() for shift in shifts]) > 5
    for view in views(contrast=0.3):
        assert abs(view.mean() - image.mean()) < 1.5
    greyer = [
        np.ptp(view.astype(int), axis=2).mean() / np.ptp(image.astype(int), axis=2).mean()
        for view in views(saturation=0.5)
    ]
    assert min(greyer) < 0.8
    assert max(greyer) > 1.1


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    turned = augmentation._turned(image, np.pi / 2, 1.0)
    candidates = [np.rot90(image, turns) for turns in (1, 3)]
    assert min(np.abs(turned.astype(int) - candidate).mean() for candidate in candidates) < 1
    np.testing.assert_array_equal(augmentation._turned(image, 0.0, 1.0), image)
