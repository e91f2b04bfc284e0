"""What folders mean: classes, splits, parts of an archive, masks; and what is asked where that is not clear."""

from __future__ import annotations

import logging
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from hairline.app import commandline
from hairline.app.commandline import CommandLine
from hairline.data import classes, folders, layouts, prepare, sources, splits
from hairline.system.errors import HairlineError, QuestionError
from tests.conftest import CONF
from tests.running import composed
from tests.test_sources import touch


def fill(root: Path, *places: str, images: int = 3) -> Path:
    return touch(root, *(f"{place}/{number}.jpg" for place in places for number in range(images)))


def read(root: Path, class_from: str = "auto") -> dict[str, int]:
    """Count the images of each split and class; several of one folder are one count."""
    rows = sources.from_folder(path=str(root), class_from=class_from)
    assert len(set(rows["path"])) == len(rows)
    assert all(Path(path).is_file() for path in rows["path"])
    return dict(Counter(f"{split}:{label}" for split, label in zip(rows["split"], rows["label"], strict=True)))


def answers(question: QuestionError) -> dict[str, list[str]]:
    """Return the settings of each answer by its description, without the classes."""
    return {text.partition(":")[0]: list(words) for text, words in question.choices}


def follow(root: Path, words: list[str]) -> dict[str, int]:
    """Count the images of each class as the settings of an answer give them, pasted into a shell."""
    typed = [f"data.path={root}", *(shlex.split(word)[0] for word in words)]
    given = {entry.partition("=")[0]: entry for entry in typed}  # an answer replaces what was typed
    config = composed("config", *commandline.parse(["data=folder", *given.values()], CONF).completed)
    rows = prepare.list_images(config.data)
    if config.split.given == "ignore":
        rows["split"] = ""
    splits.check_given(rows, in_folders=True)
    return dict(Counter(rows["label"]))


# --- layouts that are read --------------------------------------------------------------------------------------------

