"""How the project's own weights are made: what is drawn for them and what is to be told of it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "make_weights.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_weights", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_scenes_follow_their_numbers(script: ModuleType) -> None:
    chunk = script.draw_chunk(8, 6, 64)
    again = script.draw_chunk(10, 4, 64)
    assert np.array_equal(chunk.images[2:], again.images)
    assert np.array_equal(chunk.known[2:], again.known)
    assert chunk.masks.any(axis=(1, 2)).tolist() == [True, False] * 3
    assert len({image.tobytes() for image in chunk.images}) == 6


def test_targets_are_what_the_mask_shows(script: ModuleType) -> None:
    masks = np.zeros((4, 40, 40), bool)
    masks[0, 20, :] = True  # level
    masks[1, :, 20] = True  # upright
    masks[2][np.eye(40, dtype=bool)] = True  # falling to the right, in pixels with y downwards
    masks[3, 0, :3] = True  # too little of a crack to count, too much to count as none
    images = np.full((4, 40, 40, 3), 255, np.uint8)
    known = np.zeros((4, 3 + len(script.LOOK_ALIKES)), np.float32)
    told, weight = script.targets(script.Drawn(images, masks, known))
    assert told.shape == weight.shape == (4, script.KNOWN)
    assert told[:, 0].tolist() == [1, 1, 1, 0]
    assert weight[:, 0].tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(told[0, 1], np.log1p(100 / 40), rtol=1e-6)
    np.testing.assert_allclose(told[:3, 2:4], [[1, 0], [-1, 0], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(told[:, 7], 2, rtol=1e-6)  # white: half the range above the middle, times four
    assert weight[3, 2:5].tolist() == [0, 0, 0]


def test_the_schedule_warms_up_falls_and_ends(script: ModuleType) -> None:
    first = script.STAGES[0]
    assert script.rate(0) < 0.1 * first[2]
    assert script.rate(script.WARM_UP) > 0.95 * first[2]
    assert script.rate(first[1] - 1) < 0.15 * first[2]
    total = sum(images for _, images, _ in script.STAGES)
    assert (script.side_at(0), script.side_at(total - 1), script.side_at(total)) == (96, script.STAGES[-1][0], None)


@pytest.mark.slow
def test_it_trains_goes_on_and_exports(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hairline.model import backbones

    monkeypatch.setattr(script, "Shelf", Shelf)
    Shelf.script = script
    for images in (96, 192):
        monkeypatch.setattr(script, "STAGES", ((64, images, 1e-3),))
        script.train(tmp_path, None, minutes=60)
    monkeypatch.setattr(script, "NORMALISED_BATCHES", 1)
    script.export(tmp_path, tmp_path / "own.npz")
    model = backbones.build("mobilenetv2", image_size=96, weights=tmp_path / "own.npz")
    pixels = script.draw_chunk(0, 8, 96).images
    features = model.predict(pixels, verbose=0)
    assert np.isfinite(features).all()
    assert features.std() > 1e-3


class Shelf:
    """Draws in this process: sixteen scenes, shown again and again."""

    script: ModuleType

    def __init__(self, state: dict[str, int]) -> None:
        self._scenes = self.script.draw_chunk(0, self.script.BATCH, 64)

    def part(self, rng: np.random.Generator, side: int) -> object:
        return self._scenes
