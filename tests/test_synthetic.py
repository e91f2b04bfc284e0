"""Synthetic patches: deterministic, balanced, not separable by brightness, written completely or not at all."""

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hairline.data import synthetic
from hairline.data.synthetic import CLASS_NAMES, compose, cracks, draw, invent, patches, render, surfaces
from hairline.data.synthetic.lookalikes import LOOK_ALIKES, WALL_LOOK_ALIKES

SIZE = 64


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def held_out_accuracy(rows: list, labels: list, training: int) -> float:
    """Accuracy of logistic regression on the rows after the first `training`."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
    return classifier.fit(rows[:training], labels[:training]).score(rows[training:], labels[training:])


@pytest.mark.parametrize("label", CLASS_NAMES)
def test_a_patch_depends_on_its_arguments_only(label):
    first, first_mask = draw(0, 5, label=label, size=SIZE)
    draw(9, 1, label=label, size=SIZE)
    again, again_mask = draw(0, 5, label=label, size=SIZE)
    assert first.tobytes() == again.tobytes()
    assert first_mask.tobytes() == again_mask.tobytes()
    for seed, index in ((1, 5), (0, 6), (5, 0)):
        assert first.tobytes() != draw(seed, index, label=label, size=SIZE)[0].tobytes()


def test_drawing_leaves_the_global_random_state_alone():
    np.random.seed(3)  # noqa: NPY002 - the legacy state is under test
    expected = np.random.get_state()[1].tobytes()  # noqa: NPY002
    draw(0, 0, label="cracked", size=SIZE)
    assert np.random.get_state()[1].tobytes() == expected  # noqa: NPY002


@pytest.mark.parametrize("size", [synthetic.MINIMUM_SIZE, SIZE, synthetic.REFERENCE_SIZE])
def test_the_mask_is_empty_for_uncracked_only(size):
    for index in range(15):
        for label in CLASS_NAMES:
            patch, mask = draw(0, index, label=label, size=size)
            assert (patch.shape, patch.dtype) == ((size, size, 3), np.uint8)
            assert (mask.shape, mask.dtype) == ((size, size), np.bool_)
            assert patch.flags.c_contiguous
            assert mask.any() == (label != "uncracked")
            assert mask.mean() < 0.7


def test_the_mask_lies_on_the_crack():
    """Cracks are darker than the pixels beside them in nearly every patch."""
    darker = []
    for index in range(40):
        patch, mask = draw(0, index, label="cracked")
        near = np.zeros_like(mask)
        for down in (-9, 0, 9):
            for across in (-9, 0, 9):
                near |= np.roll(mask, (down, across), (0, 1))
        grey = patch.mean(axis=2)
        darker.append(grey[near & ~mask].mean() - grey[mask].mean())
    assert np.mean(darker) > 20
    assert np.mean(np.array(darker) > 0) > 0.9


@pytest.mark.parametrize("label", ["cracked", "spalled"])
def test_the_defect_changes_its_mask_and_little_else(label):
    """The part alone, on a plain image: what it changes is where its mask says."""
    part = cracks.crack if label == "cracked" else cracks.spall
    for seed in range(20):
        rng = np.random.default_rng(seed)
        plain = np.full((90, 120, 3), 0.6, np.float32)
        image, mask = part(rng, plain)
        assert (image.shape, image.dtype, mask.shape) == (plain.shape, np.float32, (90, 120))
        assert np.all(plain == np.float32(0.6))
        change = np.abs(image - plain).mean(axis=2)
        assert change[mask].mean() > 4 * change[~mask].mean()


@pytest.mark.parametrize(
    "look_alike",
    [*{**LOOK_ALIKES, **WALL_LOOK_ALIKES}, surfaces.roughened, surfaces.gritty],
    ids=lambda part: part.__name__,
)
def test_a_look_alike_is_a_pure_function(look_alike):
    plain = np.full((90, 120, 3), 0.6, np.float32)
    changed = 0
    for seed in range(10):
        image = look_alike(np.random.default_rng(seed), plain)
        assert (image.shape, image.dtype) == (plain.shape, np.float32)
        assert np.isfinite(image).all()
        assert np.all(plain == np.float32(0.6))
        assert np.array_equal(image, look_alike(np.random.default_rng(seed), plain))
        changed += not np.allclose(image, plain, atol=0.01)
    assert changed >= 5


def test_brightness_does_not_separate_the_classes():
    rows, labels = [], []
    for index in range(400):
        pixels = draw(0, index, label=CLASS_NAMES[index % 2], size=SIZE)[0].reshape(-1, 3).astype(np.float32)
        rows.append([*pixels.mean(0), *pixels.std(0), *np.quantile(pixels, [0, 0.05, 0.95], axis=0).ravel()])
        labels.append(index % 2)
    assert held_out_accuracy(rows, labels, 250) <= 0.72


def test_render_writes_what_draw_draws(tmp_path):
    render(tmp_path / "a", count=9, size=SIZE, seed=0, classes=3)
    render(tmp_path / "b", count=9, size=SIZE, seed=0, classes=3)
    render(tmp_path / "c", count=9, size=SIZE, seed=1, classes=3)
    files = contents(tmp_path / "a")
    assert files == contents(tmp_path / "b")
    assert not set(files.values()) & set(contents(tmp_path / "c").values())
    assert len(set(files.values())) == 9
    for index in range(9):
        label = CLASS_NAMES[index % 3]
        with Image.open(tmp_path / "a" / label / f"{index:05d}.jpg") as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (SIZE, SIZE))
            decoded = np.asarray(picture, float)
        patch, _ = draw(0, index, label=label, size=SIZE)
        assert np.abs(decoded - patch).mean() < 10


@pytest.mark.parametrize(
    ("count", "classes", "expected"),
    [
        (7, 2, {"cracked": 4, "uncracked": 3}),
        (2, 2, {"cracked": 1, "uncracked": 1}),
        (8, 3, {"cracked": 3, "uncracked": 3, "spalled": 2}),
    ],
)
def test_classes_are_balanced(tmp_path, count, classes, expected):
    render(tmp_path / "data", count=count, size=SIZE, seed=0, classes=classes)
    found = {folder.name: len(list(folder.glob("*.jpg"))) for folder in (tmp_path / "data").iterdir()}
    assert found == expected


def test_a_folder_is_rendered_once_and_completely(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    settings = {"count": 4, "size": SIZE, "classes": 2}
    with monkeypatch.context() as patch:
        patch.setattr(patches, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            render(tmp_path / "data", **settings, seed=0)
    assert contents(tmp_path) == {".data.lock": b""}
    (tmp_path / ".data.abc.partial" / "cracked").mkdir(parents=True)  # of a killed process
    threads = [threading.Thread(target=render, args=(tmp_path / "data",), kwargs={**settings, "seed": seed})
               for seed in (0, 1)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name for path in tmp_path.iterdir()} == {"data", ".data.lock"}
    files = contents(tmp_path / "data")
    assert len(files) == 4
    render(tmp_path / "data", **settings, seed=2)
    assert contents(tmp_path / "data") == files


def photo(size: int = 120) -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.normal(140, 12, (size, size + 30, 3)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("cracked", [True, False])
def test_a_composite_depends_on_photo_and_seed_only(cracked):
    first = compose(photo(), seed=(1, 2), cracked=cracked)
    compose(photo(90), seed=(7, 7), cracked=True)
    again = compose(photo(), seed=(1, 2), cracked=cracked)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.mask.tobytes() == again.mask.tobytes()
    assert first.image.tobytes() != compose(photo(), seed=(2, 1), cracked=cracked).image.tobytes()


def test_twins_differ_in_the_crack_alone():
    """The same seed with and without a crack: ground and look-alikes are the same."""
    for make in (lambda index, cracked: compose(photo(), seed=(4, index), cracked=cracked),
                 lambda index, cracked: invent(seed=(4, index), size=SIZE, cracked=cracked)):  # fmt: skip
        for index in range(15):
            with_crack, without = make(index, True), make(index, False)
            assert (with_crack.look_alikes, with_crack.surface) == (without.look_alikes, without.surface)
            assert with_crack.image.shape == without.image.shape
            assert with_crack.mask.any()
            assert with_crack.width_px > 0
            assert not without.mask.any()
            assert without.width_px == 0


def test_composites_hold_hairlines_and_wide_cracks_on_many_scales():
    scenes = [compose(photo(), seed=(5, index), cracked=True) for index in range(120)]
    sides = {scene.image.shape[0] for scene in scenes}
    widths = np.array([scene.width_px / scene.image.shape[0] for scene in scenes])
    assert min(sides) < 70
    assert max(sides) > 190
    assert np.quantile(widths, 0.05) < 0.015
    assert np.quantile(widths, 0.95) > 0.05
    assert {name for scene in scenes for name in scene.look_alikes} >= {part.__name__ for part in WALL_LOOK_ALIKES}


def test_some_composites_show_a_crack_at_their_border_alone():
    """As tiles of a photo do: a corner of a crack, its end, or one along the border; but always enough of it to see."""
    inner = []
    for index in range(150):
        mask = compose(photo(), seed=(8, index), cracked=True).mask
        assert np.count_nonzero(mask) >= 10
        edge = len(mask) // 4
        inner.append(mask[edge:-edge, edge:-edge].any())
    assert 0.1 < 1 - np.mean(inner) < 0.3


@pytest.mark.slow
def test_neither_brightness_nor_look_alikes_separate_composites():
    rows, labels = [], []
    for index in range(600):
        scene = compose(photo(), seed=(6, index), cracked=index % 2 == 0)
        pixels = scene.image.reshape(-1, 3).astype(np.float32)
        names = [part.__name__ in scene.look_alikes for part in WALL_LOOK_ALIKES]
        rows.append([*pixels.mean(0), *pixels.std(0), *names])
        labels.append(index % 2)
    assert held_out_accuracy(rows, labels, 300) <= 0.68


def test_a_crack_is_as_wide_as_asked():
    """Covered area over length, on a plain ground: a crack of twice the width covers about twice as much."""
    plain = np.full((200, 200, 3), 0.6, np.float32)
    areas = {
        width: np.mean(
            [cracks.crack(np.random.default_rng(seed), plain, width_px=width, depth=0.8)[1].sum() for seed in range(25)]
        )
        for width in (2.0, 4.0, 12.0)
    }
    assert 1.6 < areas[4.0] / areas[2.0] < 2.4
    assert 2.2 < areas[12.0] / areas[4.0] < 3.6
