"""The heat map of the label page: exact for the model as it is now, and as large as the tile."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hairline.labelling.heat import HeatMapError, HeatMaps
from hairline.labelling.learner import Layer
from hairline.labelling.pictures import Pictures
from hairline.model.engine import Decode, Reduce, Run
from tests.labelled import Wall, wall

MAPS = [np.random.default_rng(0).normal(size=(1, 4, 4, 4)), np.random.default_rng(1).normal(size=(1, 2, 2, 2))]
POOLED = np.concatenate([MAPS[0].max(axis=(0, 1, 2)), MAPS[1].mean(axis=(0, 1, 2))]).astype(np.float32)


def maker(made: Wall, layer: list[Layer], maps: list[np.ndarray] = MAPS) -> HeatMaps:
    """Return heat maps of a model that pools the same maps from each tile."""

    def engine(reduce: Reduce) -> Run:
        def run(decode: Decode, count: int) -> Iterator[tuple[int, np.ndarray]]:
            assert decode(0).shape == (32, 32, 3)
            yield 0, reduce([np.concatenate([POOLED, [0.5, 0.5]])[None], *maps])

        return run

    pictures = Pictures(made.pool)
    return HeatMaps(
        made.pool, pictures, lambda: layer[0], engine, image_size=32, pooling=["max", "average"][: len(maps)]
    )


@pytest.mark.parametrize("positive", [1, None])
def test_the_cells_add_up_to_the_log_odds_of_the_layer_as_it_is_now(tmp_path: Path, positive: int | None) -> None:
    made = wall(tmp_path, photos=1, drawn=True)
    made.pool.features[:] = POOLED
    kernel = np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32)
    threshold = None if positive is None else 0.2
    layer = [replace(made.base, kernel=kernel, bias=np.zeros(3, np.float32), positive=positive, threshold=threshold)]
    maps = maker(made, layer)
    for moved in (0.0, 1.5):
        layer[0] = replace(layer[0], kernel=kernel + moved * np.eye(6, 3, dtype=np.float32))
        logits = POOLED @ layer[0].kernel
        if positive is not None:
            logits[positive] -= np.log(0.2 / 0.8)
        chosen = int(logits.argmax()) if positive is None else positive
        expected = logits[chosen] - np.delete(logits, chosen).max()
        assert maps.cells(3).sum() == pytest.approx(expected, abs=1e-4)


def test_the_picture_is_red_where_a_cell_speaks_for_the_class_and_blue_where_against(tmp_path: Path) -> None:
    made = wall(tmp_path, photos=1, drawn=True)
    maps = maker(made, [made.base])
    values = maps.cells(0)
    with Image.open(io.BytesIO(maps.png(0))) as picture:
        assert (picture.size, picture.mode) == ((480, 480), "RGBA")
        pixels = np.asarray(picture)[60::120, 60::120].astype(int)
    assert ((pixels[..., 0] > pixels[..., 2]) == (values > 0)).all()
    np.testing.assert_allclose(pixels[..., 3] / 255, 0.7 * np.abs(values) / np.abs(values).max(), atol=0.01)


def test_a_model_without_maps_says_so(tmp_path: Path) -> None:
    made = wall(tmp_path, photos=1, drawn=True)
    with pytest.raises(HeatMapError, match="pools no maps"):
        maker(made, [made.base], []).png(0)
