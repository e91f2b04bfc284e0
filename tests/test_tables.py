"""CSV files as spreadsheets and other systems write them, and files that a list names in another way."""

from __future__ import annotations

import itertools
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from hairline.data import lookup, manifest, prepare, sources, tables
from hairline.data.manifest import ManifestError
from hairline.system.errors import HairlineError
from tests.running import composed
from tests.test_sources import touch

ROWS = [("base/fissuré/1.jpg", "fissuré"), ("base/sain/2.jpg", "sain, sec")]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return touch(tmp_path, "base/fissuré/1.jpg", "base/sain/2.jpg")


def listed(root: Path, content: str | bytes, **settings: Any) -> dict[str, str]:
    """Return the label of each image in a CSV file, by its path below `root`."""
    file = root / "list.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    rows = sources.from_manifest(path=str(file), **settings)
    assert all(map(os.path.exists, rows["path"]))
    return {os.path.relpath(path, root): label for path, label in zip(rows["path"], rows["label"], strict=True)}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_encodings_and_separators(encoding: str, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    for mark, end in itertools.product(",;\t|", ("\n", "\r\n")):
        caplog.clear()
        lines = [f"path{mark}label", *(f'{path}{mark}"{label}"' for path, label in ROWS), ""]
        assert listed(photos, end.join(lines).encode(encoding)) == dict(ROWS), (mark, end)
        assert ("read as cp1252" in caplog.text) == (encoding == "cp1252")


@pytest.mark.parametrize(
    "content",
    [
        "label, path\nfissuré, base/fissuré/1.jpg\n \"sain, sec\" , base/sain/2.jpg \n",
        "path,label\nbase\\fissuré\\1.jpg,fissuré\n.\\base\\sain\\2.jpg,\"sain, sec\"\n",
        "path,label\n./base/fissuré/1.jpg,fissuré\nbase/fissuré/../sain/2.jpg,\"sain, sec\"\n",
        "sep=;\npath;label\nbase/fissuré/1.jpg;fissuré\nbase/sain/2.jpg;\"sain, sec\"\n",
        "path;label;;\nbase/fissuré/1.jpg;fissuré;;\nbase/sain/2.jpg;sain, sec;;\n;;;\n",
        "\n\nPATH ,Label\n\nbase/fissuré/1.jpg,fissuré\nbase/sain/2.jpg,\"sain, sec\"\n\n",
        "path,label\nbase/fissure\u0301/1.jpg,fissure\u0301\nbase/sain/2.jpg,\"sain, sec\"\n",
        ",path,label\n7,base/fissuré/1.jpg,fissuré\n9,base/sain/2.jpg,\"sain, sec\"\n",
        '"path" "label"\n"1" "base/fissuré/1.jpg" "fissuré"\n"2" "base/sain/2.jpg" "sain, sec"\n',
        "score;width;path;label\n0,93;1,5;base/fissuré/1.jpg;fissuré\n0,5;1,5;base/sain/2.jpg;sain, sec\n",
        "path,note,label\nbase/fissuré/1.jpg,\"two\nlines, one\",fissuré\nbase/sain/2.jpg,,\"sain, sec\"\n",
        "\ufeff\ufeffpath,\u200blabel\nbase/fissuré/1.jpg,fissuré\u200b\nbase/sain/2.jpg,\"\u00a0sain, sec\"\n",
        "path,label\rbase/fissuré/1.jpg,fissuré\rbase/sain/2.jpg,\"sain, sec\"\r",
    ],
    ids=["spaces", "backslashes", "dots", "sep=", "empty columns", "empty lines", "decomposed accents", "pandas", "R",
         "decimal commas", "line breaks", "invisible characters", "old Macintosh"],
)  # fmt: skip
def test_ways_to_write_the_same_list(content: str, photos: Path) -> None:
    assert listed(photos, content) == dict(ROWS)


@pytest.mark.parametrize(
    "content",
    ["Image Path,Crack Class\n{0},{1}", "image path;class of image\n{0};{1}", '"image path","a b c"\n{0},{1}'],
)
def test_names_of_columns_may_hold_spaces(content: str, photos: Path) -> None:
    (path, label), header = ROWS[0], content.partition("\n")[0]
    names = [name.strip('"') for name in header.split(";" if ";" in header else ",")]
    assert listed(
        photos, content.format(path, label), columns=tables.COLUMNS | {"path": names[0], "label": names[1]}
    ) == {path: label}


def test_absolute_paths_and_home(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photos))
    monkeypatch.setenv("USERPROFILE", str(photos))
    content = f"path,label\n{photos}/base/fissuré/1.jpg,fissuré\n~/base/sain/2.jpg,\"sain, sec\"\n"  # fmt: skip
    assert listed(photos, content) == dict(ROWS)


