"""What systems leave behind in folders of photos is skipped, in training and inspection alike, and counted once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hairline.data import clutter, folders, sources
from hairline.inspection import predict
from tests.test_sources import touch

# A path below a class folder that holds 1.jpg and 2.jpg, and who leaves it there.
CLUTTER = {
    "Synology": ["@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg", "#recycle/old.jpg", "1.jpg@SynoEAStream", "@tmp/x.jpg"],
    "Synology, copied out": ["SYNOPHOTO_THUMB_SM.jpg", "SYNOPHOTO_THUMB_M.png"],
    "QNAP": [
        ".@__thumb/1.jpg",
        "@Recycle/1.jpg",
        "@Recently-Snapshot/2024/1.jpg",
        "Network Recycle Bin 1/1.jpg",
    ],
    "other NAS": [".wdmc/1.jpg", ".AppleDouble/1.jpg", ".zfs/snapshot/a/1.jpg", "#snapshot/1.jpg", "trashbox/1.jpg"],
    "Windows": ["Thumbs.db", "ehthumbs_vista.db", "$RECYCLE.BIN/S-1-5/$R1.jpg", "System Volume Information/x.jpg"],
    "Windows Media Player": ["AlbumArtSmall.jpg", "AlbumArt_{0A1B}_Large.jpg", "desktop.ini", "FOUND.000/FILE0000.CHK"],
    "macOS": ["._1.jpg", ".DS_Store", "Icon\r", ".Trashes/501/1.jpg", ".fseventsd/0", ".Spotlight-V100/x.jpg"],
    "Linux": ["lost+found/#12.jpg", ".Trash-1000/files/1.jpg", ".thumbnails/normal/a.png", ".directory", "1.jpg~"],
    "zip of macOS": ["__MACOSX/cracked/._1.jpg", "__MACOSX/cracked/1.jpg"],
    "tar": ["PaxHeaders.1234/1.jpg", "PaxHeader/1.jpg"],
    "git and notebooks": [".git/lfs/objects/1.jpg", ".svn/pristine/1.jpg", ".ipynb_checkpoints/1-checkpoint.jpg"],
    "Dropbox": [".dropbox.cache/1.jpg", ".dropbox", "1 (Anna's conflicted copy 2024-05-12).jpg"],
    "Google Drive": [".tmp.drivedownload/1.jpg", ".tmp.driveupload/7", "1.jpg.part", ".shortcut-targets-by-id/x/1.jpg"],
    "Syncthing": [
        ".stversions/1~20240512-101112.jpg",
        "1.sync-conflict-20240512-101112-ABCDEFG.jpg",
        "~x.tmp",
    ],
    "Nextcloud": ["1 (conflicted copy 2024-05-12 101112).jpg", "1_conflict-20240512-101112.jpg", "1.jpg.~5f3"],
    "Synology Drive": ["1_DiskStation_May-12-1011-2024_Conflict.jpg", ".SynologyWorkingDirectory/1.jpg"],
    "Office": ["~$report.docx", "~WRL0001.tmp"],
    "Picasa": [".picasaoriginals/1.jpg", "Picasa.ini", "[Originals]/1.jpg"],
    "galleries": ["thumbs/1.jpg", "Thumbnails/1.jpg", "_thumbs/1.jpg", "1_thumb.jpg", "thumb_1.jpg", "1-150x150.jpg"],
    "Lightroom": ["Walls Previews.lrdata/a/1.jpg", "1.xmp"],
    "downloads and copies": ["1.jpg.opdownload", "sync.ffs_db", "1.jpg.filepart", "1.jpgZone.Identifier"],
    "Nextcloud's data folder": ["appdata_oc1x/preview/1.jpg", "files_trashbin/files/1.jpg", "files_versions/1.jpg"],
    "Android": ["LOST.DIR/1.jpg", ".thumbdata3--1967290299"],
    "domain controllers and containers": ["DfsrPrivate/1.jpg", "@docker/overlay/1.jpg", "node_modules/x/1.jpg"],
    "Adobe Bridge": ["Adobe Bridge Cache/256/1.jpg", ".BridgeSort"],
    "web galleries": ["thumb/1.jpg", "_tn/1.jpg", "1_preview.jpg", "1_150x150.jpg", "1-scaled.jpg", "1.jpg_original"],
    "cameras": ["THMBNL/C0001T01.JPG", "GX010001.THM", "GX010001.LRV", "IMG_1.AAE", "NC_FLLST.DAT"],
}


def cluttered(root: Path, paths: list[str]) -> Path:
    photos = ("cracked/1.jpg", "cracked/2.jpg", "sound/1.jpg", "sound/2.jpg")
    return touch(root, *photos, *(f"{folder}/{path}" for folder in ("cracked", "sound") for path in paths))


@pytest.mark.parametrize("system", CLUTTER)
def test_clutter_is_skipped_in_training_and_inspection(
    system: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = cluttered(tmp_path / "photos", CLUTTER[system])
    photos = sorted(root.glob("*/[12].jpg"))
    assert len(photos) == 4
    caplog.set_level(logging.INFO)
    rows = sources.from_folder(path=str(root))
    assert sorted(map(Path, rows["path"])) == photos
    assert "outside the class folders" not in caplog.text
    assert caplog.text.count(" skipped: thumbnails, hidden files") == 1
    for pattern in ("", "**/*.jpg", "**", "*/*.jpg", "*"):
        listing = predict.list_photos(str(root / pattern), tmp_path / "results")
        assert sorted(listing.photos) == photos, pattern
        assert not listing.problems
        assert not listing.others


def test_a_list_may_lie_anywhere(tmp_path: Path) -> None:
    root = tmp_path / ".shortcut-targets-by-id" / "previews"
    touch(root, "a/1.jpg", "b/1.jpg", "@eaDir/2.jpg")
    lines = [f"{root}/{place}.jpg,{label}" for place, label in (("a/1", "a"), ("b/1", "b"), ("@eaDir/2", "a"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    rows = sources.from_manifest(path=str(tmp_path / "list.csv"))
    assert [Path(path).parent.name for path in rows["path"]] == ["a", "b"]


def test_beside_class_folders_clutter_is_no_class(tmp_path: Path) -> None:
    for paths in CLUTTER.values():
        touch(tmp_path, *paths)
    touch(tmp_path, "cracked/1.jpg", "sound/1.jpg")
    assert set(sources.from_folder(path=str(tmp_path))["label"]) == {"cracked", "sound"}


def test_the_number_of_skipped_files_is_printed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cluttered(tmp_path, ["@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg", "@eaDir/1.jpg/SYNOPHOTO_THUMB_SM.jpg", "._1.jpg"])
    caplog.set_level(logging.INFO)
    sources.from_folder(path=str(tmp_path))
    assert [record.message for record in caplog.records] == [
        "6 files are skipped: thumbnails, hidden files and what systems leave behind (@eaDir, ._*)"
    ]


def test_a_pattern_that_matches_only_thumbnails_is_refused(tmp_path: Path) -> None:
    cluttered(tmp_path, ["@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg"])
    with pytest.raises(predict.InputError, match="matches 2 files, all of them thumbnails"):
        predict.list_photos(str(tmp_path / "*/@eaDir/*/*.jpg"), tmp_path / "results")


@pytest.mark.parametrize(
    "name",
    ["thumbs-up.jpg", "1-150x150.jpg", "1_thumb.jpg", "wall (conflict).jpg", "IMG~1.jpg", "tn.jpg"],
)
def test_photos_that_only_resemble_clutter_are_read(name: str, tmp_path: Path) -> None:
    touch(tmp_path, f"recycle/{name}", "snapshots/2.jpg")
    assert len(sources.from_folder(path=str(tmp_path))) == 2


def test_what_the_user_names_is_read(tmp_path: Path) -> None:
    root = cluttered(tmp_path / ".cache" / "@eaDir", [])
    assert len(sources.from_folder(path=str(root))) == 4
    assert len(predict.list_photos(str(root / "**" / "*.jpg"), tmp_path / "results").photos) == 4
    touch(tmp_path, "._1.jpg")
    assert len(predict.list_photos(str(tmp_path / "._1.jpg"), tmp_path / "results").photos) == 1


def test_a_pattern_finds_folders_in_another_unicode_form(tmp_path: Path) -> None:
    touch(tmp_path, "e\u0301te\u0301/wall/1.jpg")
    for place in ("\u00e9t\u00e9", "\u00e9t\u00e9/**/*.jpg", "\u00e9t\u00e9/*/1.jpg"):
        assert len(predict.list_photos(str(tmp_path / place), tmp_path / "results").photos) == 1


def test_whole_histories_are_not_counted(tmp_path: Path) -> None:
    touch(tmp_path, ".git/objects/1", ".zfs/snapshot/1.jpg", "a.jpg")
    assert folders.read(tmp_path).skipped.total() == 0
    assert not clutter.is_counted(".git")
