"""Images mirrored and turned, and the features of tiles in all orientations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hairline.data import augmentation, images
from hairline.labelling import orientations
from hairline.labelling.orientations import Orientations
from hairline.model.engine import Decode
from hairline.model.features import Recipe
from tests.labelled import TILE_PX, wall


def test_the_eight_orientations_are_those_of_a_square() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    expected = {np.rot90(side, turn).tobytes() for side in (image, image[:, ::-1]) for turn in range(4)}
    found = [augmentation.orientation(image, number) for number in range(8)]
    assert {view.tobytes() for view in found} == expected
    assert np.array_equal(found[0], image)
    mirrored = [image, image[:, ::-1], image[::-1], image[::-1, ::-1]]
    assert [view.tobytes() for view in found[:4]] == [view.tobytes() for view in mirrored]
    assert all(view.flags["C_CONTIGUOUS"] for view in found)


def test_a_class_that_may_be_a_direction_is_not_turned() -> None:
    assert list(augmentation.orientations(2, positive=1)) == [1, 2, 3, 4, 5, 6, 7]
    assert list(augmentation.orientations(2, positive=None)) == [1, 2, 3]
    assert list(augmentation.orientations(3, positive=0)) == [1, 2, 3]


def test_tiles_are_passed_once_in_each_orientation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = wall(tmp_path, photos=2, drawn=True)
    passed: list[int] = []

    def engine(*_: object, **__: object) -> object:
        def run(decode: Decode, count: int) -> Iterator[tuple[int, np.ndarray]]:
            passed.append(count)
            yield 0, np.stack([decode(number) for number in range(count)]).reshape(count, -1).astype(np.float32)

        return run

    monkeypatch.setattr(orientations, "prepare_engine", engine)
    recipe = Recipe("any", "", TILE_PX, "litert")
    views = Orientations(made.pool, recipe, lambda: None, range(1, 8))  # type: ignore[arg-type, return-value]
    tiles = np.array([17, 3, 20])
    found = views.features(tiles)
    assert found.shape == (7, 3, TILE_PX * TILE_PX * 3)
    for place, tile in enumerate(tiles):
        x, y, width, height = made.pool.boxes[tile]
        photo = Image.open(made.pool.photos[made.pool.photo[tile]])
        pixels = np.asarray(photo.crop((x, y, x + width, y + height)))
        assert np.array_equal(pixels, images.resize(photo, TILE_PX, (x, y, x + width, y + height)))
        for number in range(1, 8):
            expected = augmentation.orientation(pixels, number)
            assert np.array_equal(found[number - 1, place].reshape(pixels.shape), expected)
    assert np.array_equal(views.features(tiles[::-1]), found[:, ::-1])
    assert passed == [7, 14]
    views.features(np.array([3, 4]))
    assert passed == [7, 14, 7]


def test_tiles_of_a_photo_that_is_gone_are_learned_as_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wall(tmp_path, photos=1, drawn=True)
    Path(made.pool.photos[0]).unlink()
    monkeypatch.setattr(orientations, "prepare_engine", lambda *_, **__: lambda decode, count: iter([(0, decode(0))]))
    views = Orientations(made.pool, Recipe("any", "", TILE_PX, "litert"), lambda: None, range(1, 4))  # type: ignore[arg-type, return-value]
    found = views.features(np.array([2, 5]))
    assert np.array_equal(found, np.stack([made.pool.features[[2, 5]]] * 3))
    views.features(np.array([5]))
    assert len([record for record in caplog.records if "learns its tiles as they are" in record.message]) == 1
