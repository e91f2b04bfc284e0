"""The tool that trains the built-in weights: scenes, targets, schedule and export."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hairline.model import backbones
from tests import running
from tests.conftest import ROOT


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return running.load(ROOT / "tools" / "make_weights.py", monkeypatch)


def test_scenes_depend_on_their_numbers_only(script: ModuleType) -> None:
    chunk = script.draw_chunk(8, 6, 64)
    again = script.draw_chunk(10, 4, 64)
    assert np.array_equal(chunk.images[2:], again.images)
    assert np.array_equal(chunk.known[2:], again.known)
    assert chunk.masks.any(axis=(1, 2)).tolist() == [True, False] * 3
    assert len({image.tobytes() for image in chunk.images}) == 6


def test_targets_describe_the_mask(script: ModuleType) -> None:
    masks = np.zeros((4, 40, 40), bool)
    masks[0, 20, :] = True  # level
    masks[1, :, 20] = True  # upright
    masks[2][np.eye(40, dtype=bool)] = True  # falling to the right, in pixels with y downwards
    masks[3, 0, :3] = True  # too small a crack to be cracked or sound
    images = np.full((4, 40, 40, 3), 255, np.uint8)
    known = np.zeros((4, 3 + len(script.LOOK_ALIKES)), np.float32)
    values, weight = script.targets(script.Drawn(images, masks, known))
    assert values.shape == weight.shape == (4, script.KNOWN)
    assert values[:, 0].tolist() == [1, 1, 1, 0]
    assert weight[:, 0].tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(values[0, 1], np.log1p(100 / 40), rtol=1e-6)
    np.testing.assert_allclose(values[:3, 2:4], [[1, 0], [-1, 0], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(values[:, 7], 2, rtol=1e-6)  # white: half the range above the middle, times four
    assert weight[3, 2:5].tolist() == [0, 0, 0]


def test_the_learning_rate_warms_up_and_decays(script: ModuleType) -> None:
    first = script.STAGES[0]
    assert script.rate(0) < 0.1 * first[2]
    assert script.rate(script.WARM_UP) > 0.95 * first[2]
    assert script.rate(first[1] - 1) < 0.15 * first[2]
    total = sum(images for _, images, _ in script.STAGES)
    assert (script.side_at(0), script.side_at(total - 1), script.side_at(total)) == (96, script.STAGES[-1][0], None)


@pytest.mark.slow
def test_training_resumes_and_exports(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """A buffer that draws in this process and repeats its scenes."""

    script: ModuleType

    def __init__(self, state: dict[str, int]) -> None:
        self._scenes = self.script.draw_chunk(0, self.script.BATCH, 64)

    def part(self, rng: np.random.Generator, side: int) -> object:
        return self._scenes
