"""No group on two sides, every class on every side, the shares that were asked for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hairline.data import splits
from hairline.data.manifest import SPLITS

RECIPE = {"train": 0.70, "val": 0.24, "test": 0.06}


def table(labels: list[str], groups: list[str] | None = None, digests: list[str] | None = None) -> pd.DataFrame:
    numbers = [str(number) for number in range(len(labels))]
    return pd.DataFrame(
        {
            "path": [f"/set/{label}/{number}.jpg" for label, number in zip(labels, numbers, strict=True)],
            "label": labels,
            "group": groups or numbers,
            "split": "",
            "sha256": digests or numbers,
        }
    )


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**40) | st.just(0),
    sizes=st.lists(st.integers(1, 6), min_size=40, max_size=80),
    classes=st.integers(2, 4),
)
def test_groups_stay_together_and_shares_are_kept(seed: int, sizes: list[int], classes: int) -> None:
    groups = [str(index) for index, size in enumerate(sizes) for _ in range(size)]
    labels = [f"class {int(group) % classes}" for group in groups]
    divided = splits.split(table(labels, groups), **RECIPE, seed=seed)
    assert (divided.groupby("group")["split"].nunique() == 1).all()
    assert set(divided["split"]) == set(SPLITS)
    for split, share in RECIPE.items():
        counts = divided[divided["split"] == split]["label"].value_counts()
        for label, total in divided["label"].value_counts().items():
            assert abs(counts.get(label, 0) - share * total) <= max(sizes) + 1
    again = splits.split(table(labels, groups), **RECIPE, seed=seed)
    pd.testing.assert_frame_equal(again, divided)


def test_single_images_are_divided_exactly() -> None:
    divided = splits.split(table(["a"] * 6000 + ["b"] * 6000), **RECIPE, seed=0)
    counts = pd.crosstab(divided["label"], divided["split"])
    assert counts.loc["a"].to_dict() == counts.loc["b"].to_dict() == {"train": 4200, "val": 1440, "test": 360}


def test_seed_zero_is_a_seed_like_any_other() -> None:
    parts = [tuple(splits.split(table(["a", "b"] * 100), **RECIPE, seed=seed)["split"]) for seed in (0, 0, 1, 2)]
    assert parts[0] == parts[1]
    assert len(set(parts)) == 3


def test_a_split_the_source_knows_is_kept() -> None:
    given_ = table(["a", "b"] * 50).assign(split=["train"] * 60 + ["test"] * 40)
    divided = splits.split(given_, **RECIPE, seed=0)
    assert (divided["split"][60:] == "test").all()
    first = divided["split"][:60].value_counts()
    assert first["val"] in (15, 16)  # 0.24 of 0.94 of 60, to whole images of each class
    assert first["train"] + first["val"] == 60


def test_rows_without_a_split_train() -> None:
    given_ = table(["a", "b"] * 50).assign(split=["train", "train", "val", "val", "test", "test"] * 16 + [""] * 4)
    divided = splits.split(given_, **RECIPE, seed=0)
    assert (divided["split"][96:] == "train").all()


@pytest.mark.parametrize("few", [3, 4, 7])
def test_of_few_images_every_part_has_one(few: int) -> None:
    divided = splits.split(table(["a"] * 16 + ["b"] * few), **RECIPE, seed=0)
    counts = pd.crosstab(divided["label"], divided["split"])
    assert (counts.loc["b"] >= 1).all()
    assert counts.loc["b"].sum() == few
    assert counts.loc["a"].to_dict() == {"test": 1, "train": 11, "val": 4}


def test_too_few_images_are_named() -> None:
    with pytest.raises(splits.SplitError, match=r"class 'b' has 2 images in 2 groups.*test gets"):
        splits.split(table(["a"] * 100 + ["b"] * 2), **RECIPE, seed=0)


GROUPING = {"block_size": 3, "pattern": None}


def test_group_by_none_parts_even_identical_bytes() -> None:
    grouped = splits.group(table(["a", "a", "b"], digests=["x", "x", "y"]), group_by="none", **GROUPING)
    assert grouped["group"].nunique() == 3


def test_group_by_hash() -> None:
    grouped = splits.group(table(["a", "a", "b"], digests=["x", "x", "y"]), group_by="hash", **GROUPING)
    assert list(grouped["group"]) == ["x", "x", "y"]


def test_group_by_block_follows_file_order_and_unites_identical_bytes() -> None:
    grouped = splits.group(table(["a"] * 7 + ["b"] * 4), group_by="block", **GROUPING)
    assert list(grouped["group"]) == ["a:0"] * 3 + ["a:1"] * 3 + ["a:2"] + ["b:0"] * 3 + ["b:1"]
    limited = splits.group(table(["a"] * 7 + ["b"] * 4).drop([1, 2]), group_by="block", **GROUPING)
    assert limited["group"][3] == "a:1"  # the place in the source's order counts, not among the rows kept
    digests = list("abcdefghijk")
    digests[6] = "a"
    united = splits.group(table(["a"] * 7 + ["b"] * 4, digests=digests), group_by="block", **GROUPING)
    assert united["group"][6] == united["group"][0] == united["group"][2]


def test_group_by_regex() -> None:
    rows = table(["a", "a", "b"]).assign(path=["/s/p1_x.jpg", "/s/p1_y.jpg", "/s/p2_x.jpg"])
    grouped = splits.group(rows, group_by="regex", block_size=1, pattern=r"/(p\d+)_")
    assert list(grouped["group"]) == ["p1", "p1", "p2"]
    with pytest.raises(splits.SplitError, match="does not match '/s/p1_x.jpg'"):
        splits.group(rows, group_by="regex", block_size=1, pattern="q")


def test_group_by_column_needs_the_column() -> None:
    assert list(splits.group(table(["a", "b"], ["g", "h"]), group_by="column", **GROUPING)["group"]) == ["g", "h"]
    with pytest.raises(splits.SplitError, match="1 of 2 images have no group"):
        splits.group(table(["a", "b"], ["g", ""]), group_by="column", **GROUPING)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=30))
def test_uniting_is_the_transitive_closure(pairs: list[tuple[int, int]]) -> None:
    rows = table(["a"] * len(pairs), [f"g{group}" for group, _ in pairs], [f"d{digest}" for _, digest in pairs])
    found = splits.group(rows, group_by="column", **GROUPING)["group"].to_numpy()
    together = np.equal.outer(*(np.array(pairs)[:, 0],) * 2) | np.equal.outer(*(np.array(pairs)[:, 1],) * 2)
    for _ in pairs:
        together = (together.astype(int) @ together.astype(int)) > 0
    np.testing.assert_array_equal(found[:, None] == found[None, :], together)
