"""Which tile to ask for next."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

RULE = "score range, then least certain and score ranks, spread over photos and features"
RANDOM_EVERY = 5  # of so many tiles one is chosen at random
_MOST_RANDOM = 0.25  # of all tiles are set aside for random choice, at most
_RANDOM_TILES = 400
_COMPONENTS, _SAMPLE = 32, 3000  # of the features in which distances are measured, and tiles they are computed from
_NEAR = 20  # tiles nearest to the wanted score, among which the most different one is chosen
_FIRST = 20  # selected tiles before the first one that is chosen for its uncertainty
_RANGE = (0.02, 0.99)  # quantiles of the scores between which the wanted score moves
_CERTAIN_EVERY = 3  # later, of so many tiles one is chosen for its score's rank and the others for their uncertainty


def random_order(count: int, seed: int) -> NDArray[np.int64]:
    """Return the tiles that are set aside for random choice, in the order in which they are asked for, int64.

    They are drawn before any answer, and never selected otherwise: whatever is selected, they represent all tiles.
    """
    order = np.random.default_rng([seed, 0x7A9D]).permutation(count)
    return order[: min(_RANDOM_TILES, int(np.ceil(_MOST_RANDOM * count)))]


class Selector:
    """Chooses the tile whose answer teaches most.

    The first tiles spread over the range of the scores, which finds both classes and where they part. Later two of
    three are the least certain, and the third ones spread over the ranks of the scores, so that they resemble all
    tiles. Among the tiles nearest to the wanted score it takes the one that differs most from all answered ones, from
    photos with few answers (compare TypiClust, arXiv 2202.02794, and TCM, arXiv 2403.03728).
    """

    def __init__(
        self,
        features: NDArray[np.float32],
        photo: NDArray[np.int64],
        *,
        mean: NDArray[np.float32],
        deviation: NDArray[np.float32],
    ) -> None:
        """Prepare distances between tiles.

        Args:
            features: float32 [tiles, width].
            photo: Photo of each tile, int64 [tiles].
            mean: Mean of the base's training features, float32 [width].
            deviation: float32 [width].
        """
        self._photo = photo
        self._points = _principal_components(features, mean, deviation)

    def next(
        self, logits: NDArray[np.float32], free: NDArray[np.int64], selected: NDArray[np.int64], positive: int | None
    ) -> int:
        """Return the tile to ask for.

        Args:
            logits: Of all tiles, relative to the threshold, float32 [tiles, classes].
            free: Tiles to choose from, int64; at least one.
            selected: Tiles that were selected before, int64.
            positive: Index of the positive class; None: the classes take turns.
        """
        count, turn = logits.shape[1], len(selected)
        wanted, step = (turn % count, turn // count) if positive is None else (positive, turn)
        others = np.delete(logits[free], wanted, axis=1).max(axis=1)
        scores = logits[free, wanted] - others
        low, high = _RANGE
        share = radical_inverse(step + 1)
        if turn < _FIRST:
            lowest, highest = np.quantile(scores, _RANGE)
            target = lowest + share * (highest - lowest)
        elif step % _CERTAIN_EVERY:
            target = 0.0
        else:
            target = np.quantile(scores, low + share * (high - low))
        distance = np.abs(scores - target)
        near = free[np.argsort(distance, kind="stable")[:_NEAR]]
        if not turn:
            return int(near[0])
        gaps = np.square(self._points[near][:, None] - self._points[selected]).sum(axis=2).min(axis=1)
        answers = (self._photo[near][:, None] == self._photo[selected]).sum(axis=1)
        return int(near[np.argmax(gaps / (1 + answers))])


def radical_inverse(number: int) -> float:
    """Return the number's binary digits mirrored at the point (van der Corput): successive numbers fill 0 to 1 evenly.

    >>> [radical_inverse(number) for number in (1, 2, 3, 4)]
    [0.5, 0.25, 0.75, 0.125]
    """
    return int(f"{number:b}"[::-1], 2) / (1 << number.bit_length())


def _principal_components(
    features: NDArray[np.float32], mean: NDArray[np.float32], deviation: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return standardised features in their directions of largest variance, float32 [tiles, at most _COMPONENTS]."""
    rows = np.unique(np.linspace(0, len(features) - 1, min(_SAMPLE, len(features))).astype(np.int64))
    sample = (features[rows] - mean) / deviation
    centre = sample.mean(axis=0)
    sample -= centre
    count = min(_COMPONENTS, *sample.shape)
    _, _, directions = randomized_svd(sample, count, n_iter=2, random_state=0)
    scaled = (directions.T / deviation[:, None]).astype(np.float32)
    return np.asarray(features @ scaled - (mean / deviation + centre) @ directions.T, np.float32)
