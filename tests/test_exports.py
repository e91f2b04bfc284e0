"""Exports of labelling programs give images and classes, or say which image has none, or several."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from hairline.data import sources
from hairline.data.manifest import ManifestError
from hairline.system.errors import HairlineError, QuestionError
from tests.test_sources import touch


def listed(root: Path, source: str = "", **settings: Any) -> dict[str, str]:
    """Return split and label of each image, by its path below `root`, from a folder or a file in it."""
    place = root / source
    rows = (sources.from_folder if place.is_dir() else sources.from_manifest)(path=str(place), **settings)
    return {
        Path(path).relative_to(root).as_posix(): f"{split}:{label}"
        for path, label, split in zip(rows["path"], rows["label"], rows["split"], strict=True)
    }


# --- Roboflow ---------------------------------------------------------------------------------------------------------


def test_roboflow_one_hot(tmp_path: Path) -> None:
    for split, label in (("train", "0, 1"), ("valid", "1, 0"), ("test", "0, 1")):
        touch(tmp_path, f"{split}/1_jpg.rf.ab.jpg", "README.roboflow.txt")
        (tmp_path / split / "_classes.csv").write_text(f"filename, cracked, sound\n1_jpg.rf.ab.jpg, {label}\n")
    expected = {
        "train/1_jpg.rf.ab.jpg": "train:sound",
        "valid/1_jpg.rf.ab.jpg": "val:cracked",
        "test/1_jpg.rf.ab.jpg": "test:sound",
    }
    assert listed(tmp_path) == expected
    (tmp_path / "inner").mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / split).rename(tmp_path / "inner" / split)
    assert listed(tmp_path) == {f"inner/{place}": label for place, label in expected.items()}
    tmp_path = tmp_path / "inner"
    assert listed(tmp_path, "valid/_classes.csv") == {"valid/1_jpg.rf.ab.jpg": "val:cracked"}


def test_roboflow_with_one_class(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "_classes.csv").write_text("filename,crack\n1.jpg,1\n2.jpg,0\n")
    assert listed(tmp_path) == {"1.jpg": ":crack", "2.jpg": ":no crack"}


def test_roboflow_classes_with_spaces(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "_classes.csv").write_text("filename, no crack, crack\n1.jpg, 1, 0\n2.jpg, 0, 1\n")
    assert listed(tmp_path) == {"1.jpg": ":no crack", "2.jpg": ":crack"}


def test_the_images_of_an_export_may_lie_elsewhere(tmp_path: Path) -> None:
    touch(tmp_path, "imgs/1.jpg", "imgs/2.jpg", "proj/readme.txt")
    tasks = [task(f"/data/upload/1/0a1b2c3d-{number}.jpg", [name]) for number, name in ((1, "a"), (2, "b"))]
    (tmp_path / "proj" / "export.json").write_text(json.dumps(tasks))
    rows = sources.from_folder(path=str(tmp_path / "proj"), images=str(tmp_path / "imgs"))
    assert [Path(path).parent.name for path in rows["path"]] == ["imgs", "imgs"]
    touch(tmp_path, "classes/a/1.jpg", "classes/b/1.jpg")
    with pytest.raises(HairlineError, match="data.images=.*holds no export"):
        sources.from_folder(path=str(tmp_path / "classes"), images=str(tmp_path))


def test_one_hot_under_another_name(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "list.csv").write_text("image;rust;spall;plain\n1.jpg;0;1;0\n2.jpg;0;0;1\n")
    assert listed(tmp_path, "list.csv") == {"1.jpg": ":spall", "2.jpg": ":plain"}


def test_roboflow_images_without_class_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "_classes.csv").write_text("filename,a,b\n1.jpg,1,0\n2.jpg,0,0\n")
    assert listed(tmp_path) == {"1.jpg": ":a"}
    assert "1 images without a label are skipped" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [("1.jpg,1,1", r"line 2: 1.jpg has several classes \(a, b\)"), ("1.jpg,x,0", "line 2: expected 0 or 1")],
)
def test_roboflow_faults(row: str, message: str, tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    (tmp_path / "_classes.csv").write_text(f"filename,a,b\n{row}\n")
    with pytest.raises(ManifestError, match=message):
        listed(tmp_path)


# --- Label Studio -----------------------------------------------------------------------------------------------------


def task(image: str, *choices: list[str], **more: Any) -> dict[str, Any]:
    annotations = [
        {"id": 1, "was_cancelled": False, "result": [{"type": "choices", "value": {"choices": each}}]}
        for each in choices
    ]
    return {"id": 7, "data": {"image": image}, "annotations": annotations, **more}


IMAGES = {
    "/data/upload/1/0a1b2c3d-IMG_1.jpg": "media/upload/1/0a1b2c3d-IMG_1.jpg",
    "/data/upload/2/0a1b2c3d-IMG%202.jpg": "photos/IMG 2.jpg",
    "/data/local-files/?d=photos/wall%203.jpg": "photos/wall 3.jpg",
    "s3://bucket/photos/4.jpg": "photos/4.jpg",
    "https://host/a/5.jpg?token=x": "5.jpg",
    "photos/6.jpg": "photos/6.jpg",
}


@pytest.mark.parametrize("form", ["json", "json-min", "jsonl", "csv", "csv in a folder"])
def test_label_studio(form: str, tmp_path: Path) -> None:
    touch(tmp_path, *IMAGES.values())
    in_folder = form.endswith(" in a folder")
    if in_folder:  # and nothing else that could be classes
        (tmp_path / "media").rename(tmp_path / "photos/media")
    labels = ["cracked", "sound"] * 3
    minimal = [
        {"annotation_id": n, "annotator": 1, "choice": label, "id": n, "image": image, "lead_time": 1.5}
        for n, (image, label) in enumerate(zip(IMAGES, labels, strict=True))
    ]
    full = [task(image, [label]) for image, label in zip(IMAGES, labels, strict=True)]
    texts = {
        "json": json.dumps(full),
        "json-min": json.dumps(minimal),
        "jsonl": "\n".join(map(json.dumps, full)),
        "csv": "\n".join([",".join(minimal[0]), *(",".join(map(str, row.values())) for row in minimal)]),
    }
    file = f"project-1-at-2024-05-12.{form.partition('-')[0].partition(' ')[0]}"
    (tmp_path / file).write_text(texts[form.removesuffix(" in a folder")])
    places = [place.replace("media/", "photos/media/") if in_folder else place for place in IMAGES.values()]
    found = listed(tmp_path, "" if in_folder else file)
    assert found == {place: f":{label}" for place, label in zip(places, labels, strict=True)}


def test_label_studio_beside_images_elsewhere(tmp_path: Path) -> None:
    touch(tmp_path, "photos/deep/IMG_1.jpg", "exports/x")
    (tmp_path / "exports/a.json").write_text(json.dumps([task("/data/upload/1/0a1b2c3d-IMG_1.jpg", ["a"])]))
    assert listed(tmp_path, "exports/a.json", images=str(tmp_path / "photos")) == {"photos/deep/IMG_1.jpg": ":a"}


def test_label_studio_tasks_without_an_answer_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    cancelled = {"was_cancelled": True, "result": [{"value": {"choices": ["b"]}}]}
    tasks = [
        task("1.jpg", ["a"], ["a"]),
        task("2.jpg"),
        task("3.jpg", []),
        {"id": 4, "data": {"image": "4.jpg"}, "annotations": [cancelled]},
    ]
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    assert listed(tmp_path, "a.json") == {"1.jpg": ":a"}
    assert "3 images without a label are skipped" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([task("1.jpg", ["a", "b"])], r"task 7: 1.jpg has several classes \(a, b\)"),
        ([task("1.jpg", ["a"], ["b"])], "contradict each other: a, b"),
        ([{"id": 1, "image": "1.jpg", "choice": {"choices": ["a", "b"]}}], "several classes"),
        ([{"id": 1, "image": "1.jpg", "site": "x", "surface": "a"}], "fields site, surface may hold the class"),
        ([{"id": 1, "annotations": [], "data": {"text": "x"}}], "names no image; its fields are text"),
        ({"images": [], "annotations": [], "categories": []}, "object boxes .COCO."),
        ({"a": 1}, "not a list of images.*From another program"),
        ([task("1.jpg")], "no image with a label"),
    ],
)
def test_label_studio_faults(content: Any, message: str, tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(HairlineError, match=message):
        listed(tmp_path, "a.json")


def test_damaged_json(tmp_path: Path) -> None:
    for content in (b'[{"id": 1', b"[" * 100_000, b"\xff\xfe"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(HairlineError, match="is not JSON"):
            listed(tmp_path, "a.json")


def test_several_exports_in_a_folder_are_asked_about(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.jpg")
    for name in ("a.json", "b c.json"):
        (tmp_path / name).write_text(json.dumps([task("1.jpg", ["a"])]))
    with pytest.raises(QuestionError, match="holds 2 files of labels") as caught:
        listed(tmp_path)
    assert f"data=manifest 'data.path={tmp_path}/b c.json'" in str(caught.value)


def test_class_folders_win_over_an_export_beside_them(tmp_path: Path) -> None:
    touch(tmp_path, "cracked/1.jpg", "sound/2.jpg")
    (tmp_path / "x.json").write_text(json.dumps([task("cracked/1.jpg", ["c"])]))
    assert listed(tmp_path) == {"cracked/1.jpg": ":cracked", "sound/2.jpg": ":sound"}


def test_folders_of_other_names_beside_an_export_are_asked_about(tmp_path: Path) -> None:
    touch(tmp_path, "media/1.jpg", "photos/2.jpg")
    (tmp_path / "x.json").write_text(json.dumps([task("media/1.jpg", ["c"])]))
    with pytest.raises(QuestionError, match="Which are the classes") as caught:
        listed(tmp_path)
    assert [words for _, words in caught.value.choices] == [
        ["data=manifest", f"data.path={tmp_path / 'x.json'}"],
        ["data.class_from=top"],
    ]
    assert listed(tmp_path, class_from="top") == {"media/1.jpg": ":media", "photos/2.jpg": ":photos"}


# --- CVAT -------------------------------------------------------------------------------------------------------------


def cvat(*images: str) -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task><labels><label>'
        f"<name>crack</name></label></labels></task></meta>{''.join(images)}</annotations>"
    )


def image(name: str, *labels: str, subset: str = "", inside: str = "") -> str:
    tags = "".join(f'<tag label="{label}" source="manual"></tag>' for label in labels)
    return f'<image id="0" name="{name}" subset="{subset}" width="9" height="9">{tags}{inside}</image>'


@pytest.mark.parametrize("source", ["", "annotations.xml"])
def test_cvat_tags(source: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    touch(tmp_path, "images/1.jpg", "images/Train/site/2.jpg", "3.jpg", "images/4.jpg")
    text = cvat(
        image("1.jpg", "fissure\u0301"),
        image("site/2.jpg", "sain", subset="Train"),
        image("3.jpg", "sain", inside='<box label="x" xtl="1" ytl="1" xbr="2" ybr="2"></box>'),
        image("4.jpg"),
    )
    (tmp_path / "annotations.xml").write_text(text)
    assert listed(tmp_path, source) == {
        "images/1.jpg": ":fissuré",
        "images/Train/site/2.jpg": "train:sain",
        "3.jpg": ":sain",
    }
    assert "1 images without a label are skipped" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (cvat(image("1.jpg", "a", "b")), r"image 0: 1.jpg has several classes \(a, b\)"),
        (cvat(image("1.jpg", inside='<polygon label="x" points="1,1"/>')), "holds 1 shapes and no tags"),
        (cvat(image("1.jpg")), "holds 1 images without tags"),
        (cvat()[:-5], "is not complete XML"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotations>&b;</annotations>", "document type declaration"),
    ],
)
def test_cvat_faults(text: str, message: str, tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(HairlineError, match=message):
        listed(tmp_path, "annotations.xml")
