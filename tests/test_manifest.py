"""Scanning, rejecting, remembering, and the CSV form of a manifest."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hairline.data import images, manifest


def listed(folder: Path) -> pd.DataFrame:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return pd.DataFrame({"path": [str(path) for path in files], "label": [path.parent.name for path in files]})


def test_scan_fills_the_columns(two_classes: Path) -> None:
    table, rejected = manifest.scan(listed(two_classes))
    assert tuple(table.columns) == (*manifest.COLUMNS, "phash")
    assert (len(table), len(rejected)) == (120, 0)
    assert set(table["width"]) == set(table["height"]) == {40}
    first = Path(table["path"].iloc[0])
    assert table["sha256"].iloc[0] == hashlib.sha256(first.read_bytes()).hexdigest()


def test_rejected_files_are_named_with_their_reason(two_classes: Path, tmp_path: Path) -> None:
    good = next(two_classes.rglob("*.jpg")).read_bytes()
    faults = {"zero.jpg": b"", "text.png": b"not an image", "cut.jpg": good[:-100], "notes.txt": b"hello"}
    for name, content in {**faults, "good.jpg": good}.items():
        (tmp_path / name).write_bytes(content)
    table, rejected = manifest.scan(listed(tmp_path))
    assert [Path(path).name for path in table["path"]] == ["good.jpg"]
    reasons = {Path(row.path).name: row.reason for row in rejected.itertuples()}
    assert set(reasons) == set(faults)
    assert "empty" in reasons["zero.jpg"]
    assert "not an image" in reasons["text.png"]
    assert "truncated" in reasons["cut.jpg"]
    assert ".txt" not in reasons["notes.txt"]
    assert ".jpg" in reasons["notes.txt"]


def test_unchanged_files_are_not_read_again(two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = next(two_classes.rglob("*.jpg")).read_bytes()
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(content)
    before, _ = manifest.scan(listed(tmp_path))
    read: list[bytes] = []
    original = images.inspect
    monkeypatch.setattr(images, "inspect", lambda data, minimum: read.append(data) or original(data, minimum))
    (tmp_path / "1.jpg").write_bytes(content + b"more")
    after, _ = manifest.scan(listed(tmp_path))
    assert read == [content + b"more"]
    assert list(before["sha256"] == after["sha256"]) == [True, False, True]
    assert before["phash"].dtype == "uint64"
    assert list(before["phash"]) == list(after["phash"])  # the same picture, with bytes behind it


def test_rejected_files_are_read_again(two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo.jpg").write_bytes(next(two_classes.rglob("*.jpg")).read_bytes())
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise images.ImageError("its reader is not installed")

        patch.setattr(images, "inspect", fail)
        _, rejected = manifest.scan(listed(tmp_path))
    assert list(rejected["reason"]) == ["its reader is not installed"]
    table, rejected = manifest.scan(listed(tmp_path))
    assert (len(table), len(rejected)) == (1, 0)


def test_too_many_rejected_files_stop_the_run() -> None:
    rejected = pd.DataFrame({"path": [f"/x/{n}.jpg" for n in range(7)], "label": "a", "reason": "empty file (0 bytes)"})
    manifest.check_rejected(rejected, 700, 0.01)
    with pytest.raises(
        manifest.ManifestError, match=r"(?s)7 of 600 files.*/x/0.jpg: empty file.*and 2 more.*max_rejected"
    ):
        manifest.check_rejected(rejected, 600, 0.01)


def test_the_same_bytes_under_two_labels_are_refused_naming_both() -> None:
    table = pd.DataFrame(
        {"path": ["/a/1.jpg", "/b/2.jpg", "/a/3.jpg"], "label": ["a", "b", "a"], "sha256": ["x", "x", "y"]}
    )
    with pytest.raises(manifest.ManifestError, match=r"/a/1.jpg is 'a' and /b/2.jpg is 'b'"):
        manifest.check_labels(table)
    manifest.check_labels(table.iloc[[0, 2]])


names = st.text(st.characters(exclude_characters="\0", codec=None, exclude_categories=()), min_size=1, max_size=12)


@settings(max_examples=150)
@given(paths=st.lists(names, min_size=1, max_size=4), label=names)
def test_csv_gives_back_every_name(paths: list[str], label: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    # What a file system can hold: text that survives encoding with surrogates for undecodable bytes.
    paths = [os.fsdecode(path.encode("utf-8", "surrogatepass")) for path in paths]
    label = os.fsdecode(label.encode("utf-8", "surrogatepass"))
    rows = [(path, label, "", "train", 3, 4, "ab") for path in paths]
    table = pd.DataFrame(rows, columns=list(manifest.COLUMNS), dtype=object).astype({"width": int, "height": int})
    file = tmp_path_factory.getbasetemp() / "manifest.csv"
    manifest.write(table, file)
    pd.testing.assert_frame_equal(manifest.read(file), table, check_dtype=True)


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    for content, message in (
        (b"", "cannot be read as a CSV table"),
        (b"a,b\n1,2\n", "changed by another program: expected the columns path, label in each row; it has a, b"),
        (b"path,label\n1,2,3\n", "changed by another program"),
        (b"\xff\x00,", "changed|cannot"),
        (b"path,label,width\n1,2,12x\n", "column width: expected whole numbers"),
    ):
        (tmp_path / "m.csv").write_bytes(content)
        with pytest.raises(manifest.ManifestError, match=message):
            manifest.read(tmp_path / "m.csv", required=("path", "label"))


def test_digest_follows_content_not_place_or_order() -> None:
    table = pd.DataFrame({"path": ["/1", "/2"], "label": ["a", "b"], "split": ["train", "val"], "sha256": ["x", "y"]})
    moved = table.assign(path=["/3", "/4"]).iloc[::-1]
    assert manifest.digest(moved) == manifest.digest(table)
    assert manifest.digest(table.assign(split="train")) != manifest.digest(table)
    assert manifest.digest(table.assign(label="a")) != manifest.digest(table)