def test_addresses_of_files(photos: Path) -> None:
    content = f'path,label\n{(photos / "base/fissuré/1.jpg").as_uri()},fissuré\nbase/sain/2.jpg,"sain, sec"\n'
    assert listed(photos, content) == dict(ROWS)


def test_utf16_without_a_mark_whatever_the_labels(photos: Path) -> None:
    text = "path,label\nbase/fissuré/1.jpg,裂缝裂缝裂缝裂缝裂缝裂缝\nbase/sain/2.jpg,完好\n"
    assert set(listed(photos, text.encode("utf-16-le")).values()) == {"裂缝裂缝裂缝裂缝裂缝裂缝", "完好"}


def test_accents_decomposed_on_the_disk(tmp_path: Path) -> None:
    touch(tmp_path, unicodedata.normalize("NFD", "été/fissuré é.jpg"), unicodedata.normalize("NFD", "été/2.jpg"))
    rows = listed(tmp_path, "path,label\nété/fissuré é.jpg,a\nété/2.jpg,b\n")
    assert {unicodedata.normalize("NFC", path): label for path, label in rows.items()} == {
        "été/fissuré é.jpg": "a",
        "été/2.jpg": "b",
    }


def test_labels_groups_and_paths_are_compared_in_one_form(photos: Path) -> None:
    text = "path,label,group\nbase/fissuré/1.jpg,é,e\u0301\nbase/sain/2.jpg,e\u0301,é\n"
    (photos / "list.csv").write_text(text)
    rows = sources.from_manifest(path=str(photos / "list.csv"))
    assert set(rows["label"]) == set(rows["group"]) == {"é"}
    with pytest.raises(HairlineError, match="more than once"):
        listed(photos, "path,label\nbase/fissuré/1.jpg,a\nbase/fissure\u0301/1.jpg,b\n")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    for name in ("a\udcdf.jpg", "ä.jpg"):
        (tmp_path / name).touch()
    found = listed(tmp_path, b"path,label\na\xdf.jpg,x\n")
    assert found == {"a\udcdf.jpg": "x"}
    assert listed(tmp_path, b"path,label\na\xdf.jpg,x\n\xc3\xa4.jpg,y\n") == {"a\udcdf.jpg": "x", "ä.jpg": "y"}
    with pytest.raises(HairlineError, match="not UTF-8: save the file as UTF-8"):
        listed(tmp_path, b"path,label\na\xdf.jpg,x\xdf\n\xc3\xa4.jpg,y\n")
    with pytest.raises(HairlineError, match="neither UTF-8, UTF-16 nor cp1252"):
        listed(tmp_path, b"path,label\na.jpg,\x81\n")


def test_names_with_backslashes_are_not_changed(tmp_path: Path) -> None:
    touch(tmp_path, "a\\1.jpg", "b/2.jpg")
    assert listed(tmp_path, "path,label\na\\1.jpg,x\nb/2.jpg,y\n") == {"a\\1.jpg": "x", "b/2.jpg": "y"}


def test_other_column_names(photos: Path) -> None:
    content = "Datei;Klasse;Ort;Teil\nbase/fissuré/1.jpg;a;x;Train\nbase/sain/2.jpg;b;y;TEST\n"
    columns = {"path": "Datei", "label": "klasse", "group": "Ort", "split": "Teil"}
    assert listed(photos, content, columns=columns) == {"base/fissuré/1.jpg": "a", "base/sain/2.jpg": "b"}
    config = composed("config", "data=manifest", f"data.path={photos / 'list.csv'}", *(
        f"data.columns.{role}={name}" for role, name in columns.items()
    ))  # fmt: skip
    rows = prepare.list_images(config.data)
    assert rows[["label", "group", "split"]].to_numpy().tolist() == [["a", "x", "train"], ["b", "y", "test"]]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("file,class\n1.jpg,a\n", {}, "lacks the columns path, label: it has file, class.*add data.columns.path=file "
         "data.columns.label=class"),
        ("Image Path;y\n1.jpg;a\n", {}, "add 'data.columns.path=Image Path' data.columns.label=y"),
        ("path,x\n1.jpg,a\n", {}, "lacks the column label: it has path, x.*data.columns.label=<column>"),
        ("path,label\n1.jpg,a\n", {"group": "site"}, "lacks the column site"),
        ("1.jpg,a\n2.jpg,b\n", {}, "line 1: 1.jpg, a. The first line must .*: insert a line such as path,"),
        ("My list\npath,label\n1.jpg,a\n", {}, "line 2: 1 fields, but the first line names 2 columns .My, list"),
        ("PK\x03\x04\x14", {}, "is a workbook, not a CSV table: save it as CSV"),
        ("path;label\n1.jpg;a;b\n", {}, "line 2: 3 fields, but the first line names 2 columns.*';'"),
        ("", {}, "lacks the columns path, label: it has none"),
    ],
)  # fmt: skip
def test_columns_that_are_missing(content: str, columns: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=message):
        listed(tmp_path, content, columns={**tables.COLUMNS, **columns})


