"""Near-identical images: what is found against brute force, what is kept, and where splits leak."""

from __future__ import annotations

from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hairline.data import duplicates, images, manifest, splits
from hairline.evaluation import leaks


@settings(max_examples=60)
@given(
    base=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=12),
    flips=st.lists(st.tuples(st.integers(0, 11), st.lists(st.integers(0, 63), max_size=6)), max_size=12),
    distance=st.integers(0, 8),
)
def test_pairs_are_those_of_brute_force(base: list[int], flips: list[tuple[int, list[int]]], distance: int) -> None:
    values = set(base)
    for place, bits in flips:
        value = base[place % len(base)]
        for bit in bits:
            value ^= 1 << bit
        values.add(value)
    hashes = np.array(sorted(values), np.uint64)
    expected = [
        [one, two]
        for one in range(len(hashes))
        for two in range(one + 1, len(hashes))
        if bin(int(hashes[one]) ^ int(hashes[two])).count("1") <= distance
    ]
    assert duplicates.near_pairs(hashes, distance).tolist() == expected


def test_chains_fall_into_one_cluster() -> None:
    hashes = np.array([0, 0b1111, 0b11111111, 2**40 - 1, 0], np.uint64)
    assert duplicates.clusters(["d" * 64, "c" * 64, "b" * 64, "e" * 64, "a" * 64], hashes) == [
        "a" * 16, "a" * 16, "a" * 16, "e" * 16, "a" * 16,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def set_with_copies(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Forty pictures a class of smooth noise; of the first, a recompressed and a byte-identical copy."""
    root = tmp_path_factory.mktemp("copies")
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir()
        for number in range(40):
            coarse = generator.integers(0, 256, (9, 9), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC).convert("RGB")
            picture.save(root / name / f"{number:02}.jpg", quality=95)
            if number == 0:
                picture.save(root / name / "90.jpg", quality=40)
                (root / name / "91.jpg").write_bytes((root / name / "00.jpg").read_bytes())
    paths = sorted(root.rglob("*.jpg"))
    rows = pd.DataFrame({"path": map(str, paths), "label": [path.parent.name for path in paths]}, dtype=object)
    return manifest.scan(rows)[0]


def test_copies_are_found(set_with_copies: pd.DataFrame) -> None:
    hashes = set_with_copies["phash"].to_numpy()
    named = pd.Series(duplicates.clusters(set_with_copies["sha256"].tolist(), hashes))
    sizes = named.value_counts()
    assert sorted(sizes[sizes > 1]) == [3, 3]
    names = [Path(path).name for path in set_with_copies["path"]]
    for place in (i for i, name in enumerate(names) if name == "00.jpg"):
        near = [name for name, cluster in zip(names, named, strict=True) if cluster == named[place]]
        assert near == ["00.jpg", "90.jpg", "91.jpg"]


@pytest.mark.parametrize("group_by", ["hash", "block", "regex"])
def test_near_identical_images_never_stand_on_two_sides(set_with_copies: pd.DataFrame, group_by: str) -> None:
    hashes = set_with_copies["phash"].to_numpy()
    named = duplicates.clusters(set_with_copies["sha256"].tolist(), hashes)
    table = set_with_copies.assign(split="")
    for seed in range(10):
        grouped = splits.group(table, named, group_by=group_by, block_size=4, pattern=r"([^/]*)\.jpg")  # type: ignore[arg-type]
        divided = splits.split(grouped, train=0.6, val=0.2, test=0.2, seed=seed)
        assert (divided.groupby("group")["split"].nunique() == 1).all()
        assert (divided.groupby(named)["split"].nunique() == 1).all()
        found = leaks.find(divided, hashes)
        assert found.counts["leak_identical_across"] == found.counts["leak_near_across"] == 0
        assert found.counts["leak_nearest_distance"] > duplicates.NEAR_DISTANCE
        assert found.counts["leak_identical_images"] == 2


def test_a_leaking_split_is_reported(set_with_copies: pd.DataFrame) -> None:
    hashes = set_with_copies["phash"].to_numpy()
    names = [Path(path).name for path in set_with_copies["path"]]
    parts = {"00.jpg": "train", "90.jpg": "val", "91.jpg": "test"}
    divided = set_with_copies.assign(
        split=[parts.get(name, ("train", "val", "test")[i % 3]) for i, name in enumerate(names)], group="one"
    )
    found = leaks.find(divided, hashes)
    assert found.counts["leak_identical_across"] == 2
    assert found.counts["leak_near_across"] == 2
    assert found.counts["leak_groups_in_two_splits"] == 1
    assert found.pairs["distance"].is_monotonic_increasing
    first = found.pairs.iloc[0]
    assert (first["distance"], first["split"], first["other_split"]) == (0, "test", "train")
    assert Path(first["path"]).name == "91.jpg"


def test_blocks_stay_small_when_images_repeat() -> None:
    """A bland image in every block must not chain the blocks into one group."""
    rows = pd.DataFrame({"path": [f"/s/{i}" for i in range(30)], "label": "a", "group": "", "split": ""})
    rows["sha256"] = ["bland" if i % 3 == 0 else str(i) for i in range(30)]
    grouped = splits.group(rows, group_by="block", block_size=3, pattern=None)
    assert grouped["group"].nunique() == 10
    assert grouped.loc[rows["sha256"] == "bland", "group"].nunique() == 1


def test_hashes_are_those_of_imagehash(two_classes: Path) -> None:
    paths = sorted((two_classes / "cracked").iterdir())[:40]
    shrunk = [duplicates.shrink(images.inspect(path.read_bytes(), duplicates.THUMBNAIL)[2]) for path in paths]
    found = duplicates.perceptual_hashes(np.stack(shrunk))
    for path, number in zip(paths, found, strict=True):
        expected = imagehash.phash(images.inspect(path.read_bytes(), 64)[2]).hash.ravel()
        assert np.unpackbits(np.array([number]).view(np.uint8)).astype(bool).tolist() == expected.tolist()
