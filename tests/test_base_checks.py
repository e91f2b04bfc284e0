"""What a base asks of settings and images, and what its successor remembers; on models that were never trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hairline.data.prepare import Dataset, prepare
from hairline.model import saved
from hairline.model.decision import Decision
from hairline.system.process import Process
from hairline.training.base import Base, BaseError
from hairline.training.train import with_base
from tests import darkness
from tests.running import composed


@pytest.fixture
def base(tmp_path: Path) -> Callable[..., Base]:
    def made(**changes: object) -> Base:
        return Base.of(str(darkness.save(tmp_path / "model", **changes)), None, engine="tensorflow", seed=0)

    return made


def images(folder: Path, positive: str | None = None) -> Dataset:
    settings = composed("config", "data=folder", f"data.path={folder}")
    return prepare(settings.data, settings.split, seed=0, process=Process(), positive=positive)


def test_images_of_some_of_the_bases_classes_are_refused_naming_the_others(
    base: Callable[..., Base], two_classes: Path
) -> None:
    three = base(class_names=["cracked", "plain", "spalled"], decision=Decision())
    with pytest.raises(BaseError, match="needs images of each. Add images of spalled, or train without base="):
        three.check(images(two_classes))


def test_the_positive_class_is_the_bases(
    base: Callable[..., Base], two_classes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    plain = base(positive_class="plain")
    data = images(two_classes, plain.bundle.positive_class)
    assert data.class_names[data.positive or 0] == "plain"
    assert "positive class: plain (as set)" in caplog.text
    for positive, said in ((plain, "plain"), (base(positive_class=None, decision=Decision()), "none")):
        config = composed("config", "data=synthetic", "data.positive_class=cracked", "tracking=none")
        with pytest.raises(BaseError, match=f"data.positive_class=cracked: the base's positive class is {said}"):
            with_base(config, positive)


def test_the_default_backbone_gives_way_to_the_bases(base: Callable[..., Base]) -> None:
    found = base(backbone=darkness.BUNDLE.backbone | {"name": "densenet121"})
    assert with_base(composed("config", "data=synthetic"), found).model.backbone == "densenet121"
    with pytest.raises(BaseError, match="remove model.backbone=xception, which would have no effect"):
        with_base(composed("config", "data=synthetic", "model=xception"), found)


def test_what_a_base_was_trained_on_is_no_test_image_of_its_successor() -> None:
    digests = [f"{number:064x}"[::-1] for number in range(1, 5)]
    first = saved.seen_images(digests[:3], ["train", "val", "test"])
    merged = saved.merge_seen(first, saved.seen_images(digests[::-1], ["test", "train", "test", "test"]))
    found = dict(zip(merged["image_digest"].tolist(), merged["image_split"].tolist(), strict=True))
    keys = saved.seen_images(digests, ["test"] * 4)["image_digest"].tolist()
    assert [found[key] for key in keys] == saved.seen_images(digests, ["train", "val", "train", "test"])[
        "image_split"
    ].tolist()
    assert len(np.unique(merged["image_digest"])) == 4
