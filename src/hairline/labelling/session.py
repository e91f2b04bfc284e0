"""A labelling session: the answers, the model that learns from them, and the tile that each browser shows next."""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from hairline.data import labels
from hairline.labelling import estimate, learner
from hairline.labelling.journal import Journal
from hairline.labelling.learner import Layer
from hairline.labelling.pool import Pool
from hairline.labelling.selection import RANDOM_EVERY, RULE, Selector, random_order
from hairline.system import files
from hairline.system.errors import HairlineError

log = logging.getLogger(__name__)

_MAX_BROWSERS = 32  # with a tile of their own; the one that was idle longest is forgotten
_AHEAD = 2  # tiles that a browser holds: the one it shows, and the next one, whose pictures it loads meanwhile
_STRIP = 12  # last answers that the page shows
_WINDOW = 10  # answers between two states of the photos that are compared
_CURVE_EVERY = 5  # answers between two points of the learning curve
# More labels stop helping: so many answers in a row, this share of the photos or fewer changed per `_WINDOW` answers.
_QUIET_ANSWERS, _QUIET_SHARE, _LEAST_ANSWERS = 30, 0.01, 60


class SessionError(HairlineError):
    """A request that does not fit the session."""


@dataclass
class _Browser:
    """What one browser window holds.

    Attributes:
        tiles: Its tiles: the one it shows, and the next ones.
        done: Tiles it has answered or corrected, in order, for undo: each with the class before a correction (None:
            skipped), and whether it was one.
    """

    tiles: list[int] = field(default_factory=list)
    done: list[tuple[int, int | None, bool]] = field(default_factory=list)


@dataclass(frozen=True)
class _Learned:
    """What follows from the answers; replaced as a whole after each fit.

    Attributes:
        layer: The last layer.
        logits: Of all tiles, relative to the threshold, float32 [n, classes].
        version: Of the answers that it takes account of; -1: none, not even those of an earlier session.
        failed: The fit to these answers failed, so layer and logits are older.
    """

    layer: Layer
    logits: NDArray[np.float32]
    version: int
    failed: bool = False