def test_line_numbers_are_those_of_an_editor(photos: Path) -> None:
    with pytest.raises(HairlineError, match="line 5: the label is empty"):
        listed(photos, "\npath,label\n\nbase/fissuré/1.jpg,a\nbase/sain/2.jpg,\n")


def test_thumbnails_in_a_list_are_skipped(photos: Path) -> None:
    touch(photos, "base/sain/@eaDir/2.jpg/SYNOPHOTO_THUMB_XL.jpg", ".cache/3.jpg")
    content = "path,label\nbase/fissuré/1.jpg,a\n.cache/3.jpg,b\nbase/sain/@eaDir/2.jpg/SYNOPHOTO_THUMB_XL.jpg,b\n"
    assert listed(photos, content) == {"base/fissuré/1.jpg": "a", ".cache/3.jpg": "b"}


# --- missing files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "cause"),
    [
        ("base/sain/9.jpg", "holds no '9.jpg'"),
        ("Base/sain/2.jpg", "holds no 'Base', but 'base': upper and lower case"),
        ("base/sain/2.JPG", "holds no '2.JPG', but '2.jpg': upper and lower case"),
        ("base/sain/2.png", "holds no '2.png', but '2.jpg'"),
        ("base/sain/2", "holds no '2', but '2.jpg'"),
        ("sain/2.jpg", "holds no 'sain', but there is .*Name the folder.*data.images={root}/base"),
        ("old/base/sain/2.jpg", "holds no 'old', but there is .*data.images={root}"),
        ("C:\\photos\\2.jpg", "path of another machine .Windows"),
        ("https://host/2.jpg", "is an address .https:/.*Download"),
        ("nowhere/7.jpg", "holds no 'nowhere'.*data.images=<folder>"),
    ],
)
def test_the_likely_cause_of_missing_files(entry: str, cause: str, photos: Path) -> None:
    (photos / "list.csv").write_text(f"path,label\nbase/fissuré/1.jpg,a\n{entry},b\n", encoding="utf-8")
    rows = sources.from_manifest(path=str(photos / "list.csv"))
    with pytest.raises(ManifestError, match="1 of 2 files is missing, such as.*" + cause.format(root=photos)):
        prepare.scan_images(rows, max_rejected=0.4)


def test_the_folder_of_the_images_can_be_named(photos: Path) -> None:
    content = "path,label\nold/base/fissuré/1.jpg,a\nC:\\x\\sain\\2.jpg,b\n"
    found = listed(photos, content, images=str(photos / "base"))
    assert found == {"base/fissuré/1.jpg": "a", "base/sain/2.jpg": "b"}
    touch(photos, "base/other/2.jpg")
    with pytest.raises(ManifestError, match="there are 2 files of this name"):
        listed(photos, "path,label\nx/2.jpg,a\n", images=str(photos))


def test_names_without_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "train/0001.jpg", "train/0002.PNG", "train/0003.png")
    content = "id,label\n0001,a\n0003,b\n"
    columns = {**tables.COLUMNS, "path": "id"}
    assert listed(tmp_path, content, columns=columns, images=str(tmp_path / "train")) == {
        "train/0001.jpg": "a",
        "train/0003.png": "b",
    }
    assert lookup.likely_cause(str(tmp_path / "0003")).endswith(f"data.images={tmp_path}")
    assert listed(tmp_path, content, columns=columns, images=str(tmp_path))
    with pytest.raises(HairlineError, match="add data.columns.path=id"):
        listed(tmp_path, content)


def test_missing_files_are_not_counted_as_unreadable(two_classes: Path, tmp_path: Path) -> None:
    files = [str(path) for path in sorted(two_classes.rglob("*.jpg"))[:8]]
    touch(tmp_path, "broken.jpg")
    entries = [*files, str(tmp_path / "broken.jpg"), str(tmp_path / "gone.jpg")]
    list_file = tmp_path / "list.csv"
    list_file.write_text("path,label\n" + "".join(f"{entry},a\n" for entry in entries))
    rows = sources.from_manifest(path=str(list_file))
    _, rejected = prepare.scan_images(rows, max_rejected=0.1)  # one in ten is missing, one in ten is damaged
    reasons = dict(zip(rejected["path"].map(os.path.basename), rejected["reason"], strict=True))
    assert reasons.pop("gone.jpg") == manifest.MISSING
    assert list(reasons) == ["broken.jpg"]
    with pytest.raises(ManifestError, match="1 of 10 files is missing"):
        prepare.scan_images(rows, max_rejected=0.05)


def test_the_search_for_a_cause_ends(tmp_path: Path) -> None:
    assert "holds no 'x'" in lookup.likely_cause(str(tmp_path / "x" / "1.jpg"))