READ = {
    "splits in any case": (
        ["Train/a", "Train/b", "VALIDATION/a", "VALIDATION/b", "testing/a", "testing/b"],
        {"train:a": 3, "train:b": 3, "val:a": 3, "val:b": 3, "test:a": 3, "test:b": 3},
    ),
    "other folders beside splits": (
        ["Training/a", "Training/b", "Testing/a", "Testing/b", "ground_truth/a", "__MACOSX/Training/a", "docs"],
        {"train:a": 3, "train:b": 3, "test:a": 3, "test:b": 3},
    ),
    "class folders beside train": (["train/a", "train/b", "a", "b"], {"train:a": 3, "train:b": 3}),
    "class folders beside test": (["a", "b", "test/a", "test/b"], {":a": 3, ":b": 3, "test:a": 3, "test:b": 3}),
    "splits inside classes": (
        ["a/train", "a/test", "b/train", "b/test"], {"train:a": 3, "test:a": 3, "train:b": 3, "test:b": 3}
    ),
    "decimal numbers": (["crack 0.125", "crack 0.250", "0.100"], {":crack 0.125": 3, ":crack 0.250": 3, ":0.100": 3}),
    "an empty split": (["train/a", "train/b"], {"train:a": 3, "train:b": 3}),
    "a wrapping folder": (["set/v2/a", "set/v2/b"], {":a": 3, ":b": 3}),
    "a wrapping folder of splits": (["set/train/a", "set/train/b"], {"train:a": 3, "train:b": 3}),
    "Google Drive": (
        ["x-20240512T101112Z-001/x/a", "x-20240512T101112Z-002/x/a", "x-20240512T101112Z-003/x/b"], {":a": 6, ":b": 3}
    ),
    "Google Drive, large": (["x-20240512T101112Z-1-001/x/a", "x-20240512T101112Z-1-002/x/b"], {":a": 3, ":b": 3}),
    "parts": (["set_part1/train/a", "set_part1/train/b", "set_part2/test/a", "set_part2/test/b"],
              {"train:a": 3, "train:b": 3, "test:a": 3, "test:b": 3}),
    "copies of one name": (["archive/a", "archive (1)/a", "archive (2)/b"], {":a": 6, ":b": 3}),
    "Google Drive, an archive for each class": (
        ["a-20240512T101112Z-001/a", "a-20240512T101112Z-002/a", "b-20240512T101113Z-001/b"], {":a": 6, ":b": 3}
    ),
    "parts of each class": (["rust part 1", "rust part 2", "plain"], {":rust": 6, ":plain": 3}),
    "numbered classes": (["type (1)", "type (2)"], {":type (1)": 3, ":type (2)": 3}),
    "masks beside a wrapping folder": (["images/a", "images/b", "masks/a"], {":a": 3, ":b": 3}),
    "another class beside test": (["a", "b", "c", "test/a", "test/b"],
                                  {":a": 3, ":b": 3, ":c": 3, "test:a": 3, "test:b": 3}),
    "split archive": (["set.zip.001/a", "set.zip.002/b"], {":a": 3, ":b": 3}),
    "one of two": (["x_1of2/a", "x_1of2/b", "x_2of2/a"], {":a": 6, ":b": 3}),
    "volumes": (["Photos Vol. 1/a", "Photos Vol. 2/b"], {":a": 3, ":b": 3}),
    "iCloud": (["iCloud Photos Part 1 of 2/a", "iCloud Photos Part 2 of 2/b"], {":a": 3, ":b": 3}),
    "sub-folders of classes": (["cracked/2023", "cracked/2024", "uncracked/2023"], {":cracked": 6, ":uncracked": 3}),
    "sub-folders with names of their own": (["a/x", "a/y", "b/z"], {":a": 6, ":b": 3}),
    "images inside each class": (["a/images", "b/images"], {":a": 3, ":b": 3}),
    "masks inside a class": (["a/images", "a/masks", "b/images"], {":a": 3, ":b": 3}),
    "masks beside classes": (["a", "b", "ground_truth"], {":a": 3, ":b": 3}),
    "numbered splits": (["1_train/a", "1_train/b", "2_test_set/a", "2_test_set/b"],
                        {"train:a": 3, "train:b": 3, "test:a": 3, "test:b": 3}),
    "splits inside themselves": (["train/train/a", "train/train/b", "test/test/a", "test/test/b"],
                                 {"train:a": 3, "train:b": 3, "test:a": 3, "test:b": 3}),
    "a wrapper in each split": (["train/images/a", "train/images/b", "val/images/a", "val/images/b"],
                                {"train:a": 3, "train:b": 3, "val:a": 3, "val:b": 3}),
    "splits before the names of classes": (["train_a", "train_b", "Test_a", "Test_b"],
                                           {"train:a": 3, "train:b": 3, "test:a": 3, "test:b": 3}),
    "splits after the names of classes": (["A train", "B train", "A valid", "B valid"],
                                          {"train:A": 3, "train:B": 3, "val:A": 3, "val:B": 3}),
    "classes that begin like splits": (["test_a", "test_b"], {":test_a": 3, ":test_b": 3}),
    "unlabelled images": (["a", "b", "Unlabeled"], {":a": 3, ":b": 3}),
    "a class that is called unlabelled": (["a", "unlabelled"], {":a": 3, ":unlabelled": 3}),
    "a class that is called mask": (["with_mask", "without_mask"], {":with_mask": 3, ":without_mask": 3}),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_layouts_that_are_read(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    places, expected = READ[case]
    fill(tmp_path, *places)
    if case == "an empty split":
        (tmp_path / "val").mkdir()
    caplog.set_level(logging.INFO)
    assert read(tmp_path) == expected
    plain = case in ("numbered classes", "decimal numbers", "classes that begin like splits") or case.startswith(
        "a class that is called"
    )
    assert ("folders as they are read" in caplog.text) != plain


def test_the_tree_names_what_each_folder_is_read_as(tmp_path: Path) -> None:
    fill(tmp_path / "set", "train/a", "train/b/deep/er/est", "ground_truth/a", images=2)
    text = layouts.read(folders.read(tmp_path / "set")).draw()
    assert [line.split() for line in text.splitlines()] == [
        ["set", "6", "images"],
        ["ground_truth", "2", "images", "not", "read:", "masks"],
        ["a", "2", "images"],
        ["train", "4", "images"],
        ["a", "2", "images", "class", "a"],
        ["b", "2", "images", "class", "b"],
        ["deep", "2", "images"],
    ]


@pytest.mark.parametrize(
    "places", [["train/a", "train/b", "test"], ["a", "b", "test"], ["train/a", "train/b", "test/images"]]
)
def test_an_unlabelled_test_folder_is_named(
    places: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, *places)
    assert set(read(tmp_path)) <= {"train:a", "train:b", ":a", ":b"}
    assert "the 3 images in test are not read" in caplog.text
    assert "have no labels" in caplog.text
    assert f"input={tmp_path / 'test'}" in caplog.text


def test_folders_beside_splits_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "train/a", "train/b", "dev/a", "dev/b", "ground_truth/a")
    assert read(tmp_path) == {"train:a": 3, "train:b": 3}
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        "WARNING: the 6 images in dev are not read: beside the splits, which are named train, val or test"
    ]


