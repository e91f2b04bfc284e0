"""Adaptation to a surface: when it helps, when it leaves the model as it is, and how it is saved."""

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
    """Return features and labels of a surface with scores lower by `fainter` and other features shifted by `shift`."""
    generator = np.random.default_rng(seed)
    cracked = np.arange(count) < prevalence * count
    table = generator.normal(size=(count, WIDTH)) * 0.85
    table += np.where(cracked, 2.2, -2.2)[:, None] * DIRECTION - fainter * DIRECTION
    across = generator.permutation(WIDTH) % 2 * 2.0 - 1
    across -= across @ DIRECTION * DIRECTION
    return (KNOWN.mean + KNOWN.deviation * (table + shift * across)).astype(np.float32), cracked


def adapt(features: np.ndarray) -> surface.Adapted:
    settings = {"distance": KNOWN, "kernel": KERNEL, "bias": BIAS, "positive": 0, "threshold": THRESHOLD}
    return surface.adapt(features, **settings)


def balanced_accuracy(features: np.ndarray, cracked: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> float:
    logits = features @ kernel + bias
    positive = expit(logits[:, 0] - logits[:, 1]) >= THRESHOLD
    return float(positive[cracked].mean() + (~positive[~cracked]).mean()) / 2


@pytest.mark.parametrize("prevalence", [0.01, 0.05, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("fainter", [0.0, 2.2])
def test_fainter_cracks_are_detected_and_well_separated_ones_stay_so(fainter: float, prevalence: float) -> None:
    features, cracked = tiles(2000, prevalence, fainter=fainter, shift=2.0)
    adapted = adapt(features)
    assert adapted.used
    assert adapted.distance > 0.5
    before = balanced_accuracy(features, cracked, KERNEL, BIAS)
    assert before < 0.85 if fainter else before > 0.97
    gain = balanced_accuracy(features, cracked, adapted.kernel, adapted.bias) - before
    assert gain > (0.1 if fainter and prevalence >= 0.2 else -0.02)
    assert adapted.shift <= 0 or not fainter


def test_false_alarms_raise_the_threshold() -> None:
    features, cracked = tiles(2000, 0.3, fainter=-3.5, shift=2.0)
    adapted = adapt(features)
    assert adapted.shift > 0
    before = balanced_accuracy(features, cracked, KERNEL, BIAS)
    assert balanced_accuracy(features, cracked, adapted.kernel, adapted.bias) > before + 0.05


@pytest.mark.parametrize(("prevalence", "least", "most"), [(0.0, 0.0, 0.3), (0.3, 1.0, 1.0)])
def test_the_threshold_moves_only_if_the_scores_form_two_clusters(prevalence: float, least: float, most: float) -> None:
    moved = []
    for seed in range(10):
        features, _ = tiles(2000, prevalence, fainter=2.2, shift=2.0, seed=seed)
        adapted = adapt(features)
        logits = features @ adapted.kernel + adapted.bias
        # Scores before the threshold moved.
        scores = logits[:, 0] - logits[:, 1] + adapted.shift - np.log(THRESHOLD / (1 - THRESHOLD))
        moved.append(adapted.shift / surface.otsu(scores))
    assert least - 1e-3 <= np.mean(moved) <= most + 1e-3


def test_constant_features_do_not_move_the_threshold() -> None:
    features, _ = tiles(1, 0.0, shift=2.0)
    adapted = adapt(np.repeat(features, 100, axis=0))
    assert adapted.shift == 0
    assert np.isfinite(adapted.kernel).all()


def test_a_familiar_surface_leaves_the_model_as_it_is() -> None:
    features, _ = tiles(500, 0.3)
    adapted = adapt(features)
    assert not adapted.used
    assert adapted.distance <= 0.5
    assert adapted.kernel is KERNEL
    assert "look like the training images" in adapted.reason


def test_too_few_tiles_leave_the_model_as_it_is() -> None:
    features, _ = tiles(surface.LEAST - 1, 0.3, fainter=1.5, shift=2.0)
    adapted = adapt(features)
    assert not adapted.used
    assert "too few" in adapted.reason
    assert not adapt(np.empty((0, WIDTH), np.float32)).used


def test_features_are_rescaled_half_way_about_their_own_mean() -> None:
    features, _ = tiles(3000, 0.4, shift=2.0)
    features = KNOWN.mean + 1.7 * (features - KNOWN.mean)
    adapted = adapt(features)
    mean = features.mean(axis=0)
    rescaled = mean + (features - mean) * np.sqrt(KNOWN.deviation / features.std(axis=0))
    expected = rescaled @ KERNEL + BIAS
    logits = features @ adapted.kernel + adapted.bias
    np.testing.assert_allclose(logits[:, 0] - logits[:, 1], expected[:, 0] - expected[:, 1] - adapted.shift, atol=1e-2)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=12).filter(lambda values: len(set(values)) > 1))
def test_otsu_is_the_best_of_all_splits(values: list[int]) -> None:
    ordered = np.sort(np.array(values, float))
    threshold = surface.otsu(np.array(values, float))

    def within(at: int) -> float:
        return sum(float(np.square(part - part.mean()).sum()) for part in (ordered[:at], ordered[at:]))

    least = min(within(at) for at in range(1, len(ordered)))
    lower = int((ordered < threshold).sum())
    between = [at for at in range(1, len(ordered)) if within(at) <= least + 1e-9]
    assert any(ordered[at - 1] - 1e-9 <= threshold <= ordered[at] + 1e-9 for at in between), (lower, between)


def test_a_saved_adaptation_loads(tmp_path: Path) -> None:
    features, _ = tiles(500, 0.3, fainter=1.0, shift=2.0)
    adapted = adapt(features)
    surface.save(adapted, "photos", tmp_path / "adaptation.npz")
    kernel, bias, details = surface.load(tmp_path / "adaptation.npz")
    np.testing.assert_array_equal(kernel, adapted.kernel)
    np.testing.assert_array_equal(bias, adapted.bias)
    assert details == {"key": "photos", "used": True, "reason": adapted.reason}
    assert [path.name for path in tmp_path.iterdir()] == ["adaptation.npz"]
    (tmp_path / "adaptation.npz").write_bytes(b"PK")
    with pytest.raises(surface.SurfaceError, match="delete it"):
        surface.load(tmp_path / "adaptation.npz")
