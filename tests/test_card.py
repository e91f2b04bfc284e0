"""The model card: what it says, and how an evaluation on other images changes it."""

import json
from pathlib import Path

import pytest

from hairline.config.schema import FolderData
from hairline.model import card
from hairline.model.saved import Bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path)


def written(tmp_path: Path, accuracy: float = 0.9) -> Path:
    bundle = Bundle(["cracked", "sound"], "cracked", 32, "1", "d" * 64, {"name": "net", "weights": "random"}, {})
    (tmp_path / "bundle.json").write_text(json.dumps(bundle.__dict__ | {"decision": bundle.decision.values()}))
    images = {"train": 1400, "val": 480, "test": 120}
    metrics = {"test_accuracy": accuracy, "test_accuracy_interval_low": 0.8, "test_accuracy_interval_high": 0.95}
    metrics["test_accuracy_interval_groups"] = 12
    card.write(
        tmp_path,
        data="walls",
        images=images,
        drawn=2800,
        split_by="none",
        metrics=metrics | {"test_auroc": float("nan")},
    )
    return tmp_path


def test_a_new_card_says_what_was_measured_and_what_was_not(folder: Path) -> None:
    text = card.read(folder)
    assert "| accuracy (most probable class) | 0.9000 (0.8000 to 0.9500, few groups: 12) |" in text
    assert "1,400 training, 480 validation and 120 test images" in text
    assert "Besides, 2,800 training images were drawn" in text
    assert "figures may be too good" in text
    assert "Not measured." in text
    assert "AUROC |" not in text


def test_an_evaluation_adds_a_row_and_replaces_the_one_of_the_same_images(folder: Path) -> None:
    for accuracy in (0.5, 0.6):
        card.add_evaluation(folder, "bricks | old", "a", 50, {"test_accuracy": accuracy, "test_images": 50})
    card.add_evaluation(folder, "planks", "b", 70, {"test_accuracy": 0.7})
    card.add_evaluation(folder, "planks", "c", 80, {"test_accuracy": 0.8})  # another folder of that name
    text = card.read(folder)
    assert "Not measured" not in text
    assert "| bricks / old | 50 | 0.6000 |" in text
    assert "| planks | 70 | 0.7000 |" in text
    assert "| planks | 80 | 0.8000 |" in text
    assert "0.5000" not in text


def test_images_in_this_folder_have_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "walls").mkdir()
    monkeypatch.chdir(tmp_path / "walls")
    assert [FolderData("folder", path=path).name() for path in (".", "../walls/", str(tmp_path / "walls"))] == [
        "walls"
    ] * 3


def test_a_model_that_is_saved_again_keeps_its_evaluations_and_another_one_does_not(folder: Path) -> None:
    card.add_evaluation(folder, "bricks", "a", 50, {"test_accuracy": 0.5})
    assert "| bricks | 50 | 0.5000 |" in card.read(written(folder))
    assert "Not measured." in card.read(written(folder, accuracy=0.8))


def test_a_model_without_a_card_gets_none(tmp_path: Path) -> None:
    card.add_evaluation(tmp_path, "bricks", "a", 50, {"test_accuracy": 0.5})
    assert not any(tmp_path.iterdir())
    assert card.read(tmp_path) == ""
