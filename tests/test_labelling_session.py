"""Answers, undo, corrections and restarts of a labelling session, and the file that holds them."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hairline.data import labels
from hairline.labelling import estimate, learner
from hairline.labelling.journal import Journal
from hairline.labelling.selection import RANDOM_EVERY, Selector, random_order
from hairline.labelling.session import Session, SessionError
from tests.labelled import NAMES, Wall, wall


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a session that refits in no time: the layer stays as it is."""
    monkeypatch.setattr(learner, "refit", unchanged)
    (tmp_path / "labels").mkdir()
    return tmp_path / "labels"


@pytest.fixture
def made(tmp_path: Path) -> Wall:
    return wall(tmp_path)


@pytest.fixture
def session(made: Wall, place: Path) -> Iterator[Session]:
    with contextlib.closing(made.open(place)) as opened:
        yield opened


def unchanged(features: np.ndarray, *rest: object, kernel: np.ndarray, bias: np.ndarray, **more: object) -> object:
    return SimpleNamespace(kernel=kernel, bias=bias, held_out=features @ kernel + bias)


def answer(session: Session, made: Wall, count: int, browser: str = "a") -> list[int]:
    """Answer as the truth has it; returns the tiles."""
    done = []
    for _ in range(count):
        tile = session.tiles(browser)[0]
        assert session.answer(browser, tile, made.name(tile))
        done.append(tile)
    return done


def rows(place: Path) -> list[str]:
    return (place / labels.FILE).read_text().splitlines()[1:]


def test_an_answer_is_in_the_file_before_the_next_tile_shows(made: Wall, session: Session, place: Path) -> None:
    first = session.tiles("a")[0]
    session.answer("a", first, "cracked")
    ((*window, name, _, by, chosen),) = csv.reader(rows(place))
    assert window == [made.pool.photos[made.pool.photo[first]], *map(str, made.pool.boxes[first].tolist())]
    assert (name, by, chosen) == ("cracked", "me", "random")  # the first one is chosen at random
    assert session.tiles("a")[0] != first


def test_undo_correct_and_skip_are_rows_that_readers_understand(made: Wall, session: Session, place: Path) -> None:
    one, two, three = (session.tiles("a")[0], answer(session, made, 3))[1]
    assert session.undo("a")
    assert session.tiles("a")[0] == three
    session.answer("a", three, "")
    session.correct("a", one, NAMES[int(made.cracked[one])])
    assert len(rows(place)) == 6
    table = labels.read(place / labels.FILE)
    assert table["label"].tolist() == [made.name(two), NAMES[int(made.cracked[one])]]
    with pytest.raises(SessionError, match="no answer to correct"):
        session.correct("a", 99, "sound")
    with pytest.raises(SessionError, match="received the class 'rust': expected one of cracked, sound"):
        session.answer("a", three, "rust")