class Session:
    """The state of a labelling session; safe for several threads.

    Answers are in the file before a method returns. A thread refits the model after each.
    """

    def __init__(
        self,
        folder: Path,
        pool: Pool,
        base: Layer,
        class_names: list[str],
        *,
        by: str,
        seed: int,
        model: str,
        views: Callable[[NDArray[np.int64]], NDArray[np.float32]] | None = None,
    ) -> None:
        """Open the session in a folder: a new one, or one that was left.

        Args:
            folder: Holds `labels.csv` and `session.json`.
            pool: The tiles.
            base: The run's own last layer.
            class_names: Class names of the model.
            by: Name of the person who answers.
            seed: Seed of the random tiles and of the fit.
            model: Digest of the model.
            views: Returns the features of further views of tiles, float32 [views, tiles, width], which are fitted too;
                called by one thread at a time.

        Raises:
            SessionError: If the folder holds answers of a session with other classes.
        """
        self.pool, self.class_names, self.folder = pool, class_names, folder
        self._base, self._by, self._seed, self._model, self._views = base, by, seed, model, views
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._stopped = False
        self._browsers: OrderedDict[str, _Browser] = OrderedDict()
        self._random = random_order(len(pool), seed)
        self._is_random = np.zeros(len(pool), bool)
        self._is_random[self._random] = True
        self._labels: dict[int, int | None] = {}  # tile -> class; None: skipped
        self._order: list[int] = []  # answered tiles, the last answer last
        self._photo_states: OrderedDict[int, NDArray[np.bool_]] = OrderedDict()
        self._curve: list[dict[str, Any]] = []
        self._selector = Selector(pool.features, pool.photo, mean=base.mean, deviation=base.deviation)
        self._restore()
        self._journal = Journal(folder / labels.FILE)
        self._version = 0
        # The page opens with the run's own layer; the thread fits it to the answers of an earlier session meanwhile.
        self._learned = _Learned(base, base.logits(pool.features), version=-1)
        self._thread = threading.Thread(target=self._keep_learning, name="learner", daemon=True)
        self._thread.start()

    # --- what the page asks for ---------------------------------------------------------------------------------------

    def tiles(self, browser: str) -> list[int]:
        """Return the tile that a browser shows and the next ones; empty if no tile is left for it."""
        with self._lock:
            return list(self._fill(self._browser(browser)).tiles)

    def answer(self, browser: str, tile: int, name: str) -> bool:
        """Save an answer for a tile that a browser shows.

        Args:
            browser: Identifier of the browser window.
            tile: Number of the tile.
            name: A class; empty to skip.

        Returns:
            Whether it was saved; False if this browser does not show the tile, as after a repeated request.

        Raises:
            SessionError: If there is no such class.
            OSError: If the file cannot be written.
        """
        label = self._class(name)
        with self._lock:
            state = self._browser(browser)
            if tile not in state.tiles:
                return False
            self._write(tile, label)
            state.tiles.remove(tile)
            state.done.append((tile, None, False))
            self._fill(state)
            return True

    def correct(self, browser: str, tile: int, name: str) -> None:
        """Save another answer for a tile that was answered before.

        Raises:
            SessionError: If it was not, or there is no such class.
            OSError: If the file cannot be written.
        """
        label = self._class(name)
        with self._lock:
            if tile not in self._labels:
                raise SessionError("this tile has no answer to correct: it was undone in another window")
            before = self._labels[tile]
            if before != label:
                self._relabel(tile, label)
                self._browser(browser).done.append((tile, before, True))

    def undo(self, browser: str) -> bool:
        """Withdraw the last answer of a browser, which then shows that tile again, or its last correction.

        Returns:
            Whether there was one.
        """
        with self._lock:
            state = self._browser(browser)
            if not state.done:
                return False
            tile, before, corrected = state.done[-1]
            if tile in self._labels and corrected:  # not withdrawn in another window
                self._relabel(tile, before)
            elif tile in self._labels:
                self._write(tile, None)
                self._forget(tile)
            state.done.pop()
            if not corrected:
                state.tiles = [tile, *state.tiles][:_AHEAD]
            return True

    def state(self, browser: str) -> dict[str, Any]:
        """Return what the side panel shows in a browser, as plain values."""
        with self._lock:
            counts = [
                sum(label == number for label in self._labels.values()) for number in range(len(self.class_names))
            ]
            answered = [tile for tile in self._order if self._labels[tile] is not None]
            changed = self._photos_changed()
            return {
                "counts": dict(zip(self.class_names, counts, strict=True)),
                "answers": len(answered),
                "random": int(self._is_random[answered].sum()),
                "skipped": len(self._order) - len(answered),
                "left": len(self.pool) - len(self._order),
                "curve": list(self._curve),
                "photos_changed": changed,
                "photos": len(self.pool.photos),
                "enough": self._is_enough(),
                "learning": self._learned.version != self._version,
                "failed": self._learned.failed,
                "can_undo": bool(self._browser(browser).done),
                "strip": [self.describe(tile) for tile in self._order[-_STRIP:][::-1]],
            }

    def describe(self, tile: int) -> dict[str, Any]:
        """Return a tile's number, photo, place, answer, and what the model says of it, as plain values.

        `heat` is the class that red cells of its heat map speak for. With a threshold, `probability` is that of the
        positive class, else that of the answer.
        """
        with self._lock:
            layer, logits, label = self._learned.layer, self._learned.logits[tile], self._labels.get(tile)
            plain = logits.astype(np.float64)
            answer = judged = int(logits.argmax())
            threshold = None if layer.positive is None else layer.threshold
            if layer.positive is not None and threshold is not None:
                judged = layer.positive
                plain[judged] += np.log(threshold / (1 - threshold))
            return {
                "tile": tile,
                "photo": self.pool.photos[self.pool.photo[tile]],
                "box": self.pool.boxes[tile].tolist(),
                "label": None if label is None else self.class_names[label],
                "predicted": self.class_names[answer],
                "probability": round(float(softmax(plain)[judged]), 4),
                "threshold": None if threshold is None else round(threshold, 4),
                "heat": self.class_names[answer if layer.positive is None else layer.positive],
            }

    def layer(self) -> Layer:
        """Return the last layer, as it was refitted last."""
        with self._lock:
            return self._learned.layer

    def wait(self, seconds: float = 60.0) -> bool:
        """Wait until the model takes account of all answers; returns whether it does."""
        with self._changed:
            return self._changed.wait_for(lambda: self._learned.version == self._version, timeout=seconds)

    def close(self) -> None:
        """Learn the last answers, for 30 seconds at most, and close the file of answers."""
        with self._changed:
            if self._learned.version != self._version:
                log.info("learning the last answers")
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(timeout=30)
        with self._lock:
            self._journal.close()

    # --- answers ------------------------------------------------------------------------------------------------------

    def _class(self, name: str) -> int | None:
        if name and name not in self.class_names:
            raise SessionError(f"received the class {name[:80]!r}: expected one of {', '.join(self.class_names)}")
        return self.class_names.index(name) if name else None

    def _write(self, tile: int, label: int | None) -> None:
        """Append an answer to the file, then apply it; on an error nothing has changed."""
        name = "" if label is None else self.class_names[label]
        chosen = labels.RANDOM if self._is_random[tile] else labels.SELECTED
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        path = self.pool.photos[self.pool.photo[tile]]
        self._journal.add([path, *self.pool.boxes[tile].tolist(), name, time, self._by, chosen])
        self._apply(tile, label)
        self._version += 1
        self._changed.notify_all()

    def _relabel(self, tile: int, label: int | None) -> None:
        """Replace the answer for a tile."""
        if label is None:  # in the file, the first empty row withdraws an answer; only a second one skips the tile
            self._write(tile, None)
        self._write(tile, label)

    def _apply(self, tile: int, label: int | None) -> None:
        self._labels[tile] = label
        if tile in self._order:
            self._order.remove(tile)
        self._order.append(tile)

    def _forget(self, tile: int) -> None:
        del self._labels[tile]
        self._order.remove(tile)

    def _restore(self) -> None:
        """Read the answers of an earlier session in the folder."""
        file = self.folder / labels.FILE
        if not file.exists() or file.stat().st_size == 0:
            return
        Journal(file).close()  # repairs a torn last line
        numbers = {
            (self.pool.photos[photo], *box): tile
            for tile, (photo, box) in enumerate(zip(self.pool.photo.tolist(), self.pool.boxes.tolist(), strict=True))
        }
        table = labels.read(file, history=True)
        unknown = sorted(set(table["label"]) - {"", *self.class_names})
        if unknown:
            raise SessionError(
                f"{file} holds answers with the class {unknown[0]!r}; the model knows {', '.join(self.class_names)}: "
                "choose another output folder, or the run that this session was started with"
            )
        rows: Iterable[Any] = table.itertuples(index=False)
        others = set()
        for row in rows:
            place = (row.path, row.x, row.y, row.width, row.height)
            tile = numbers.get(place)
            if tile is None:
                others.add(place)
            elif not row.label and tile in self._labels:  # of a tile without an answer it is a skip
                self._forget(tile)
            else:
                self._apply(tile, self._class(row.label))
                self._is_random[tile] = row.chosen == labels.RANDOM  # drawn from the photos of that time
        try:
            stored = json.loads((self.folder / labels.SESSION).read_text(encoding="utf-8"))
            if stored["model"] == self._model:
                self._curve = [entry for entry in stored["curve"] if entry["answers"] <= len(self._order)]
        except (OSError, ValueError, KeyError, TypeError):
            log.debug("no state of an earlier session in %s", self.folder)
        answered = sum(label is not None for label in self._labels.values())
        log.info("earlier session: %d labels, %d skipped", answered, len(self._labels) - answered)
        if others:
            log.warning(
                "WARNING: %d answers in %s belong to other photos or tile sizes: they stay there and are not shown",
                len(others),
                file,
            )

    def _save(self, layer: Layer) -> None:
        content = {"selection": RULE, "model": self._model, "share": layer.share, "curve": self._curve}
        files.write_text(self.folder / labels.SESSION, json.dumps(content, indent=1) + "\n")

    # --- which tile comes next ----------------------------------------------------------------------------------------

    def _browser(self, name: str) -> _Browser:
        state = self._browsers.setdefault(name, _Browser())
        self._browsers.move_to_end(name)
        while len(self._browsers) > _MAX_BROWSERS:
            self._browsers.popitem(last=False)
        return state

    def _fill(self, state: _Browser) -> _Browser:
        """Choose tiles until the browser holds `_AHEAD`, or none is left."""
        while len(state.tiles) < _AHEAD:
            tile = self._choose()
            if tile is None:
                break
            state.tiles.append(tile)
        return state

    def _choose(self) -> int | None:
        held = [tile for browser in self._browsers.values() for tile in browser.tiles]
        taken = np.zeros(len(self.pool), bool)
        taken[held] = taken[self._order] = True
        given = self._order + held
        if len(given) % RANDOM_EVERY == 0 or (taken | self._is_random).all():
            waiting = self._random[~taken[self._random]]
            if len(waiting):
                return int(waiting[0])
        free = np.flatnonzero(~taken & ~self._is_random)
        if not len(free):
            return None
        selected = np.array([tile for tile in given if not self._is_random[tile]], np.int64)
        return self._selector.next(self._learned.logits, free, selected, self._base.positive)

    # --- learning -----------------------------------------------------------------------------------------------------

    def _keep_learning(self) -> None:
        """Refit the model whenever the answers have changed, until the session is closed and it knows all of them."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._learned.version != self._version)
                if self._learned.version == self._version:
                    return
                version = self._version
            try:
                learned = self._learn()
            except Exception:
                log.exception("the model could not be refitted")  # the answers are safe, and the next one tries again
                learned = replace(self._learned, version=version, failed=True)
            with self._changed:
                self._learned = learned
                self._changed.notify_all()

    def _learn(self) -> _Learned:
        """Refit the model to the answers, and bring curve and states of the photos up to date."""
        with self._lock:
            version = self._version
            answered = {tile: label for tile, label in self._labels.items() if label is not None}
        tiles = np.array(list(answered), np.int64)
        classes = np.array(list(answered.values()), np.int64)
        random = self._is_random[tiles]
        fitted, photos = tiles[~random], self.pool.photo[tiles]
        layer, held_out = learner.fit(
            self._base,
            self.pool.features,
            fitted,
            classes[~random],
            photos[~random].tolist(),
            seed=self._seed,
            views=self._views,
        )
        logits = layer.logits(self.pool.features)
        # Random tiles are never fitted, so the model's own logits are as honest as out-of-fold ones.
        honest = logits[tiles].astype(np.float64)
        honest[~random] = held_out
        found = estimate.estimate(honest, classes, photos, logits, self.pool.photo, seed=self._seed)
        with self._lock:
            self._record(len(tiles), found)
            self._record_photos(len(tiles), layer, logits)
            self._save(layer)
        return _Learned(layer, logits, version)

    def _record(self, answers: int, found: estimate.Estimate | None) -> None:
        """Add a point to the curve; only the newest may lie between multiples of `_CURVE_EVERY`."""
        if found is None:
            return
        kept = [entry for entry in self._curve if entry["answers"] < answers]
        if kept and kept[-1]["answers"] % _CURVE_EVERY:
            kept.pop()
        self._curve = [*kept, {"answers": answers} | asdict(found)]

    def _record_photos(self, answers: int, layer: Layer, logits: NDArray[np.float32]) -> None:
        """Store the answer for each photo: whether a tile is of the positive class, or else its most frequent class."""
        classes = logits.argmax(axis=1)
        table = np.zeros((len(self.pool.photos), len(self.class_names)), np.int64)
        np.add.at(table, (self.pool.photo, classes), 1)
        states = table.argmax(axis=1) if layer.positive is None else table[:, layer.positive] > 0
        self._photo_states[answers] = states
        for old in [count for count in self._photo_states if count > answers or count < answers - _QUIET_ANSWERS - 1]:
            del self._photo_states[old]

    def _photos_changed(self, ago: int = 0) -> int | None:
        """Return how many photos changed their answer over `_WINDOW` answers, up to `ago` answers before the newest."""
        if not self._photo_states:
            return None
        newest = max(self._photo_states) - ago
        later = [count for count in self._photo_states if count <= newest]
        earlier = [count for count in self._photo_states if count <= newest - _WINDOW]
        if not later or not earlier:
            return None
        return int((self._photo_states[max(later)] != self._photo_states[max(earlier)]).sum())

    def _is_enough(self) -> bool:
        """Return whether more labels have stopped changing the answers for photos."""
        answers = max(self._photo_states, default=0)
        most = _QUIET_SHARE * len(self.pool.photos)
        changes = [self._photos_changed(ago) for ago in range(0, _QUIET_ANSWERS, _WINDOW)]
        return answers >= _LEAST_ANSWERS and all(change is not None and change <= most for change in changes)