@pytest.mark.parametrize(
    "places", [["images", "masks"], ["train_img", "train_lab", "test_img", "test_lab"], ["train/image", "train/mask"]]
)
def test_images_with_masks_are_no_classes(places: list[str], tmp_path: Path) -> None:
    fill(tmp_path, *places)
    with pytest.raises(layouts.LayoutError, match="holds images and masks of them"):
        read(tmp_path)


def test_folders_without_images_are_no_classes(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    touch(tmp_path, "labels/1.txt", "a/1.txt")
    assert read(tmp_path) == {":a": 4, ":b": 3}  # a/1.txt is reported as unreadable later


@pytest.mark.parametrize(
    ("places", "file"),
    [
        (["train", "test"], "labels of train.csv"),
        *((["images"], file) for file in ("labels.json", "images/metadata.jsonl", "export.ndjson", "train.tsv")),
    ],
)
def test_a_list_beside_or_among_images_is_proposed(places: list[str], file: str, tmp_path: Path) -> None:
    fill(tmp_path, *places)
    touch(tmp_path, file)
    with pytest.raises(QuestionError, match="no class folders. Does a file name") as caught:
        read(tmp_path)
    assert f"data=manifest {shlex.quote(f'data.path={tmp_path}/{file}')}" in str(caught.value)
    fill(tmp_path / "one", "cracked")
    touch(tmp_path / "one", "readme.json")
    assert read(tmp_path / "one") == {":cracked": 3}


def test_archives_that_are_not_unpacked_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "set-001.zip", "set-002.zip")
    with pytest.raises(sources.SourceError, match=r"holds 2 archives \(set-001.zip, set-002.zip\).*unpack them"):
        read(tmp_path)
    assert "unpack an archive first" in next(sources.faults("folder", str(tmp_path / "set-001.zip")))


# --- layouts that are asked about -------------------------------------------------------------------------------------