def test_after_a_restart_undone_tiles_are_asked_again_and_skipped_ones_are_not(
    made: Wall, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = made.open(place)
    undone = answer(session, made, 3)[1:]
    assert session.undo("a")
    assert session.undo("a")
    twice, skipped = answer(session, made, 2)  # the undone tiles again
    assert {twice, skipped} == set(undone)
    assert session.undo("a")
    session.answer("a", skipped, "")
    (last,) = answer(session, made, 1)
    assert session.undo("a")
    session.close()
    with caplog.at_level("INFO"):
        again = made.open(place)
    assert "earlier session: 2 labels, 1 skipped" in caplog.text
    state = again.state("a")
    assert (state["answers"], state["skipped"], state["left"]) == (2, 1, len(made.pool) - 3)
    shown = answer(again, made, len(made.pool) - 3)
    assert last in shown
    assert skipped not in shown
    again.close()


@pytest.mark.parametrize("form", ["as it was", "semicolons", "another order", "fewer columns", "quoted by a report"])
def test_a_file_that_another_program_saved_is_gone_on_with(form: str, made: Wall, place: Path) -> None:
    with contextlib.closing(made.open(place)) as session:
        answer(session, made, 6)
    file = place / labels.FILE
    table = pd.read_csv(file, dtype=str)
    if form == "semicolons":
        table.to_csv(file, sep=";", index=False, encoding="utf-8-sig", lineterminator="\r\n")
    elif form == "another order":
        table[table.columns[::-1]].to_csv(file, index=False)
    elif form == "fewer columns":
        file.write_text(table[list(labels.COLUMNS[:6])].to_csv(index=False).rstrip("\n"))
    elif form == "quoted by a report":
        table.to_csv(file, index=False, quoting=csv.QUOTE_ALL)
    for answers in (6, 8, 10):
        with contextlib.closing(made.open(place)) as session:
            assert session.state("a")["answers"] == answers
            answer(session, made, 2)
    assert len(labels.read(file)) == 12


def test_a_header_and_an_answer_that_a_power_cut_left_torn_are_written_again(made: Wall, place: Path) -> None:
    file = place / labels.FILE
    for torn in (
        b"path,x,y",
        b'path,x,y,width,height,label,time,by,chosen\n"a.png","1","2","16","16","cracked","t","m',
    ):
        file.write_bytes(torn)
        with contextlib.closing(made.open(place)) as session:
            assert session.state("a")["answers"] == 0
            answer(session, made, 1)
        assert len(labels.read(file)) == 1


def test_a_photo_may_have_any_name(made: Wall, place: Path) -> None:
    odd = [os.path.join(os.path.dirname(path), f"a\r\n, {n}.png") for n, path in enumerate(made.pool.photos)]
    renamed = dataclasses.replace(made, pool=dataclasses.replace(made.pool, photos=odd))
    for answers in (0, 3):
        with contextlib.closing(renamed.open(place)) as session:
            assert session.state("a")["answers"] == answers
            answer(session, made, 3)


def test_answers_keep_how_they_were_chosen_when_photos_are_added(tmp_path: Path, place: Path) -> None:
    few, many = wall(tmp_path), wall(tmp_path, photos=20)
    with contextlib.closing(few.open(place)) as session:
        done = answer(session, few, 40)
    before = labels.read(place / labels.FILE)["chosen"].tolist()
    with contextlib.closing(many.open(place)) as session:
        for tile in done:
            session.correct("a", tile, "")
            session.correct("a", tile, NAMES[0])
    assert labels.read(place / labels.FILE)["chosen"].tolist() == before


@pytest.mark.parametrize("undone", [False, True])
def test_a_tile_that_was_corrected_to_a_skip_stays_skipped_after_a_restart(
    undone: bool, made: Wall, place: Path
) -> None:
    session = made.open(place)
    (tile,) = answer(session, made, 1)
    session.correct("a", tile, "")
    if undone:
        session.correct("a", tile, NAMES[0])
        assert session.undo("a")
    session.close()
    again = made.open(place)
    state = again.state("a")
    assert (state["answers"], state["skipped"]) == (0, 1)
    assert tile not in answer(again, made, len(made.pool) - 1)
    again.close()


def test_undo_reverts_a_correction_first_and_ends_with_the_first_answer(
    made: Wall, session: Session, place: Path
) -> None:
    assert not session.undo("a")
    first, second = answer(session, made, 2)
    wrong = NAMES[0] if made.name(first) == NAMES[1] else NAMES[1]
    session.correct("a", first, wrong)
    showing = session.tiles("a")
    assert session.undo("a")
    assert session.tiles("a") == showing
    assert [session.describe(tile)["label"] for tile in (first, second)] == [made.name(first), made.name(second)]
    assert session.undo("a")
    assert session.tiles("a")[0] == second
    assert labels.read(place / labels.FILE)["label"].tolist() == [made.name(first)]
    assert [session.undo("a") for _ in range(2)] == [True, False]
    assert session.state("a")["answers"] == 0
    assert labels.read(place / labels.FILE).empty


def test_a_restart_goes_on_where_the_session_was(made: Wall, place: Path) -> None:
    session = made.open(place)
    done = answer(session, made, 30)
    before = (session.wait(300), session.state("a")["curve"])
    session.close()
    again = made.open(place)
    assert again.state("b")["counts"] == {name: sum(made.name(tile) == name for tile in done) for name in NAMES}
    assert again.state("b")["curve"][-1] == before[1][-1]
    more = answer(again, made, len(made.pool) - 30, "b")
    assert not set(done) & set(more)
    assert again.tiles("b") == []
    again.close()


def test_the_page_need_not_wait_until_the_answers_of_an_earlier_session_are_learned(tmp_path: Path, made: Wall) -> None:
    (place := tmp_path / "labels").mkdir()
    session = made.open(place)
    answer(session, made, 60)
    session.close()

    computed = threading.Event()

    def views(tiles: np.ndarray) -> np.ndarray:
        assert computed.wait(60)
        return made.pool.features[tiles][None]

    again = made.open(place, views=views)
    assert again.layer().answers == 0
    assert again.state("a")["learning"]
    answer(again, made, 1)
    computed.set()
    assert again.wait()
    assert again.layer().answers > 20
    again.close()


def test_closing_learns_the_last_answers_and_a_fit_that_fails_is_told(
    tmp_path: Path, made: Wall, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (place := tmp_path / "labels").mkdir()
    session = made.open(place)
    answer(session, made, 70)
    session.close()
    assert json.loads((place / labels.SESSION).read_text())["curve"][-1]["answers"] == 70
    assert not session.state("a")["failed"]

    def broken(*rest: object, **more: object) -> object:
        raise MemoryError

    monkeypatch.setattr(learner, "fit", broken)
    again = made.open(place)
    assert again.wait()
    assert again.state("a")["failed"]
    assert "could not be refitted" in caplog.text
    answer(again, made, 1)
    again.close()
    assert len(rows(place)) == 71


def test_two_windows_show_different_tiles_and_repeated_requests_count_once(
    made: Wall, session: Session, place: Path
) -> None:
    assert not set(session.tiles("a")) & set(session.tiles("b"))
    tile = session.tiles("a")[0]
    assert session.answer("a", tile, "sound")
    assert not session.answer("a", tile, "sound")
    assert not session.answer("b", tile, "cracked")
    assert len(rows(place)) == 1
    answer(session, made, 3, "b")
    assert session.undo("a")
    assert labels.read(place / labels.FILE)["label"].size == 3


def test_many_windows_at_once_lose_and_double_nothing(made: Wall, session: Session, place: Path) -> None:
    done: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda name=name: done.append(answer(session, made, 9, name))) for name in "abcdefgh"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tiles = [tile for part in done for tile in part]
    assert len(set(tiles)) == len(tiles) == 72
    table = labels.read(place / labels.FILE)
    assert len(table) == len(rows(place)) == 72
    assert (table["label"] == "cracked").sum() == made.cracked[tiles].sum()


def test_a_torn_last_line_is_removed_and_a_complete_one_is_kept(tmp_path: Path) -> None:
    file = tmp_path / labels.FILE
    whole = "/p/0.png,0,0,16,16,cracked,t,me,random"
    torn, complete = ("/p/1.png,0,0,16", "/p/1.png,0,0,16,16,cra"), "/p/2.png,0,0,16,16,sound,t,me,selected"
    for last, kept in ((torn[0], []), (torn[1], []), (complete, ["sound"])):
        file.write_text("\n".join([",".join(labels.COLUMNS), whole, last]))
        journal = Journal(file)
        journal.add(["/p/3.png", 0, 0, 16, 16, "sound", "t", "me", "selected"])
        journal.close()
        assert labels.read(file)["label"].tolist() == ["cracked", *kept, "sound"]


def test_answers_for_a_full_disk_are_reported_and_nothing_changes(session: Session) -> None:
    tile = session.tiles("a")[0]

    def full(answer: object) -> None:
        raise OSError("no space")

    session._journal.add = full  # type: ignore[assignment, method-assign]
    with pytest.raises(OSError, match="no space"):
        session.answer("a", tile, "sound")
    assert session.tiles("a")[0] == tile
    assert session.state("a")["answers"] == 0


def test_a_file_with_other_classes_is_refused(made: Wall, place: Path) -> None:
    photo = made.pool.photos[0]
    lines = [",".join(labels.COLUMNS), f"{photo},0,0,16,16,rust,t,me,random"]
    (place / labels.FILE).write_text("\n".join(lines) + "\n")
    with pytest.raises(SessionError, match="answers with the class 'rust'; the model knows cracked, sound"):
        made.open(place)


# --- what is asked, and what is learnt --------------------------------------------------------------------------------


def test_every_fifth_tile_is_random_and_random_ones_are_never_fitted(
    made: Wall, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: set[int] = set()

    def record(base: object, features: object, tiles: np.ndarray, *rest: object, **more: object) -> object:
        fitted.update(tiles.tolist())
        return fit(base, features, tiles, *rest, **more)

    fit = learner.fit
    monkeypatch.setattr(learner, "fit", record)
    session = made.open(place)
    done = answer(session, made, 40)
    assert session.wait(300)
    session.close()
    chosen = labels.read(place / labels.FILE)["chosen"].to_numpy()
    random = set(random_order(len(made.pool), 0).tolist())
    assert [tile in random for tile in done] == [value == labels.RANDOM for value in chosen]
    assert (chosen == labels.RANDOM).sum() == 40 / RANDOM_EVERY
    assert fitted == set(done) - random


def test_the_random_tiles_represent_all_tiles() -> None:
    drawn = np.array([random_order(50, seed) for seed in range(400)])
    assert drawn.shape[1] == 13
    frequency = np.bincount(drawn.ravel(), minlength=50) / 400
    assert abs(frequency - 13 / 50).max() < 5 * np.sqrt(0.26 * 0.74 / 400)


def test_the_first_tiles_span_the_scores_and_later_ones_are_uncertain(tmp_path: Path) -> None:
    made = wall(tmp_path, photos=40)
    logits = made.base.logits(made.pool.features)
    margin = logits[:, 0] - logits[:, 1]
    selector = Selector(made.pool.features, made.pool.photo, mean=made.base.mean, deviation=made.base.deviation)
    tiles: list[int] = []
    for _ in range(60):
        free = np.setdiff1d(np.arange(len(made.pool)), tiles)
        tiles.append(selector.next(logits, free, np.array(tiles, np.int64), 0))
    assert len(set(tiles)) == 60
    thirds = np.quantile(margin, [0.02, 0.99]) @ np.array([[2 / 3, 1 / 3], [1 / 3, 2 / 3]])
    assert set(np.digitize(margin[tiles[:8]], thirds)) == {0, 1, 2}
    later = np.arange(20, 60)
    ranked, uncertain = (margin[[tiles[turn] for turn in later[rows]]] for rows in (later % 3 == 0, later % 3 != 0))
    assert np.abs(uncertain).mean() < 0.5 * np.abs(ranked).mean()
    assert set(np.digitize(ranked, np.quantile(margin, [1 / 3, 2 / 3]))) == {0, 1, 2}
    assert len(set(made.pool.photo[tiles[:20]])) > 14


def test_the_layer_moves_to_the_threshold_of_the_surface(tmp_path: Path) -> None:
    made = wall(tmp_path, photos=60, share=0.1)
    generator = np.random.default_rng(1)
    rows = generator.choice(len(made.pool), 150, replace=False)
    classes = np.where(made.cracked[rows], 0, 1)
    layer, held_out = learner.fit(made.base, made.pool.features, rows, classes, made.pool.photo[rows].tolist(), seed=0)

    def balanced(layer: learner.Layer) -> float:
        found = layer.logits(made.pool.features).argmax(axis=1) == 0
        return float((found[made.cracked].mean() + (~found[~made.cracked]).mean()) / 2)

    assert held_out.shape == (150, 2)
    assert layer.share == pytest.approx(made.cracked.mean(), abs=0.04)
    assert balanced(layer) > balanced(made.base) + 0.05
    few, _ = learner.fit(made.base, made.pool.features, rows[:2], classes[:2], [0, 1], seed=0)
    assert few is made.base


def test_up_to_a_thousand_answers_are_learned_in_all_orientations(tmp_path: Path) -> None:
    made = wall(tmp_path, photos=90)
    seen: list[int] = []

    def views(tiles: np.ndarray) -> np.ndarray:
        seen.append(len(tiles))
        return np.stack([made.pool.features[tiles] + 0.1, made.pool.features[tiles] - 0.1])

    for count in (200, 1001):
        rows = np.arange(count)
        classes = np.where(made.cracked[rows], 0, 1)
        groups = made.pool.photo[rows].tolist()
        layer, held_out = learner.fit(made.base, made.pool.features, rows, classes, groups, seed=0, views=views)
        assert held_out.shape == (count, 2)
        assert layer.answers == count
    assert seen == [200]


def test_the_estimate_holds_the_truth(tmp_path: Path) -> None:
    inside, widths = [], []
    for seed in range(20):
        made = wall(tmp_path, photos=80, share=0.2, seed=seed)
        logits = made.base.logits(made.pool.features) + np.array([1.8, 0], np.float32)
        margin = logits[:, 0] - logits[:, 1]
        chance = np.exp(-2 * np.abs(margin))  # doubtful tiles are answered far more often than clear ones
        rows = np.random.default_rng(seed).choice(len(margin), 150, replace=False, p=chance / chance.sum())
        classes = np.where(made.cracked, 0, 1)
        photo = made.pool.photo
        found = estimate.estimate(logits[rows], classes[rows], photo[rows], logits, photo, seed=seed)
        assert found is not None
        right = logits.argmax(axis=1) == classes
        truth = (right[made.cracked].mean() + right[~made.cracked].mean()) / 2
        inside.append(found.low <= truth <= found.high)
        widths.append(found.high - found.low)
        assert right[rows].mean() < truth - 0.1  # what counting right answers would say
    assert np.mean(inside) >= 0.8
    assert max(widths) < 0.25
