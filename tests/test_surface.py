"""Adapting to a surface: where it helps, where it leaves the model alone, and what of it is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from hairline.model import surface
from hairline.model.familiarity import Distance

WIDTH = 24
GENERATOR = np.random.default_rng(0)
DIRECTION = np.abs(GENERATOR.normal(size=WIDTH)).astype(np.float32)
DIRECTION /= np.linalg.norm(DIRECTION)
THRESHOLD = 0.4
KNOWN = Distance(
    mean=np.full(WIDTH, 2.0, np.float32),
    deviation=np.full(WIDTH, 0.5, np.float32),
    components=np.zeros((0, WIDTH), np.float32),
    variances=np.zeros(0, np.float32),
    noise=np.float64(1.0),
    limit=np.float64(1.5),
    class_means=np.stack([2.2 * DIRECTION, -2.2 * DIRECTION]),
    set_limit=np.float64(0.5),
)
KERNEL = (4 * np.stack([DIRECTION, -DIRECTION], axis=1) / KNOWN.deviation[:, None]).astype(np.float32)
BIAS = (-KNOWN.mean @ KERNEL).astype(np.float32)


def tiles(count: int, prevalence: float, *, fainter: float = 0.0, shift: float = 0.0, seed: int = 1) -> tuple:
    """Give features and truth; on a new surface all scores are lower by `fainter`, other features moved by `shift`."""
    generator = np.random.default_rng(seed)
    cracked = np.arange(count) < prevalence * count
    table = generator.normal(size=(count, WIDTH)) * 0.85
    table += np.where(cracked, 2.2, -2.2)[:, None] * DIRECTION - fainter * DIRECTION
    across = generator.permutation(WIDTH) % 2 * 2.0 - 1
    across -= across @ DIRECTION * DIRECTION
    return (KNOWN.mean + KNOWN.deviation * (table + shift * across)).astype(np.float32), cracked


def adapted(features: np.ndarray) -> surface.Adapted:
    settings = {"distance": KNOWN, "kernel": KERNEL, "bias": BIAS, "positive": 0, "threshold": THRESHOLD}
    return surface.adapt(features, **settings)


def balanced(features: np.ndarray, cracked: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> float:
    logits = features @ kernel + bias
    called = expit(logits[:, 0] - logits[:, 1]) >= THRESHOLD
    return float(called[cracked].mean() + (~called[~cracked]).mean()) / 2


@pytest.mark.parametrize("prevalence", [0.01, 0.05, 0.2, 0.5, 0.8])
def test_fainter_cracks_are_found_unless_they_are_too_rare_to_part(prevalence: float) -> None:
    features, cracked = tiles(2000, prevalence, fainter=2.2, shift=2.0)
    found = adapted(features)
    assert found.used
    assert found.distance > 0.5
    assert found.shift <= 0
    before = balanced(features, cracked, KERNEL, BIAS)
    assert before < 0.85
    gain = balanced(features, cracked, found.kernel, found.bias) - before
    assert gain > (0.1 if prevalence >= 0.2 else -0.02)


@pytest.mark.parametrize("prevalence", [0.01, 0.05, 0.2, 0.5, 0.8])
def test_a_surface_that_is_strange_but_well_told_loses_nothing(prevalence: float) -> None:
    features, cracked = tiles(2000, prevalence, shift=2.0)
    found = adapted(features)
    assert found.used
    before = balanced(features, cracked, KERNEL, BIAS)
    assert before > 0.97
    assert balanced(features, cracked, found.kernel, found.bias) > before - 0.02


def test_a_surface_on_which_all_is_called_cracked_gets_a_higher_threshold() -> None:
    features, cracked = tiles(2000, 0.3, fainter=-3.5, shift=2.0)
    found = adapted(features)
    assert found.shift > 0
    before = balanced(features, cracked, KERNEL, BIAS)
    assert balanced(features, cracked, found.kernel, found.bias) > before + 0.05


@pytest.mark.parametrize(("prevalence", "least", "most"), [(0.0, 0.0, 0.3), (0.3, 1.0, 1.0)])
def test_the_threshold_goes_as_far_as_the_scores_are_two_groups(prevalence: float, least: float, most: float) -> None:
    went = []
    for seed in range(10):
        features, _ = tiles(2000, prevalence, fainter=2.2, shift=2.0, seed=seed)
        found = adapted(features)
        logits = features @ found.kernel + found.bias
        # Before the threshold moved; what lies below 0 is called sound.
        scores = logits[:, 0] - logits[:, 1] + found.shift - np.log(THRESHOLD / (1 - THRESHOLD))
        went.append(found.shift / surface.parting(scores))
    assert least - 1e-3 <= np.mean(went) <= most + 1e-3


def test_a_surface_that_is_the_same_everywhere_moves_no_threshold() -> None:
    features, _ = tiles(1, 0.0, shift=2.0)
    found = adapted(np.repeat(features, 100, axis=0))
    assert found.shift == 0
    assert np.isfinite(found.kernel).all()


def test_what_looks_like_the_training_images_is_left_alone() -> None:
    features, _ = tiles(500, 0.3)
    found = adapted(features)
    assert not found.used
    assert found.distance <= 0.5
    assert found.kernel is KERNEL
    assert "look like the training images" in found.reason


def test_too_few_tiles_are_left_alone() -> None:
    features, _ = tiles(surface.LEAST - 1, 0.3, fainter=1.5, shift=2.0)
    found = adapted(features)
    assert not found.used
    assert "too few" in found.reason
    assert not adapted(np.empty((0, WIDTH), np.float32)).used


def test_scale_is_brought_half_way_back_about_the_surfaces_own_mean() -> None:
    """Before the threshold moves: the new logits are the old ones of features whose deviation lies between the two."""
    features, _ = tiles(3000, 0.4, shift=2.0)
    features = KNOWN.mean + 1.7 * (features - KNOWN.mean)
    found = adapted(features)
    own = features.mean(axis=0)
    brought = own + (features - own) * np.sqrt(KNOWN.deviation / features.std(axis=0))
    expected = brought @ KERNEL + BIAS
    logits = features @ found.kernel + found.bias
    np.testing.assert_allclose(logits[:, 0] - logits[:, 1], expected[:, 0] - expected[:, 1] - found.shift, atol=1e-2)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=12).filter(lambda values: len(set(values)) > 1))
def test_parting_is_the_best_of_all_divisions(values: list[int]) -> None:
    ordered = np.sort(np.array(values, float))
    found = surface.parting(np.array(values, float))

    def within(at: int) -> float:
        return sum(float(np.square(part - part.mean()).sum()) for part in (ordered[:at], ordered[at:]))

    least = min(within(at) for at in range(1, len(ordered)))
    lower = int((ordered < found).sum())
    between = [at for at in range(1, len(ordered)) if within(at) <= least + 1e-9]
    assert any(ordered[at - 1] - 1e-9 <= found <= ordered[at] + 1e-9 for at in between), (lower, between)


def test_what_is_kept_reads_back(tmp_path: Path) -> None:
    features, _ = tiles(500, 0.3, fainter=1.0, shift=2.0)
    found = adapted(features)
    surface.save(found, "photos", tmp_path / "adaptation.npz")
    kernel, bias, told = surface.load(tmp_path / "adaptation.npz")
    np.testing.assert_array_equal(kernel, found.kernel)
    np.testing.assert_array_equal(bias, found.bias)
    assert told == {"key": "photos", "used": True, "reason": found.reason}
    assert [path.name for path in tmp_path.iterdir()] == ["adaptation.npz"]
    (tmp_path / "adaptation.npz").write_bytes(b"PK")
    with pytest.raises(surface.SurfaceError, match="delete it"):
        surface.load(tmp_path / "adaptation.npz")
