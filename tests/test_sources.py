"""The user's images become the first rows of a manifest, or an error with the expected layout."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from hairline.data import classes, sources
from hairline.system.errors import HairlineError
from tests.test_archives import make_zip


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_one_subfolder_per_class(tmp_path: Path) -> None:
    touch(tmp_path, "b/10.jpg", "b/2.jpg", "b/deep/1.jpg", "a/x.PNG", "a/.hidden.jpg", "a/Thumbs.db", ".git/config")
    rows = sources.from_folder(path=str(tmp_path))
    names = [os.path.relpath(path, tmp_path) for path in rows["path"]]
    assert names == ["a/x.PNG", "b/2.jpg", "b/10.jpg", "b/deep/1.jpg"]
    assert list(rows["label"]) == ["a", "b", "b", "b"]
    assert set(rows["split"]) == {""}


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a", target_is_directory=True)
    assert len(sources.from_folder(path=str(tmp_path))) == 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "no class folders"),
        (("a/1.jpg",), "only the class 'a'"),
        (("1.jpg",), "no class folders"),
        (("train/1.jpg", "test/2.jpg"), "no class folders"),
    ],
)
def test_a_folder_without_two_classes_is_refused(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(HairlineError, match=message + ".*expected one subfolder"):
        classes.require_two_classes(
            set(sources.from_folder(path=str(tmp_path))["label"]), str(tmp_path), from_table=False
        )


def test_a_list_of_one_class_can_be_evaluated_but_not_trained_on(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\n1.jpg,a\n2.jpg,a\n")
    assert list(sources.from_manifest(path=str(tmp_path / "list.csv"))["label"]) == ["a", "a"]
    with pytest.raises(HairlineError, match="only the class 'a': expected at least two classes in the column"):
        classes.require_two_classes({"a"}, str(tmp_path / "list.csv"), from_table=True)


def test_skipped_images_and_empty_classes_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    sources.from_folder(path=str(tmp_path))
    assert not caplog.text
    touch(tmp_path, "3.jpg", "notes.txt")
    (tmp_path / "empty").mkdir()
    assert list(sources.from_folder(path=str(tmp_path))["label"]) == ["a", "b"]
    assert f"1 image lies outside the class folders (skipped): {tmp_path / '3.jpg'}" in caplog.text
    assert "no files for the class empty" in caplog.text


def test_class_folders_without_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(HairlineError, match="no files in its class folders a, b"):
        sources.from_folder(path=str(tmp_path))


def test_manifest_paths_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "path,label,group,split\nx/1.jpg,b,p1,train\n/abs/2.jpg,a,p2,\n../3.jpg,a,,test\n"
    )
    rows = sources.from_manifest(path=str(tmp_path / "list.csv"))
    assert rows.to_dict("list") == {
        "path": ["/abs/2.jpg", str(tmp_path.parent / "3.jpg"), str(tmp_path / "x/1.jpg")],
        "label": ["a", "a", "b"],
        "group": ["p2", "", "p1"],
        "split": ["", "test", "train"],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\n1.jpg,a\n2.jpg,\n", "line 3: the label is empty"),
        ("path,label,split\n1.jpg,a,train\n2.jpg,b,dev\n", "line 3: split is 'dev'; expected train, val, test"),
        ("path,label\n", "no images: expected at least two classes"),
        ("path,label\n1.jpg,a\n1.jpg,b\n", "more than once"),
        ("path,label\nmy,wall.jpg,cracked\n", "line 2: 3 fields.*comma in double quotes"),
        ("path,label,label\na.jpg,x,y\n", "names a column twice"),
        ('path,label\n"a.jpg,x\nb.jpg,y\n', "cannot be read as a CSV table"),
    ],
)
def test_manifests_with_faults(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(HairlineError, match=message):
        sources.from_manifest(path=str(tmp_path / "list.csv"))


def test_concrete_cracks_takes_a_folder_or_an_archive(tmp_path: Path) -> None:
    touch(tmp_path / "set", "inner/Negative/1.jpg", "inner/Positive/2.jpg")
    rows = sources.from_concrete_cracks(path=str(tmp_path / "set"))
    assert list(rows["label"]) == ["Negative", "Positive"]
    archive = make_zip(tmp_path / "set.zip", {"inner/Negative/1.jpg": "x", "inner/Positive/2.jpg": "y"})
    rows = sources.from_concrete_cracks(path=str(archive))
    assert list(rows["label"]) == ["Negative", "Positive"]


def test_synthetic_is_rendered_once() -> None:
    settings = {"count": 4, "size": 64, "classes": 2, "generator_seed": 0}
    rows = sources.from_synthetic(**settings)
    stamp = os.stat(rows["path"][0]).st_mtime_ns
    assert list(sources.from_synthetic(**settings)["path"]) == list(rows["path"])
    assert os.stat(rows["path"][0]).st_mtime_ns == stamp
    assert sorted(rows["label"]) == ["cracked"] * 2 + ["uncracked"] * 2


def test_limit_is_even_deterministic_and_keeps_the_order() -> None:
    rows = pd.DataFrame({"path": map(str, range(30)), "label": ["a"] * 20 + ["b"] * 10})
    kept = classes.subsample(rows, 9, seed=0)
    assert dict(kept["label"].value_counts()) in ({"a": 5, "b": 4}, {"a": 4, "b": 5})
    assert list(kept.index) == sorted(kept.index)
    assert list(kept.index) == list(classes.subsample(rows, 9, seed=0).index)
    assert list(kept.index) != list(classes.subsample(rows, 9, seed=1).index)
    assert classes.subsample(rows, None, 0) is rows
    assert classes.subsample(rows, 99, 0) is rows
    assert (classes.subsample(rows, 25, 0)["label"] == "b").sum() == 10


def test_positive_class() -> None:
    assert classes.positive_class(["Negative", "Positive"], None) == "Positive"
    assert classes.positive_class(["Cracked", "sound"], None) == "Cracked"
    assert classes.positive_class(["left", "right"], None) is None
    assert classes.positive_class(["left", "right"], "left") == "left"
    assert classes.positive_class(["a", "b", "cracked"], None) is None
    with pytest.raises(HairlineError, match="no such class; the classes are left, right"):
        classes.positive_class(["left", "right"], "up")


def test_one_class_map_serves_datasets_with_old_or_new_names() -> None:
    names = {"Positive": "cracked", "Negative": "plain"}
    old = pd.DataFrame({"label": ["Positive", "Negative"]})
    new = classes.rename_classes(old, names)
    assert new["label"].tolist() == ["cracked", "plain"]
    assert classes.rename_classes(new, names)["label"].tolist() == ["cracked", "plain"]
    with pytest.raises(HairlineError, match="names positiv: no such class; the classes are Negative, Positive"):
        classes.rename_classes(old, {"positiv": "cracked", "Negative": "plain"})