ASKED = {
    "SDNET2018": (
        ["SDNET2018/D/CD", "SDNET2018/D/UD", "SDNET2018/P/CP", "SDNET2018/P/UP", "SDNET2018/W/CW", "SDNET2018/W/UW"],
        {"by their pattern": {"cracked": 9, "uncracked": 9}, "outer": {"D": 6, "P": 6, "W": 6},
         "alone": {"CD": 3, "UD": 3}},
    ),
    "SDNET2018 with splits": (
        [f"{split}/{outer}/{letter}{outer}" for split in ("train", "test") for outer in "DP" for letter in "CU"],
        {"by their pattern": {"cracked": 12, "uncracked": 12}, "outer": {"D": 12, "P": 12}},
    ),
    "long names": (["Decks/Cracked", "Decks/Non-cracked", "Walls/Cracked", "Walls/Non-cracked"],
                   {"inner": {"Cracked": 6, "Non-cracked": 6}, "outer": {"Decks": 6, "Walls": 6}}),
    "initials": (["Deck/CD", "Deck/UD", "Wall/CW", "Wall/UW"], {"by their pattern": {"cracked": 6, "uncracked": 6}}),
    "names repeat": (["site1/a", "site1/b", "site2/a", "site2/b"],
                     {"inner": {"a": 6, "b": 6}, "alone": {"a": 3, "b": 3}}),
    "names repeat in part": (["n/rust", "n/plain", "s/rust", "s/spall"],
                             {"inner": {"rust": 6, "plain": 3, "spall": 3}}),
    "suffixes": (["wall/wallrust", "wall/wallspall", "deck/deckrust", "deck/deckspall"],
                 {"by their pattern": {"rust": 6, "spall": 6}}),
    "accents and commas": (["mur/mur, fissuré", "mur/mur, sain", "pont/pont, fissuré", "pont/pont, sain"],
                           {"by their pattern": {"fissuré": 6, "sain": 6}}),
    "brackets": (["a/rust (a)", "a/plain (a)", "b/rust (b)", "b/plain (b)"],
                 {"by their pattern": {"rust": 6, "plain": 6}}),
    "numbers": (["n/rough 1", "n/plain 1", "s/rough 2", "s/plain 2"], {"by their pattern": {"rough": 6, "plain": 6}}),
    "known names": (["bridge/cracked", "tunnel/uncracked"], {"inner": {"cracked": 3, "uncracked": 3}}),
    "a copy beside the classes": (
        ["rust", "plain", "copy/rust", "copy/plain"],
        {"inner": {"rust": 6, "plain": 6}, "outer": {"copy": 6, "plain": 3, "rust": 3},
         "inner folders of copy": {"rust": 3, "plain": 3}},
    ),
    "VisA": (["candle/Data/Images/Normal", "candle/Data/Images/Anomaly", "candle/Data/Masks/Anomaly",
              "pcb/Data/Images/Normal", "pcb/Data/Images/Anomaly"], {"inner": {"Normal": 6, "Anomaly": 6}}),
    "sites with brackets, commas and accents": (
        ["pont (é), nord/fissuré", "pont (é), nord/<0.3mm", "裂缝 2/fissuré", "裂缝 2/<0.3mm"],
        {"inner": {"fissuré": 6, "<0.3mm": 6}, "alone": {"fissuré": 3, "<0.3mm": 3}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ASKED)
def test_nested_folders_are_asked_about(case: str, tmp_path: Path) -> None:
    places, expected = ASKED[case]
    fill(tmp_path, *places)
    with pytest.raises(QuestionError, match="holds? only sub-folders, whose names (repeat|follow a pattern)") as caught:
        read(tmp_path)
    assert re.search(r"\n  .* images\n", str(caught.value))
    choices = answers(caught.value)
    assert 2 <= len(choices) <= 4
    for part, counts in expected.items():
        text = next(text for text in choices if part in text)
        assert follow(tmp_path, choices[text]) == counts, text


def test_a_stray_image_does_not_hide_the_question(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "D/CD", "D/UD", "P/CP", "P/UP", images=20)
    touch(tmp_path, "D/overview.jpg")
    with pytest.raises(QuestionError, match="hold only sub-folders"):
        read(tmp_path)
    assert set(read(tmp_path, "parent")) == {":CD", ":UD", ":CP", ":UP"}
    assert "1 image lies outside the class folders" in caplog.text


MVTEC = {
    "one defect": (["train/good", "test/good", "test/crack", "ground_truth/crack"],
                   [{"good": 6, "crack": 3}, {"good": 3, "crack": 3}]),
    "several defects": (
        ["train/good", "test/good", "test/crack", "test/hole", "ground_truth/crack", "ground_truth/hole"],
        [{"good": 6, "defect": 6}, {"good": 6, "crack": 3, "hole": 3}, {"good": 3, "crack": 3, "hole": 3}],
    ),
    "BTAD": (["train/ok", "test/ok", "test/ko", "ground_truth/ko"], [{"ok": 6, "ko": 3}, {"ok": 3, "ko": 3}]),
    "LOCO": (["train/good", "validation/good", "test/good", "test/logical", "test/structural"],
             [{"good": 9, "defect": 6}, {"good": 9, "logical": 3, "structural": 3},
              {"good": 3, "logical": 3, "structural": 3}]),
}  # fmt: skip


@pytest.mark.parametrize("case", MVTEC)
def test_training_images_of_one_class_are_asked_about(case: str, tmp_path: Path) -> None:
    places, expected = MVTEC[case]
    fill(tmp_path, *places)
    rows = sources.from_folder(path=str(tmp_path))
    with pytest.raises(QuestionError, match="lacks classes.*\n  train has no image of") as caught:
        splits.check_given(rows, in_folders=True)
    answers(caught.value)
    assert [follow(tmp_path, list(words)) for _, words in caught.value.choices] == expected


def test_several_objects_of_anomaly_detection_are_asked_about(tmp_path: Path) -> None:
    for thing, defect in (("bottle", "crack"), ("cable", "bent")):
        fill(tmp_path / thing, "train/good", "test/good", f"test/{defect}", f"ground_truth/{defect}")
    with pytest.raises(QuestionError, match="whose names repeat") as caught:
        read(tmp_path)
    assert f"data.path={tmp_path / 'bottle'}" in str(caught.value)


def test_a_class_missing_from_a_given_split_is_named_with_its_counts(tmp_path: Path) -> None:
    fill(tmp_path, "train/0", "train/180", "val/0", "val/180", "test/0")
    rows = sources.from_folder(path=str(tmp_path))
    with pytest.raises(QuestionError, match="test has no image of 180") as caught:
        splits.check_given(rows, in_folders=True)
    assert "180: train 3, val 3, test 0" in str(caught.value)
    assert [follow(tmp_path, list(words)) for _, words in caught.value.choices] == [{"0": 9, "180": 6}]
    splits.check_given(rows[rows["label"] == "0"], in_folders=True)
    splits.check_given(rows.assign(split=""), in_folders=True)


def test_a_question_repeats_the_command_with_each_answer() -> None:
    question = QuestionError("which?", [("one", ["data.path='new x'"]), ("two", ["'data.class_map={a: b}'"])])
    command = CommandLine(["data=folder", "data.path=it's old", "+tags.a=1"])
    text = question.described(command.repeated)
    assert text.splitlines() == [
        "which?",
        "  one:",
        "      python train.py data=folder +tags.a=1 data.path='new x'",
        "  two:",
        "      python train.py data=folder \"data.path=it's old\" +tags.a=1 'data.class_map={a: b}'",
    ]
    assert "add data.path='new x'" in str(question)


# --- names ------------------------------------------------------------------------------------------------------------


def test_folder_names_in_two_unicode_forms_are_one_class(tmp_path: Path) -> None:
    fill(tmp_path, "train/fissure\u0301", "train/sain", "test/fissur\u00e9", "test/sain")
    assert read(tmp_path) == {"train:fissuré": 3, "train:sain": 3, "test:fissuré": 3, "test:sain": 3}
    assert read(tmp_path / "train") == {":fissuré": 3, ":sain": 3}
    rows = sources.from_folder(path=str(tmp_path))
    renamed = classes.rename_classes(rows, {"fissure\u0301": "cracked"})
    assert set(renamed["label"]) == {"cracked", "sain"}
    assert classes.positive_class(["fissuré", "sain"], "fissure\u0301") == "fissuré"


def test_a_folder_is_found_in_another_unicode_form(tmp_path: Path) -> None:
    place = fill(tmp_path / "ponts e\u0301te\u0301", "Negative", "Positive")
    (place / "labels.csv").write_text("path,x,y,width,height,label\n")
    typed = tmp_path / "ponts \u00e9t\u00e9"
    assert not typed.exists()
    assert read(typed) == {":Negative": 3, ":Positive": 3}
    assert len(sources.from_concrete_cracks(path=str(typed))) == 6
    for source in ("folder", "labels"):
        assert not list(sources.faults(source, str(typed)))


def test_names_of_classes_have_no_spaces_around_them(tmp_path: Path) -> None:
    fill(tmp_path, "cracked ", " sound")
    assert read(tmp_path) == {":cracked": 3, ":sound": 3}


@pytest.mark.parametrize(
    "places", [["good/train", "good/test", "crack/test"], ["train_good", "test_good", "test_crack"]]
)
def test_the_folder_itself_is_no_answer(places: list[str], tmp_path: Path) -> None:
    fill(tmp_path, *places)
    with pytest.raises(QuestionError) as asked:
        splits.check_given(sources.from_folder(path=str(tmp_path)), in_folders=True)
    assert "data.path" not in str(asked.value)


def test_an_answer_does_not_replace_a_class_map(tmp_path: Path) -> None:
    fill(tmp_path, "train/good", "test/good", "test/hole", "test/crack")
    rows = classes.rename_classes(sources.from_folder(path=str(tmp_path)), {"good": "sound"})
    with pytest.raises(QuestionError) as asked:
        splits.check_given(rows, in_folders=True, renamed=True)
    assert "data.class_map" not in str(asked.value)


def test_an_empty_train_folder_hides_no_classes(tmp_path: Path) -> None:
    fill(tmp_path, "cracked", "sound")
    (tmp_path / "train").mkdir()
    assert read(tmp_path) == {":cracked": 3, ":sound": 3}


def test_class_maps_take_patterns(tmp_path: Path) -> None:
    fill(tmp_path, "good", "hole", "crack [1]", "crack [2]")
    rows = sources.from_folder(path=str(tmp_path))

    def renamed(class_map: dict[str, str]) -> set[str]:
        return set(classes.rename_classes(rows, class_map)["label"])

    assert renamed({"*": "defect", "good": "good"}) == {"good", "defect"}
    assert renamed({"crack [1]": "thin", "crack*": "wide"}) == {"good", "hole", "thin", "wide"}
    assert renamed({"crack [?]": "crack"}) == {"good", "hole", "crack"}
    with pytest.raises(HairlineError, match=r"names spall\*: no such class"):
        renamed({"spall*": "defect"})
