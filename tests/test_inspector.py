"""Single photos, inspected by a model with known answers: the darker a tile, the more cracked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hairline
from hairline.data import images
from hairline.inspection.inspector import InspectionError, Inspector
from hairline.model import saved
from hairline.model.decision import Decision, PhotoRule
from tests import darkness
from tests.darkness import DARK, SIZE

TILE = darkness.PATCH_PX


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return darkness.save(tmp_path_factory.mktemp("darkness") / "model")


@pytest.fixture(scope="module")
def inspector(model: Path) -> Inspector:
    return Inspector(model, engine="tensorflow")


def test_an_array_a_path_and_bytes_give_the_same(model: Path, tmp_path: Path) -> None:
    pixels = darkness.wall(*SIZE, [DARK])
    Image.fromarray(pixels).save(tmp_path / "wall.png")
    expected = hairline.inspect(pixels, run=model, engine="tensorflow")
    for source in (tmp_path / "wall.png", str(tmp_path / "wall.png"), (tmp_path / "wall.png").read_bytes()):
        other = hairline.inspect(source, run=model, engine="tensorflow")
        assert (other.heat_map == expected.heat_map).all()
        assert other.table.drop(columns="path").equals(expected.table.drop(columns="path"))
    assert expected.heat_map.dtype == np.float32
    assert expected.heat_map.shape == pixels.shape[:2]
    assert expected.table[["x", "y"]].iloc[-1].tolist() == [SIZE[0] - TILE, SIZE[1] - TILE]


def test_the_result_is_what_was_painted(inspector: Inspector) -> None:
    result = inspector.inspect(darkness.wall(*SIZE, [DARK]))
    x, y, width, height = DARK
    (region,) = result.regions
    assert (region.x, region.y, region.width, region.height, region.area_px) == (*DARK, width * height)
    assert result.verdict == "cracked"
    assert result.share("cracked") == width * height / (SIZE[0] * SIZE[1])
    assert result.highest == pytest.approx(darkness.probability(60), abs=0.01)
    inside = result.heat_map[y + 8 : y + height - 8, x + 8 : x + width - 8]  # cells are smoothed
    np.testing.assert_allclose(inside, darkness.probability(60), atol=0.01)
    assert result.heat_map[y, x - 1] == pytest.approx(darkness.probability(200), abs=0.01)
    light = inspector.inspect(darkness.wall(*SIZE, []))
    assert (light.verdict, light.regions, light.share("cracked")) == ("not cracked", [], 0)
    with pytest.raises(InspectionError, match=r"share\('crack'\): expected one of cracked, plain, cannot tell"):
        result.share("crack")


@pytest.mark.parametrize(("width", "height", "tiles"), [(100, 90, 4 * 4), (40, 38, 1)])
def test_tiles_are_scored_like_images_cut_out(model: Path, width: int, height: int, tiles: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    result = hairline.inspect(pixels, run=model, size_px=40, overlap=0.5, engine="tensorflow")
    cut = [pixels[row.y : row.y + row.height, row.x : row.x + row.width] for row in result.table.itertuples()]
    expected = hairline.load(str(model)).predict(cut)
    np.testing.assert_allclose(result.table["prob_cracked"], expected["prob_cracked"], atol=1e-6)
    assert len(cut) == tiles


@pytest.mark.parametrize(("single", "verdict"), [(14.99, "cracked"), (15.01, "not cracked")])
def test_the_rule_for_photos_compares_exact_log_odds(single: float, verdict: str, tmp_path: Path) -> None:
    """A black tile has log odds of 15; as a probability of 32 bits it would have 15.03, and from 17.3 on all are 1."""
    rule = PhotoRule([1, 100], [single] * 2, [1e9] * 2, [0.0] * 2, [], [])
    place = darkness.save(tmp_path / "model", decision=Decision(threshold=0.5, photo=rule))
    black = np.zeros((TILE, TILE, 3), np.uint8)
    assert hairline.inspect(black, run=place, engine="tensorflow").verdict == verdict


def test_litert_agrees_with_tensorflow(model: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    first, second = (hairline.inspect(pixels, run=model, engine=name, threads=2) for name in ("litert", "tensorflow"))
    np.testing.assert_allclose(first.heat_map, second.heat_map, atol=1e-5)


def test_cannot_tell(tmp_path: Path) -> None:
    inspector = Inspector(
        darkness.save(tmp_path / "model", decision=Decision(threshold=0.5, abstain=[0.3, 0.9])), engine="tensorflow"
    )
    wall = darkness.wall(*SIZE, [])
    wall[:TILE, :TILE] = 125
    doubtful = inspector.inspect(wall)
    assert (doubtful.verdict, doubtful.regions) == ("cannot tell", [])
    assert doubtful.share("cannot tell") == TILE * TILE / (SIZE[0] * SIZE[1])
    assert sorted(doubtful.table["predicted"].unique()) == ["cannot tell", "plain"]
    wall[TILE : 2 * TILE, :TILE] = 30
    assert inspector.inspect(wall).verdict == "cracked"


def test_a_positive_tile_that_its_neighbours_contradict_has_no_region(model: Path) -> None:
    wall = darkness.wall(2 * TILE, TILE, [])
    wall[:, TILE // 2 : -TILE // 2] = 110  # the middle tile is cracked (0.86), its neighbours' halves are plain
    result = Inspector(model, overlap=0.5, engine="tensorflow").inspect(wall)
    assert result.table["predicted"].tolist() == ["plain", "cracked", "plain"]
    assert (result.decided == "plain").all()
    assert (result.verdict, result.regions) == ("cracked", [])


def test_a_given_threshold_replaces_the_models_own(model: Path, inspector: Inspector) -> None:
    wall = darkness.wall(*SIZE, [])
    wall[:TILE, :TILE] = 125
    highest = inspector.inspect(wall).highest
    predicted = [
        Inspector(model, engine="tensorflow", threshold=highest + change).inspect(wall).verdict
        for change in (-0.01, 0.01)
    ]
    assert predicted == ["cracked", "not cracked"]


def test_the_positive_class(model: Path, tmp_path: Path) -> None:
    names = ["cracked", "plain", "rust"]
    place = darkness.save(tmp_path / "three", class_names=names, positive_class=None, decision=Decision())
    result = Inspector(place, engine="tensorflow").inspect(darkness.wall(*SIZE, [DARK]))
    assert (result.positive, result.verdict) == ("cracked", "cracked")  # by its well-known name
    assert list(result.table)[-3:] == ["prob_cracked", "prob_plain", "prob_rust"]
    assert Inspector(place, positive_class="rust", engine="tensorflow").positive == "rust"
    unknown = darkness.save(tmp_path / "unknown", class_names=["a", "b", "c"], positive_class=None, decision=Decision())
    damaged = darkness.save(tmp_path / "damaged", positive_class="kracked")
    for run, chosen, message in (
        (unknown, None, r"add positive_class=a or positive_class=b or positive_class=c"),
        (damaged, None, "'kracked' is not one of its classes"),
        (model, "craked", r"positive_class=craked: expected one of the model's classes \(cracked, plain\)"),
        (model, "plain", "positive_class=plain: the model's positive class is cracked"),
    ):
        with pytest.raises(ValueError, match=message):
            Inspector(run, positive_class=chosen)


def test_a_changed_model_and_settings_that_leave_gaps_are_refused(model: Path, tmp_path: Path) -> None:
    for settings in ({"overlap": 1.0}, {"size_px": 20, "stride_px": 21}):
        with pytest.raises(InspectionError, match="expected 0 <= overlap < 1|would leave gaps"):
            Inspector(model, **settings)
    place = darkness.save(tmp_path / "model")
    with (place / saved.MODEL).open("ab") as file:
        file.write(b"x")
    with pytest.raises(saved.BundleError, match="is not the model that was saved"):
        Inspector(place)


@pytest.mark.parametrize("wrong", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)])
def test_arrays_of_another_kind_are_refused(inspector: Inspector, wrong: np.ndarray) -> None:
    with pytest.raises(images.ImageError, match="expected uint8"):
        inspector.inspect(wrong)
